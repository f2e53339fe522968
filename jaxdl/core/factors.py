"""Gradient factors: what a backward pass knows about a parameter before any gradient is formed.

A leaf's ``bwd`` returns one factor per parameter. A factor *stands for* a gradient and keeps what
that gradient is made of, example by example, so that a reducer may form it, measure it, or leave
it alone. With n over examples and t over the positions of an example (time, pixels, none):

=====================  ==========================  =======================================
factor                 gradient                    arrays
=====================  ==========================  =======================================
``Outer(a, d)``        Σₙₜ aₙₜ ⊗ dₙₜ                a (N, ..., m), d (N, ..., k)
``Sum(d)``             Σₙₜ dₙₜ                      d (N, ..., *parameter)
``Scatter(ids, d)``    row idsₙₜ gets dₙₜ added     ids (N, ...), d (N, ..., k)
``ConvOuter(x, d)``    correlation of x with d     x (N, *space, C), d (N, *out, K)
``Local(a, d)``        Σₙ aₙₚ ⊗ dₙₚ for each p      a (N, P, m), d (N, P, k)
``Many(factors)``      the sum of their gradients  tied weights
``Formed(g)``          g                           g has the parameter's shape; no examples
``Zero(examples)``     0                           none: a parameter held fixed
``Stacked(factor)``    one gradient per layer      every array with a leading layer axis
=====================  ==========================  =======================================

In every factor but ``Formed`` and ``Stacked`` the first axis of every array counts examples.
:func:`contract` is the only place in the library where a parameter's gradient is formed.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl.numerics.correlation import columns, correlate_kernel, patch_products
from jaxdl.numerics.dtypes import wide
from jaxdl.numerics.sharding import explicit_sharding
from jaxdl.numerics.window import Window


class Factor:
    """Base of the factor types; `isinstance(value, Factor)` tells a factor from an array."""

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

    def join_time(self) -> "Factor":
        """Turn a leading time axis, stacked by a scan, into a position axis behind the examples."""
        return jax.tree.map(lambda array: jnp.moveaxis(array, 0, 1), self)


def _second_moment(rows: Array) -> Array:
    """Σ r⊗r over all axes but the last."""
    leading, sharding = tuple(range(rows.ndim - 1)), explicit_sharding(rows)
    return lax.dot_general(
        rows,
        rows,
        ((leading, leading), ((), ())),
        preferred_element_type=wide(rows.dtype),
        out_sharding=None if sharding is None else NamedSharding(sharding.mesh, PartitionSpec()),
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Outer(Factor):
    """Σ a ⊗ d: the factor of a matrix in `y = a @ w`; a (N, ..., m) with d = dy (N, ..., k)."""

    a: Array
    d: Array

    def form(self, param: Array) -> Array:
        leading = tuple(range(self.a.ndim - 1))
        return lax.dot_general(
            self.a,
            self.d,
            ((leading, leading), ((), ())),
            preferred_element_type=wide(param.dtype),
            out_sharding=explicit_sharding(param),
        )

    def transpose(self) -> "Outer":
        return Outer(self.d, self.a)

    def kronecker(self) -> tuple[Array, Array]:
        """(Σ a⊗a, Σ d⊗d) over examples and positions: (m, m) and (k, k), float32 or wider.

        Their Kronecker product, divided by the number of terms, approximates the second moment of
        the gradient (Martens & Grosse 2015, arXiv:1503.05671).
        """
        return _second_moment(self.a), _second_moment(self.d)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sum(Factor):
    """Σ d: the factor of a parameter that is added (or whose multiplier is already in d)."""

    d: Array

    def form(self, param: Array) -> Array:
        leading = tuple(range(self.d.ndim - param.ndim))
        return jnp.sum(self.d, axis=leading, dtype=wide(self.d.dtype))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Many(Factor):
    """A sum of factors: one parameter used in several places."""

    factors: tuple[Factor, ...]

    @property
    def examples(self) -> int:
        return self.factors[0].examples

    def form(self, param: Array) -> Array:
        dtype = wide(param.dtype)
        return functools.reduce(jnp.add, (f.form(param).astype(dtype) for f in self.factors))

    def transpose(self) -> "Many":
        return Many(tuple(factor.transpose() for factor in self.factors))

    def join_time(self) -> "Many":
        return Many(tuple(factor.join_time() for factor in self.factors))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
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

    def join_time(self) -> "Formed":
        return Formed(jnp.sum(self.g, axis=0, dtype=wide(self.g.dtype)))


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class Zero(Factor):
    """No gradient: a frozen parameter. Holds only the number of examples, if it is known."""

    count: int | None

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

    def tree_flatten(self):
        return (), self.count

    @classmethod
    def tree_unflatten(cls, count, _):
        return cls(count)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Stacked(Factor):
    """Factors of a parameter with a leading layer axis, as `repeat` stacks them."""

    factor: Factor

    @property
    def examples(self) -> int:
        return jax.eval_shape(lambda f: jax.tree.map(lambda a: a[0], f), self.factor).examples

    def form(self, param: Array) -> Array:
        return jax.vmap(lambda factor, p: factor.form(p))(self.factor, param)

    def transpose(self) -> "Stacked":
        return self._each(lambda factor: factor.transpose(), self.factor)

    def join_time(self) -> "Stacked":
        per_layer = jax.tree.map(lambda array: jnp.moveaxis(array, 1, 0), self.factor)
        return self._each(lambda factor: factor.join_time(), per_layer)

    def _each(self, f: Callable[[Factor], Factor], factor: Factor) -> "Stacked":
        # a Zero has no arrays to map over, and is the same for every layer
        return Stacked(jax.vmap(f)(factor)) if jax.tree.leaves(factor) else self


def stack_factors(tree: Any) -> Any:
    """Mark every factor in `tree` as one whose arrays a scan has stacked over layers."""
    return jax.tree.map(
        lambda node: Stacked(node) if isinstance(node, Factor) else node,
        tree,
        is_leaf=lambda node: isinstance(node, Factor),
    )


class FactorError(TypeError):
    """A reducer was given a kind of factor it cannot reduce."""


def contract(factor: Factor, param: Array) -> Array:
    """Form the gradient that `factor` stands for.

    The sum over examples and positions is accumulated in float32 or wider; the result has
    exactly the shape, dtype and (under Explicit mesh axes) sharding of `param`.

    Raises:
      ValueError: the formed gradient does not have the parameter's shape.
    """
    gradient = factor.form(param)
    if gradient.shape != param.shape:
        raise ValueError(
            f"contract: {type(factor).__name__} forms a gradient of shape {gradient.shape}, "
            f"the parameter has shape {param.shape}; check the factor returned by bwd"
        )
    return gradient.astype(param.dtype)
