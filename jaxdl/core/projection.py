"""Random projections of the gradients of examples: short vectors that keep inner products.

A parameter is taken as a matrix of all its axes but the last (m entries) by the last (n). Both of
its sides are projected, k = k₁·k₂:

    pᵢ = P ∇ᵢ Qᵀ           P (k₁, m), Q (k₂, n), entries ±1/√k₁ and ±1/√k₂
    ∇ᵢ = Σₜ aₜ⊗dₜ          pᵢ = Σₜ (P aₜ)⊗(Q dₜ): the gradient is never formed
    E ⟨pᵢ, pⱼ⟩ = ⟨∇ᵢ, ∇ⱼ⟩  since E PᵀP = E QᵀQ = 1 and P, Q are independent

A row number is a column of P. The patches of a convolution, times P, are a convolution of the input
with k₁ kernels. A vector has one side: pᵢ = Q ∇ᵢ with Q (k, n).

References: Choe et al. (2024, arXiv:2405.13954); Chang et al. (2024, arXiv:2410.17413); signs,
Achlioptas (2003).
"""

import functools
from dataclasses import dataclass
from functools import partial
from math import isqrt, prod
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core.composed_factors import Common
from jaxdl.core.examples import (
    block_of,
    check_apart,
    each_example,
    gradient_numbers,
    gradients_apart,
)
from jaxdl.core.factors import ConvOuter, Diag, Factor, Local, Many, Outer, Scatter, Sum, Zero
from jaxdl.core.reducer import Factors, Reducer, per_example
from jaxdl.core.viewed_factors import Moved, untransposed
from jaxdl.numerics.correlation import correlate
from jaxdl.numerics.dtypes import wide
from jaxdl.numerics.sharding import row_sharding


def project(k: int, key: Array) -> Reducer:
    """A reducer: k random projections of each example's gradient: (N, k) per parameter.

    The projection of a parameter depends on the key, on its name (in a program, the last part of
    its path) and on its shape: two batches that are projected with one key can be compared, at once
    or from factors that were kept. Layers whose parameter has the same name and shape,
    as those of a stack, have the same projection: put them beside each other (`example_vectors`),
    do not add them up. With a mean loss ∇ᵢ carries 1/N.

    Args:
      k: how many, for each parameter; a square is best, a prime worst, since a matrix is projected
        to k₁ × k₂ = k.
      key: a random key, the same for all batches.

    Raises:
      ValueError: k below 1.
      FactorError (when used): an already formed gradient, which has no examples in it.
    """
    if k < 1:
        raise ValueError(f"project: k must be at least 1, got {k}; a usual one is 64")
    return per_example(partial(_project, k=k, key=key))


def example_vectors(tree: Any) -> Array:
    """One vector an example, of the projections of all parameters side by side: (N, features).

    Those of a stack (layers, N, k) count layer by layer. Their inner products are, in expectation,
    those of the whole gradients.
    """
    parts = []
    for leaf in jax.tree.leaves(tree):
        n, k = leaf.shape[-2:]
        parts.append(jnp.moveaxis(leaf.reshape(-1, n, k), 1, 0).reshape(n, -1))
    if not parts:
        raise ValueError("example_vectors: the tree has no projections; use reduce=project(k, key)")
    return jnp.concatenate(parts, axis=-1)


@dataclass(frozen=True)
class Sides:
    """The two random matrices of one parameter: P (k₁, m), None for a vector, and Q (k₂, n)."""

    p: Array | None
    q: Array


