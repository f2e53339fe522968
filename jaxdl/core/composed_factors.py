"""Factors made of others, formed already, or of nothing: see the table in `jaxdl.core.factors`."""

import functools
from collections.abc import Callable
from dataclasses import field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core.factor import Factor, FactorError, factor_kind
from jaxdl.numerics.dtypes import wide


@factor_kind
class Many(Factor):
    """A sum of factors: one parameter used in several places."""

    factors: tuple[Factor, ...]

    @property
    def examples(self) -> int:
        for factor in self.factors:
            if not (isinstance(factor, Zero) and factor.count is None):
                return factor.examples
        return self.factors[0].examples

    def form(self, param: Array) -> Array:
        dtype = wide(param.dtype)
        return functools.reduce(jnp.add, (f.form(param).astype(dtype) for f in self.factors))

    def transpose(self) -> "Many":
        return replace(self, factors=tuple(factor.transpose() for factor in self.factors))

    def scale(self, weights: Array) -> "Many":
        return replace(self, factors=tuple(factor.scale(weights) for factor in self.factors))

    def split(self) -> tuple[Any, Callable[[Any], Factor]]:
        rows, joins = zip(*(factor.split() for factor in self.factors), strict=True)
        return rows, lambda some: Many(tuple(f(r) for f, r in zip(joins, some, strict=True)))

    def join_time(self) -> "Many":
        return replace(self, factors=tuple(factor.join_time() for factor in self.factors))


@factor_kind
class Formed(Factor):
    """An already formed gradient; reducers that need examples refuse it by name."""

    g: Array

    @property
    def examples(self) -> int:
        raise FactorError("an already formed gradient (Formed) has no examples")

    def form(self, param: Array) -> Array:
        return self.g

    def transpose(self) -> "Formed":
        return Formed(self.g.swapaxes(-1, -2))

    def scale(self, weights: Array) -> "Formed":
        raise FactorError(
            "an already formed gradient (Formed) has no examples to weight; write the bwd of its "
            "layer with Outer, Sum or Scatter factors"
        )

    def join_time(self) -> "Formed":
        return Formed(jnp.sum(self.g, axis=0, dtype=wide(self.g.dtype)))


@factor_kind
class Common(Factor):
    """Σₙ dₙ·g: one gradient that all examples share, times a number of each; d (N, ...).

    That of a parameter from which a single number was made, such as a penalty on its norm.
    """

    d: Array
    g: Array

    @property
    def weights(self) -> Array:
        """How much of g each example has: (N,), float32 or wider."""
        rest = tuple(range(1, self.d.ndim))
        return jnp.sum(self.d, axis=rest, dtype=wide(self.d.dtype))

    def form(self, param: Array) -> Array:
        g = self.g.astype(wide(self.g.dtype))
        return jnp.sum(self.weights).astype(g.dtype) * g

    def split(self) -> tuple[Any, Callable[[Any], Factor]]:
        return self.d, lambda some: replace(self, d=some)


@factor_kind
class Zero(Factor):
    """No gradient: a frozen parameter. Holds only the number of examples, if it is known."""

    count: int | None = field(metadata={"static": True})

    @property
    def examples(self) -> int:
        if self.count is None:
            raise FactorError("a frozen parameter of a layer with formed gradients has no examples")
        return self.count

    @classmethod
    def like(cls, factor: Factor) -> "Zero":
        """No gradient, for as many examples as `factor` has."""
        try:
            return cls(factor.examples)
        except FactorError:
            return cls(None)

    def form(self, param: Array) -> Array:
        return jnp.zeros_like(param)

    def transpose(self) -> "Zero":
        return self

    def scale(self, weights: Array) -> "Zero":
        return self


@factor_kind
class Stacked(Factor):
    """Factors of a parameter with a leading layer axis, as `repeat` stacks them."""

    factor: Factor

    @property
    def examples(self) -> int:
        def of_layer(a: Any) -> Any:  # by shapes: a stack may have no layers
            return jax.ShapeDtypeStruct(a.shape[1:], a.dtype)

        return jax.tree.map(of_layer, self.factor).examples

    def form(self, param: Array) -> Array:
        return jax.vmap(lambda factor, p: factor.form(p))(self.factor, param)

    def transpose(self) -> "Stacked":
        return self._each(lambda factor: factor.transpose(), self.factor)

    def scale(self, weights: Array) -> "Stacked":
        return self._each(lambda factor: factor.scale(weights), self.factor)

    def join_time(self) -> "Stacked":
        per_layer = jax.tree.map(lambda array: jnp.moveaxis(array, 1, 0), self.factor)
        return self._each(lambda factor: factor.join_time(), per_layer)

    def split(self):
        batched, rejoin = split_steps(self.factor)
        return batched, lambda some: replace(self, factor=rejoin(some))

    def _each(self, f: Callable[[Factor], Factor], factor: Factor) -> "Stacked":
        # a Zero has no arrays to map over, and is the same for every layer
        return replace(self, factor=jax.vmap(f)(factor)) if jax.tree.leaves(factor) else self


def split_steps(factor: Factor) -> tuple[Any, Callable[[Any], Factor]]:
    """`Factor.split` for one whose arrays have a leading axis of layers or steps."""
    batched = jax.vmap(lambda step: step.split()[0], out_axes=1)(factor)

    def rejoin(some: Any) -> Factor:
        return jax.vmap(lambda step, part: step.split()[1](part), in_axes=(0, 1))(factor, some)

    return batched, rejoin


def stack_factors(tree: Any) -> Any:
    """Mark every factor in `tree` as one whose arrays a scan has stacked over layers."""
    return jax.tree.map(
        lambda node: Stacked(node, divisor=node.divisor) if isinstance(node, Factor) else node,
        tree,
        is_leaf=lambda node: isinstance(node, Factor),
    )
