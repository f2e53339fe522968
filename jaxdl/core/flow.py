"""What goes through each parameter, in a few numbers: the reducer behind `jaxdl.gradient_flow`.

With a the inputs that meet a parameter w, d the cotangents that come back to it, over all examples
and positions, and ∇ the gradient:

    activation = √mean a²      cotangent = √mean d²      gradient = ‖∇‖      weight = ‖w‖
    silent = share of input features j with a[…, j] = 0 everywhere
    dead   = share of output units k with d[…, k] = 0 everywhere

A unit of relu whose input is negative for every example sends no cotangent back: it is dead here,
and silent at the next matrix. The vanishing of both norms over depth is that of Glorot & Bengio
(2010), dead units those of Maas et al. (2013), noise that of `jaxdl.core.moments`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core.composed_factors import Common
from jaxdl.core.example_norms import example_sq_norms
from jaxdl.core.examples import check_apart
from jaxdl.core.factors import (
    ConvOuter,
    Diag,
    Factor,
    Local,
    Many,
    Outer,
    Scatter,
    Stacked,
    Sum,
    Zero,
    contract,
)
from jaxdl.core.moments import Noise, noise_of_sums
from jaxdl.core.reducer import Factors, per_example
from jaxdl.core.reducers import l2_norm
from jaxdl.core.viewed_factors import Moved, Pulled, Steps, Used
from jaxdl.numerics.dtypes import wide


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Flow:
    """What `flow` says of one parameter: scalars, with an axis of layers in front in a stack.

    NaN is for what a parameter does not have: a bias meets no input, a batch of one no noise.
    """

    activation: Array
    """Root mean square of the inputs that meet the parameter."""
    cotangent: Array
    """Root mean square of the cotangents there, each of its example's own contribution."""
    gradient: Array
    """L2 norm of the gradient."""
    weight: Array
    """L2 norm of the parameter."""
    noise: Noise
    """tr Σ and |G|², as `gradient_noise` has them."""
    silent: Array
    """Share of the input features that are 0 at every example and position."""
    dead: Array
    """Share of the output units to which no example sends a cotangent but 0."""


class _Place(NamedTuple):
    """Where a parameter meets data: arrays, and how many of their last axes are features."""

    kind: str
    a: tuple[Array, ...]
    d: tuple[Array, ...]
    a_axes: int
    d_axes: int


@per_example
def flow(params: dict[str, Array], factors: Factors, slots: Any = None) -> dict[str, Flow]:
    """A `Flow` for each parameter: norms of input, cotangent and gradient, noise, dead units.

    Everything is one pass over what the backward pass has anyway, in float32 or wider; nothing
    larger than the gradient is formed. `jaxdl.gradient_flow` shows it as a table and a figure.

    Raises:
      FactorError: an already formed gradient, which has no examples in it.
    """
    return {name: _flow(factors[name], param) for name, param in params.items()}


def _flow(factor: Factor, param: Array) -> Flow:
    check_apart("flow", factor)
    dtype = jnp.finfo(wide(param.dtype)).dtype
    places = list(_places(factor, param))
    sq_norms = example_sq_norms({"": param}, {"": factor})[""]
    gradient = l2_norm(contract(factor, param.astype(wide(param.dtype))))
    noise = Noise(jnp.full((), jnp.nan, dtype), jnp.full((), jnp.nan, dtype))
    if len(sq_norms) > 1:
        whole = jnp.square(gradient * factor.divisor).astype(sq_norms.dtype)
        noise = noise_of_sums(len(sq_norms), jnp.sum(sq_norms), whole)
    inputs = [(place.kind, x, place.a_axes) for place in places for x in place.a]
    cotangents = [(place.kind, x, place.d_axes) for place in places for x in place.d]
    flow = Flow(
        _root_mean_square([x for _, x, _ in inputs]),
        _root_mean_square([x for _, x, _ in cotangents]),
        gradient,
        l2_norm(param),
        noise,
        _share_of_zeros(inputs, dtype),
        _share_of_zeros(cotangents, dtype),
    )
    return jax.tree.map(lambda number: jnp.asarray(number, dtype), flow)


