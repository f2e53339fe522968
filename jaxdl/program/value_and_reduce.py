"""Any loss of one example, with every reducer: `value_and_reduce`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxdl.core.composed_factors import Many, Stacked, stack_factors
from jaxdl.core.factor import Factor, FactorError
from jaxdl.core.reducers import Combined, Reducer, grads
from jaxdl.program import opened


def value_and_reduce(
    loss: Callable[..., Any],
    reduce: Reducer = grads,
    *,
    in_axes: Any = 0,
    has_aux: bool = False,
    keep_batch_dim: bool = False,
) -> Callable[..., tuple[Any, Any]]:
    """A function ``(params, *examples) -> (values, reduced)`` for any loss that JAX can trace.

    Args:
      loss: ``loss(params, *example) -> scalar``, the loss of one example.
      reduce: what to make of the gradient factors.
      in_axes: where the examples are, as in `jax.vmap`, for the arguments behind the parameters.
      has_aux: whether the loss returns a pair (scalar, anything).
      keep_batch_dim: hand each example over as a batch of one, for a loss of batches.
    """

    def run(params, *examples):
        leaves, tree = jax.tree.flatten(params)
        axes = in_axes if isinstance(in_axes, tuple | list) else (in_axes,) * len(examples)
        flat, example_tree = jax.tree.flatten(examples)
        flat_axes = _axes_of(tuple(axes), examples)
        n = next(x.shape[a] for x, a in zip(flat, flat_axes, strict=True) if a is not None)
        flat = [jnp.asarray(x) if a is None else jnp.moveaxis(x, a, 0) for x, a in zip(flat, flat_axes, strict=True)]

        def of_leaves(leaves, flat):
            if keep_batch_dim:
                flat = [x if a is None else jnp.expand_dims(x, a) for x, a in zip(flat, flat_axes, strict=True)]
            return loss(jax.tree.unflatten(tree, leaves), *jax.tree.unflatten(example_tree, flat))

        one = [x if a is None else jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x, a in zip(flat, flat_axes, strict=True)]
        traced = opened.trace(of_leaves, leaves, one, [a is None for a in flat_axes])
        outs, pull = opened.run(traced, leaves, flat, n)
        ones = [jnp.ones_like(outs[0]), *map(_no_cotangent, outs[1:])]
        factors = [_of_mean(f, n) for f in pull(ones)]
        paths = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
        reduced = [reduce_factor(reduce, *each) for each in zip(paths, leaves, factors, strict=True)]
        value = jax.tree.unflatten(traced.out_tree, outs)
        return value, jax.tree.unflatten(tree, reduced)

    return run


def _axes_of(axes: tuple, examples: tuple) -> list[int | None]:
    flat = []
    for axis, example in zip(axes, examples, strict=True):
        leaves, tree = jax.tree.flatten(example)
        if axis is None or isinstance(axis, int):
            flat += [axis] * len(leaves)
        else:
            flat += jax.tree.leaves(axis, is_leaf=lambda a: a is None)
    return flat


def _no_cotangent(out: Array) -> Any:
    if jnp.issubdtype(out.dtype, jnp.inexact):
        return jnp.zeros_like(out)
    import numpy as np
    return np.zeros(out.shape, jax.dtypes.float0)


def _of_mean(factor: Factor, n: int) -> Factor:
    if isinstance(factor, Stacked):
        return replace(factor, factor=_of_mean(factor.factor, n))
    return replace(factor, divisor=n)


def reduce_factor(reduce: Reducer, path: str, param: Array, factor: Factor) -> Any:
    if isinstance(factor, Stacked):
        reduced = lax.map(lambda layer: reduce_factor(reduce, path, *layer), (param, factor.factor))
        return stack_factors(reduced)
    name = path or "params"
    reduced = reduce({name: param}, {name: factor}, None)
    if isinstance(reduced, Combined):
        return Combined({k: r[name] for k, r in reduced.items()})
    return reduced[name]
