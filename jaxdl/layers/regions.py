"""Pooling over regions that are not a sliding window: a grid that scales with the input, or data.

Shapes: x (N, *space, C). An axis of n places is cut into `out` bins [⌊i·n/out⌋, ⌈(i+1)·n/out⌉),
which overlap where `out` does not divide n; a region is one bin of every axis.

    adaptive_pool   y[i] = mean or max of x over region i     y (N, *out, C), whatever the input's
                    dx: dy / size, or dy to the maximum       size; regions that overlap add up
    pyramid_pool    adaptive pools of several grids, joined   y (N, Σ levels^rank · C)
    region_pool     the same over regions given as data       y (N, R, C)

Mean and maximum are taken axis by axis, the last axis of space first, so that of equal values the
first in row-major order wins.

References: He et al. (2014, arXiv:1406.4729) spatial pyramids; Socher et al. (2011) dynamic
pooling; Girshick (2015, arXiv:1504.08083) regions of interest.
"""

import functools
from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxdl.core.compose import branch, serial
from jaxdl.core.layer import Layer, leaf, no_params
from jaxdl.layers.flatten import flatten
from jaxdl.numerics.checks import check_floating
from jaxdl.numerics.dtypes import wide
from jaxdl.numerics.pytree import Static
from jaxdl.numerics.window import check_images, check_rank, per_axis

Kind = Literal["mean", "max"]

_AXES = {1: "x", 2: "hw", 3: "dhw"}


def _check_kind(name: str, kind: str) -> None:
    if kind not in ("mean", "max"):
        raise ValueError(f"{name}: kind must be 'mean' or 'max', got {kind!r}; choose one")


