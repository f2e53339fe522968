"""The models of `bench.programs`: from Flax Linen's own layers, as anyone would write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen


class Program(NamedTuple):
    """A loss of one example, its parameters, and a batch for it."""

    loss: Callable[..., jax.Array]
    params: Any
    batch: tuple[jax.Array, ...]


class Mlp(linen.Module):
    """Three hidden layers with layer norm."""

    width: int

    @linen.compact
    def __call__(self, x):
        for _ in range(3):
            x = linen.relu(linen.LayerNorm()(linen.Dense(self.width)(x)))
        return linen.Dense(10)(x)


class Cnn(linen.Module):
    """Two convolutions and a hidden layer."""

    width: int

    @linen.compact
    def __call__(self, x):
        for features in (self.width, 2 * self.width):
            x = linen.max_pool(linen.relu(linen.Conv(features, (3, 3))(x)), (2, 2), (2, 2))
        return linen.Dense(10)(linen.relu(linen.Dense(8 * self.width)(x.reshape(-1))))


class Lstm(linen.Module):
    """A recurrent cell over time, and a classifier on its last output."""

    width: int

    @linen.compact
    def __call__(self, x):
        states: Any = linen.RNN(linen.LSTMCell(self.width))(x[None])
        return linen.Dense(10)(states[0, -1])


class Block(linen.Module):
    """One pre-norm transformer block; also as the body of a scan."""

    width: int
    heads: int

    @linen.compact
    def __call__(self, x, _=None):
        y, mask = linen.LayerNorm()(x), linen.make_causal_mask(jnp.ones(len(x)))
        x = x + linen.MultiHeadDotProductAttention(self.heads)(y, y, mask=mask)
        y = linen.gelu(linen.Dense(4 * self.width)(linen.LayerNorm()(x)))
        return x + linen.Dense(self.width)(y), None


class Transformer(linen.Module):
    """A language model: blocks one by one, scanned, or scanned and rematerialised."""

    width: int
    blocks: int
    way: str
    heads: int = 8
    words: int = 256

    @linen.compact
    def __call__(self, ids):
        place = self.param("place", linen.initializers.normal(0.02), (len(ids), self.width))
        x = linen.Embed(self.words, self.width)(ids) + place
        if self.way == "one by one":
            for _ in range(self.blocks):
                x, _ = Block(self.width, self.heads)(x)
        else:
            body = linen.remat(Block, prevent_cse=False) if self.way == "remat" else Block
            stack = linen.scan(
                body,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=self.blocks,
            )
            x, _ = stack(self.width, self.heads)(x, None)
        return linen.Dense(self.words)(linen.LayerNorm()(x))


def classifier(model: linen.Module, x: jax.Array) -> Program:
    """Cross-entropy of a model on a batch x with random labels."""
    labels = jax.random.randint(jax.random.key(1), (len(x),), 0, 10)

    def loss(params, x, label):
        logits: Any = model.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, label)

    return Program(loss, model.init(jax.random.key(2), x[0]), (x, labels))


def language_model(model: linen.Module, examples: int, positions: int) -> Program:
    """Mean cross-entropy over the positions of random text."""
    ids = jax.random.randint(jax.random.key(0), (examples, positions + 1), 0, 256)

    def loss(params, ids):
        logits: Any = model.apply(params, ids[:-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, ids[1:]).mean()

    return Program(loss, model.init(jax.random.key(2), ids[0, :-1]), (ids,))
