"""The network and its training, labels changed on purpose, and what gradients say of examples.

The model is one of Flax, as anyone would write it: nothing in it knows of this library.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import linen

import jaxdl
from jaxdl.data import Dataset, digits8, fashion_mnist
from jaxdl.data.fashion import CLASSES

SOURCES: dict[str, Callable[[], Dataset]] = {
    "fashion": fashion_mnist,
    "digits": lambda: digits8(images=True),
}
NAMES = {"fashion": CLASSES, "digits": tuple("0123456789")}
CONFUSABLE = {"fashion": (0, 2, 4, 6), "digits": (1, 3, 8, 9)}  # T-shirt, pullover, coat, shirt
BATCH = 250  # examples whose norms and projections are taken at once


class Task(NamedTuple):
    """Images to train on, with labels of which some are changed; others, with right labels."""

    x: np.ndarray
    labels: np.ndarray
    changed: np.ndarray
    """Which labels are not those of the data set."""
    x_held_out: np.ndarray
    y_held_out: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


class Seen(NamedTuple):
    """What a checkpoint says of each example: its loss, ‖∇‖², and its projected gradient."""

    losses: np.ndarray
    sq_norms: np.ndarray
    vectors: np.ndarray


class Network(linen.Module):
    """Two convolutions that halve the image, and a hidden layer."""

    @linen.compact
    def __call__(self, x):  # (height, width, 1), with or without an axis of images
        for features in (16, 32):
            x = linen.relu(linen.Conv(features, (3, 3), strides=2)(x))
        x = linen.relu(linen.Dense(64)(x.reshape(*x.shape[:-3], -1)))
        return linen.Dense(10)(x)


def loss(params: Any, x: jax.Array, label: jax.Array) -> jax.Array:
    """The cross-entropy of one example, or of each of several."""
    logits: Any = Network().apply(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def make_task(
    data: Dataset, kind: str, images: int, held_out: int, share: float, seed: int
) -> Task:
    """Draw the images, and change the labels of some: "at random" among all, to any other class, or
    as many "confusable" ones, to another class that looks like theirs."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(data.x_train))[: images + held_out]
    mean, std = data.x_train.mean(), data.x_train.std()
    x, y = ((data.x_train[rows] - mean) / std).astype(np.float32), data.y_train[rows]
    labels = y[:images].copy()
    name = "digits" if data.x_train.shape[1] == 8 else "fashion"
    classes = np.array(CONFUSABLE[name] if kind == "confusable" else range(10))
    may = np.flatnonzero(np.isin(labels, classes))
    chosen = rng.choice(may, min(round(share * images), len(may)), replace=False)
    for i in chosen:
        labels[i] = rng.choice(classes[classes != labels[i]])
    return Task(
        x[:images], labels, labels != y[:images], x[images:], y[images:],
        ((data.x_test - mean) / std).astype(np.float32), data.y_test,
    )  # fmt: skip


@jax.jit
def _step(params, state, x, labels, rate):
    gradient = jax.grad(lambda params: loss(params, x, labels).mean())(params)
    updates, state = _optimiser(rate).update(gradient, state)
    return optax.apply_updates(params, updates), state


def _optimiser(rate):
    return optax.sgd(rate, momentum=0.9)  # what it steps along is what influence is about


def train(
    task: Task, rows: np.ndarray, steps: int, rate: float, seed: int, checkpoints: int = 1
) -> list[Any]:
    """The parameters at evenly spaced points of the training on these rows, the last at its end."""
    params = Network().init(jax.random.key(seed), task.x[:1])
    state, rng, kept = _optimiser(rate).init(params), np.random.default_rng(seed), []
    order = np.concatenate([rng.permutation(rows) for _ in range(1 + steps * 64 // len(rows))])
    at = {round((i + 1) * steps / checkpoints) for i in range(checkpoints)}
    for step in range(1, steps + 1):
        batch = order[(step - 1) * 64 : step * 64]
        params, state = _step(params, state, task.x[batch], task.labels[batch], rate)
        if step in at:
            kept.append(params)
    return kept


_logits = jax.jit(lambda params, x: Network().apply(params, x))


def guesses(params: Any, x: np.ndarray) -> np.ndarray:
    return np.concatenate([np.argmax(_logits(params, part), -1) for part in _parts(x, 1000)])


def accuracy(params: Any, task: Task) -> float:
    """On the test images, whose labels are right."""
    return float((guesses(params, task.x_test) == task.y_test).mean())


@functools.cache
def reductions(projections: int) -> Callable[..., Any]:
    """A function (params, x, labels) -> (losses, ‖∇ᵢ‖², projections), from one backward pass."""
    reduce = jaxdl.combine(
        sq_norms=jaxdl.example_sq_norms, vectors=jaxdl.project(projections, jax.random.key(0))
    )

    @jax.jit
    def of_batch(params, x, labels):
        losses, tree = jaxdl.value_and_reduce(loss, reduce)(params, x, labels)
        sq_norms = jaxdl.total(jaxdl.select(tree, "sq_norms"))
        return losses, sq_norms, jaxdl.example_vectors(jaxdl.select(tree, "vectors"))

    return of_batch


def observer(projections: int) -> Callable[[Any, np.ndarray, np.ndarray], Seen]:
    """A function (params, x, labels) -> Seen, for any number of examples."""
    of_batch = reductions(projections)
    return lambda params, x, labels: Seen(*_in_batches(of_batch, params, x, labels))


def _in_batches(function: Callable[..., Any], params: Any, x: Any, labels: Any) -> list[np.ndarray]:
    """Its results for all examples; the last batch is filled up, so that one program does."""
    parts = []
    for images, given in zip(_parts(x), _parts(labels), strict=True):
        missing = BATCH - len(images)
        images = np.pad(images, [(0, missing)] + [(0, 0)] * (x.ndim - 1))
        found = function(params, images, np.pad(given, (0, missing)))
        parts.append([np.asarray(array)[: BATCH - missing] for array in found])
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _parts(array: np.ndarray, size: int = BATCH) -> Sequence[np.ndarray]:
    return [array[i : i + size] for i in range(0, len(array), size)]
