"""Norms for images: group norm, and batch norm by statistics that are parameters.

Shapes: x (N, *space, C), scale γ (C,), shift β (C,), y as x; mean(·) over the axes named.

    group_norm   μ, v over space and the C/G channels of a group, for each example and group
                 x̂ = (x − μ)·r    r = 1/√(v + ε)    y = γ·x̂ + β
                 dx̂ = γ·dy        dx = r·(dx̂ − mean(dx̂) − x̂·mean(dx̂·x̂))
    batch_norm   the same with μ, v over examples and space, for each channel
    both         dγ = Σ dy·x̂      dβ = Σ dy            (Σ over examples and space)

Statistics are computed in float32 or wider whatever the dtype of x.

A batch norm whose statistics come from the batch is pure: it is what `batch_norm` computes when a
key is given (training). Without one (evaluation) it normalises by the `mean` and `var` among its
parameters, whose gradient is zero: they are not trained but *set*, by one pass over data with
`set_statistics(model, params, x)` after training. Nothing is mutated, and evaluation of an example
does not depend on the others beside it. In training it mixes the examples of a batch, so reducers
that need them apart refuse it.

References: Wu & He (2018, arXiv:1803.08494); Ioffe & Szegedy (2015, arXiv:1502.03167); statistics
by a pass over data: Wu & Johnson (2021, arXiv:2105.07576), "precise" batch norm.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxdl.core.factors import Diag, Formed, Sum, Zero
from jaxdl.core.layer import Layer, leaf, map_layers, walk_layers
from jaxdl.core.reducers import Reducer, grads, none
from jaxdl.layers.activation import identity
from jaxdl.numerics.checks import check_floating, check_params
from jaxdl.numerics.dtypes import wide
from jaxdl.numerics.window import check_groups


def _check(name: str, x: Any, channels: int | None = None) -> None:
    check_floating(name, x)
    if len(x.shape) < 2 or (channels is not None and x.shape[-1] != channels):
        expected = "channels" if channels is None else f"{channels} channels"
        raise ValueError(
            f"{name}: x must have axes (examples, *space, {expected}), got shape "
            f"{tuple(x.shape)}; check the layer before"
        )


def _normalise(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array]:
    """x̂ and r."""
    centred = x - jnp.mean(x, axis=axes, keepdims=True)
    r = lax.rsqrt(jnp.mean(centred * centred, axis=axes, keepdims=True) + epsilon)
    return centred * r, r


def _normalise_bwd(normal: Array, r: Array, dnormal: Array, axes: tuple[int, ...]) -> Array:
    mean = partial(jnp.mean, axis=axes, keepdims=True)
    return r * (dnormal - mean(dnormal) - normal * mean(dnormal * normal))


def _scaled(normal: Array, params: dict[str, Array], dtype: Any) -> Array:
    scale, shift = (params[name].astype(normal.dtype) for name in ("scale", "shift"))
    return (normal * scale + shift).astype(dtype)


def _group_init(key, x, *, groups):
    _check("group_norm", x)
    check_groups("group_norm", "the channels of x", x.shape[-1], groups)
    return {"scale": jnp.ones(x.shape[-1], x.dtype), "shift": jnp.zeros(x.shape[-1], x.dtype)}


def _grouped(array: Array, groups: int) -> Array:
    """(N, *space, C) as (N, places, groups, C/groups)."""
    # in two steps: under Explicit mesh axes a reshape changes one group of axes at a time
    by_place = array.reshape(len(array), -1, array.shape[-1])
    return by_place.reshape(*by_place.shape[:2], groups, array.shape[-1] // groups)


def _ungrouped(array: Array, shape: tuple[int, ...]) -> Array:
    return array.reshape(*array.shape[:2], shape[-1]).reshape(shape)


def _group_fwd(params, x, *, groups, epsilon):
    check_params("group_norm", params, scale=(None,), shift=params["scale"].shape)
    _check("group_norm", x, len(params["scale"]))
    check_groups("group_norm", "the channels of x", x.shape[-1], groups)
    normal, r = _normalise(_grouped(x.astype(wide(x.dtype)), groups), (1, 3), epsilon)
    normal = _ungrouped(normal, x.shape)
    return _scaled(normal, params, x.dtype), {"normal": normal.astype(x.dtype), "r": r}


def _group_bwd(params, residuals, dy, *, groups):
    normal, r = residuals["normal"].astype(residuals["r"].dtype), residuals["r"]
    dnormal = dy.astype(r.dtype) * params["scale"].astype(r.dtype)
    dx = _normalise_bwd(_grouped(normal, groups), r, _grouped(dnormal, groups), (1, 3))
    factors = {"scale": Diag(residuals["normal"], dy), "shift": Sum(dy)}
    return factors, _ungrouped(dx, dy.shape).astype(dy.dtype)


def group_norm(groups: int, *, epsilon: float = 1e-5) -> Layer:
    """Normalise each example over space and over each of `groups` groups of channels.

    groups=1 is layer norm over the whole image, groups=C instance norm.

    Args:
      groups: at least 1, a divisor of the channels.
      epsilon: added to the variance under the root; above 0.
    """
    if groups < 1 or not epsilon > 0:
        raise ValueError(
            f"group_norm: groups must be at least 1 and epsilon above 0, got {groups} and "
            f"{epsilon}; usual ones are 8 and 1e-5"
        )
    return leaf(
        "group_norm",
        partial(_group_init, groups=groups),
        partial(_group_fwd, groups=groups, epsilon=epsilon),
        partial(_group_bwd, groups=groups),
        params=("scale", "shift"),
        detail=str(groups),
    )


def _batch_init(key, x):
    _check("batch_norm", x)
    ones, zeros = jnp.ones(x.shape[-1], x.dtype), jnp.zeros(x.shape[-1], x.dtype)
    return {"scale": ones, "shift": zeros, "mean": zeros, "var": ones}


def _batch_fwd(params, x, key, *, epsilon):
    each = params["scale"].shape
    check_params("batch_norm", params, scale=(None,), shift=each, mean=each, var=each)
    _check("batch_norm", x, len(params["scale"]))
    x_wide = x.astype(wide(x.dtype))
    if key is None:
        mean, var = (
            lax.stop_gradient(params[name].astype(x_wide.dtype)) for name in ("mean", "var")
        )
        r = lax.rsqrt(var + epsilon)
        normal = (x_wide - mean) * r
    else:
        normal, r = _normalise(x_wide, tuple(range(x.ndim - 1)), epsilon)
    residuals = {"normal": normal.astype(x.dtype), "r": r}
    return _scaled(normal, params, x.dtype), residuals


def _mixed(residuals):
    """Whether the statistics were those of the batch: r then has all axes of x."""
    return residuals["r"].ndim > 1


def _batch_bwd(params, residuals, dy):
    normal, r = residuals["normal"].astype(residuals["r"].dtype), residuals["r"]
    dnormal = dy.astype(r.dtype) * params["scale"].astype(r.dtype)
    held = {"mean": Zero(len(dy)), "var": Zero(len(dy))}
    if not _mixed(
        residuals
    ):  # evaluation: the statistics are constants, and every example is on its own
        factors = {"scale": Diag(residuals["normal"], dy), "shift": Sum(dy)}
        return factors | held, (dnormal * r).astype(dy.dtype)
    axes = tuple(range(dy.ndim - 1))
    dx = _normalise_bwd(normal, r, dnormal, axes)
    # An example's gradient through the batch's statistics is not its own: formed, not factored.
    dscale, dshift = jnp.sum(dy.astype(r.dtype) * normal, axes), jnp.sum(dy.astype(r.dtype), axes)
    factors = {"scale": Formed(dscale), "shift": Formed(dshift)}
    return factors | held, dx.astype(dy.dtype)


def batch_norm(*, epsilon: float = 1e-5) -> Layer:
    """Normalise each channel over the batch in training, by set statistics in evaluation.

    Training means that a key is given to `fwd`. Before evaluating, set the statistics from data
    with `set_statistics`; they start as mean 0 and variance 1, and gradient steps leave them
    alone (weight decay does not: mask it).

    Args:
      epsilon: added to the variance under the root; above 0.
    """
    if not epsilon > 0:
        raise ValueError(f"batch_norm: epsilon must be above 0, got {epsilon}; a usual one is 1e-5")
    return leaf(
        "batch_norm",
        _batch_init,
        partial(_batch_fwd, epsilon=epsilon),
        _batch_bwd,
        params=("scale", "shift", "mean", "var"),
        keyed=True,
        mixes=_mixed,
    )


def set_statistics(model: Layer, params: Any, x: Any) -> Any:
    """The parameters with the statistics of every `batch_norm` set from data.

    One pass over `x` in evaluation mode (no dropout) in which each batch norm normalises by the
    mean and variance of what reaches it, and those are kept. For evaluation after training; any
    model, whether the norms are in `repeat` or not.

    Args:
      model: any layer.
      params: its parameters.
      x: inputs, enough of them to stand for the data.

    Raises:
      ValueError: a batch norm inside `scan_time`.
    """

    for path, layer in walk_layers(model):
        if layer.name == "scan_time" and any(f.name == "batch_norm" for _, f in walk_layers(layer)):
            raise ValueError(
                f"set_statistics: {path or 'the model'} is a scan_time around a batch_norm, which "
                "has one set of statistics for all steps; take group_norm or layer_norm there"
            )

    def watch(path: str, layer: Layer) -> Layer:
        if layer.name == "tap":
            return identity()
        return _recording(layer) if layer.name == "batch_norm" else layer

    watched = map_layers(watch, model)
    y, residuals = watched.fwd(params, x)
    # The backward pass visits every leaf with its parameters; what is computed for dx is dropped.
    new, _ = watched.bwd(params, residuals, jax.tree.map(jnp.zeros_like, y), _keep_params)
    return new


def _keep_params(params: dict[str, Array], factors: Any, slots: Any = None) -> dict[str, Array]:
    return dict(params)


def _recording(layer: Layer) -> Layer:
    """The batch norm, normalising by its input's statistics and reporting them."""

    def fwd(params, x, key=None):
        x_wide, axes = x.astype(wide(x.dtype)), tuple(range(x.ndim - 1))
        found = {"mean": jnp.mean(x_wide, axes), "var": jnp.var(x_wide, axes)}
        params = params | {name: a.astype(params[name].dtype) for name, a in found.items()}
        y, residuals = layer.fwd(params, x)
        return y, (residuals, {name: params[name] for name in found})

    def bwd(params, residuals, dy, reduce: Reducer = grads, slots=None):
        residuals, found = residuals
        _, dx = layer.bwd(params, residuals, dy, none)
        return params | found, dx

    return replace(layer, fwd=fwd, bwd=bwd)