def random_sides(key: Array, name: str, shape: tuple[int, ...], k: int, dtype: Any) -> Sides:
    """The matrices that project a parameter of that name and shape to k numbers."""
    for part in (crc32(name.encode()) >> 1, *shape):
        key = jax.random.fold_in(key, part)
    rows, columns = prod(shape[:-1]), prod(shape[-1:])
    p_key, q_key = jax.random.split(key)
    if len(shape) < 2:
        return Sides(None, _signs(q_key, k, columns, dtype))
    first = next(i for i in range(isqrt(k), 0, -1) if k % i == 0)
    return Sides(_signs(p_key, first, rows, dtype), _signs(q_key, k // first, columns, dtype))


def _signs(key: Array, k: int, columns: int, dtype: Any) -> Array:
    return jax.random.rademacher(key, (k, columns), dtype) / k**0.5


def _project(
    params: dict[str, Array], factors: Factors, slots: Any = None, *, k: int, key: Array
) -> dict[str, Array]:
    projected = {}
    for name, param in params.items():
        factor = untransposed(factors[name])
        check_apart("project", factor)
        if isinstance(factor, Moved):  # the sides of the matrix as which it was used
            factor, param = factor.factor, factor.view(param)
        own = name.rpartition("/")[2]
        sides = random_sides(key, own, param.shape, k, wide(param.dtype))
        projected[name] = _projection(factor, param, sides, k)
    return projected


def _projection(factor: Factor, param: Array, sides: Sides, k: int) -> Array:
    """(N, k) of one factor; linear in it, and the same projection for every kind."""
    dtype, factor = wide(param.dtype), untransposed(factor)
    if isinstance(factor, Many):
        parts = (_projection(part, param, sides, k) for part in factor.factors)
        return functools.reduce(jnp.add, parts)
    if isinstance(factor, Zero):
        return jnp.zeros((factor.examples, k), dtype)
    if isinstance(factor, Common):
        shared = _of_gradients(factor.g[None].astype(dtype), param, sides)
        return factor.weights[:, None].astype(dtype) * shared
    if isinstance(factor, Diag):
        factor = factor.summed()
    if isinstance(factor, Sum):
        positions = tuple(range(1, factor.d.ndim - param.ndim))
        return _of_gradients(jnp.sum(factor.d, axis=positions, dtype=dtype), param, sides)
    if sides.p is not None:
        left = _left(factor, param, sides.p)
        if left is not None:
            right = jnp.einsum("...n,kn->...k", _last(factor).astype(dtype), sides.q)
            left, right = (x.reshape(len(x), -1, x.shape[-1]) for x in (left, right))
            return jnp.einsum("ntj,ntk->njk", left, right).reshape(len(left), k)
    return _one_by_one(factor, param, sides)


def _left(factor: Factor, param: Array, p: Array) -> Array | None:
    """P·aₜ at every position: (N, ..., k₁); None for a kind that has no `a`."""
    if isinstance(factor, Outer):
        return jnp.einsum("...m,km->...k", factor.a.astype(p.dtype), p)
    if isinstance(factor, Scatter):
        return p.T.at[factor.ids].get(
            mode="fill",
            fill_value=0,
            wrap_negative_indices=False,
            out_sharding=row_sharding(p.T, factor.ids),
        )
    if isinstance(factor, Local):
        return jnp.einsum(
            "...pm,kpm->...pk", factor.a.astype(p.dtype), p.reshape(-1, *param.shape[:-1])
        )
    if isinstance(factor, ConvOuter) and factor.window.groups == 1:
        *size, c, _ = param.shape
        kernels = p.T.reshape(*size, c, -1)
        if factor.flip:
            kernels = kernels[(slice(None, None, -1),) * len(size)]
        images = factor.x.reshape(-1, *factor.x.shape[-len(size) - 1 :]).astype(p.dtype)
        # with time, an example is several images
        return correlate(images, kernels, factor.window).reshape(len(factor.x), -1, len(p))
    return None


def _last(factor: Any) -> Array:
    return factor.d


def _of_gradients(gradients: Array, param: Array, sides: Sides) -> Array:
    """The projections of formed gradients (N, *param)."""
    n = len(gradients)
    if sides.p is None:
        return gradients.reshape(n, -1) @ sides.q.T
    matrices = gradients.reshape(n, -1, param.shape[-1])
    return jnp.einsum("nij,ai,bj->nab", matrices, sides.p, sides.q).reshape(n, -1)


def _one_by_one(factor: Factor, param: Array, sides: Sides) -> Array:
    """The general case: a block of gradients at a time."""
    rows, form = gradients_apart(factor)

    def one(row: Any, whole: tuple[Array, Array | None, Array]) -> Array:
        param, p, q = whole
        return _of_gradients(form(row, param)[None].astype(q.dtype), param, Sides(p, q))[0]

    whole = (param, sides.p, sides.q)
    return each_example(one, rows, whole, block_of(gradient_numbers(factor, param)))
