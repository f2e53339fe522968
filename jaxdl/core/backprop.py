"""Both paths to the gradient, and everything the backward pass sees on its way."""

import operator
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Protocol

import jax
from jax import Array

from jaxdl.core.factors import FactorError, Formed, stack_factors
from jaxdl.core.layer import Layer, map_layers
from jaxdl.core.loss import Loss
from jaxdl.core.reducer import check_reducer
from jaxdl.core.reducers import (
    Reducer,
    Seen,
    TwoPass,
    grads,
    keep_for,
    needs_examples,
    reduce_kept,
)
from jaxdl.core.side import join_side, split_side
from jaxdl.core.two_passes import weigh_and_reduce
from jaxdl.numerics.checks import check_array

Path = Literal["manual", "autodiff"]
PATHS = ("manual", "autodiff")


class ValueAndReduced(Protocol):
    """What `value_and_grad` returns."""

    def __call__(
        self, params, x, target, key=None, *, where=None, slots=None
    ) -> tuple[Array, Any]: ...


def value_and_grad(
    model: Layer, loss: Loss, *, path: Path = "manual", reduce: Reducer = grads
) -> ValueAndReduced:
    """A function ``(params, x, target, key=None, *, where=None, slots=None) -> (value, reduced)``.

    Args:
      model: any layer.
      loss: a pair of forward and backward, from `jaxdl.core.loss`.
      path: "manual" runs `model.bwd`; "autodiff" runs `jax.grad` of the same forward.
      reduce: what to make of the gradient factors. On the autodiff path a reducer is given
        already formed gradients (`Formed`): those that need examples refuse them by name.

    The function takes a batch `x` (examples on the first axis), the loss's `target`, a `key` for
    training (None: evaluation), the loss's weights `where`, and `slots` for the reducer. It
    returns the loss, a scalar, and what the reducer made: by default the gradient, with the
    tree, shapes and dtypes of `params`. (A `tap` reports its cotangent in place of `{}`.)

    Raises:
      ValueError: unknown path; an empty batch.
      TypeError: `model` is not a Layer or `loss` not a Loss; x holds something other than
        arrays.
      FactorError: the reducer needs the examples apart and they are not to be had: the loss or a
        layer mixes them, or a gradient is formed already.
    """
    _check_parts("value_and_grad", model, loss, reduce)
    check_reducer("value_and_grad", reduce)
    if path not in PATHS:
        raise ValueError(f"value_and_grad: path must be one of {PATHS}, got {path!r}; choose one")

    def manual(params, x, target, key=None, *, where=None, slots=None):
        _check_batch(x)
        y, residuals = model.fwd(params, x, key)
        value, loss_residuals = loss.fwd(y, target, where)
        dy = loss.bwd(loss_residuals)
        if isinstance(reduce, TwoPass):
            return value, weigh_and_reduce(model, params, residuals, dy, reduce, slots)
        return value, model.bwd(params, residuals, dy, reduce, slots)[0]

    def autodiff(params, x, target, key=None, *, where=None, slots=None):
        _check_batch(x)

        def objective(params):
            return loss.fwd(model.apply(params, x, key), target, where)[0]

        value, gradient = jax.value_and_grad(objective)(params)
        if reduce is grads:
            return value, gradient
        try:
            return value, reduce_kept(reduce, params, _formed(model, gradient), slots)
        except FactorError as error:
            raise FactorError(
                f"value_and_grad: {error}; path='autodiff' knows only formed gradients: use "
                "path='manual'"
            ) from None

    return manual if path == "manual" else autodiff


def _formed(layer: Layer, gradient: Any) -> Any:
    """The gradient as the tree of factors that `keep` would have returned."""
    if not layer.children:
        return {name: Formed(g) for name, g in gradient.items()}
    if layer.wraps:
        inside = _formed(layer.children[0], gradient)
        return stack_factors(inside) if layer.name == "repeat" else inside
    children = dict(zip(layer.names, layer.children, strict=True))
    return {name: _formed(children[name], part) for name, part in gradient.items()}


