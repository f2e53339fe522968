"""Reducers: what to make of the gradient factors, decided at each leaf inside the backward pass.

A reducer is a function ``reduce(params, factors, slots) -> anything``. It sees the parameters of
one leaf, one factor for each of them, and the leaf's part of a tree of slots (optimiser state,
accumulators, ...; None when the caller gave none). Inside `repeat` it runs in the scan, once a
layer, so that only what it returns is stacked.

Every reducer here works on every layer: it is written once for each *kind of factor*.
Per-example quantities belong to the example's own contribution to the loss: with a loss that is
a mean over N examples they carry the factor 1/N.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec

from jaxdl.core.factors import (
    ConvOuter,
    Factor,
    FactorError,
    Formed,
    Local,
    Many,
    Outer,
    Scatter,
    Stacked,
    Sum,
    Zero,
    contract,
    stack_factors,
)
from jaxdl.numerics.correlation import BLOCK_ELEMENTS
from jaxdl.numerics.dtypes import wide
from jaxdl.numerics.sharding import explicit_sharding

Factors = Mapping[str, Factor]
Reducer = Callable[[dict[str, Array], Factors, Any], Any]


def grads(params: dict[str, Array], factors: Factors, slots: Any = None) -> dict[str, Array]:
    """The gradient of each parameter: the tree, shapes and dtypes of `params`."""
    return {name: contract(factors[name], param) for name, param in params.items()}


def none(params: dict[str, Array], factors: Factors, slots: Any = None) -> dict[str, Array]:
    """Nothing: no product that forms a parameter gradient is in the compiled program."""
    return {}


def keep(params: dict[str, Array], factors: Factors, slots: Any = None) -> Factors:
    """The factors themselves, to decide later; `reduce_kept` applies another reducer to them."""
    return factors


def l2_norm(array: Array) -> Array:
    """Euclidean norm over the whole array, accumulated in float32 or wider."""
    return jnp.sqrt(jnp.sum(jnp.square(array.astype(wide(array.dtype)))))


def trace_with(measure: Callable[[Array], Any]) -> Reducer:
    """A reducer that applies `measure` to every array of every factor.

    For a dense weight that is ``{"a": measure(inputs), "d": measure(cotangents)}``; the keys are
    the field names of the factor. Integer arrays (row numbers) are left out.
    """

    def trace(params: dict[str, Array], factors: Factors, slots: Any = None) -> Any:
        def visit(factor: Factor) -> Any:
            if isinstance(factor, Many):
                return tuple(visit(part) for part in factor.factors)
            return {
                field: measure(array)
                for field, array in vars(factor).items()
                if isinstance(array, Array) and jnp.issubdtype(array.dtype, jnp.inexact)
            }

        return {name: visit(factors[name]) for name in params}

    return trace


trace = trace_with(l2_norm)
"""The L2 norm of every input and every cotangent at every parameter."""


# --- per-example squared norms ------------------------------------------------------------------


def example_sq_norms(
    params: dict[str, Array], factors: Factors, slots: Any = None
) -> dict[str, Array]:
    """‖∇ᵢ‖² of each example i and parameter, float32 or wider, shape (N,) per parameter.

    No array of examples × a matrix's entries is ever formed:
    ‖Σₜ aₜ⊗dₜ‖² = Σₜₛ (aₜ·aₛ)(dₜ·dₛ), from two T × T products of an example's positions
    (Goodfellow 2015, arXiv:1510.01799, without positions; Li et al. 2022, arXiv:2110.05679, with).
    Where an example has so many positions that this would cost more than its gradient, the
    gradients are formed one example at a time; those of a convolution for as many examples at a
    time as their patches fill 2 MB (float32). Add the leaves up with `total`.

    Raises:
      FactorError: the layer gives an already formed gradient, which has no examples in it.
    """
    return {name: _inner(factors[name], factors[name], param) for name, param in params.items()}


def total(tree: Any) -> Array:
    """Sum of per-example values over all parameters, and over the layers of a stack: (N,)."""
    leaves = [leaf.reshape(-1, leaf.shape[-1]).sum(axis=0) for leaf in jax.tree.leaves(tree)]
    if not leaves:
        raise ValueError("total: the tree has no per-example values; the model has no parameters")
    return functools.reduce(jnp.add, leaves)


def _inner(f: Factor, g: Factor, param: Array) -> Array:
    """Per-example inner products ⟨∇ᵢ of f, ∇ᵢ of g⟩ of two factors of one parameter: (N,)."""
    if isinstance(f, Formed) or isinstance(g, Formed):
        raise FactorError(
            "example_sq_norms needs the examples apart, but the layer gives an already formed "
            "gradient (Formed), summed over them; write its bwd with Outer, Sum or Scatter factors"
        )
    if isinstance(f, Many):
        return functools.reduce(jnp.add, (_inner(part, g, param) for part in f.factors))
    if isinstance(g, Many):
        return _inner(g, f, param)
    if isinstance(f, Zero) or isinstance(g, Zero):
        return jnp.zeros(f.examples, wide(param.dtype))
    if isinstance(f, Sum) and isinstance(g, Sum):
        return _row_dots(_over_positions(f, param), _over_positions(g, param))
    if isinstance(f, Outer) and isinstance(g, Outer) and _gram_is_cheaper(f, g, param):
        return jnp.sum(_gram(f.a, g.a) * _gram(f.d, g.d), axis=(1, 2))
    if isinstance(f, Scatter) and isinstance(g, Scatter):
        return jnp.sum(jnp.where(_same_row(f, g, param), _gram(f.d, g.d), 0), axis=(1, 2))
    if isinstance(f, ConvOuter) and f is g and f.window.groups == 1:
        return _inner_of_patches(f, param)
    if isinstance(f, Local) and isinstance(g, Local) and f.a.ndim == 3:
        return jnp.sum(_squares(f.a, g.a) * _squares(f.d, g.d), axis=1)
    return _inner_one_by_one(f, g, param)


def _rows(array: Array) -> Array:
    """(N, ..., m) as (N, T, m): every axis between the first and the last is a position."""
    if array.ndim < 2:
        raise ValueError(
            f"example_sq_norms: factors must have a leading example axis, got shape {array.shape}; "
            "give the model a batch, e.g. x[None]"
        )
    return array.reshape(array.shape[0], -1, array.shape[-1])


def _gram(x: Array, y: Array) -> Array:
    """xₜ·yₛ for every pair of positions of each example: (N, T, S)."""
    return jnp.einsum("ntm,nsm->nts", _rows(x), _rows(y), preferred_element_type=wide(x.dtype))


def _gram_is_cheaper(f: Outer, g: Outer, param: Array) -> bool:
    t, s = (_rows(factor.d).shape[1] for factor in (f, g))
    m, k = param.shape
    return t * s * (m + k) <= (t + s) * m * k


def _over_positions(factor: Sum, param: Array) -> Array:
    positions = tuple(range(1, factor.d.ndim - param.ndim))
    if factor.d.ndim == param.ndim:
        raise ValueError(
            f"example_sq_norms: factors must have a leading example axis, got shape "
            f"{factor.d.shape} for a parameter of shape {param.shape}; give the model a batch"
        )
    return jnp.sum(factor.d, axis=positions, dtype=wide(factor.d.dtype))


def _row_dots(x: Array, y: Array) -> Array:
    return jnp.sum((x * y).reshape(x.shape[0], -1), axis=1)


def _same_row(f: Scatter, g: Scatter, param: Array) -> Array:
    ids, others = (factor.ids.reshape(factor.ids.shape[0], -1) for factor in (f, g))
    inside = (ids >= 0) & (ids < param.shape[0])  # contract drops the rest
    return (ids[:, :, None] == others[:, None, :]) & inside[:, :, None]


def _squares(x: Array, y: Array) -> Array:
    return jnp.sum((x * y).astype(wide(x.dtype)), axis=-1)


def _inner_of_patches(f: ConvOuter, param: Array) -> Array:
    """The squared norms of a convolution: its kernel is a matrix used on every patch.

    The patches of all examples at once could be many times the input: a few examples at a time.
    """

    def one(f: ConvOuter, param: Array) -> Array:
        rows = jax.tree.map(lambda array: array[None], f).unfold()
        matrix = param.reshape(-1, param.shape[-1])
        if _gram_is_cheaper(rows, rows, matrix):
            return jnp.sum(_gram(rows.a, rows.a) * _gram(rows.d, rows.d))
        return jnp.sum(jnp.square(rows.form(matrix)))

    # numbers in the patches of one example
    patches = prod(f.d.shape[1:-1]) * prod(param.shape[:-1])
    return _each_example(one, f, param, batch_size=max(1, BLOCK_ELEMENTS // max(1, patches)))


def _inner_one_by_one(f: Factor, g: Factor, param: Array) -> Array:
    """The general case: one example's gradients at a time, never examples × parameters."""
    same = f is g

    def one(pair: tuple[Factor, Factor], param: Array) -> Array:
        alone = jax.tree.map(lambda array: array[None], pair)
        first = alone[0].form(param)
        second = first if same else alone[1].form(param)
        return jnp.sum(first * second, dtype=wide(param.dtype))

    return _each_example(one, (f, g), param)


