"""Inner products of the gradients of examples: within a batch, and between two.

    Kᵢⱼ = ⟨∇ᵢ, ∇ⱼ⟩              (N, N) for each parameter

One position:       ∇ᵢ = aᵢ⊗dᵢ          K = (a aᵀ)∘(d dᵀ)
several positions:  ∇ᵢ = Σₜ aᵢₜ⊗dᵢₜ     Kᵢⱼ = Σₜₛ (aᵢₜ·aⱼₛ)(dᵢₜ·dⱼₛ), pair by pair of positions; or
                    K = Σ over rows r of the matrix of ∇ᵢ[r]·∇ⱼ[r], a few rows of all gradients at a
                    time: whichever takes fewer products.

The empirical tangent kernel (Jacot et al. 2018, arXiv:1806.07572), summed over outputs; TracIn's
similarity (Pruthi et al. 2020, arXiv:2002.08484).
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec

from jaxdl.core.composed_factors import Common
from jaxdl.core.examples import (
    along,
    block_of,
    check_apart,
    each_example,
    gradient_numbers,
    gradients_apart,
    rows_of,
)
from jaxdl.core.factors import Diag, Factor, Local, Many, Outer, Scatter, Stacked, Sum, Zero
from jaxdl.core.reducer import Factors, per_example
from jaxdl.core.reducers import reduce_kept
from jaxdl.core.viewed_factors import Moved, untransposed
from jaxdl.numerics.dtypes import row_numbers, wide
from jaxdl.numerics.sharding import explicit_sharding

HELD = 2**20
"""Numbers of formed gradients held at a time: 4 MB in float32."""


@per_example
def gram(params: dict[str, Array], factors: Factors, slots: Any = None) -> dict[str, Array]:
    """⟨∇ᵢ, ∇ⱼ⟩ of all pairs of examples of a batch: (N, N) per parameter, float32 or wider.

    One parameter at a time, in O(N²) memory beside a bounded block. Add the parameters up with
    ``total(tree, axes=2)``. With a mean loss ∇ᵢ carries 1/N.

    Raises:
      FactorError: an already formed gradient, which has no examples in it.
    """
    return {name: _products(factors[name], factors[name], param) for name, param in params.items()}


def gram_between(params: Any, kept: Any, others: Any) -> Any:
    """⟨∇ᵢ, ∇ⱼ⟩ of the examples of one batch and those of another: (N, M) per parameter.

    Args:
      params: the parameters of the model.
      kept, others: the trees of factors that `keep` returned for the two batches.

    Raises:
      FactorError: an already formed gradient; the text begins with its layer's path.
    """
    return reduce_kept(_between, params, kept, others)


@per_example
def _between(params: dict[str, Array], factors: Factors, slots: Any = None) -> dict[str, Array]:
    return {
        name: _products(factors[name], _one(slots[name]), param) for name, param in params.items()
    }


def _one(factor: Factor) -> Factor:
    """What is inside a `Stacked` whose layers were taken apart already."""
    return _one(factor.factor) if isinstance(factor, Stacked) else factor


def _products(f: Factor, g: Factor, param: Array) -> Array:
    """⟨∇ᵢ of f, ∇ⱼ of g⟩: (N, M)."""
    for factor in (f, g):
        check_apart("gram", factor)
    if isinstance(f, Many) and f is g:
        own = (_products(part, part, param) for part in f.factors)
        crossed = (_products(x, y, param) for x, y in itertools.combinations(f.factors, 2))
        return functools.reduce(jnp.add, (*own, *(k + k.T for k in crossed)))
    if isinstance(f, Many):
        return functools.reduce(jnp.add, (_products(part, g, param) for part in f.factors))
    if isinstance(g, Many):
        return functools.reduce(jnp.add, (_products(f, part, param) for part in g.factors))
    if isinstance(f, Zero) or isinstance(g, Zero):
        return jnp.zeros((f.examples, g.examples), wide(param.dtype))
    if isinstance(f, Common):
        return f.weights[:, None] * along(f.g, g, param)[None, :]
    if isinstance(g, Common):
        return _products(g, f, param).T
    if isinstance(f, Moved) and isinstance(g, Moved) and (f.axes, f.shape) == (g.axes, g.shape):
        return _products(f.factor, f.factor if f is g else g.factor, f.view(param))
    if jnp.iscomplexobj(param):
        return _one_by_one(f, g, param)
    f, g = (h.summed() if isinstance(h, Diag) else untransposed(h) for h in (f, g))
    if isinstance(f, Scatter) and isinstance(g, Outer):
        return _products(g, f, param).T
    whole = _everywhere(g)
    if isinstance(f, Sum) and isinstance(g, Sum):
        x = jnp.sum(f.d, axis=_positions(f, param), dtype=wide(f.d.dtype))
        y = jnp.sum(whole.d, axis=_positions(g, param), dtype=wide(g.d.dtype))
        return _dots(x, y)
    if isinstance(f, Outer) and isinstance(g, Outer):
        return _of_outers(f, whole, param)
    if isinstance(f, Outer) and isinstance(g, Scatter) and _pairs_are_fewer(f, g, param):
        return _by_pairs(_outer_at_rows, (rows_of(f.a), rows_of(f.d)), _listed(whole, param, -1))
    if isinstance(f, Scatter) and isinstance(g, Scatter) and _pairs_are_fewer(f, g, param):
        # rows outside the table have no gradient: no two of them are the same row
        return _by_pairs(_rows_that_meet, _listed(f, param, -1), _listed(whole, param, -2))
    if isinstance(f, Local) and isinstance(g, Local) and f.a.ndim == g.a.ndim == 3:
        return _of_locals(f, whole)
    return _one_by_one(f, whole, param)


def _everywhere(factor: Any) -> Any:
    """The factor on every device, where Explicit mesh axes split its examples."""
    if explicit_sharding(jax.tree.leaves(factor)[0]) is None:
        return factor
    return jax.tree.map(lambda array: jax.reshard(array, PartitionSpec()), factor)


def _positions(factor: Sum, param: Array) -> tuple[int, ...]:
    return tuple(range(1, factor.d.ndim - param.ndim))


def _dots(x: Array, y: Array) -> Array:
    """xᵢ·yⱼ over all axes but the first: (N, M)."""
    x, y = (array.reshape(len(array), -1) for array in (x, y))
    return jnp.einsum("nm,jm->nj", x, y, preferred_element_type=wide(x.dtype))


def _of_outers(f: Outer, g: Outer, param: Array) -> Array:
    (n, t), (o, s) = (rows_of(h.d).shape[:2] for h in (f, g))
    if t == s == 1:
        return _dots(f.a, g.a) * _dots(f.d, g.d)
    m, k = param.shape
    of_rows = (n * t + o * s + n * o) * m * k
    if n * o * t * s * (m + k) <= of_rows or explicit_sharding(f.d) is not None:
        return _by_pairs(_outers, (rows_of(f.a), rows_of(f.d)), (rows_of(g.a), rows_of(g.d)))
    return _by_rows(f, g, param)


def _pairs_are_fewer(f: Outer | Scatter, g: Scatter, table: Array) -> bool:
    """Whether two examples have fewer pairs of positions than the table has rows."""
    return rows_of(f.d).shape[1] * rows_of(g.d).shape[1] <= table.shape[0]


def _by_pairs(
    products: Callable[..., Array], rows: tuple[Array, Array], others: tuple[Array, Array]
) -> Array:
    """All pairs of positions of an example and of all others; as many examples as fill a block."""
    pairs = rows[1].shape[1] * others[1].shape[0] * others[1].shape[1]
    return each_example(products, rows, others, block_of(pairs))


def _dots_of_positions(x: Array, y: Array) -> Array:
    """xₜ·yⱼₛ: (M, T, S)."""
    return jnp.einsum("tm,jsm->jts", x, y, preferred_element_type=wide(x.dtype))


def _outers(row: tuple[Array, Array], others: tuple[Array, Array]) -> Array:
    a, d = (_dots_of_positions(x, y) for x, y in zip(row, others, strict=True))
    return jnp.sum(a * d, axis=(1, 2))


def _listed(factor: Scatter, param: Array, outside: int) -> tuple[Array, Array]:
    """(ids, d), one list of positions an example; `outside` for rows that the table has not."""
    ids = factor.ids.reshape(len(factor.ids), -1)
    inside = (ids >= 0) & (ids < param.shape[0])
    return jnp.where(inside, row_numbers(ids), outside), rows_of(factor.d)


def _rows_that_meet(row: tuple[Array, Array], others: tuple[Array, Array]) -> Array:
    (ids, d), (other_ids, other_d) = row, others
    same = ids[None, :, None] == other_ids[:, None, :]
    return jnp.sum(jnp.where(same, _dots_of_positions(d, other_d), 0), axis=(1, 2))


def _outer_at_rows(row: tuple[Array, Array], others: tuple[Array, Array]) -> Array:
    """Σₜₛ aₜ[idⱼₛ](dₜ·dⱼₛ): a weight used as a matrix here and as a table there."""
    (a, d), (ids, other_d) = row, others
    at_rows = jnp.moveaxis(a[:, jnp.maximum(ids, 0)], 0, 1)  # (M, T, S)
    at_rows = jnp.where((ids >= 0)[:, None, :], at_rows, 0)
    return jnp.sum(at_rows * _dots_of_positions(d, other_d), axis=(1, 2))


def _by_rows(f: Outer, g: Outer, param: Array) -> Array:
    """A few rows of the gradients of all examples at a time."""
    (m, k), n = param.shape, len(f.d) + len(g.d)
    chunk = min(m, block_of(n * k, HELD))
    chunks = -(-m // chunk)

    def cut(a: Array) -> Array:
        a = jnp.pad(rows_of(a), [(0, 0), (0, 0), (0, chunks * chunk - m)])
        return jnp.moveaxis(a.reshape(*a.shape[:2], chunks, chunk), 2, 0)

    def form(a: Array, d: Array) -> Array:
        return jnp.einsum("ntm,ntk->nmk", a, rows_of(d), preferred_element_type=wide(d.dtype))

    def products(parts: tuple[Array, Array]) -> Array:
        first = form(parts[0], f.d)
        return _dots(first, first if f is g else form(parts[1], g.d))

    return _sum_over(products, (cut(f.a), cut(g.a)))


def _of_locals(f: Local, g: Local) -> Array:
    """Σ over places p of (a aᵀ)∘(d dᵀ), one place at a time."""

    def products(place: tuple[Array, ...]) -> Array:
        a, d, other_a, other_d = place
        return _dots(a, other_a) * _dots(d, other_d)

    return _sum_over(products, tuple(jnp.moveaxis(x, 1, 0) for x in (f.a, f.d, g.a, g.d)))


def _sum_over(products: Callable[[Any], Array], parts: Any) -> Array:
    """Σ of the products of each part, one after the other."""
    start = products(jax.tree.map(lambda array: array[0], parts))
    others = jax.tree.map(lambda array: array[1:], parts)
    return lax.scan(lambda total, part: (total + products(part), None), start, others)[0]


def _one_by_one(f: Factor, g: Factor, param: Array) -> Array:
    """The general case: a block of gradients of f held, those of g formed a block at a time."""
    (rows, form), (others, form_other) = gradients_apart(f), gradients_apart(g)
    if f is g and f.examples * param.size <= HELD and not jnp.iscomplexobj(param):
        size = block_of(gradient_numbers(f, param))
        gradients = each_example(form, rows, param, size)
        return _dots(gradients, gradients)

    def one(row: Any, whole: tuple[Any, Array]) -> Array:
        others, param = whole
        gradient = form(row, param).ravel()

        def product(other: Any) -> Array:
            return jnp.vdot(gradient, form_other(other, param).ravel()).real

        size = block_of(gradient_numbers(g, param))
        return lax.map(product, others, batch_size=size)

    return each_example(one, rows, (others, param), block_of(gradient_numbers(f, param), HELD))
