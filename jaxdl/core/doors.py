"""The door from a layer to the rest of JAX: `as_function`. The other is in `jaxdl.program`."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from jaxdl.core.layer import Layer, walk_layers


def as_function(layer: Layer) -> Callable[..., Any]:
    """The layer as ``f(params, x, key=None) -> y`` whose derivative is the hand-written backward.

    A `jax.custom_vjp` function: `jax.grad`, `jax.vjp` and every program built on them (Flax and
    Equinox modules included) run `layer.bwd`. Reverse mode only, as for any custom_vjp.

    Raises:
      ValueError: the layer has a `tap`, whose reduced value is not a gradient.
    """
    check_no_taps("as_function", layer)

    @functools.cache
    def of_leaves(structure):
        """The function of the leaves of (params, x, key), for one structure of these."""

        @jax.custom_vjp
        def function(*leaves):
            return layer.apply(*jax.tree.unflatten(structure, leaves))

        def function_fwd(*leaves):
            params, x, key = jax.tree.unflatten(structure, leaves)
            y, residuals = layer.fwd(params, x, key)
            return y, (params, residuals)

        def function_bwd(saved, dy):
            params, residuals = saved
            dy = jax.tree.map(lambda d: None if d.dtype == jax.dtypes.float0 else d, dy)
            dparams, dx = layer.bwd(params, residuals, dy)
            _, no_dx, no_dkey = jax.tree.unflatten(structure, [None] * structure.num_leaves)
            return tuple(structure.flatten_up_to((dparams, no_dx if dx is None else dx, no_dkey)))

        # by this a program that is read (jaxdl.program) knows the layer again, and its factors
        function_bwd.layer, function_bwd.structure = layer, structure  # type: ignore[attr-defined]
        function.defvjp(function_fwd, function_bwd)
        return function

    def call(params, x, key=None):
        leaves, structure = jax.tree.flatten((params, x, key))
        return of_leaves(structure)(*leaves)

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
