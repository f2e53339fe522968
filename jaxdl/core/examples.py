"""The examples of a factor, one after the other: what reducers share that look at each.

    ∇ᵢ = join(what split() gives, i-th part).form(param)

That works for every kind of factor, one that a reducer has never heard of included, and holds no
more gradients at a time than fill `BLOCK_ELEMENTS`. Under Explicit mesh axes a loop cannot run over
examples that lie on several devices: each device runs over its own.
"""

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec

from jaxdl.core.factor import Factor, FactorError, contract, factor_kind
from jaxdl.core.factors import ConvOuter, Formed, Many
from jaxdl.numerics.correlation import BLOCK_ELEMENTS
from jaxdl.numerics.dtypes import wide
from jaxdl.numerics.sharding import as_varying, explicit_sharding, varying_axes


def check_apart(name: str, factor: Factor) -> None:
    """Raise FactorError, for the reducer `name`, if the factor's examples are summed already."""
    if isinstance(factor, Many):
        for part in factor.factors:
            check_apart(name, part)
    if isinstance(factor, Formed):
        raise FactorError(
            f"{name} needs the examples apart, but the layer gives an already formed gradient "
            "(Formed), summed over them; write its bwd with Outer, Sum or Scatter factors"
        )


def rows_of(array: Array) -> Array:
    """(N, ..., m) as (N, T, m): every axis between the first and the last is a position."""
    return array.reshape(array.shape[0], prod(array.shape[1:-1]), array.shape[-1])


def summed(factor: Factor, param: Array) -> Array:
    """Σᵢ ∇ᵢ in the dtype of the parameter, also where the gradient is that of a mean."""
    return contract(replace(factor, divisor=1) if factor.divisor != 1 else factor, param)


def scaled(factor: Factor, weights: Array) -> Factor:
    """`factor.scale(weights)`, also for kinds that have no cotangent `d` to scale."""
    if isinstance(factor, Many):
        return Many(tuple(scaled(part, weights) for part in factor.factors))
    if type(factor).scale is Factor.scale and not hasattr(factor, "d"):
        return Weighted(factor, weights)
    return factor.scale(weights)


def along(direction: Array, factor: Factor, param: Array) -> Array:
    """⟨∇ᵢ, direction⟩ of every example, (N,): the derivative of ⟨Σ cᵢ∇ᵢ, direction⟩ by c.

    For a matrix that takes one product, as the forward does, whatever the kind of factor.
    """
    direction = direction.astype(wide(direction.dtype))

    def component(weights: Array) -> Array:
        whole = scaled(factor, weights).form(param)
        return jnp.sum(whole.astype(direction.dtype) * direction)

    return jax.grad(component)(jnp.ones(factor.examples, direction.dtype))


def gradients_apart(factor: Factor) -> tuple[Any, Callable[[Any, Array], Array]]:
    """(rows, form): ``form(row i of rows, param)`` is ∇ᵢ, in float32 or wider."""
    rows, join = factor.split()

    def form(row: Any, param: Array) -> Array:
        gradient = join(jax.tree.map(lambda array: array[None], row)).form(param)
        return gradient.astype(wide(gradient.dtype))

    return rows, form


def block_of(numbers: int, most: int | None = None) -> int:
    """How many examples at a time, each with so many numbers of its own."""
    return max(1, (BLOCK_ELEMENTS if most is None else most) // max(1, numbers))


def patch_numbers(factor: ConvOuter, param: Array) -> int:
    """The numbers in the patches of one example."""
    return prod(factor.d.shape[1:-1]) * prod(param.shape[:-1])


def gradient_numbers(factor: Factor, param: Array) -> int:
    """The numbers that forming the gradient of one example takes."""
    patches = patch_numbers(factor, param) if isinstance(factor, ConvOuter) else 0
    return max(param.size, patches)


def each_example(
    one: Callable[[Any, Any], Any], rows: Any, whole: Any, batch_size: int | None = None
) -> Any:
    """``one(row of an example, whole)`` for every example, `batch_size` at a time: (N, ...)."""

    def loop(rows: Any, whole: Any) -> Any:
        return lax.map(lambda row: one(row, whole), rows, batch_size=batch_size)

    axis = _axis_of(rows)
    if axis is None:
        return loop(rows, whole)
    mine, everywhere = PartitionSpec(axis), PartitionSpec()
    return jax.shard_map(loop, in_specs=(mine, everywhere), out_specs=mine)(rows, whole)


def sum_over_examples(
    f: Callable[..., Array], factor: Factor, param: Array, *beside: Array
) -> Array:
    """Σᵢ f(∇ᵢ, …) of the gradients of all examples, one at a time; beside (N, ...).

    On the CPU a sum over the examples of a block takes ten times as long as one after the other.
    """
    rows, form = gradients_apart(factor)

    def loop(rows: Any, param: Array) -> Array:
        def value(row: Any) -> Array:
            return f(form(row[0], param), *row[1:])

        first = value(jax.tree.map(lambda array: array[0], rows))
        start = as_varying(jnp.zeros_like(first), varying_axes(first))
        return lax.scan(lambda sum, row: (sum + value(row), None), start, rows)[0]

    rows = (rows, *beside)
    axis = _axis_of(rows)
    if axis is None:
        return loop(rows, param)
    mine, everywhere = PartitionSpec(axis), PartitionSpec()
    return jax.shard_map(
        lambda rows, param: lax.psum(loop(rows, param), axis),
        in_specs=(mine, everywhere),
        out_specs=everywhere,
    )(rows, param)


def _axis_of(rows: Any) -> Any:
    """The Explicit mesh axis over which the examples are split, if they are."""
    sharding = explicit_sharding(jax.tree.leaves(rows)[0])
    return sharding.spec[0] if sharding is not None and sharding.spec else None


@factor_kind
class Weighted(Factor):
    """Σᵢ wᵢ∇ᵢ of a factor that cannot scale its examples itself; weights (N,)."""

    factor: Factor
    weights: Array

    @property
    def examples(self) -> int:
        return self.factor.examples

    def form(self, param: Array) -> Array:
        def weigh(gradient: Array, weight: Array) -> Array:
            return weight.astype(gradient.dtype) * gradient

        return sum_over_examples(weigh, self.factor, param, self.weights)

    def scale(self, weights: Array) -> "Weighted":
        return Weighted(self.factor, self.weights * weights)

    def split(self) -> tuple[Any, Callable[[Any], Factor]]:
        rows, join = self.factor.split()
        return (rows, self.weights), lambda some: Weighted(join(some[0]), some[1])
