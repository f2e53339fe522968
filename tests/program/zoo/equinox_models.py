"""Equinox: the model is a tree of arrays and functions, partitioned and combined in the loss."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from tests.program.record import (
    N,
    Program,
    drawn,
    family,
    half_square,
    normal,
    squared_error,
)

EQUINOX_MODELS: list[Program] = []
program = family("equinox", EQUINOX_MODELS)


def split(build, dtype):
    """(a function from parameters to the model, drawn parameters)."""
    model = drawn(eqx.filter_eval_shape(build, jax.random.key(0)), dtype)
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    return lambda params: eqx.combine(params, rest), params


def regression(build, dtype, *inputs, call=lambda model, *xs: model(*xs)):
    model, params = split(build, dtype)
    return squared_error(lambda params, *xs: call(model(params), *xs), params, inputs, dtype)


def over_time(model, x):
    return jax.vmap(model)(x)


@program()
def mlp(dtype):
    def build(key):
        return eqx.nn.MLP(7, 3, width_size=8, depth=2, activation=jnp.tanh, key=key)

    return regression(build, dtype, normal(dtype, N, 7))


@program()
def mlp_over_time(dtype):
    def build(key):
        a, b = jax.random.split(key)
        return eqx.nn.Sequential(
            [
                eqx.nn.Linear(7, 8, key=a),
                eqx.nn.LayerNorm(8),
                eqx.nn.Lambda(eqx.nn.PReLU()),
                eqx.nn.Linear(8, 6, use_bias=False, key=b),
                eqx.nn.RMSNorm(6),
            ]
        )

    return regression(build, dtype, normal(dtype, N, 4, 7), call=over_time)


@program()
def cnn(dtype):
    def build(key):
        a, b, c, d = jax.random.split(key, 4)
        return eqx.nn.Sequential(
            [
                eqx.nn.Conv2d(3, 4, 3, stride=2, padding=1, key=a),
                eqx.nn.GroupNorm(2, 4),
                eqx.nn.Lambda(jax.nn.relu),
                eqx.nn.Conv2d(4, 8, 2, groups=4, dilation=2, padding="SAME", key=b),
                eqx.nn.Lambda(jax.nn.silu),
                eqx.nn.MaxPool2d(2),
                eqx.nn.ConvTranspose2d(8, 2, 3, stride=2, output_padding=1, key=c),
                eqx.nn.AdaptiveAvgPool2d((2, 3)),
                eqx.nn.Lambda(jnp.ravel),
                eqx.nn.Linear(12, 3, key=d),
            ]
        )

    return regression(build, dtype, normal(dtype, N, 3, 8, 6))


@program()
def conv_three_axes(dtype):
    return regression(
        lambda key: eqx.nn.Conv3d(2, 3, (2, 1, 2), padding=(1, 0, 0), key=key),
        dtype,
        normal(dtype, N, 2, 3, 4, 3),
    )


@program()
def filter_checkpoint(dtype):
    def call(model, x):
        return eqx.filter_checkpoint(lambda m, x: m(jnp.sin(m(x))))(model, x)

    return regression(
        lambda key: eqx.nn.MLP(6, 6, 8, 1, key=key), dtype, normal(dtype, N, 6), call=call
    )


@program()
def weight_norm(dtype):
    def build(key):
        return eqx.nn.WeightNorm(eqx.nn.Linear(7, 6, key=key))

    return regression(build, dtype, normal(dtype, N, 4, 7), call=over_time)


@program()
def hypernetwork(dtype):
    """One network writes the weights of another, which holds no parameter of its own."""
    _, small = split(lambda key: eqx.nn.MLP(3, 2, 4, 1, key=key), dtype)
    flat, unravel = ravel_pytree(small)
    model, params = split(lambda key: eqx.nn.MLP(6, flat.size, 4, 1, key=key), dtype)
    rest = eqx.filter(
        eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0)), eqx.is_inexact_array, inverse=True
    )

    def apply(params, context, x):
        return eqx.combine(unravel(model(params)(context)), rest)(x)

    return squared_error(apply, params, (normal(dtype, N, 6), normal(dtype, N, 3, seed=6)), dtype)


@program()
def physics_informed(dtype):
    """The residual of u'' = -u, and the value at 0: second derivatives of the network."""
    model, params = split(
        lambda key: eqx.nn.MLP("scalar", "scalar", 6, 2, activation=jnp.tanh, key=key), dtype
    )

    def loss(params, x):
        u = model(params)
        residual = jax.grad(jax.grad(u))(x) + u(x)
        return residual**2 + 0.1 * (u(jnp.zeros_like(x)) - 1) ** 2

    return loss, params, (normal(dtype, N),)


@program()
def dropout_own_keys(dtype):
    def call(model, x, key):
        first, second = model
        return second(eqx.nn.Dropout(0.5)(jax.nn.relu(first(x)), key=key))

    def build(key):
        return eqx.nn.Linear(7, 8, key=key), eqx.nn.Linear(8, 3, key=key)

    keys = jax.random.split(jax.random.PRNGKey(5), N)
    return regression(build, dtype, normal(dtype, N, 7), keys, call=call)


class Coupling(eqx.Module):
    """An affine coupling: half of the numbers scale and move the other half."""

    network: eqx.nn.MLP

    def __call__(self, x):
        a, b = jnp.split(x, 2)
        log_scale, move = jnp.split(self.network(a), 2)
        log_scale = jnp.tanh(log_scale)
        return jnp.concatenate([b * jnp.exp(log_scale) + move, a]), log_scale.sum()


@program()
def normalising_flow(dtype):
    """RealNVP: the log likelihood has the log determinants."""

    def build(key):
        return [
            Coupling(eqx.nn.MLP(3, 6, 8, 1, activation=jnp.tanh, key=k))
            for k in jax.random.split(key, 3)
        ]

    model, params = split(build, dtype)

    def loss(params, x):
        total = jnp.zeros((), x.dtype)
        for coupling in model(params):
            x, log_det = coupling(x)
            total = total + log_det
        return half_square(x) - total

    return loss, params, (normal(dtype, N, 6),)
