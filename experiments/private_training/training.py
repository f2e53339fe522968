"""DP-SGD on a network of Flax: examples drawn by chance, clipped gradients, noise.

The network is written as anyone would write it; `jaxdl.value_and_reduce` reads it as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import linen
from jax import Array

import jaxdl
from jaxdl.data import digits8, fashion_mnist

PLAIN = "none"  # in place of what is clipped: the plain gradient
WAYS = ("model", "layer", "parameter")
AT_ONCE = 64  # examples


class Split(NamedTuple):
    """Images, scaled to mean 0 and variance 1, and their labels."""

    name: str
    x: np.ndarray
    labels: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


@dataclass(frozen=True)
class Recipe:
    """One way to train; sizes are expected ones, since examples are drawn by chance."""

    batch: int
    steps: int
    sigma: float = 0.0
    """The noise multiplier: noise has deviation σ·C on every entry of the sum."""
    clip: float = 1.0
    """C: what one example adds to the sum at most, over all parameters."""
    per: str = "model"
    """Whose norm is clipped, to C/√L for each of L layers or parameters; or "none"."""
    learning_rate: float = 0.01


class Network(linen.Module):
    """Two convolutions that halve the image, and a dense layer: few parameters take less noise."""

    @linen.compact
    def __call__(self, x):  # (height, width, 1), with or without an axis of images
        for features in (16, 32):
            x = linen.relu(linen.Conv(features, (3, 3), strides=2)(x))
        return linen.Dense(10)(x.reshape(*x.shape[:-3], -1))


def loss(params: Any, x: Any, label: Any, is_real: Any) -> Array:
    """The cross-entropy of one example, or of each of several; 0 for what only fills a batch."""
    logits: Any = Network().apply(params, x)
    return is_real * optax.softmax_cross_entropy_with_integer_labels(logits, label)


def load(name: str, images: int | None = None) -> Split:
    """The digits of 8×8 pixels, or Fashion-MNIST at half its resolution, 14×14."""
    data = digits8(images=True) if name == "digits" else fashion_mnist()
    x, x_test = (x.astype(np.float32) for x in (data.x_train[:images], data.x_test))
    if name == "fashion":
        x, x_test = (x.reshape(-1, 14, 2, 14, 2, 1).mean(axis=(2, 4)) for x in (x, x_test))
    mean, std = x.mean(), x.std()
    return Split(name, (x - mean) / std, data.y_train[:images], (x_test - mean) / std, data.y_test)


@partial(jax.jit, static_argnums=0)
def clipped_sum(per: str, params: Any, clip: Array, *batch: Array) -> Any:
    """The sum over some examples, to which none adds more than `clip`."""
    if per == PLAIN:
        return jax.grad(lambda params: loss(params, *batch).sum())(params)
    if per == "model":
        return jaxdl.value_and_reduce(loss, jaxdl.clipped_sum(clip))(params, *batch)[1]
    each = clip / parts(params, per) ** 0.5
    if per == "parameter":
        reducer = jaxdl.clipped_sum(each, per="parameter")
        return jaxdl.value_and_reduce(loss, reducer)(params, *batch)[1]
    # The parameters of a program come one by one; those of a layer meet in a dict of Flax.
    kept = jaxdl.value_and_reduce(loss, jaxdl.keep)(params, *batch)[1]
    return jaxdl.reduce_kept(jaxdl.clipped_sum(each, per="layer"), params, kept)


def parts(params: Any, per: str) -> int:
    """How many norms of an example are clipped."""
    return {"model": 1, "layer": len(params["params"]), "parameter": len(jax.tree.leaves(params))}[
        per
    ]


@jax.jit
def _step(params, state, key, total, noise, batch, rate):
    total = jaxdl.add_noise(key, total, noise)  # once, on the sum of the whole batch
    mean = jax.tree.map(lambda g: g / batch, total)  # the expected size: the true one is secret
    updates, state = optax.adam(rate).update(mean, state)
    return optax.apply_updates(params, updates), state


def train(split: Split, recipe: Recipe, seed: int) -> Any:
    """The parameters after all steps. Each example enters each batch by chance, on its own."""
    n, rng = len(split.x), np.random.default_rng(seed)
    params = Network().init(jax.random.key(seed), split.x[:1])
    state = optax.adam(recipe.learning_rate).init(params)
    clip = np.float32(recipe.clip)
    noise = recipe.sigma * recipe.clip
    numbers = np.array([noise, recipe.batch, recipe.learning_rate], np.float32)
    for key in jax.random.split(jax.random.key(1000 + seed), recipe.steps):
        rows = np.flatnonzero(rng.random(n) < recipe.batch / n)
        sums = [clipped_sum(recipe.per, params, clip, *part) for part in _filled(split, rows)]
        total = jax.tree.map(lambda *parts: sum(parts), *sums)
        params, state = _step(params, state, key, total, *numbers)
    return params


def _filled(split: Split, rows: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """The drawn examples, `AT_ONCE` at a time: batches of any size are of one shape then."""
    for first in range(0, max(1, len(rows)), AT_ONCE):
        part = rows[first : first + AT_ONCE]
        is_real = (np.arange(AT_ONCE) < len(part)).astype(np.float32)
        part = np.pad(part, (0, AT_ONCE - len(part)))
        yield split.x[part], split.labels[part], is_real


@jax.jit
def _logits(params, x):
    return Network().apply(params, x)


def odds_against(params: Any, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """log((1 - p)/p) of each label. It rises with the loss, which rounds to 0 where p is near 1."""
    logits = np.array(_logits(params, x), np.float64)
    at = np.arange(len(x)), labels
    own = logits[at]
    logits[at] = -np.inf
    return np.logaddexp.reduce(logits, axis=1) - own


def accuracy(params: Any, x: np.ndarray, labels: np.ndarray) -> float:
    guesses = [_logits(params, x[i : i + 1000]).argmax(-1) for i in range(0, len(x), 1000)]
    return float((np.concatenate(guesses) == labels).mean())