def _bins(n: int, out: int) -> list[tuple[int, int]]:
    return [(i * n // out, -(-(i + 1) * n // out)) for i in range(out)]


def _shares(n: int, out: int) -> np.ndarray:
    """(out, n): what each place contributes to the mean of each bin."""
    shares = np.zeros((out, n))
    for row, (start, stop) in zip(shares, _bins(n, out), strict=True):
        row[start:stop] = 1 / (stop - start)
    return shares


def _place_bins(x: Array, out: tuple[int, ...]) -> tuple[int, ...]:
    """The size of the input, once it is known to fit."""
    check_images("adaptive_pool", x, len(out))
    space = tuple(x.shape[1:-1])
    if any(n < o for n, o in zip(space, out, strict=True)):
        raise ValueError(
            f"adaptive_pool: every bin must hold a place, got an input of size {space} for an "
            f"output of size {out}; pool to a smaller size"
        )
    return space


def _mean_fwd(params, x, *, out):
    space, y = _place_bins(x, out), x.astype(wide(x.dtype))
    for axis, (n, o) in enumerate(zip(space, out, strict=True), start=1):
        shares = jnp.asarray(_shares(n, o), y.dtype)
        y = jnp.moveaxis(jnp.tensordot(y, shares, (axis, 1)), -1, axis)
    return y.astype(x.dtype), Static(space)


def _mean_bwd(params, space, dy, *, out):
    dx = dy.astype(wide(dy.dtype))
    for axis, (n, o) in enumerate(zip(space.value, out, strict=True), start=1):
        shares = jnp.asarray(_shares(n, o), dx.dtype)
        dx = jnp.moveaxis(jnp.tensordot(dx, shares, (axis, 0)), -1, axis)
    return {}, dx.astype(dy.dtype)


def _along(axis: int, start: int, stop: int) -> tuple[slice, ...]:
    return (slice(None),) * axis + (slice(start, stop),)


def _max_fwd(params, x, *, out):
    space, y, winners = _place_bins(x, out), x, []
    for axis in range(len(out), 0, -1):
        parts = [y[_along(axis, *bounds)] for bounds in _bins(y.shape[axis], out[axis - 1])]
        winners.append(jnp.stack([part.argmax(axis) for part in parts], axis))  # first of equals
        y = jnp.stack([part.max(axis) for part in parts], axis)
    return y, {"winners": tuple(winners), "space": Static(space)}


def _max_bwd(params, residuals, dy, *, out):
    dx, space = dy, residuals["space"].value
    # what the forward did last, to the first axis of space, is undone first
    for axis, winner in enumerate(reversed(residuals["winners"]), start=1):
        n, parts = space[axis - 1], []
        for i, (start, stop) in enumerate(_bins(n, out[axis - 1])):
            here = _along(axis, i, i + 1)
            places = jnp.arange(stop - start).reshape(-1, *(1,) * (dx.ndim - axis - 1))
            padding = [(0, 0)] * dx.ndim
            padding[axis] = (start, n - stop)
            parts.append(jnp.pad(jnp.where(winner[here] == places, dx[here], 0), padding))
        dx = functools.reduce(jnp.add, parts)
    return {}, dx


def adaptive_pool(out: int | Sequence[int], *, rank: int = 2, kind: Kind = "mean") -> Layer:
    """Pool an input of any size to a fixed one: (N, *space, C) to (N, *out, C).

    Args:
      out: places along each axis of the output; one number for all, or one for each.
      rank: axes of space, 1, 2 or 3.
      kind: mean or max of each bin.

    Raises:
      ValueError: an input smaller than the output; sizes that cannot be.
    """
    _check_kind("adaptive_pool", kind)
    check_rank("adaptive_pool", rank)
    out = per_axis("adaptive_pool", "out", out, rank)
    fwd, bwd = (_mean_fwd, _mean_bwd) if kind == "mean" else (_max_fwd, _max_bwd)
    detail = f"{'×'.join(map(str, out))}, {kind}"
    return leaf(
        "adaptive_pool", no_params, partial(fwd, out=out), partial(bwd, out=out), detail=detail
    )


def pyramid_pool(levels: Sequence[int] = (1, 2, 4), *, rank: int = 2, kind: Kind = "max") -> Layer:
    """Grids of several sizes over an input of any size: (N, *space, C) to (N, Σ levels^rank · C).

    Args and errors are those of `adaptive_pool`, which makes each of the `levels`.
    """
    if not levels:
        raise ValueError("pyramid_pool: levels must name at least one grid, got none; e.g. (1, 2)")
    grids = (serial(adaptive_pool(level, rank=rank, kind=kind), flatten()) for level in levels)
    return branch(*grids, join="concat")


# --- regions given as data ----------------------------------------------------------------------


def _region_inputs(x) -> tuple[Array, Array]:
    if not isinstance(x, dict) or set(x) != {"x", "regions"}:
        got = f"a dict with the keys {sorted(x)}" if isinstance(x, dict) else type(x).__name__
        raise TypeError(
            "region_pool: the input must be a dict with the keys ['regions', 'x'], got "
            f"{got}; give {{'x': images, 'regions': bounds}}"
        )
    images, regions = x["x"], x["regions"]
    check_floating("region_pool", images)
    if not jnp.issubdtype(regions.dtype, jnp.integer):
        raise TypeError(
            f"region_pool: regions must be integers, got {regions.dtype}; they are places: round "
            "and cast them"
        )
    rank, space = len(images.shape) - 2, images.shape[1:-1]
    shape = regions.shape
    if rank not in _AXES or len(shape) != 4 or shape[0] != len(images) or shape[2:] != (rank, 2):
        raise ValueError(
            "region_pool: for x of shape (N, *space, C) regions must have shape (N, regions, "
            f"axes of space, 2), got x {tuple(images.shape)} and regions {tuple(shape)}; each "
            "region has a start and a stop on every axis"
        )
    if not isinstance(regions, Tracer):
        bounds = np.asarray(regions)
        stops = np.asarray(space)[:, None]
        if bounds.size and (
            bounds.min() < 0 or (bounds > stops).any() or (bounds[..., 0] > bounds[..., 1]).any()
        ):
            raise ValueError(
                f"region_pool: regions must keep 0 ≤ start ≤ stop ≤ size of the axis "
                f"{tuple(space)}, got values from {bounds.min()} to {bounds.max()}; clip them, or "
                "exchange start and stop"
            )
    return images, regions


def _masks(regions: Array, space: Sequence[int]) -> list[Array]:
    """For every axis of space, bool (N, R, n): the places that belong to each region."""
    masks = []
    for axis, n in enumerate(space):
        start, stop = regions[:, :, axis, :1], regions[:, :, axis, 1:]
        places = jnp.arange(n, dtype=regions.dtype)
        masks.append((places >= start) & (places < stop))
    return masks


def _mean_weights(regions: Array, space: Sequence[int], dtype) -> list[Array]:
    weights = []
    for mask in _masks(regions, space):
        weight = mask.astype(dtype)
        weights.append(weight / jnp.maximum(weight.sum(-1, keepdims=True), 1))
    return weights


def _region_fwd(params, x, *, kind):
    images, regions = _region_inputs(x)
    space = images.shape[1:-1]
    if kind == "mean":
        letters = _AXES[len(space)]
        weights = _mean_weights(regions, space, wide(images.dtype))
        spec = ",".join([f"n{letters}c", *(f"nr{axis}" for axis in letters)]) + "->nrc"
        y = jnp.einsum(spec, images.astype(weights[0].dtype), *weights)
        return y.astype(images.dtype), {"regions": regions, "space": Static(space)}
    # (N, *space, 1, C), from which one axis of space after the other goes
    y, winners = images[..., None, :], []
    for mask in reversed(_masks(regions, space)):
        axis = y.ndim - 3
        inside = jnp.moveaxis(mask, 1, 2).reshape(len(y), *(1,) * (axis - 1), *mask.shape[:0:-1], 1)
        y = jnp.where(inside, y, -jnp.inf)
        winners.append(y.argmax(axis))
        y = y.max(axis)
    full = jnp.all(regions[..., 0] < regions[..., 1], axis=-1)[..., None]
    kept = {"winners": tuple(winners), "full": full, "regions": regions, "space": Static(space)}
    return jnp.where(full, y, 0), kept


def _region_bwd(params, residuals, dy, *, kind):
    regions, space = residuals["regions"], residuals["space"].value
    if kind == "mean":
        letters = _AXES[len(space)]
        weights = _mean_weights(regions, space, wide(dy.dtype))
        spec = ",".join(["nrc", *(f"nr{axis}" for axis in letters)]) + f"->n{letters}c"
        dx = jnp.einsum(spec, dy.astype(weights[0].dtype), *weights).astype(dy.dtype)
        return {}, {"x": dx, "regions": None}
    dx = jnp.where(residuals["full"], dy, 0)
    for n, winner in zip(space, reversed(residuals["winners"]), strict=True):
        places = jnp.arange(n)[:, None, None]  # in front of the regions and channels
        dx = jnp.where(jnp.expand_dims(winner, -3) == places, jnp.expand_dims(dx, -3), 0)
    return {}, {"x": dx.sum(axis=-2), "regions": None}


def region_pool(kind: Kind = "max") -> Layer:
    """Pool over regions given with the input (dynamic pooling): (N, R, C) from a dict.

    The input is ``{"x": (N, *space, C), "regions": integers (N, R, axes of space, 2)}``; a region
    is [start, stop) on every axis. An empty region gives 0 and takes no gradient, so that examples
    with fewer regions can be filled up. The cotangent of the regions is None.

    Raises:
      ValueError: regions of the wrong shape; outside of x or inverted, where they are known when
        the layer is called (not under jit: there what lies outside is left out).
      TypeError: another input than that dict; regions that are not integers.
    """
    _check_kind("region_pool", kind)
    fwd, bwd = partial(_region_fwd, kind=kind), partial(_region_bwd, kind=kind)
    return leaf("region_pool", no_params, fwd, bwd, detail=kind)
