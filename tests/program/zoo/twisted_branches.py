"""Loops and conditions with parameters in them and around them."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.program.record import (
    N,
    Program,
    dense_tanh,
    family,
    half_square,
    integers,
    one_layer,
    sequence,
    stack,
    weights,
)

TWISTED_BRANCHES: list[Program] = []
program = family("branches", TWISTED_BRANCHES)


@program()
def fori_loop_over_layers(dtype):
    def loss(params, x):
        def step(i, x):
            return jnp.tanh(x @ params["w"][i] + params["b"][i])

        return half_square(lax.fori_loop(0, 3, step, x))

    return loss, stack(dtype), sequence(dtype)


@program()
def map_over_positions(dtype):
    def loss(params, x):
        def one(x):
            return dense_tanh(params, x)

        return half_square(lax.map(one, x)) + half_square(lax.map(one, 2 * x, batch_size=2))

    return loss, one_layer(dtype), sequence(dtype)


@program()
def associative_scan_of_parameters(dtype):
    """Products of matrices, all of them derived, and a decay that meets data inside."""

    def loss(params, x):
        products = lax.associative_scan(jnp.matmul, params["w"])

        def pair(l, r):
            return l[0] * r[0], r[0] * l[1] + r[1]

        decay = jnp.broadcast_to(jax.nn.sigmoid(params["decay"]), x.shape)
        return half_square(lax.associative_scan(pair, (decay, x))[1] @ products[-1])

    return loss, weights(dtype, w=(3, 6, 6), decay=6), sequence(dtype)


@program(surrogate=True)
def while_loop_behind_stop_gradient(dtype):
    """A normalisation whose constant is found by a loop of unknown length."""

    def loss(params, x):
        def body(s):
            return s[0] * 0.5, s[1] + 1

        y = x @ params["w"]
        size = lax.stop_gradient(y)
        half, _ = lax.while_loop(lambda s: jnp.max(jnp.abs(s[0])) > 1.0, body, (size, 0))
        return half_square(jnp.tanh(y + half) * params["b"])

    return loss, one_layer(dtype), sequence(dtype)


@program(surrogate=True)
def while_loop_over_a_parameter(dtype):
    """The loop meets parameters alone, stopped, with a count that data gives."""

    def loss(params, x, n):
        w = lax.stop_gradient(params["w"])
        power = lax.fori_loop(0, n, lambda _, v: 0.5 * v @ w, w)
        return half_square(x @ (params["w"] + power))

    return loss, weights(dtype, w=(6, 6)), (*sequence(dtype), integers(4, N))


@program()
def cond_by_example(dtype):
    """A predicate of data, each branch with a parameter of its own and one of both."""

    def loss(params, x):
        y = lax.cond(
            x[0, 0] > 0,
            lambda x: jnp.tanh(x @ params["w"] + params["b"]),
            lambda x: jnp.sin(x @ params["v"] * params["b"]),
            x,
        )
        return half_square(y)

    return loss, weights(dtype, w=(6, 6), v=(6, 6), b=6), sequence(dtype)


@program(in_axes=(0, None), zeros=("['v']",))
def cond_shared_by_all(dtype):
    def loss(params, x, flag):
        left, right = (lambda x, name=name: jnp.tanh(x @ params[name]) for name in ("w", "v"))
        return half_square(lax.cond(flag, left, right, x))

    params = weights(dtype, w=(6, 6), v=(6, 6))
    return loss, params, (*sequence(dtype), jnp.array(True))


@program()
def cond_by_a_parameter(dtype):
    """The predicate is derived: which branch runs is the same for every example."""

    def loss(params, x):
        y = x @ params["w"]
        return half_square(lax.cond(params["b"].sum() > 0, jnp.tanh, jnp.sin, y) * params["b"])

    return loss, one_layer(dtype), sequence(dtype)


@program()
def switch_over_experts(dtype):
    def loss(params, x, pick):
        experts = [lambda x, i=i: jnp.tanh(x @ params["w"][i]) for i in range(3)]
        return half_square(lax.switch(pick, experts, x) @ params["v"])

    return loss, weights(dtype, w=(3, 6, 6), v=(6, 2)), (*sequence(dtype), integers(3, N))


@program()
def cond_in_scan(dtype):
    """Every second step has another weight."""

    def loss(params, x):
        def step(h, z):
            i, x = z
            left, right = (lambda h, name=name: h @ params[name] for name in ("w", "v"))
            return jnp.tanh(lax.cond(i % 2 == 0, left, right, h) + x), None

        return half_square(lax.scan(step, jnp.ones(6, dtype), (jnp.arange(4), x))[0])

    return loss, weights(dtype, w=(6, 6), v=(6, 6)), sequence(dtype)


@program()
def cond_keeps_or_skips_a_layer(dtype):
    """Stochastic depth, by a key of the example."""

    def loss(params, x, key):
        def step(x, z):
            p, keep = z
            return lax.cond(keep, lambda x: dense_tanh(p, x), lambda x: x, x), None

        keep = jax.random.bernoulli(key, 0.5, (3,))
        return half_square(lax.scan(step, x, (params, keep))[0])

    keys = jax.random.split(jax.random.key(2), N)
    return loss, stack(dtype), (*sequence(dtype), keys)