def _each_example(
    one: Callable[[Any, Array], Array], factors: Any, param: Array, batch_size: int | None = None
) -> Array:
    """``one(factors of an example, param)`` for every example, `batch_size` at a time: (N,)."""

    def loop(factors: Any, param: Array) -> Array:
        return lax.map(lambda part: one(part, param), factors, batch_size=batch_size)

    sharding = explicit_sharding(jax.tree.leaves(factors)[0])
    axis = sharding.spec[0] if sharding is not None and sharding.spec else None
    if axis is None:
        return loop(factors, param)
    # The examples lie on several devices: a loop cannot run over them all, so each device runs
    # over its own.
    mine, whole = PartitionSpec(axis), PartitionSpec()
    return jax.shard_map(loop, in_specs=(mine, whole), out_specs=mine)(factors, param)


# --- putting reducers together ------------------------------------------------------------------


@jax.tree_util.register_pytree_with_keys_class
class Combined(dict):
    """What `combine` returns at each leaf: one entry per reducer."""

    def tree_flatten_with_keys(self):
        names = tuple(sorted(self))
        return tuple((jax.tree_util.DictKey(name), self[name]) for name in names), names

    @classmethod
    def tree_unflatten(cls, names, values):
        return cls(zip(names, values, strict=True))


def combine(**reducers: Reducer) -> Reducer:
    """Several reducers in one backward pass; take their results apart with `select`.

    ``combine(grads=grads, norms=example_sq_norms)`` gives both for one pass over the model.
    """

    def combined(params: dict[str, Array], factors: Factors, slots: Any = None) -> Combined:
        return Combined({name: r(params, factors, slots) for name, r in reducers.items()})

    return combined


