"""One training step: a pure function from state and batch to state and metrics."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxdl.core.backprop import Path, value_and_grad
from jaxdl.core.doors import check_no_taps
from jaxdl.core.identity import made_once
from jaxdl.core.layer import Layer
from jaxdl.core.loss import Loss
from jaxdl.core.reducers import Reducer, combine, grads, select


class TrainState(NamedTuple):
    """Everything a run is at one moment; nothing else is needed to go on from there."""

    params: Any
    opt_state: Any
    step: Array
    """Steps taken, int32."""
    key: Array
    """The run's key. It never changes: the key of a step is this one folded with `step`."""


Step = Callable[..., tuple[TrainState, dict[str, Any]]]


def init_state(model: Layer, tx: optax.GradientTransformation, x: Any, seed: int = 0) -> TrainState:
    """Fresh parameters and optimiser state for inputs of the shape and dtype of `x`.

    Every array is a buffer of its own, so that the state can be donated: an optimiser whose
    state starts as the parameters themselves would otherwise donate one buffer twice.
    """
    key = jax.random.key(seed)
    init_key, run_key = jax.random.split(key)
    params = model.init(init_key, x)
    state = TrainState(params, tx.init(params), jnp.zeros((), jnp.int32), run_key)
    return jax.tree.map(lambda array: jnp.array(array, copy=True), state)


@made_once
def make_step(
    model: Layer,
    loss: Loss,
    tx: optax.GradientTransformation,
    *,
    path: Path = "manual",
    observe: Reducer | None = None,
) -> Step:
    """A pure function ``(state, x, target, where=None) -> (state, metrics)``.

    Args:
      model, loss: what to train.
      tx: the optax transformation that turns gradients into updates.
      path: whose backward pass, "manual" or "autodiff".
      observe: a reducer to run beside the gradient in the same backward pass; what it returns
        is ``metrics["observed"]``.

    ``metrics["loss"]`` is the loss before the update. Jit it with `jit_step`, or scan over it
    with `make_epoch`. Equal arguments give the same function again, and with it what is compiled:
    a model that is built twice is compiled once.
    """
    check_no_taps("make_step", model)
    reduce = grads if observe is None else combine(grads=grads, observed=observe)
    run = value_and_grad(model, loss, path=path, reduce=reduce)

    def step(state: TrainState, x: Any, target: Any, where: Any = None):
        key = jax.random.fold_in(state.key, state.step)
        value, reduced = run(state.params, x, target, key, where=where)
        metrics = {"loss": value}
        if observe is not None:
            metrics["observed"] = select(reduced, "observed")
            reduced = select(reduced, "grads")
        updates, opt_state = tx.update(reduced, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, opt_state, state.step + 1, state.key), metrics

    return step


@made_once
def jit_step(step: Step) -> Step:
    """The step compiled, the state donated: its buffers are used again for the new state."""
    return jax.jit(step, donate_argnums=0)
