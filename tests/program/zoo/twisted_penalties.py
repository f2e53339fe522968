"""Single numbers made of parameters: penalties in the loss, norms, gates for a whole layer."""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from tests.program.record import N, Program, family, half_square, integers, normal, weights

TWISTED_PENALTIES: list[Program] = []
program = family("penalties", TWISTED_PENALTIES)


def network(params, x):
    return jnp.tanh(x @ params["w"] + params["b"]) @ params["v"]


def on_network(dtype, loss):
    return loss, weights(dtype, w=(6, 5), b=5, v=(5, 3)), (normal(dtype, N, 6),)


@program()
def squares_of_all(dtype):
    """The usual weight decay, as it is written into a loss."""

    def loss(params, x):
        squares = sum(jnp.sum(p**2) for p in jax.tree.leaves(params))
        return half_square(network(params, x)) + 0.1 * squares

    return on_network(dtype, loss)


@program()
def norm_of_all(dtype):
    def loss(params, x):
        return half_square(network(params, x)) + 0.3 * optax.tree.norm(params)

    return on_network(dtype, loss)


@program()
def absolute_values_and_a_maximum(dtype):
    def loss(params, x):
        penalty = jnp.abs(params["w"]).sum() + jnp.max(params["v"])
        return half_square(network(params, x)) + 0.1 * penalty

    return on_network(dtype, loss)


@program()
def weighted_by_the_example(dtype):
    """Each example has its own weight for the penalty, one of them none."""

    def loss(params, x):
        penalty = jnp.mean(params["w"] ** 2) * jnp.sum(params["b"] ** 2)
        return half_square(network(params, x)) * (1 + penalty) + jax.nn.relu(x[0]) * penalty

    return on_network(dtype, loss)


@program()
def nothing_but_penalties(dtype):
    """No data meets the parameters but by a number."""

    def loss(params, x):
        penalty = sum(jnp.sum(jnp.cos(p)) for p in jax.tree.leaves(params))
        return jnp.sum(x) * penalty + jnp.sum(x**2) * penalty**2

    return on_network(dtype, loss)


@program()
def divided_by_the_norm(dtype):
    """The outputs are divided by the Frobenius norm of the weight, as a number."""

    def loss(params, x):
        y = x @ params["w"] / jnp.sqrt(jnp.sum(params["w"] ** 2))
        return half_square(jnp.tanh(y + params["b"]) @ params["v"])

    return on_network(dtype, loss)


@program()
def distance_of_two(dtype):
    """Siamese weights that are kept close to each other."""

    def loss(params, x):
        y = jnp.tanh(x @ params["u"]) * jnp.tanh(x @ params["w"])
        return half_square(y) + 0.5 * jnp.sum((params["u"] - params["w"]) ** 2)

    return loss, weights(dtype, u=(6, 4), w=(6, 4)), (normal(dtype, N, 6),)


@program()
def orthogonality(dtype):
    def loss(params, x):
        w = params["w"]
        beside = jnp.sum((w.T @ w - jnp.eye(5, dtype=w.dtype)) ** 2)
        return half_square(network(params, x)) + 0.1 * beside

    return on_network(dtype, loss)


@program()
def of_a_table(dtype):
    """Rows that are not looked up are penalised too."""

    def loss(params, ids, x):
        y = jnp.tanh(params["table"][ids].sum(0)) * x
        return half_square(y) + 0.1 * jnp.sum(params["table"] ** 2)

    return loss, weights(dtype, table=(7, 6)), (integers(7, N, 3), normal(dtype, N, 6))


@program()
def of_a_kernel(dtype):
    def loss(params, x):
        y = lax.conv_general_dilated(
            x[None], params["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return half_square(jnp.tanh(y)) + 0.1 * jnp.sum(params["w"] ** 2) * jnp.mean(x)

    return loss, weights(dtype, w=(3, 3, 2, 4)), (normal(dtype, N, 4, 5, 2),)


@program()
def of_the_layers_of_a_stack(dtype):
    """Each layer adds its own penalty, times what it sees, inside the scan."""

    def loss(params, x):
        def layer(carry, p):
            x, penalty = carry
            y = jnp.tanh(x @ p["w"] + p["b"])
            return (y, penalty + jnp.mean(y) * jnp.sum(p["w"] ** 2)), None

        start = (x, jnp.zeros((), x.dtype))
        (y, penalty), _ = lax.scan(layer, start, params)
        return half_square(y) + 0.1 * penalty

    return loss, weights(dtype, w=(3, 6, 6), b=(3, 6)), (normal(dtype, N, 6),)


@program()
def of_a_whole_stack(dtype):
    def loss(params, x):
        y, _ = lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["w"])
        return half_square(y) + 0.1 * jnp.sum(params["w"] ** 2)

    return loss, weights(dtype, w=(3, 6, 6)), (normal(dtype, N, 6),)


@program()
def at_every_step_of_time(dtype):
    """One number of the weights, used anew at each step."""

    def loss(params, xs):
        def step(h, x):
            size = jnp.sqrt(jnp.sum(params["w"] ** 2))
            return jnp.tanh(h @ params["w"] + x * size), None

        return half_square(lax.scan(step, jnp.zeros(6, xs.dtype), xs)[0])

    return loss, weights(dtype, w=(6, 6)), (normal(dtype, N, 4, 6),)


@program()
def inside_a_checkpoint(dtype):
    @jax.checkpoint
    def block(params, x):
        return jnp.tanh(x @ params["w"]) * (1 + jnp.sum(params["w"] ** 2)), jnp.sum(
            params["v"] ** 2
        )

    def loss(params, x):
        y, penalty = block(params, x)
        return half_square((y + params["b"]) @ params["v"]) + penalty * x[0]

    return on_network(dtype, loss)


@program()
def of_a_transposed_and_of_a_tied_weight(dtype):
    def loss(params, x):
        w = params["w"]
        y = jnp.tanh(x @ w + params["b"]) @ w.T
        return half_square(y) + 0.1 * jnp.sum(jnp.sin(w.T)) + 0.1 * jnp.sum(params["v"])

    return on_network(dtype, loss)
