"""The squared gradient norm of every example, from the factors, without a gradient for each."""

import functools
from collections.abc import Callable
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec

from jaxdl.core.factors import (
    ConvOuter,
    Diag,
    Factor,
    FactorError,
    Formed,
    Local,
    Many,
    Outer,
    Scatter,
    Sum,
    Zero,
)
from jaxdl.core.reducer import Factors, per_example
from jaxdl.core.viewed_factors import Moved
from jaxdl.numerics.correlation import BLOCK_ELEMENTS
from jaxdl.numerics.dtypes import wide
from jaxdl.numerics.sharding import explicit_sharding


@per_example
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


def _inner(f: Factor, g: Factor, param: Array) -> Array:
    """Per-example inner products ⟨∇ᵢ of f, ∇ᵢ of g⟩ of two factors of one parameter: (N,)."""
    if isinstance(f, Formed) or isinstance(g, Formed):
        raise FactorError(
            "example_sq_norms needs the examples apart, but the layer gives an already formed "
            "gradient (Formed), summed over them; write its bwd with Outer, Sum or Scatter factors"
        )
    if isinstance(f, Many) and f is g and not any(isinstance(p, Formed) for p in f.factors):
        one = None if jnp.iscomplexobj(param) else _joined(f.factors, param)
        # of several kinds each example's gradient is formed once, and not for each pair of them
        return _inner_one_by_one(f, f, param) if one is None else _inner(one, one, param)
    if isinstance(f, Many):
        return functools.reduce(jnp.add, (_inner(part, g, param) for part in f.factors))
    if isinstance(g, Many):
        return _inner(g, f, param)
    if isinstance(f, Zero) or isinstance(g, Zero):
        return jnp.zeros(f.examples, wide(param.dtype))
    if isinstance(f, Moved) and isinstance(g, Moved) and (f.axes, f.shape) == (g.axes, g.shape):
        same = g.factor if f is not g else f.factor
        return _inner(f.factor, same, f.view(param))
    if jnp.iscomplexobj(param):
        return _inner_one_by_one(f, g, param)
    f, g = (h.summed() if isinstance(h, Diag) else h for h in (f, g))
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


def _joined(factors: tuple[Factor, ...], param: Array) -> Factor | None:
    """The same sum as one factor, with its uses as positions, if they are all of one kind.

    Of an unrolled loop of T steps there would be T² inner products to trace.
    """
    same: list[Any] = [f.summed() if isinstance(f, Diag) else f for f in factors]
    if all(isinstance(f, Sum) for f in same):
        return Sum(functools.reduce(jnp.add, (_over_positions(f, param) for f in same)))
    if len({(type(f), *(x.dtype for x in jax.tree.leaves(f))) for f in same}) > 1:
        return None
    if not isinstance(same[0], Outer | Scatter):
        return None
    d = jnp.concatenate([_rows(f.d) for f in same], axis=1)
    if isinstance(same[0], Scatter):
        return Scatter(jnp.concatenate([f.ids.reshape(len(f.ids), -1) for f in same], axis=1), d)
    return Outer(jnp.concatenate([_rows(f.a) for f in same], axis=1), d)


def _rows(array: Array) -> Array:
    """(N, ..., m) as (N, T, m): every axis between the first and the last is a position."""
    if array.ndim < 2:
        raise ValueError(
            f"example_sq_norms: factors must have a leading example axis, got shape {array.shape}; "
            "give the model a batch, e.g. x[None]"
        )
    return array.reshape(array.shape[0], prod(array.shape[1:-1]), array.shape[-1])


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
    (f_batched, f_join), (g_batched, g_join) = f.split(), g.split()

    def one(pair: tuple[Any, Any], param: Array) -> Array:
        some, others = jax.tree.map(lambda array: array[None], pair)
        first = f_join(some).form(param)
        second = first if f is g else g_join(others).form(param)
        # of complex numbers, the inner product of their real and imaginary parts
        dtype = jnp.finfo(wide(param.dtype)).dtype
        return jnp.sum(jnp.real(jnp.conj(first) * second), dtype=dtype)

    return _each_example(one, (f_batched, g_batched), param)


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
