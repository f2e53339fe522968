"""Pooling: a summary of each window, channel by channel.

Shapes: x (N, *space, C), y (N, *out, C). For the places q of the window at p, in the input at
s·p + q − lo:

    max_pool       y[p] = max x[s·p + q − lo]             dx: dy goes to the first maximum
    average_pool   y[p] = Σ x / count                     dx: dy / count to every place
    lp_pool        y[p] = (Σ |x|ᵖ)^(1/p)                  dx = dy·sign(x)·(|x|/y)^(p−1); 0 at y = 0
    weighted_pool  y[p] = Σ g[q]·x, Σ g = 1               dx: dy·g[q] to every place; g falls with
                                                          the distance from the centre
    global_pool    y = mean or max over all of space      the same, with one window

Windows may overlap: what they give back to one place of the input is added up. Ties go to the first
maximum in row-major order. `ceil=True` keeps the smaller window at the end (one that begins inside
the input), as Goodfellow et al. (2016, section 9.3) do for width 3 and stride 2.

Kept for the backward: of max_pool which place won, one small integer an output; of the linear ones
nothing but shapes.

References: Zhou & Chellappa (1988) max; LeCun et al. (1989) average; Sermanet et al. (2012,
arXiv:1204.3968) Lp.
"""

import functools
from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxdl.core.layer import Layer, leaf, no_params
from jaxdl.numerics.checks import check_floating
from jaxdl.numerics.pytree import Static
from jaxdl.numerics.window import (
    Padding,
    Window,
    add_slices,
    check_images,
    check_padding,
    check_rank,
    per_axis,
    place_window,
    window_slices,
)


