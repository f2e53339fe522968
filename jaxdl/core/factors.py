"""Gradient factors: what a backward pass knows about a parameter before any gradient is formed.

A leaf's ``bwd`` returns one factor per parameter. A factor *stands for* a gradient and keeps what
that gradient is made of, example by example, so that a reducer may form it, measure it, or leave
it alone. With n over examples and t over the positions of an example (time, pixels, none):

=====================  ==========================  =======================================
factor                 gradient                    arrays
=====================  ==========================  =======================================
``Outer(a, d)``        Σₙₜ aₙₜ ⊗ dₙₜ                a (N, ..., m), d (N, ..., k)
``Sum(d)``             Σₙₜ dₙₜ                      d (N, ..., *parameter)
``Diag(a, d)``         Σₙₜ aₙₜ∘dₙₜ                 a, d (N, ..., *parameter)
``Scatter(ids, d)``    row idsₙₜ gets dₙₜ added     ids (N, ...), d (N, ..., k)
``ConvOuter(x, d)``    correlation of x with d     x (N, *space, C), d (N, *out, K)
``Local(a, d)``        Σₙ aₙₚ ⊗ dₙₚ for each p      a (N, P, m), d (N, P, k)
``Many(factors)``      the sum of their gradients  tied weights
``Common(d, g)``       Σₙₜ dₙₜ·g                   d (N, ...); g has the parameter's shape
``Formed(g)``          g                           g has the parameter's shape; no examples
``Zero(examples)``     0                           none: a parameter held fixed
``Stacked(factor)``    one gradient per layer      every array with a leading layer axis
=====================  ==========================  =======================================

Those of parameters that were not used as they are, which only programs have, stand in
`jaxdl.core.viewed_factors`. In every factor but ``Formed`` and ``Stacked`` the first axis of every
array counts examples.
:func:`contract` is the only place in the library where a parameter's gradient is formed.
"""

from dataclasses import field, replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl.core.composed_factors import Formed, Many, Stacked, Zero, stack_factors
from jaxdl.core.factor import Factor, FactorError, contract, factor_kind
from jaxdl.numerics.correlation import columns, correlate_kernel, patch_products
from jaxdl.numerics.dtypes import wide
from jaxdl.numerics.sharding import explicit_sharding
from jaxdl.numerics.window import Window

__all__ = [
    "ConvOuter", "Diag", "Factor", "FactorError", "Formed", "Local", "Many", "Outer", "Scatter",
    "Stacked", "Sum", "Zero", "contract", "stack_factors",
]  # fmt: skip


def _outer_sum(a: Array, d: Array, dtype: Any, sharding: Any) -> Array:
    """Σ a⊗d over all axes but the last."""
    leading = tuple(range(a.ndim - 1))
    return lax.dot_general(
        a,
        d,
        ((leading, leading), ((), ())),
        preferred_element_type=wide(dtype),
        out_sharding=sharding,
    )


def _second_moment(rows: Array) -> Array:
    """Σ r⊗r over all axes but the last, the same on every device."""
    sharding = explicit_sharding(rows)
    whole = None if sharding is None else NamedSharding(sharding.mesh, PartitionSpec())
    return _outer_sum(rows, rows, rows.dtype, whole)


@factor_kind
class Outer(Factor):
    """Σ a ⊗ d: the factor of a matrix in `y = a @ w`; a (N, ..., m) with d = dy (N, ..., k)."""

    a: Array
    d: Array

    def form(self, param: Array) -> Array:
        return _outer_sum(self.a, self.d, param.dtype, explicit_sharding(param))

    def transpose(self) -> "Outer":
        return replace(self, a=self.d, d=self.a)

    def kronecker(self) -> tuple[Array, Array]:
        """(Σ a⊗a, Σ d⊗d) over examples and positions: (m, m) and (k, k), float32 or wider.

        Their Kronecker product, divided by the number of terms, approximates the second moment of
        the gradient (Martens & Grosse 2015, arXiv:1503.05671).
        """
        return _second_moment(self.a), _second_moment(self.d)


@factor_kind
class Sum(Factor):
    """Σ d: the factor of a parameter that is added (or whose multiplier is already in d)."""

    d: Array

    def form(self, param: Array) -> Array:
        leading = tuple(range(self.d.ndim - param.ndim))
        return jnp.sum(self.d, axis=leading, dtype=wide(self.d.dtype))


