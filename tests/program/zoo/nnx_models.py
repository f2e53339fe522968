"""Flax NNX: the model is split into its parameters and the rest, and merged inside the loss."""

import jax
import jax.numpy as jnp
from flax import nnx

from tests.program.record import (
    N,
    Program,
    classification,
    drawn,
    family,
    integers,
    normal,
    squared_error,
)

NNX_MODELS: list[Program] = []
program = family("nnx", NNX_MODELS)

KEY_BIAS = ("['key']['bias']", ".key.bias")


def split(build, dtype):
    """(a function from parameters to the model, drawn parameters)."""
    graph, params, rest = nnx.split(build(nnx.Rngs(0)), nnx.Param, ...)
    return lambda params: nnx.merge(graph, params, rest, copy=True), drawn(params, dtype)


def regression(build, dtype, *inputs):
    model, params = split(build, dtype)
    return squared_error(lambda params, *xs: model(params)(*xs), params, inputs, dtype)


@program()
def mlp(dtype):
    def build(rngs):
        return nnx.Sequential(
            nnx.Linear(7, 8, rngs=rngs),
            nnx.LayerNorm(8, rngs=rngs),
            nnx.gelu,
            nnx.Linear(8, 6, rngs=rngs),
            nnx.RMSNorm(6, rngs=rngs),
            nnx.PReLU(),
            nnx.LinearGeneral(6, (3, 2), rngs=rngs),
        )

    return regression(build, dtype, normal(dtype, N, 7))


@program()
def cnn(dtype):
    def build(rngs):
        return nnx.Sequential(
            nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs),
            nnx.GroupNorm(4, num_groups=2, rngs=rngs),
            nnx.relu,
            nnx.Conv(4, 8, (3, 3), feature_group_count=4, kernel_dilation=2, rngs=rngs),
            nnx.relu,
            nnx.ConvTranspose(8, 2, (2, 2), strides=(2, 2), rngs=rngs),
        )

    return regression(build, dtype, normal(dtype, N, 6, 6, 3))


class Residual(nnx.Module):
    """Around any module."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, x):
        return x + self.inner(x)


@program(zeros=("['inner']['layers'][0]['bias']",))  # the norm takes it away
def resnet(dtype):
    def build(rngs):
        def conv():
            return nnx.Conv(4, 4, (3, 3), rngs=rngs)

        def body():
            return nnx.Sequential(conv(), nnx.InstanceNorm(4, rngs=rngs), nnx.relu, conv())

        return nnx.Sequential(
            nnx.Conv(3, 4, (1, 1), rngs=rngs),
            Residual(body()),
            Residual(body()),
            lambda x: x.mean((0, 1)),
            nnx.Linear(4, 3, rngs=rngs),
        )

    return regression(build, dtype, normal(dtype, N, 6, 6, 3))


def recurrent(cell, dtype, **options):
    return regression(
        lambda rngs: nnx.RNN(cell(3, 6, param_dtype=dtype, rngs=rngs), **options),
        dtype,
        normal(dtype, N, 4, 3),
    )


@program()
def lstm(dtype):
    return recurrent(nnx.LSTMCell, dtype)


@program()
def lstm_optimized(dtype):
    return recurrent(nnx.OptimizedLSTMCell, dtype)


@program()
def gru_reversed(dtype):
    return recurrent(nnx.GRUCell, dtype, reverse=True, keep_order=True)


@program()
def bidirectional(dtype):
    def build(rngs):
        def cell():
            return nnx.RNN(nnx.GRUCell(3, 4, param_dtype=dtype, rngs=rngs))

        return nnx.Bidirectional(cell(), cell(), rngs=rngs)

    return regression(build, dtype, normal(dtype, N, 4, 3))


class Block(nnx.Module):
    """Pre-norm attention and perceptron."""

    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            2, 8, use_bias=False, normalize_qk=True, decode=False, rngs=rngs
        )
        self.up = nnx.Linear(8, 12, rngs=rngs)
        self.down = nnx.Linear(12, 8, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm(x), mask=nnx.make_causal_mask(jnp.ones(x.shape[0])))
        return x + self.down(nnx.gelu(self.up(x)))


class Transformer(nnx.Module):
    """A language model whose embedding is its output too, with or without scanned layers."""

    def __init__(self, rngs, scanned):
        self.scanned = scanned
        self.embed = nnx.Embed(7, 8, rngs=rngs)
        self.positions = nnx.Param(jnp.zeros((4, 8)))
        if scanned:
            self.stack = nnx.split_rngs(splits=2)(nnx.vmap(Block))(rngs)
        else:
            self.blocks = nnx.List([Block(rngs) for _ in range(2)])

    def __call__(self, tokens):
        x = self.embed(tokens) + self.positions[...]
        if self.scanned:
            run = nnx.scan(
                nnx.remat(lambda x, block: block(x)), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry
            )
            x = run(x, self.stack)
        else:
            for block in self.blocks:
                x = block(x)
        return self.embed.attend(x)


def language_model(dtype, scanned):
    """The softmax of attention is computed in float32, whatever the model is in."""
    model, params = split(lambda rngs: Transformer(rngs, scanned), dtype)
    tokens = integers(7, N, 5)
    return classification(
        lambda params, tokens: model(params)(tokens), params, (tokens[:, :-1],), tokens[:, 1:]
    )


@program(surrogate=True, rtol=1e-5)
def transformer_tied(dtype):
    return language_model(dtype, scanned=False)


@program(surrogate=True, rtol=1e-5)
def transformer_scanned_remat(dtype):
    return language_model(dtype, scanned=True)


@program()
def low_rank_adapter(dtype):
    def build(rngs):
        base = nnx.Linear(7, 8, rngs=rngs)
        return nnx.Sequential(
            nnx.LoRA(7, 2, 8, base_module=base, rngs=rngs),
            nnx.tanh,
            nnx.LoRALinear(8, 3, lora_rank=2, rngs=rngs),
        )

    return regression(build, dtype, normal(dtype, N, 4, 7))


class Siamese(nnx.Module):
    """One encoder for both sides, and one module under two names."""

    def __init__(self, rngs):
        self.encoder = nnx.Linear(7, 6, rngs=rngs)
        self.again = self.encoder

    def __call__(self, x, y):
        return nnx.tanh(self.encoder(x)) * nnx.tanh(self.again(y))


@program()
def siamese_shared_module(dtype):
    return regression(Siamese, dtype, normal(dtype, N, 7), normal(dtype, N, 7, seed=6))


class Dropped(nnx.Module):
    """Dropout with a key of the caller."""

    def __init__(self, rngs):
        self.first = nnx.Linear(7, 8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5)
        self.second = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x, key):
        x = self.dropout(nnx.relu(self.first(x)), deterministic=False, rngs=nnx.Rngs(dropout=key))
        return self.second(x)


@program()
def dropout_own_keys(dtype):
    keys = jax.random.split(jax.random.key(5), N)
    return regression(Dropped, dtype, normal(dtype, N, 7), keys)


@program()
def weight_norm(dtype):
    def build(rngs):
        return nnx.WeightNorm(nnx.Linear(7, 6, rngs=rngs), rngs=rngs)

    return regression(build, dtype, normal(dtype, N, 4, 7))