def _place(name, x, size, strides, padding, ceil) -> Window:
    check_images(name, x, len(size))
    space = x.shape[1:-1]
    ones = (1,) * len(size)
    window = place_window(name, space, size, strides, padding, ones)
    if not ceil:
        return window
    pairs = []
    for n, (lo, hi), k, s in zip(space, window.padding, size, strides, strict=True):
        places = -(-(n + lo + hi - k) // s) + 1
        if (places - 1) * s >= n + lo:  # the last window must begin inside the input
            places -= 1
        pairs.append((lo, max(hi, (places - 1) * s + k - n - lo)))
    return Window(size, strides, tuple(pairs), ones)


def _kept(window: Window, x: Array) -> Static:
    return Static((window, tuple(x.shape[1:-1])))


def _max_fwd(params, x, *, size, strides, padding, ceil):
    window = _place("max_pool", x, size, strides, padding, ceil)
    best, *others = window_slices(x, window, fill=-jnp.inf)
    winner = jnp.zeros(best.shape, jnp.int32)
    for place, other in enumerate(others, start=1):
        better = (other > best) | jnp.isnan(other)  # of equals the first; a NaN is not hidden
        best, winner = jnp.where(better, other, best), jnp.where(better, place, winner)
    if prod(size) <= 127:
        winner = winner.astype(jnp.int8)
    return best, {"winner": winner, "place": _kept(window, x)}


def _max_bwd(params, residuals, dy):
    winner, (window, space) = residuals["winner"], residuals["place"].value
    parts = [jnp.where(winner == place, dy, 0) for place in range(prod(window.size))]
    return {}, add_slices(parts, window, space)


def _shares(window: Window, space: Sequence[int], ends: Sequence[int] | None) -> np.ndarray:
    """1 / the number of places that count in each window: those inside the input, or up to `ends`.

    `ends` is where the padding that was asked for ends; what `ceil` adds behind it never counts.
    """
    counts = np.ones(())
    for i, (n, k, s, (lo, _), p) in enumerate(
        zip(space, window.size, window.strides, window.padding, window.out(space), strict=True)
    ):
        starts = np.arange(p) * s
        first, last = (lo, lo + n) if ends is None else (0, ends[i])
        inside = np.minimum(starts + k, last) - np.maximum(starts, first)
        counts = counts[..., None] * inside
    return 1 / counts[..., None]  # the same for every channel


def _average_fwd(params, x, *, size, strides, padding, ceil, count_padding):
    window = _place("average_pool", x, size, strides, padding, ceil)
    space, ends = tuple(x.shape[1:-1]), None
    if count_padding:
        asked = _place("average_pool", x, size, strides, padding, ceil=False).padding
        ends = tuple(n + lo + hi for n, (lo, hi) in zip(space, asked, strict=True))
    total = functools.reduce(jnp.add, window_slices(x, window))
    y = total * jnp.asarray(_shares(window, space, ends), x.dtype)
    return y, Static((window, space, ends))


def _average_bwd(params, kept, dy):
    window, space, ends = kept.value
    part = dy * jnp.asarray(_shares(window, space, ends), dy.dtype)
    return {}, add_slices([part] * prod(window.size), window, space)


def _lp_fwd(params, x, *, size, strides, padding, ceil, p):
    window = _place("lp_pool", x, size, strides, padding, ceil)
    # scaled by the largest entry of each window, powers neither overflow nor vanish
    parts = [jnp.abs(part) for part in window_slices(x, window)]
    scale = lax.stop_gradient(functools.reduce(jnp.maximum, parts))
    scale = jnp.where(scale == 0, 1, scale)
    powers = functools.reduce(jnp.add, [(part / scale) ** p for part in parts])
    y = jnp.where(powers == 0, 0, scale * jnp.where(powers == 0, 1, powers) ** (1 / p))
    return y, {"x": x, "y": y, "place": _kept(window, x)}


def _lp_bwd(params, residuals, dy, *, p):
    x, y = residuals["x"], residuals["y"]
    window, space = residuals["place"].value
    safe = jnp.where(y == 0, 1, y)
    parts = [
        jnp.where(y == 0, 0, dy * jnp.sign(part) * (jnp.abs(part) / safe) ** (p - 1))
        for part in window_slices(x, window)
    ]
    return {}, add_slices(parts, window, space)


def _centre_weights(size: tuple[int, ...], spread: float) -> np.ndarray:
    """exp(−r²/2σ²) of each place's distance r from the window's centre, summing to 1."""
    squares = np.zeros(())
    for k in size:
        squares = squares[..., None] + (np.arange(k) - (k - 1) / 2) ** 2
    weights = np.exp(-squares / (2 * spread**2)).ravel()
    return weights / weights.sum()


def _weighted_fwd(params, x, *, size, strides, padding, ceil, spread):
    window = _place("weighted_pool", x, size, strides, padding, ceil)
    parts = window_slices(x, window)
    weights = _centre_weights(size, spread)
    weighted = [part * float(g) for part, g in zip(parts, weights, strict=True)]
    return functools.reduce(jnp.add, weighted), _kept(window, x)


def _weighted_bwd(params, kept, dy, *, spread):
    window, space = kept.value
    weights = _centre_weights(window.size, spread)
    return {}, add_slices([dy * float(g) for g in weights], window, space)


def _pool(name, fwd, bwd, size, rank, strides, padding, ceil, detail="") -> Layer:
    check_rank(name, rank)
    size = per_axis(name, "size", size, rank)
    strides = size if strides is None else per_axis(name, "strides", strides, rank)
    check_padding(name, padding, rank)
    bound = partial(fwd, size=size, strides=strides, padding=padding, ceil=ceil)
    return leaf(name, no_params, bound, bwd, detail="×".join(map(str, size)) + detail)


def max_pool(
    size: int | Sequence[int],
    *,
    rank: int = 2,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "valid",
    ceil: bool = False,
) -> Layer:
    """The largest value in each window: (N, *space, C) to (N, *out, C).

    Args:
      size: of the window; one number for all axes, or one for each.
      rank: axes of space, 1, 2 or 3.
      strides: step between windows; by default the size, so that they do not overlap.
      padding: as for `conv`; the padding never wins.
      ceil: keep the smaller window at the end.

    Raises:
      ValueError: a window larger than the padded input; sizes or strides that cannot be.
    """
    return _pool("max_pool", _max_fwd, _max_bwd, size, rank, strides, padding, ceil)


def average_pool(
    size: int | Sequence[int],
    *,
    rank: int = 2,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "valid",
    ceil: bool = False,
    count_padding: bool = False,
) -> Layer:
    """The mean of each window; `count_padding` divides by its zeros too. See `max_pool`."""
    fwd = partial(_average_fwd, count_padding=count_padding)
    return _pool("average_pool", fwd, _average_bwd, size, rank, strides, padding, ceil)


def lp_pool(
    size: int | Sequence[int],
    *,
    p: float = 2.0,
    rank: int = 2,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "valid",
    ceil: bool = False,
) -> Layer:
    """The p-norm of each window, p ≥ 1; gradient 0 where the norm is 0. See `max_pool`."""
    if not p >= 1:
        raise ValueError(f"lp_pool: p must be at least 1, got {p}; 2 is the Euclidean norm")
    fwd, bwd = partial(_lp_fwd, p=float(p)), partial(_lp_bwd, p=float(p))
    return _pool("lp_pool", fwd, bwd, size, rank, strides, padding, ceil, f", p={p:g}")


def weighted_pool(
    size: int | Sequence[int],
    *,
    spread: float = 1.0,
    rank: int = 2,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "valid",
    ceil: bool = False,
) -> Layer:
    """A mean with weights that fall with the distance from the window's centre.

    The weights are those of a Gaussian of standard deviation `spread`, in places of the window.
    For the other arguments see `max_pool`.
    """
    if not spread > 0:
        raise ValueError(f"weighted_pool: spread must be above 0, got {spread}; 1.0 is one place")
    fwd, bwd = partial(_weighted_fwd, spread=spread), partial(_weighted_bwd, spread=spread)
    return _pool("weighted_pool", fwd, bwd, size, rank, strides, padding, ceil)


def _global_fwd(params, x, *, kind):
    check_floating("global_pool", x)
    if len(x.shape) < 3:
        raise ValueError(
            f"global_pool: x must have axes (examples, *space, channels), got shape "
            f"{tuple(x.shape)}; apply it before the axes of space are gone"
        )
    flat = x.reshape(len(x), -1, x.shape[-1])
    if kind == "mean":
        return flat.mean(axis=1), Static(tuple(x.shape))
    winner = flat.argmax(axis=1)  # of equals the first
    y = jnp.take_along_axis(flat, winner[:, None], axis=1)[:, 0]
    return y, {"winner": winner, "shape": Static(tuple(x.shape))}


def _global_bwd(params, residuals, dy, *, kind):
    shape = (residuals if kind == "mean" else residuals["shape"]).value
    places = prod(shape[1:-1])
    if kind == "mean":
        dx = jnp.broadcast_to(dy[:, None] / places, (len(dy), places, shape[-1]))
    else:
        chosen = residuals["winner"][:, None] == jnp.arange(places)[:, None]
        dx = jnp.where(chosen, dy[:, None], 0)
    return {}, dx.reshape(len(dy), *shape[1:])


def global_pool(kind: Literal["mean", "max"] = "mean") -> Layer:
    """One number a channel, whatever the size of the input: (N, *space, C) to (N, C)."""
    if kind not in ("mean", "max"):
        raise ValueError(f"global_pool: kind must be 'mean' or 'max', got {kind!r}; choose one")
    fwd, bwd = partial(_global_fwd, kind=kind), partial(_global_bwd, kind=kind)
    return leaf("global_pool", no_params, fwd, bwd, detail=kind)