@factor_kind
class Diag(Factor):
    """Σ a∘d: the factor of a parameter that multiplies entry by entry; a, d (N, ..., *parameter).

    What a norm scales is kept already and so is the cotangent: no product of the two is stored.
    """

    a: Array
    d: Array

    def summed(self) -> Sum:
        """The same as a `Sum`, of products in float32 or wider."""
        dtype = wide(self.d.dtype)
        return Sum(self.a.astype(dtype) * self.d.astype(dtype), divisor=self.divisor)

    def form(self, param: Array) -> Array:
        return self.summed().form(param)


@factor_kind
class Scatter(Factor):
    """Σ into rows: the factor of a table read by index; ids int (N, ...), d (N, ..., k).

    Rows outside the table are dropped, as `jax.grad` of a filling lookup drops them.
    """

    ids: Array
    d: Array

    def form(self, param: Array) -> Array:
        rows = jnp.zeros_like(param, dtype=wide(param.dtype))
        return rows.at[self.ids].add(
            self.d.astype(rows.dtype),
            mode="drop",
            wrap_negative_indices=False,
            out_sharding=explicit_sharding(param),
        )


@factor_kind
class ConvOuter(Factor):
    """The factor of a convolution's kernel: x (N, *space, C), d = dy (N, *out, K).

    `flip`: the kernel was turned round before it was used.
    """

    x: Array
    d: Array
    window: Window = field(metadata={"static": True})
    flip: bool = field(default=False, metadata={"static": True})

    def form(self, param: Array) -> Array:
        x, d = self._images(self.x), self._images(self.d)
        dw = correlate_kernel(x, d, self.window, explicit_sharding(param))
        return dw[(slice(None, None, -1),) * len(self.window.size)] if self.flip else dw

    def kronecker(self) -> tuple[Array, Array]:
        """(Σ p⊗p, Σ d⊗d) over all places p of all examples: (size·C, size·C) and (K, K).

        p is the patch under the kernel, in the order of the kernel's entries (Grosse & Martens
        2016, arXiv:1602.01407). For one group only; float32 or wider.

        Raises:
          FactorError: more than one group; examples split over Explicit mesh axes.
        """
        if explicit_sharding(self.x) is not None:
            raise FactorError(
                "kronecker: the examples are split over Explicit mesh axes, where patches cannot "
                "be written out; use Auto axes, or shard_map and a psum of the two sums"
            )
        if self.window.groups > 1:
            raise FactorError(
                f"kronecker: a convolution of {self.window.groups} groups has factors for each of "
                "them; take the groups apart, or use groups=1"
            )
        patches = patch_products(self._images(self.x), self.window)
        if self.flip:
            size, c = self.window.size, self.x.shape[-1]
            turned = jnp.arange(prod(size))[::-1, None] * c + jnp.arange(c)
            patches = patches[turned.ravel()][:, turned.ravel()]
        return patches, _second_moment(self.d)

    def _images(self, array: Array) -> Array:
        """Axes between the examples and space (time, in a scan) joined to the examples."""
        rank = len(self.window.size)
        return array.reshape(-1, *array.shape[-rank - 1 :])

    def unfold(self) -> Outer:
        """The same sum with the patches of x written out: a (N, places, size·C), d (N, places, K).

        For one group only: the `Outer` of the kernel as a matrix. The order in a turned kernel does
        not matter to norms and inner products, and is not restored.
        """
        n, k = len(self.d), self.d.shape[-1]
        patches = jax.vmap(lambda x: columns(jnp.moveaxis(self._images(x), -1, 0), self.window))
        return Outer(patches(self.x).swapaxes(1, 2), self.d.reshape(n, -1, k))


@factor_kind
class Local(Factor):
    """A matrix of its own for each place: a (N, ..., P, m), d (N, ..., P, k) for a (P, m, k)."""

    a: Array
    d: Array

    def form(self, param: Array) -> Array:
        a, d = (array.reshape(-1, *array.shape[-2:]) for array in (self.a, self.d))
        return jnp.einsum(
            "npm,npk->pmk",
            a,
            d,
            preferred_element_type=wide(param.dtype),
            out_sharding=explicit_sharding(param),
        )