def select(tree: Any, name: str) -> Any:
    """The results of the reducer called `name` in a tree made with `combine`."""
    return jax.tree.map(
        lambda node: node[name] if isinstance(node, Combined) else node,
        tree,
        is_leaf=lambda node: isinstance(node, Combined),
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Seen:
    """What `backprop_trace` reports of a leaf, around what the reducer made there."""

    activation: Any
    delta: Any
    reduced: Any


def reduce_kept(reduce: Reducer, params: Any, kept: Any, slots: Any = None) -> Any:
    """Apply a reducer to the tree of factors that `keep` returned for a model.

    `reduce_kept(grads, params, kept)` is the gradient. Tuples are containers and dicts are
    leaves; what is not a factor (a tapped cotangent) is returned as it is.
    """
    if isinstance(kept, Seen):
        return replace(kept, reduced=reduce_kept(reduce, params, kept.reduced, slots))
    if isinstance(kept, tuple):
        parts = slots if slots is not None else (None,) * len(kept)
        return tuple(
            reduce_kept(reduce, p, k, s) for p, k, s in zip(params, kept, parts, strict=True)
        )
    if not isinstance(kept, dict):
        return kept
    if any(isinstance(factor, Stacked) for factor in kept.values()):
        layers = {name: factor.factor for name, factor in kept.items()}
        reduced = lax.map(lambda args: reduce_kept(reduce, *args), (params, layers, slots))
        return stack_factors(reduced)
    return reduce(params, kept, slots)
