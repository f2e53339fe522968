"""One training for every seed, and the two paths' gradients side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

import jaxdl
from experiments.digits.parts import (
    augmenter,
    build,
    build_loss,
    build_optimiser,
    scaler,
    targets_for,
)
from experiments.digits.settings import Settings, given
from experiments.framework.run import Run
from jaxdl.data import Dataset
from jaxdl.train import NonFiniteLossError, evaluate, init_state, make_epoch, make_step, train


def gradient_norms(params, factors, slots):
    """A reducer: the norm of each parameter's gradient, for the plot."""
    return jax.tree.map(jaxdl.l2_norm, jaxdl.grads(params, factors, slots))


@dataclass
class Trained:
    """One seed's run: curves by epoch, gradient norms by step, first and last parameters."""

    first: Any
    last: Any
    losses: list[float]
    test: list[Any]
    norms: list[Any]


def train_seeds(settings: Settings, data: Dataset, out: Run) -> tuple[jaxdl.Layer, list[Trained]]:
    """Train once for every seed; the epoch is compiled once for all."""
    model, loss = build(settings, data.classes), build_loss(settings)
    epochs, batch = given(settings, "epochs"), given(settings, "batch")
    if batch > len(data.x_train):
        raise ValueError(
            f"digits: batch must be at most {len(data.x_train)}, the number of training examples, "
            f"got {batch}; take a smaller one"
        )
    steps = epochs * (len(data.x_train) // batch)
    tx = build_optimiser(settings, steps)
    step = make_step(model, loss, tx, path=settings.path, observe=gradient_norms)
    scale = scaler(settings, data)
    epoch_fn = make_epoch(step, batch=batch, augment=augmenter(settings, scale))
    y_train = targets_for(settings, data.y_train, data.classes)
    x_test, y_test = jnp.asarray(scale(data.x_test)), jnp.asarray(data.y_test)
    score_loss = jaxdl.softmax_cross_entropy()

    runs = []
    for seed in range(settings.seeds):
        start = init_state(model, tx, data.x_train[:1], seed)
        done = Trained(jax.device_get(start.params), None, [], [], [])
        bar = out.progress(epochs, f"{settings.model}, seed {seed}")
        course = train(epoch_fn, start, data.x_train, y_train, epochs)
        try:
            for _, (state, metrics) in zip(bar, course, strict=True):
                scores = evaluate(model, score_loss, state.params, x_test, y_test)
                done.losses.append(float(metrics["loss"].mean()))
                done.test.append(jax.tree.map(float, scores))
                done.norms.append(metrics["observed"])
                done.last = jax.device_get(state.params)
                out.log(
                    model=settings.model,
                    seed=seed,
                    epoch=len(done.losses),
                    loss=done.losses[-1],
                    test_loss=done.test[-1].loss,
                    test_accuracy=done.test[-1].accuracy,
                )
        except NonFiniteLossError as error:
            out.log(seed=seed, epoch=error.epoch + 1, losses_of_its_steps=error.losses)
            error.args = (f"seed {seed}: {error}",)
            raise
        runs.append(done)
    return model, runs


def path_agreement(settings: Settings, model: jaxdl.Layer, data: Dataset) -> Callable[[Any], float]:
    """``params ->`` largest difference of the paths' gradients on a batch, over the largest entry.

    Each path is compiled once for all parameters.
    """
    loss, batch = build_loss(settings), given(settings, "batch")
    x = jnp.asarray(data.x_train[:batch])
    target = jnp.asarray(targets_for(settings, data.y_train[:batch], data.classes))
    paths = [
        jax.jit(jaxdl.value_and_grad(model, loss, path=path)) for path in ("manual", "autodiff")
    ]

    def difference(params: Any) -> float:
        manual, autodiff = (gradient(params, x, target, jax.random.key(1)) for gradient in paths)
        return max(
            float(jnp.max(jnp.abs(a - b)) / (jnp.max(jnp.abs(b)) + 1e-30))
            for a, b in zip(jax.tree.leaves(manual), jax.tree.leaves(autodiff), strict=True)
        )

    return difference
