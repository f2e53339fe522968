"""Transformations inside the loss: vmap, derivatives, linearisation, shard_map."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from tests.program.record import (
    Program,
    dense_tanh,
    family,
    half_square,
    one_layer,
    sequence,
    weights,
)

TWISTED_TRANSFORMS: list[Program] = []
program = family("transforms", TWISTED_TRANSFORMS)


@program()
def vmap_of_a_layer(dtype):
    """Over positions, with the parameters shared; and over features, with each its own bias."""

    def loss(params, x):
        y = jax.vmap(dense_tanh, in_axes=(None, 0))(params, x)
        return half_square(jax.vmap(lambda b, y: b * y, in_axes=(0, 1))(params["b"], y))

    return loss, one_layer(dtype), sequence(dtype)


@program()
def vmap_over_an_ensemble(dtype):
    def loss(params, x):
        return half_square(jax.vmap(dense_tanh, in_axes=(0, None))(params, x).mean(0))

    return loss, weights(dtype, w=(3, 6, 6), b=(3, 6)), sequence(dtype)


@program()
def vmap_of_members_over_their_own_data(dtype):
    def loss(params, x):
        return half_square(jax.vmap(dense_tanh)(params, jnp.stack([x, x**2, jnp.sin(x)])))

    return loss, weights(dtype, w=(3, 6, 6), b=(3, 6)), sequence(dtype)


def energy(params, x):
    return jnp.sum(jnp.tanh(x @ params["w"]) @ params["b"])


@program()
def gradient_by_data_inside(dtype):
    """Score matching, or a penalty of the gradient."""

    def loss(params, x):
        return half_square(jax.grad(energy, argnums=1)(params, x) - 1)

    return loss, one_layer(dtype), sequence(dtype)


@program()
def gradient_by_parameters_inside(dtype):
    """A penalty of the gradient by the parameters themselves."""

    def loss(params, x):
        value, grads = jax.value_and_grad(energy)(params, x)
        return value + 0.1 * half_square(grads["w"]) + 0.1 * half_square(grads["b"])

    return loss, one_layer(dtype), sequence(dtype)


@program()
def jvp_inside(dtype):
    """Hutchinson's estimate of a divergence."""

    def loss(params, x):
        y, slope = jax.jvp(partial(dense_tanh, params), (x,), (jnp.cos(x),))
        return half_square(y) + jnp.sum(slope * jnp.cos(x))

    return loss, one_layer(dtype), sequence(dtype)


@program()
def hessian_inside(dtype):
    def loss(params, x):
        return half_square(jax.hessian(energy, argnums=1)(params, x[0]))

    return loss, one_layer(dtype), sequence(dtype)


@program()
def linearised(dtype):
    """The first order of the model around constant parameters."""
    around = weights(dtype, seed=7, w=(6, 6), b=6)

    def loss(params, x):
        step = jax.tree.map(jnp.subtract, params, around)
        y, slope = jax.jvp(lambda p: dense_tanh(p, x), (around,), (step,))
        return half_square(y + slope - 0.3)

    return loss, one_layer(dtype), sequence(dtype)


@program()
def shard_map_inside(dtype):
    mesh = jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))

    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(
            {"w": PartitionSpec(None, "model"), "b": PartitionSpec("model")},
            PartitionSpec(),
        ),
        out_specs=PartitionSpec(None, "model"),
    )
    def columns(params, x):
        return dense_tanh(params, x)

    def loss(params, x):
        return half_square(columns(params, x))

    return loss, one_layer(dtype), sequence(dtype)


@program()
def collective_over_an_inner_axis(dtype):
    """A vmap with a name, and a mean over it: the parts of one example are normalised together."""

    def loss(params, x):
        def one(x):
            y = dense_tanh(params, x)
            return y - lax.pmean(y, "positions")

        return half_square(jax.vmap(one, axis_name="positions")(x) - 0.2)

    return loss, one_layer(dtype), sequence(dtype)