def _check_parts(name: str, model: Any, loss: Any, reduce: Reducer) -> None:
    for what, value, kind in (("model", model, Layer), ("loss", loss, Loss)):
        if not isinstance(value, kind):
            raise TypeError(
                f"{name}: {what} must be a {kind.__name__}, got {value!r}; call its constructor, "
                "e.g. mean_squared_error()"
            )
    if loss.mixes and needs_examples(reduce):
        raise FactorError(
            f"{name}: the reducer needs the examples apart, but the loss {loss.name} mixes them: "
            "no example has a loss of its own; use another loss, or another reducer"
        )


def _check_batch(x: Any) -> None:
    for leaf in jax.tree.leaves(split_side(x)[0]):
        check_array("value_and_grad: x", leaf)
        if 0 in leaf.shape[:1]:
            raise ValueError(
                f"value_and_grad: a batch must hold at least one example, got shape {leaf.shape}; "
                "skip it, or check how the data was cut into batches"
            )


class Trace(NamedTuple):
    """Everything one backward pass sees. Trees are shaped like the model: a dict for a container,
    by the names of its layers, one entry for each leaf; what a scan stacks has a leading axis of
    layers (`repeat`) or of steps (`scan_time`)."""

    value: Array
    """The loss."""
    output: Any
    """The model's output."""
    activations: Any
    """The output of each leaf."""
    deltas: Any
    """∂loss/∂(output of each leaf)."""
    dx: Any
    """∂loss/∂x, None for integers."""
    reduced: Any
    """What the reducer made at each leaf; by default the gradient."""


def backprop_trace(model: Layer, loss: Loss, *, reduce: Reducer = grads):
    """A function ``(params, x, target, key=None, *, where=None, slots=None) -> Trace``.

    Every activation and every delta, leaf by leaf, from one forward and one backward pass; works
    under jit, and inside the scan of `repeat`. For a dense layer the activation is the net input
    of its units and the delta is the δ = ∂loss/∂net of the textbooks.
    """
    _check_parts("backprop_trace", model, loss, reduce)
    check_reducer("backprop_trace", reduce)
    watched = map_layers(lambda path, layer: layer if layer.children else _watch(layer), model)

    def trace(params, x, target, key=None, *, where=None, slots=None) -> Trace:
        _check_batch(x)
        y, residuals = watched.fwd(params, x, key)
        value, loss_residuals = loss.fwd(y, target, where)
        dy, twice = loss.bwd(loss_residuals), isinstance(reduce, TwoPass)
        first = keep_for(reduce) if twice else reduce
        seen, dx = watched.bwd(params, residuals, dy, first, None if twice else slots)
        if twice:
            seen = reduce_kept(reduce, params, seen, slots)
        activations, deltas, reduced = (
            jax.tree.map(operator.attrgetter(name), seen, is_leaf=lambda n: isinstance(n, Seen))
            for name in ("activation", "delta", "reduced")
        )
        return Trace(value, y, activations, deltas, dx, _beside(model, params, reduced))

    return trace


def _beside(layer: Layer, params: Any, reduced: Any) -> Any:
    """What a reducer made, without the layers that have neither parameters nor anything to tell."""
    if not layer.children:
        return reduced
    if layer.wraps:
        return _beside(layer.children[0], params, reduced)
    parts = {
        name: _beside(child, params.get(name, {}), reduced[name])
        for name, child in zip(layer.names, layer.children, strict=True)
    }
    return {k: part for k, part in parts.items() if k in params or jax.tree.leaves(part)}


def _watch(layer: Layer) -> Layer:
    """The leaf, reporting its output and the cotangent of it beside what the reducer makes."""

    def fwd(params, x, key=None):
        y, residuals = layer.fwd(params, x, key)
        residuals, side = split_side(residuals)
        return y, join_side((y, residuals), side)

    def bwd(params, residuals, dy, reduce: Reducer = grads, slots=None):
        (y, residuals), side = split_side(residuals)
        reduced, dx = layer.bwd(params, join_side(residuals, side), dy, reduce, slots)
        return Seen(y, dy, reduced), dx

    return replace(layer, fwd=fwd, bwd=bwd)
