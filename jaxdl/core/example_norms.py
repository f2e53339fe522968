"""The squared gradient norm of every example, from the factors, without a gradient for each."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core.composed_factors import Common
from jaxdl.core.examples import (
    along,
    block_of,
    check_apart,
    each_example,
    gradients_apart,
    patch_numbers,
    rows_of,
)
from jaxdl.core.factors import (
    ConvOuter,
    Diag,
    Factor,
    Local,
    Many,
    Outer,
    Scatter,
    Sum,
    Zero,
)
from jaxdl.core.reducer import Factors, per_example
from jaxdl.core.viewed_factors import Moved, untransposed
from jaxdl.numerics.dtypes import wide


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
    for factor in (f, g):
        check_apart("example_sq_norms", factor)
    if isinstance(f, Many) and f is g:
        return _sq_norm_of_sum(f, param)
    if isinstance(f, Many):
        return functools.reduce(jnp.add, (_inner(part, g, param) for part in f.factors))
    if isinstance(g, Many):
        return _inner(g, f, param)
    if isinstance(f, Zero) or isinstance(g, Zero):
        return jnp.zeros(f.examples, wide(param.dtype))
    if isinstance(f, Common):
        return f.weights * along(f.g, g, param)
    if isinstance(g, Common):
        return _inner(g, f, param)
    if isinstance(f, Moved) and isinstance(g, Moved) and (f.axes, f.shape) == (g.axes, g.shape):
        same = g.factor if f is not g else f.factor
        return _inner(f.factor, same, f.view(param))
    if jnp.iscomplexobj(param):
        return _inner_one_by_one(f, g, param)
    f, g = (h.summed() if isinstance(h, Diag) else untransposed(h) for h in (f, g))
    if isinstance(f, Sum) and isinstance(g, Sum):
        return _row_dots(_over_positions(f, param), _over_positions(g, param))
    if isinstance(f, Outer) and isinstance(g, Outer) and _gram_is_cheaper(f, g, param):
        return jnp.sum(_gram(f.a, g.a) * _gram(f.d, g.d), axis=(1, 2))
    if isinstance(f, Scatter) and isinstance(g, Scatter):
        return jnp.sum(jnp.where(_same_row(f, g, param), _gram(f.d, g.d), 0), axis=(1, 2))
    if isinstance(f, Scatter) and isinstance(g, Outer):
        return _inner(g, f, param)
    if isinstance(f, Outer) and isinstance(g, Scatter):
        return _inner_at_rows(f, g, param)
    if isinstance(f, ConvOuter) and f is g and f.window.groups == 1:
        return _inner_of_patches(f, param)
    if isinstance(f, Local) and isinstance(g, Local) and f.a.ndim == 3:
        return jnp.sum(_squares(f.a, g.a) * _squares(f.d, g.d), axis=1)
    return _inner_one_by_one(f, g, param)


def _joined(parts: list[Any], param: Array) -> Any:
    """Factors of one kind as one, with its uses as positions; None if that cannot be said.

    Of an unrolled loop of T steps there would be T² inner products to trace.
    """
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], Sum):
        return Sum(functools.reduce(jnp.add, (_over_positions(f, param) for f in parts)))
    if not isinstance(parts[0], Outer | Scatter):
        return None
    d = jnp.concatenate([_rows(f.d) for f in parts], axis=1)
    if isinstance(parts[0], Scatter):
        return Scatter(jnp.concatenate([f.ids.reshape(len(f.ids), -1) for f in parts], axis=1), d)
    return Outer(jnp.concatenate([_rows(f.a) for f in parts], axis=1), d)


def _rows(array: Array) -> Array:
    """(N, ..., m) as (N, T, m): every axis between the first and the last is a position."""
    if array.ndim < 2:
        raise ValueError(
            f"example_sq_norms: factors must have a leading example axis, got shape {array.shape}; "
            "give the model a batch, e.g. x[None]"
        )
    return rows_of(array)


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


def _sq_norm_of_sum(f: Many, param: Array) -> Array:
    """‖Σ ∇‖² of the factors, those of one kind taken together."""
    if jnp.iscomplexobj(param):
        return _inner_one_by_one(f, f, param)
    common = [part for part in f.factors if isinstance(part, Common)]
    if common:
        apart = [part for part in f.factors if not isinstance(part, Common)]
        twice = [2 * _inner(x, y, param) for x, y in itertools.combinations(common, 2)]
        twice += [2 * _inner(x, y, param) for x in common for y in apart]
        own = [_inner(part, part, param) for part in common]
        rest = [_sq_norm_of_sum(Many(tuple(apart)), param)] if apart else []
        return functools.reduce(jnp.add, (*own, *twice, *rest))
    kinds: dict[Any, list[Factor]] = {}
    for part in f.factors:
        part = part.summed() if isinstance(part, Diag) else untransposed(part)
        if not isinstance(part, Zero):
            key = (type(part), *(x.dtype for x in jax.tree.leaves(part)))
            kinds.setdefault(key, []).append(part)
    joined = [_joined(parts, param) for parts in kinds.values()]
    if not joined:
        return jnp.zeros(f.examples, wide(param.dtype))
    if len(joined) == 1 and joined[0] is not None:
        return _inner(joined[0], joined[0], param)
    if any(not isinstance(part, Outer | Scatter) for part in joined):
        # each example's gradient is formed once, and not for each pair of parts
        return _inner_one_by_one(f, f, param)
    squares = [_inner(part, part, param) for part in joined]
    # what two of them have together counts twice
    together = (2 * _inner(x, y, param) for x, y in itertools.combinations(joined, 2))
    return functools.reduce(jnp.add, (*squares, *together))


def _inner_at_rows(f: Outer, g: Scatter, param: Array) -> Array:
    """Σₜₛ aₜ[idₛ](dₜ·dₛ): a parameter used as a matrix in one place, as a table in another."""

    def one(row: Any, whole: tuple[()]) -> Array:
        a, d, ids, other = row
        inside = (ids >= 0) & (ids < a.shape[-1])
        at_rows = jnp.where(inside, a[:, jnp.where(inside, ids, 0)], 0)
        return jnp.sum(at_rows * jnp.matmul(d, other.T, preferred_element_type=wide(d.dtype)))

    n, pairs = len(f.d), _rows(f.d).shape[1] * _rows(g.d).shape[1]
    rows = (_rows(f.a), _rows(f.d), g.ids.reshape(n, -1), _rows(g.d))
    return each_example(one, rows, (), block_of(pairs))


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

    return each_example(one, f, param, block_of(patch_numbers(f, param)))


def _inner_one_by_one(f: Factor, g: Factor, param: Array) -> Array:
    """The general case: one example's gradients at a time, never examples × parameters."""
    (rows, form), (others, form_other) = gradients_apart(f), gradients_apart(g)

    def one(pair: tuple[Any, Any], param: Array) -> Array:
        first = form(pair[0], param)
        second = first if f is g else form_other(pair[1], param)
        # of complex numbers, the inner product of their real and imaginary parts
        dtype = jnp.finfo(wide(param.dtype)).dtype
        return jnp.sum(jnp.real(jnp.conj(first) * second), dtype=dtype)

    return each_example(one, (rows, others), param)
