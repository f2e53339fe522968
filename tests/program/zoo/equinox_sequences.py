"""Equinox: recurrence, rotary attention, a scanned transformer, a differential equation."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from tests.program.record import (
    N,
    Program,
    classification,
    family,
    integers,
    normal,
)
from tests.program.zoo.equinox_models import regression, split

EQUINOX_SEQUENCES: list[Program] = []
program = family("equinox", EQUINOX_SEQUENCES)


class Recurrent(eqx.Module):
    """A scan over a cell, and a head on the last state."""

    cell: eqx.nn.GRUCell | eqx.nn.LSTMCell
    head: eqx.nn.Linear

    def __call__(self, x):
        cell: Any = self.cell
        zero = jnp.zeros(6, x.dtype)
        start = (zero, zero) if isinstance(cell, eqx.nn.LSTMCell) else zero
        last, _ = lax.scan(lambda state, x: (cell(x, state), None), start, x)
        return self.head(last[0] if isinstance(last, tuple) else last)


def recurrent(kind, dtype):
    def build(key):
        return Recurrent(kind(3, 6, key=key), eqx.nn.Linear(6, 2, key=key))

    return regression(build, dtype, normal(dtype, N, 4, 3))


@program()
def lstm(dtype):
    return recurrent(eqx.nn.LSTMCell, dtype)


@program()
def gru(dtype):
    return recurrent(eqx.nn.GRUCell, dtype)


class StackedRecurrence(eqx.Module):
    """Two recurrent layers, their cells in one stack: a scan over layers around one over time."""

    cells: eqx.nn.GRUCell

    def __init__(self, key):
        self.cells = eqx.filter_vmap(lambda k: eqx.nn.GRUCell(6, 6, key=k))(jax.random.split(key))

    def __call__(self, x):
        arrays, rest = eqx.partition(self.cells, eqx.is_array)

        def layer(x, arrays):
            cell = eqx.combine(arrays, rest)

            def step(state, x):
                return (cell(x, state),) * 2

            return lax.scan(step, jnp.zeros(6, x.dtype), x)[1], None

        return lax.scan(layer, x, arrays)[0]


@program()
def stacked_recurrence(dtype):
    return regression(StackedRecurrence, dtype, normal(dtype, N, 4, 6))


class Block(eqx.Module):
    """Rotary attention and a perceptron, with pre-norm."""

    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.LayerNorm
    perceptron: eqx.nn.MLP

    def __init__(self, key):
        a, b = jax.random.split(key)
        self.attention = eqx.nn.MultiheadAttention(
            2, 8, use_query_bias=True, use_value_bias=True, use_output_bias=True, key=a
        )
        self.norm = eqx.nn.LayerNorm(8)
        self.perceptron = eqx.nn.MLP(8, 8, 12, 1, activation=jax.nn.gelu, key=b)

    def __call__(self, x, context=None):
        turn = jax.vmap(eqx.nn.RotaryPositionalEmbedding(4, dtype=x.dtype), in_axes=1, out_axes=1)
        y = jax.vmap(self.norm)(x)
        other = y if context is None else context
        mask = None if context is not None else jnp.tril(jnp.ones((len(x), len(x)), bool))

        def heads(q, k, v):
            return turn(q), turn(k), v

        x = x + self.attention(y, other, other, mask=mask, process_heads=heads)
        return x + jax.vmap(self.perceptron)(jax.vmap(self.norm)(x))


@program()
def rotary_cross_attention(dtype):
    context = normal(dtype, N, 3, 8, seed=6)
    return regression(Block, dtype, normal(dtype, N, 4, 8), context)


class Transformer(eqx.Module):
    """A language model; its layers are a stack that is scanned over, each a checkpoint."""

    shared: eqx.nn.Shared
    blocks: Block

    def __init__(self, key):
        a, b, c = jax.random.split(key, 3)
        embed = eqx.nn.Embedding(7, 8, key=a)
        head = eqx.nn.Linear(8, 7, use_bias=False, key=b)
        self.shared = eqx.nn.Shared(
            (embed, head), where=lambda pair: pair[1].weight, get=lambda pair: pair[0].weight
        )
        self.blocks = eqx.filter_vmap(Block)(jax.random.split(c))

    def __call__(self, tokens):
        embed, head = self.shared()
        arrays, rest = eqx.partition(self.blocks, eqx.is_array)

        @jax.checkpoint
        def layer(x, arrays):
            return eqx.combine(arrays, rest)(x), None

        return jax.vmap(head)(lax.scan(layer, jax.vmap(embed)(tokens), arrays)[0])


@program()
def transformer_tied_scanned_checkpoint(dtype):
    model, params = split(Transformer, dtype)
    tokens = integers(7, N, 5)
    return classification(
        lambda params, tokens: model(params)(tokens), params, (tokens[:, :-1],), tokens[:, 1:]
    )


@program()
def neural_ode(dtype):
    """Three Heun steps of a vector field that knows the time."""

    def call(field, x):
        def step(x, t):
            def slope(x, t):
                return field(jnp.append(x, t))

            k = slope(x, t)
            return x + 0.1 * (k + slope(x + 0.2 * k, t + 0.2)), x

        return lax.scan(step, x, jnp.linspace(0, 1, 3, dtype=x.dtype))[0]

    def build(key):
        return eqx.nn.MLP(4, 3, 6, 1, activation=jnp.tanh, key=key)

    return regression(build, dtype, normal(dtype, N, 3), call=call)
