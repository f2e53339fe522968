"""Kronecker factors: the second moments of both sides of a gradient, summed over a batch.

    ∇ = Σ a⊗d        A = Σ a⊗a        D = Σ d⊗d        over examples and positions

A⊗D over the number of terms approximates the second moment of the gradient, or with targets drawn
from the model the Fisher information (K-FAC: Martens & Grosse 2015, arXiv:1503.05671; convolutions:
Grosse & Martens 2016, arXiv:1602.01407). A alone is the covariance of the activations.

A weight that is used more than once, at several positions or in several places of a model (`tied`,
`scan_time`), has two conventions (Eschenhagen et al. 2023, arXiv:2311.00636):

    expand    every use of every position is a term of its own        A = Σₙᵣ a⊗a        D = Σₙᵣ d⊗d
    reduce    an example is one term: its mean input, the sum of its cotangents over all R uses
                                      A = Σₙ (Σᵣ a/R)⊗(Σᵣ a/R)        D = Σₙ (Σᵣ d)⊗(Σᵣ d)
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core.examples import block_of, check_apart, each_example, patch_numbers, rows_of
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
from jaxdl.core.reducer import Factors, Reducer
from jaxdl.core.viewed_factors import Moved, untransposed
from jaxdl.numerics.dtypes import wide

Convention = Literal["expand", "reduce"]
CONVENTIONS = ("expand", "reduce")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Kronecker:
    """What `kron` gives for each parameter, in float32 or wider; None for a side that is not there.

    For a matrix (m, n), A is (m, m) and D is (n, n); for a kernel (*size, C, K) the first side has
    size·C entries, in their order. A vector has D alone. A table (rows, k) has for A a vector: the
    diagonal, how often each row was read. Matrices of places (P, m, k) have A (P, m, m) and
    D (P, k, k). A is of the activations: where a
    program computes ``w @ x``, as Equinox does, it goes with the last axis of the array, and D with
    the first. Of a weight that is used both ways (tied), the sides go by the axes of the array.
    """

    a: Array | None
    d: Array | None
    terms: Array | None
    """How many terms the sums have, a scalar: divide by it for means."""


def kron(
    *,
    a: bool = True,
    d: bool = True,
    where: Array | None = None,
    convention: Convention = "expand",
) -> Reducer:
    """A reducer: `Kronecker(a, d, terms)` for each parameter, sums over the batch.

    D is of the cotangents as they are: with a loss that is a mean over N examples each carries 1/N.

    Args:
      a, d: which sides; ``kron(d=False)`` is the covariance of activations alone.
      where: bool, (N,) or (N, T, ...): examples and positions to count, padding being False. A
        layer that sees fewer axes counts an example that has any position; the places of a
        convolution are not positions of the input, and take (N,) only.
      convention: what a weight that is used more than once has: see above.

    Raises:
      ValueError: neither side; unknown convention.
      FactorError (when used): a parameter without two sides (an already formed gradient, a kernel
        of several groups, a `Sum` of matrices), a convention or a `where` that a kind cannot have.
    """
    if not (a or d):
        raise ValueError("kron: at least one side must be asked for, got a=False, d=False")
    if convention not in CONVENTIONS:
        raise ValueError(
            f"kron: convention must be one of {CONVENTIONS}, got {convention!r}; choose one"
        )
    return functools.partial(_kron, sides=(a, d), where=where, convention=convention)


def _kron(
    params: dict[str, Array],
    factors: Factors,
    slots: Any = None,
    *,
    sides: tuple[bool, bool],
    where: Array | None,
    convention: Convention,
) -> dict[str, Kronecker]:
    where, found = None if where is None else jnp.asarray(where), {}
    for name, param in params.items():
        uses = _uses(factors[name])
        if convention == "reduce":
            both = _reduced([_per_example(use, param, where) for use in uses])
        else:
            both = _added([_expanded(use, param, where) for use in uses])
        # what is not asked for is not in the compiled program
        found[name] = Kronecker(
            both.a if sides[0] else None, both.d if sides[1] else None, both.terms
        )
    return found


def _uses(factor: Factor) -> list[Factor]:
    """Every place where the parameter is used, and has a gradient."""
    if isinstance(factor, Many):
        # of several uses the sides must go by the axes of the parameter
        return [untransposed(use) for part in factor.factors for use in _uses(part)]
    return [] if isinstance(factor, Zero) else [factor]


def _masked(factor: Any, where: Array | None) -> tuple[Any, Array]:
    """(the factor without what `where` leaves out, 1 for each example and position that counts)."""
    lead = factor.d.shape[: -2 if isinstance(factor, Local) else -1]
    if where is None:
        return factor, jnp.ones(lead, wide(factor.d.dtype))
    if isinstance(factor, ConvOuter) and where.ndim > 1:
        raise FactorError(
            f"kron: the places of a convolution are not the positions of `where`, {where.shape}; "
            "give one for each example, (N,), or leave the layer to another reducer"
        )
    mask = where.any(axis=tuple(range(len(lead), where.ndim)))
    if mask.shape != lead[: mask.ndim]:
        raise FactorError(
            f"kron: `where` must have the first axes of the layer's positions, {lead}, got shape "
            f"{where.shape}; give one for each example, (N,)"
        )

    def masked(array: Array, instead: int = 0) -> Array:
        axes = tuple(range(mask.ndim, array.ndim))
        return jnp.where(jnp.expand_dims(mask, axes), array, instead)

    ones = masked(jnp.ones(lead, wide(factor.d.dtype)))
    if isinstance(factor, Scatter):
        return Scatter(masked(factor.ids, -1), masked(factor.d)), ones  # -1 is outside the table
    fields = {k: masked(getattr(factor, k)) for k in ("a", "x", "d") if hasattr(factor, k)}
    return replace(factor, **fields), ones


# --- expand -------------------------------------------------------------------------------------


def _expanded(factor: Factor, param: Array, where: Array | None) -> Kronecker:
    if isinstance(factor, Moved):  # the sides of the matrix as which it was used
        return _expanded(factor.factor, factor.view(param), where)
    _check_sides(factor, param)
    used, ones = _masked(factor.summed() if isinstance(factor, Diag) else factor, where)
    terms = jnp.sum(ones)
    if isinstance(used, (Outer, ConvOuter)):
        return Kronecker(*used.kronecker(), terms)
    if isinstance(used, Sum):
        return Kronecker(None, _products(used.d), terms)
    if isinstance(used, Local):
        a, d = (rows.reshape(-1, *rows.shape[-2:]) for rows in (used.a, used.d))
        return Kronecker(_place_products(a), _place_products(d), terms)
    inside = ((used.ids >= 0) & (used.ids < param.shape[0]))[..., None]
    table = jnp.zeros((param.shape[0], 1), terms.dtype)
    reads = Scatter(used.ids, inside.astype(terms.dtype)).form(table)[:, 0]
    return Kronecker(reads, _products(jnp.where(inside, used.d, 0)), jnp.sum(reads))


def _products(rows: Array) -> Array:
    """Σ r⊗r."""
    return Outer(rows, rows).kronecker()[1]


def _place_products(rows: Array) -> Array:
    return jnp.einsum("npi,npj->pij", rows, rows, preferred_element_type=wide(rows.dtype))


def _check_sides(factor: Factor, param: Array) -> None:
    """Raise FactorError for a parameter that has no two sides."""
    if isinstance(factor, Formed):
        check_apart("kron", factor)
    known = isinstance(factor, (Outer, ConvOuter, Scatter, Local))
    if not (known or (isinstance(factor, (Sum, Diag)) and param.ndim == 1)):
        raise FactorError(
            f"kron: a parameter of shape {param.shape} with a {type(factor).__name__} factor is no "
            "sum of products of two sides; leave it to another reducer (moments)"
        )


def _added(uses: list[Kronecker]) -> Kronecker:
    """Uses are terms like any other."""
    if not uses:
        return Kronecker(None, None, None)
    total = uses[0]
    for use in uses[1:]:
        a = None if total.a is None or use.a is None else _add_sides(total.a, use.a)
        d = None if total.d is None or use.d is None else total.d + use.d
        total = Kronecker(a, d, total.terms + use.terms)  # type: ignore[operator]
    return total


def _add_sides(x: Array, y: Array) -> Array:
    """A diagonal (m,) is added to the diagonal of a matrix."""
    if x.ndim == y.ndim:
        return x + y
    x, y = (x, y) if x.ndim < y.ndim else (y, x)
    return y + jnp.diag(x)


# --- reduce -------------------------------------------------------------------------------------


def _per_example(factor: Factor, param: Array, where: Array | None) -> tuple[Any, Array, Array]:
    """(Σᵣ a, Σᵣ d, R) of each example: (N, m) or None, (N, n), (N,)."""
    if isinstance(factor, Moved):
        return _per_example(factor.factor, factor.view(param), where)
    _check_sides(factor, param)
    if isinstance(factor, (Local, Scatter)):
        raise FactorError(
            f"kron: convention='reduce' would make the diagonal side of a {type(factor).__name__} "
            "factor a whole matrix; use convention='expand'"
        )
    used, ones = _masked(factor.summed() if isinstance(factor, Diag) else factor, where)
    uses = ones.reshape(len(ones), -1).sum(axis=1)
    d = jnp.sum(rows_of(used.d), axis=1, dtype=uses.dtype)
    if isinstance(used, Sum):
        return None, d, uses
    if isinstance(used, ConvOuter):
        return _patch_sums(used, param), d, uses
    return jnp.sum(rows_of(used.a), axis=1, dtype=uses.dtype), d, uses


def _patch_sums(factor: ConvOuter, param: Array) -> Array:
    """The sum of the patches of each example, in the order of the kernel's entries: (N, size·C)."""
    if factor.window.groups > 1:
        factor.kronecker()  # refuses by name

    def one(row: Any, whole: tuple[()]) -> Array:
        patches = jax.tree.map(lambda array: array[None], row).unfold().a
        return jnp.sum(patches, axis=(0, 1), dtype=wide(patches.dtype))

    sums = each_example(one, factor, (), block_of(patch_numbers(factor, param)))
    if factor.flip:
        c = factor.x.shape[-1]
        sums = sums.reshape(len(sums), -1, c)[:, ::-1].reshape(len(sums), -1)
    return sums


def _reduced(uses: list[tuple[Any, Array, Array]]) -> Kronecker:
    if not uses:
        return Kronecker(None, None, None)
    inputs, cotangents, counts = zip(*uses, strict=True)
    d, count = _sum(cotangents), _sum(counts)
    terms = jnp.sum(count > 0, dtype=d.dtype)
    if any(a is None for a in inputs):
        return Kronecker(None, _products(d), terms)
    mean = _sum(inputs) / jnp.maximum(count, 1)[:, None]
    return Kronecker(_products(mean), _products(d), terms)


def _sum(arrays: Sequence[Array]) -> Array:
    return functools.reduce(jnp.add, arrays)
