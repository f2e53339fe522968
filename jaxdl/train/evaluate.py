"""Evaluation over every example: the last batch is padded and its padding weighs nothing."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxdl.core.layer import Layer
from jaxdl.core.loss import Loss


class Scores(NamedTuple):
    """Means over the examples of a data set."""

    loss: Array
    accuracy: Array
    """Share of examples whose largest output is the labelled class; NaN for other targets."""


@partial(jax.jit, static_argnames=("model", "batch"))
def predict(model: Layer, params: Any, x: Array, *, batch: int = 256) -> Array:
    """The model's output for every example of `x`, in batches: evaluation mode, no key."""
    y = lax.map(lambda part: model.apply(params, part), _batches(x, batch))
    return y.reshape(-1, *y.shape[2:])[: len(x)]


@partial(jax.jit, static_argnames=("model", "loss", "batch"))
def evaluate(
    model: Layer, loss: Loss, params: Any, x: Array, target: Array, *, batch: int = 256
) -> Scores:
    """Mean loss and accuracy over all examples, in batches: evaluation mode, no key.

    The loss of an example is the loss of a batch of that example alone.
    """
    if len(x) != len(target):
        raise ValueError(
            f"evaluate: x and target must have equally many examples, got {len(x)} and "
            f"{len(target)}; check how they were split"
        )
    labels = jnp.issubdtype(target.dtype, jnp.integer)

    def sums(part):
        x, target, real = part
        y = model.apply(params, x)
        losses = jax.vmap(lambda y, t: loss(y[None], t[None]))(y, target)
        hits = (jnp.argmax(y, axis=-1) == target) if labels else jnp.full(len(x), jnp.nan)
        hits = hits.reshape(len(x), -1).mean(axis=1, dtype=losses.dtype)
        # padding repeats real examples, so its loss is finite; it is left out here
        return Scores(*(jnp.sum(jnp.where(real, values, 0)) for values in (losses, hits)))

    real = jnp.arange(len(x) + -len(x) % batch).reshape(-1, batch) < len(x)
    parts = lax.map(sums, (_batches(x, batch), _batches(target, batch), real))
    return jax.tree.map(lambda values: jnp.sum(values) / len(x), parts)


def _batches(array: Array, batch: int) -> Array:
    """(N, ...) as (⌈N/batch⌉, batch, ...), padded with the first examples."""
    if batch < 1 or len(array) < 1:
        raise ValueError(
            f"evaluation: expected at least one example and a batch of at least 1, got "
            f"{len(array)} examples and batch {batch}; check the data"
        )
    missing = -len(array) % batch
    rows = jnp.arange(len(array) + missing) % len(array)
    padded = array[rows]
    return padded.reshape(-1, batch, *array.shape[1:])
