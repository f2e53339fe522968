"""What every gradient factor can do. The kinds of factor are in `jaxdl.core.factors`."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.numerics.dtypes import wide

Kind = TypeVar("Kind", bound=type)


@dataclass_transform(frozen_default=True)
def factor_kind(cls: Kind) -> Kind:
    """A frozen dataclass that is a pytree of its fields, but for those marked as static."""
    return jax.tree_util.register_dataclass(dataclass(frozen=True)(cls))


@dataclass(frozen=True)
class Factor:
    """Base of the factor types; `isinstance(value, Factor)` tells a factor from an array.

    Attributes:
      divisor: by what `contract` divides the sum over examples: their number where the examples
        have losses of their own and the gradient is that of the mean, else 1.
    """

    divisor: int = field(default=1, kw_only=True, metadata={"static": True})

    @property
    def examples(self) -> int:
        """How many examples the factor spans (a static number)."""
        return jax.tree.leaves(self)[0].shape[0]

    def form(self, param: Array) -> Array:
        """The gradient, accumulated in float32 or wider and not yet cast. Use `contract`."""
        raise TypeError(f"contract: {type(self).__name__} does not stand for a gradient")

    def transpose(self) -> "Factor":
        """The factor of the transposed parameter, for weights tied to a transpose."""
        raise TypeError(
            f"tied: {type(self).__name__} has no transpose; only the weight of a matrix product "
            "can be tied to a transpose: make it the one that is tied, or leave out .T"
        )

    def scale(self, weights: Array) -> "Factor":
        """The factor with the gradient of each example times its weight; weights (N,).

          Raises:
            FactorError: the factor has no examples (`Formed`).
        ValueError: `weights` is not one number an example.
        """
        d, weights = self.d, jnp.asarray(weights)  # type: ignore[attr-defined]
        if weights.shape != d.shape[:1]:
            raise ValueError(
                f"scale: there must be one weight for each of the {len(d)} examples, got shape "
                f"{weights.shape}; sum over what is too much"
            )
        dtype = wide(d.dtype)
        c = jnp.expand_dims(weights.astype(dtype), tuple(range(1, d.ndim)))
        return replace(self, d=(d.astype(dtype) * c).astype(d.dtype))  # type: ignore[type-var]

    def split(self) -> tuple[Any, Callable[[Any], "Factor"]]:
        """(what has the examples on the first axis of every array, how to join some of it).

        ``batched, join = factor.split()``: for examples i to j the factor is
        ``join(jax.tree.map(lambda array: array[i:j], batched))``. Kinds with arrays that all
        examples share leave these out of the first.
        """
        return self, lambda some: some

    def join_time(self) -> "Factor":
        """Turn a leading time axis, stacked by a scan, into a position axis behind the examples."""
        return jax.tree.map(lambda array: jnp.moveaxis(array, 0, 1), self)


class FactorError(TypeError):
    """A reducer was given a kind of factor it cannot reduce."""


def contract(factor: Factor, param: Array) -> Array:
    """Form the gradient that `factor` stands for.

    The sum over examples and positions is accumulated in float32 or wider, and divided by the
    factor's `divisor`; the result has exactly the shape, dtype and (under Explicit mesh axes)
    sharding of `param`.

    Raises:
      ValueError: the formed gradient does not have the parameter's shape.
    """
    gradient = factor.form(param)
    if gradient.shape != param.shape:
        raise ValueError(
            f"contract: {type(factor).__name__} forms a gradient of shape {gradient.shape}, "
            f"the parameter has shape {param.shape}; check the factor returned by bwd"
        )
    if factor.divisor != 1:
        gradient = gradient / factor.divisor
    return gradient.astype(param.dtype)
