"""Doors to the rest of JAX: a layer as a function, a function as a layer."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array

from jaxdl.core.factors import Formed
from jaxdl.core.layer import Layer, leaf, walk_layers
from jaxdl.core.side import join_side, split_side


def as_function(layer: Layer) -> Callable[..., Any]:
    """The layer as ``f(params, x, key=None) -> y`` whose derivative is the hand-written backward.

    A `jax.custom_vjp` function: `jax.grad`, `jax.vjp` and every program built on them (Flax and
    Equinox modules included) run `layer.bwd`. Reverse mode only, as for any custom_vjp.

    Raises:
      ValueError: the layer has a `tap`, whose reduced value is not a gradient.
    """
    check_no_taps("as_function", layer)

    @jax.custom_vjp
    def function(params, x, key):
        return layer.apply(params, x, key)

    def function_fwd(params, x, key):
        y, residuals = layer.fwd(params, x, key)
        return y, (params, residuals)

    def function_bwd(saved, dy):
        params, residuals = saved
        dy = jax.tree.map(lambda d: None if d.dtype == jax.dtypes.float0 else d, dy)
        return *layer.bwd(params, residuals, dy), None

    function.defvjp(function_fwd, function_bwd)

    def call(params, x, key=None):
        return function(params, x, key)

    call.__name__ = call.__qualname__ = layer.name
    return call


def check_no_taps(name: str, model: Layer) -> None:
    """Raise ValueError if the model has a `tap`, where only a gradient will do."""
    taps = [path for path, part in walk_layers(model) if part.name == "tap"]
    if taps:
        raise ValueError(
            f"{name}: {model.name} must not contain a tap, got one at {taps[0]!r}; a tap "
            "reduces to a cotangent, not to a gradient: build the model without it"
        )


def from_function(
    init: Callable[[Array, Any], dict[str, Array]],
    apply: Callable[..., Any],
    *,
    name: str = "function",
    params: Sequence[str] = (),
    keyed: bool = False,
    side: bool = False,
    mixes: bool = False,
) -> Layer:
    """Any JAX function as a layer; its backward is `jax.vjp`, its factors are `Formed`.

    Args:
      init: ``(key, x) -> params``, a dict with the keys `params`.
      apply: ``(params, x) -> y``, or ``(params, x, key)`` if `keyed`.
      name: one word, for errors and `print`.
      params: names of the parameters.
      keyed: whether `apply` takes a key.
      side: whether its x is ``With(x, side)``; see `leaf`.
      mixes: whether an example's output depends on the others of the batch; see `leaf`.

    The residual is the input alone: the backward runs `apply` again under `jax.vjp`. Keeping
    the closure of `jax.vjp` would keep copies of the parameters. Inside one jit the repeated
    forward is merged with the first, except for its loops, which run twice.
    """

    def fwd(params, x, key=None):
        y = apply(params, x, key) if keyed else apply(params, x)
        x, _ = split_side(x)
        return y, {"x": x, "key": key} if keyed else x

    def bwd(params, residuals, dy):
        residuals, given = split_side(residuals)
        x, key = (residuals["x"], residuals["key"]) if keyed else (residuals, None)
        x = join_side(x, given)
        call = (lambda p, v: apply(p, v, key)) if keyed else apply
        dparams, dx = jax.vjp(call, params, x)[1](dy)
        dx = jax.tree.map(lambda d: None if d.dtype == jax.dtypes.float0 else d, dx)
        return {k: Formed(g) for k, g in dparams.items()}, dx

    return leaf(name, init, fwd, bwd, params=params, keyed=keyed, side=side, mixes=mixes)
