"""Flax Linen: recurrent cells, state spaces, a decoder that is fed its own output."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from tests.program.record import N, Program, family, integers, normal
from tests.program.zoo.linen_models import regression

LINEN_RECURRENT: list[Program] = []
program = family("linen", LINEN_RECURRENT)


def rnn(cell, dtype, **options):
    return regression(nn.RNN(cell(6, param_dtype=dtype), **options), dtype, normal(dtype, N, 4, 3))


@program()
def lstm(dtype):
    return rnn(nn.LSTMCell, dtype)


@program()
def lstm_optimized(dtype):
    return rnn(nn.OptimizedLSTMCell, dtype)


@program()
def lstm_optimized_unrolled(dtype):
    return rnn(nn.OptimizedLSTMCell, dtype, unroll=2, reverse=True)


@program()
def gru(dtype):
    return rnn(nn.GRUCell, dtype)


@program()
def minimal_gated_unit(dtype):
    return rnn(nn.MGUCell, dtype)


class TwoDirections(nn.Module):
    """A bidirectional recurrence of ragged sequences, and one above it."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, length):
        right, left = (nn.RNN(nn.GRUCell(4, param_dtype=self.dtype)) for _ in range(2))
        y: Any = nn.Bidirectional(right, left)(x, seq_lengths=length)
        y = nn.RNN(nn.SimpleCell(6, param_dtype=self.dtype))(y, seq_lengths=length)
        return nn.Dense(2)(y) * (jnp.arange(x.shape[-2]) < length[..., None])[..., None]


@program(keep_batch_dim=True)
def bidirectional_ragged(dtype):
    x, length = normal(dtype, N, 4, 3), 1 + integers(4, N)
    return regression(TwoDirections(dtype), dtype, x, length, keep_batch_dim=True)


@program(keep_batch_dim=True)
def conv_lstm(dtype):
    cell = nn.ConvLSTMCell(2, (3, 3), param_dtype=dtype)
    return regression(nn.RNN(cell), dtype, normal(dtype, N, 3, 4, 4, 2), keep_batch_dim=True)


class StateSpace(nn.Module):
    """A diagonal linear recurrence with decay exp(-exp(A_log)), by steps or in parallel."""

    parallel: bool

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.normal(1.0)
        decay = jnp.exp(-jnp.exp(self.param("A_log", init, (6,))))
        u = nn.Dense(6)(x)
        if self.parallel:

            def combine(left, right):
                return left[0] * right[0], right[0] * left[1] + right[1]

            a = jnp.broadcast_to(decay, u.shape)
            _, h = jax.lax.associative_scan(combine, (a, u))
        else:

            def step(h, u):
                return (decay * h + u,) * 2

            _, h = jax.lax.scan(step, jnp.zeros_like(u[0]), u)
        return nn.Dense(3)(nn.silu(h)) + self.param("D", init, (3,)) * x


@program()
def state_space(dtype):
    return regression(StateSpace(parallel=False), dtype, normal(dtype, N, 4, 3))


@program()
def state_space_parallel(dtype):
    return regression(StateSpace(parallel=True), dtype, normal(dtype, N, 4, 3))


class Decoder(nn.Module):
    """An LSTM that is fed its own output: a learned start and nn.scan over the cell."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, context):
        start = self.param("start", nn.initializers.normal(1.0), (3,))

        class Step(nn.Module):
            @nn.compact
            def __call__(cell, carry, _):
                state, y = carry
                state, h = nn.OptimizedLSTMCell(6, param_dtype=context.dtype)(state, y)
                y = nn.Dense(3)(h)
                return (state, y), y

        scan = functools.partial(nn.scan, variable_broadcast="params", length=4)
        steps = scan(Step, split_rngs={"params": False})()
        state = (nn.Dense(6)(context), nn.tanh(nn.Dense(6)(context)))
        return steps((state, start), None)[1]


@program()
def decoder_fed_back(dtype):
    return regression(Decoder(dtype), dtype, normal(dtype, N, 7))
