"""Factors of parameters that were not used as they are: see the table in `jaxdl.core.factors`.

A program may use a parameter transposed, cast, joined to others, normalised. What meets the data is
then a function of the parameter, and the factor of the parameter is that of the function's value,
seen through the function. `Used` is for a use that none of the other kinds describes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxdl.core.composed_factors import Common, Many, Stacked, split_steps
from jaxdl.core.factor import Factor, factor_kind
from jaxdl.core.factors import Outer, Sum
from jaxdl.numerics.dtypes import in_common, wide

STATIC = {"static": True}


class _View(Factor):
    """A factor that stands on another one."""

    factor: Factor

    @property
    def examples(self) -> int:
        return self.factor.examples

    def scale(self, weights: Array) -> Factor:
        return replace(self, factor=self.factor.scale(weights))  # type: ignore[call-arg]

    def split(self):
        batched, join = self.factor.split()
        return batched, lambda some: replace(self, factor=join(some))  # type: ignore[call-arg]


@factor_kind
class Moved(_View):
    """The factor of a parameter whose numbers were used in another order.

    `factor` is that of ``param.transpose(axes).reshape(shape)``. The numbers of the gradient are
    the same, so are norms and inner products.
    """

    factor: Factor
    axes: tuple[int, ...] = field(metadata=STATIC)
    shape: tuple[int, ...] = field(metadata=STATIC)

    def view(self, param: Array) -> Array:
        """The parameter as it was used."""
        return param.transpose(self.axes).reshape(self.shape)

    def back(self, viewed: Array, shape: tuple[int, ...]) -> Array:
        """Something in the shape of the view in that of the parameter."""
        order = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        return viewed.reshape([shape[i] for i in self.axes]).transpose(order)

    def form(self, param: Array) -> Array:
        return self.back(self.factor.form(self.view(param)), param.shape)

    def transpose(self) -> Moved:
        last = len(self.axes) - 1
        swapped = {last: last - 1, last - 1: last}
        return replace(self, axes=tuple(swapped.get(i, i) for i in self.axes))

    def join_time(self) -> Moved:
        return replace(self, factor=self.factor.join_time())


def untransposed(factor: Factor) -> Factor:
    """The factor of a matrix that was used transposed with its sides in the order of the axes.

    What was used as ``x @ w.T``, or ``w @ x``, has its inputs on the side of the last axis. In a
    `Moved` they are still called `a`, as activations are; two uses must have one order.
    """
    if isinstance(factor, Moved) and factor.axes == (1, 0) and isinstance(factor.factor, Outer):
        return replace(factor.factor.transpose(), divisor=factor.divisor)
    return factor


@factor_kind
class Pulled(Factor):
    """The factor of a parameter from which others were computed, and used.

    Args:
      factors: of each output of `function`; None for one that was not used.
      inputs: arrays that all examples share, with None at `place`, where the parameter is: a loop
        that stacks factors would make a copy of it for every step.
      function: ``(*inputs) -> outputs``; its `jax.vjp` takes gradients of outputs back.
      dtype: that of the parameter.
    """

    factors: tuple[Factor | None, ...]
    inputs: tuple[Any, ...]
    function: Callable[..., list[Array]] = field(metadata=STATIC)
    place: int = field(metadata=STATIC)
    dtype: Any = field(metadata=STATIC)

    @property
    def examples(self) -> int:
        return next(f for f in self.factors if f is not None).examples

    def form(self, param: Array) -> Array:
        def used(value):
            inputs = [*self.inputs[: self.place], value, *self.inputs[self.place + 1 :]]
            outputs = self.function(*inputs)
            return [y for y, f in zip(outputs, self.factors, strict=True) if f is not None]

        outputs, pull = jax.vjp(used, param.astype(self.dtype))
        factors = [f for f in self.factors if f is not None]
        gradients = [f.form(y).astype(y.dtype) for f, y in zip(factors, outputs, strict=True)]
        return unless_zero(pull(gradients)[0], gradients)

    def scale(self, weights: Array) -> Pulled:
        scaled = tuple(None if f is None else f.scale(weights) for f in self.factors)
        return replace(self, factors=scaled)

    def split(self):
        parts = [None if f is None else f.split() for f in self.factors]

        def join(some):
            pairs = zip(parts, some, strict=True)
            return replace(self, factors=tuple(None if p is None else p[1](s) for p, s in pairs))

        return tuple(None if part is None else part[0] for part in parts), join

    def join_time(self) -> Factor:
        return Steps(self)


@factor_kind
class Used(Factor):
    """One use of a parameter that is known only as a function: y = f(w, a) for each example.

    The gradient is formed by `jax.vjp` of f: a reducer that needs the examples apart forms that of
    one at a time.

    Args:
      w: the parameter as it was used.
      shared: what else all examples share.
      a: what f takes of each example, (N, ...) each.
      d: the cotangents of y, (N, ...) each.
      function: ``(w, shared, a) -> y`` of one example, a list beside d.
      places: number of position axes behind the examples.
    """

    w: Any
    shared: Any
    a: Any
    d: tuple[Array, ...]
    function: Callable[..., list[Array]] = field(metadata=STATIC)
    places: int = field(metadata=STATIC)

    @property
    def examples(self) -> int:
        return self.d[0].shape[0]

    def form(self, param: Array) -> Array:
        function = functools.partial(_swapped, self.function, self.shared)
        for _ in range(self.places + 1):
            function = jax.vmap(function, in_axes=(0, None))
        return jax.vjp(lambda w: function(self.a, w), self.w)[1](list(self.d))[0]

    def each(self) -> Array:
        """The gradient of every example and position, (N, ..., *parameter)."""

        def one(a, d):
            return jax.vjp(lambda w: self.function(w, self.shared, a), self.w)[1](list(d))[0]

        for _ in range(self.places + 1):
            one = jax.vmap(one)
        return one(self.a, self.d)

    def scale(self, weights: Array) -> Used:
        def scaled(d):
            c = jnp.expand_dims(weights.astype(wide(d.dtype)), tuple(range(1, d.ndim)))
            return (d * c).astype(d.dtype)

        return replace(self, d=tuple(map(scaled, self.d)))

    def split(self):
        return (self.a, self.d), lambda some: replace(self, a=some[0], d=some[1])

    def join_time(self) -> Factor:
        return Steps(self)


def unless_zero(pulled: Array, cotangents: list[Array]) -> Array:
    """What was taken back, or 0 if nothing was: what was never used may well be singular, 0 · ∞."""
    some = functools.reduce(jnp.logical_or, [jnp.any(d != 0) for d in cotangents])
    return jnp.where(some, pulled, jnp.zeros_like(pulled))


def _swapped(function, shared, a, w):
    return function(w, shared, a)


@factor_kind
class Steps(_View):
    """The sum over the steps of a loop; every array of `factor` has them on its first axis."""

    factor: Factor

    @property
    def examples(self) -> int:
        return Stacked(self.factor).examples

    def form(self, param: Array) -> Array:
        def add(total, factor):
            return total + factor.form(param).astype(total.dtype), None

        zero = jnp.zeros_like(param, dtype=wide(param.dtype))
        return lax.scan(add, zero, self.factor)[0]

    def scale(self, weights: Array) -> Steps:
        return replace(self, factor=Stacked(self.factor).scale(weights).factor)

    def split(self):
        batched, rejoin = split_steps(self.factor)
        return batched, lambda some: replace(self, factor=rejoin(some))

    def join_time(self) -> Factor:
        return Steps(self)


def merge(factors: list[Factor]) -> Factor:
    """The factor of a parameter that was used in several places, as few products as possible."""
    parts = [p for f in factors for p in (f.factors if isinstance(f, Many) else (f,))]
    kept: list[Factor] = []
    for part in parts:
        for i, other in enumerate(kept):
            both = _merged(other, part)
            if both is not None:
                kept[i] = both
                break
        else:
            kept.append(part)
    kept.sort(key=lambda part: isinstance(part, Common))  # reducers look for it at the end
    return kept[0] if len(kept) == 1 else Many(tuple(kept))


def _merged(f: Factor, g: Factor) -> Factor | None:
    """Two factors of one parameter as one, where that is less work; else None."""
    if type(f) is not type(g) or f.divisor != g.divisor:
        return None
    if isinstance(f, Stacked) and isinstance(g, Stacked):
        return Stacked(jax.vmap(lambda *pair: merge(list(pair)))(f.factor, g.factor))
    if isinstance(f, Moved) and isinstance(g, Moved) and (f.axes, f.shape) == (g.axes, g.shape):
        # two uses that stay two are not put under one view, where reducers would see neither
        both = _merged(f.factor, g.factor)
        return None if both is None else replace(f, factor=both)
    if isinstance(f, Outer) and isinstance(g, Outer):
        if f.a is g.a and f.d.shape == g.d.shape:
            return replace(f, d=_plus(f.d, g.d))
        if f.d is g.d and f.a.shape == g.a.shape:
            return replace(f, a=_plus(f.a, g.a))
    if isinstance(f, Sum) and isinstance(g, Sum) and f.d.shape == g.d.shape:
        return replace(f, d=_plus(f.d, g.d))
    return None


def _plus(x: Array, y: Array) -> Array:
    """x + y in float32 or wider: there may be many of them."""
    x, y = in_common(x.astype(wide(x.dtype)), y.astype(wide(y.dtype)))
    return x + y