def _squares(array: Array) -> Array:
    return jnp.square(jnp.abs(array.astype(wide(array.dtype))))


def _root_mean_square(arrays: list[Array]) -> Array:
    """Over all entries of all of them, NaN of none."""
    count = sum(array.size for array in arrays)
    if not count:
        return jnp.array(jnp.nan)
    return jnp.sqrt(sum(jnp.sum(_squares(array)) for array in arrays) / count)


def _share_of_zeros(arrays: list[tuple[str, Array, int]], dtype: Any) -> Array:
    """Of the last axes' entries, those that are 0 everywhere, in all uses of one kind; or NaN."""
    alive: dict[tuple[str, tuple[int, ...]], Array] = {}
    for kind, array, axes in arrays:
        if not array.size:
            continue
        shape = array.shape[array.ndim - axes :]
        some = jnp.any(array.reshape(-1, *shape) != 0, axis=0)
        alive[kind, shape] = some | alive.get((kind, shape), False)
    count = sum(prod(shape) for _, shape in alive)
    if not count:
        return jnp.array(jnp.nan)
    zeros = count - sum(jnp.sum(some, dtype=jnp.int32) for some in alive.values())
    return jnp.asarray(zeros, dtype) / count


def _places(factor: Factor, param: Any, steps: int = 0) -> Iterator[_Place]:
    """The uses of a parameter (its shape and dtype are enough); the arrays of the factor have so
    many axes of steps in front."""
    kind = type(factor).__name__
    if isinstance(factor, Many):
        for part in factor.factors:
            yield from _places(part, param, steps)
    elif isinstance(factor, Moved):
        yield from _places(factor.factor, jax.eval_shape(factor.view, param), steps)
    elif isinstance(factor, Steps):
        yield from _places(factor.factor, param, steps + 1)
    elif isinstance(factor, Pulled):
        for part, made in zip(factor.factors, _made_of(factor, param, steps), strict=True):
            if part is not None:
                yield from _places(part, made, steps)
    elif isinstance(factor, Stacked):  # a stack that was made of the parameter
        layer = jax.ShapeDtypeStruct(param.shape[1:], param.dtype)
        yield from _places(factor.factor, layer, steps + 1)
    elif isinstance(factor, Used):
        operands = tuple(x for x in jax.tree.leaves(factor.a) if _is_float(x))
        yield _Place(kind, operands, factor.d, 1, 1)
    elif isinstance(factor, Outer):
        yield _Place(kind, (factor.a,), (factor.d,), 1, 1)
    elif isinstance(factor, ConvOuter):
        yield _Place(kind, (factor.x,), (factor.d,), 1, 1)
    elif isinstance(factor, Local):
        yield _Place(kind, (factor.a,), (factor.d,), 2, 2)
    elif isinstance(factor, Scatter):
        yield _Place(kind, (), (factor.d,), 0, 1)
    elif isinstance(factor, Diag):
        yield _Place(kind, (factor.a,), (factor.d,), len(param.shape), len(param.shape))
    elif isinstance(factor, Sum):
        yield _Place(kind, (), (factor.d,), 0, len(param.shape))
    elif not isinstance(factor, Zero | Common):  # a kind of its own: the fields say what they are
        arrays = {name: x for name, x in vars(factor).items() if _is_float(x)}
        d = tuple(x for name, x in arrays.items() if name == "d")
        yield _Place(kind, tuple(x for name, x in arrays.items() if name != "d"), d, 1, 1)


def _made_of(factor: Pulled, param: Any, steps: int) -> list[Any]:
    """Shapes and dtypes of what was computed from the parameter."""

    def of_one_step(x: Any) -> Any:
        return jax.ShapeDtypeStruct(x.shape[steps:], x.dtype)

    def made(value, inputs):
        return factor.function(*inputs[: factor.place], value, *inputs[factor.place + 1 :])

    given = jax.ShapeDtypeStruct(param.shape, factor.dtype)
    return jax.eval_shape(made, given, jax.tree.map(of_one_step, factor.inputs))


def _is_float(value: Any) -> bool:
    return isinstance(value, Array) and jnp.issubdtype(value.dtype, jnp.inexact)
