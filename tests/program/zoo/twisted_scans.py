"""Scans that hold parameters in every way they can."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.program.record import (
    Program,
    dense_tanh,
    family,
    half_square,
    sequence,
    stack,
    weights,
)

TWISTED_SCANS: list[Program] = []
program = family("scans", TWISTED_SCANS)


@program()
def scan_over_layers(dtype):
    def loss(params, x):
        return half_square(lax.scan(lambda x, p: (dense_tanh(p, x), None), x, params)[0])

    return loss, stack(dtype), sequence(dtype)


@program()
def scan_over_layers_reversed_unrolled(dtype):
    def loss(params, x):
        def step(x, p):
            return dense_tanh(p, x), x.sum()

        y, sums = lax.scan(step, x, params, reverse=True, unroll=2)
        return half_square(y) + sums @ jnp.arange(3, dtype=dtype)

    return loss, stack(dtype), sequence(dtype)


@program()
def scan_constant_and_stack_at_once(dtype):
    """The whole stack is a constant of the scan that runs over it."""

    def loss(params, x):
        def step(x, w):
            return jnp.tanh(x @ w + x @ params["w"].sum(0)), None

        return half_square(lax.scan(step, x, params["w"])[0])

    return loss, weights(dtype, w=(3, 6, 6)), sequence(dtype)


@program()
def scan_of_recurrence(dtype):
    def loss(params, x):
        def step(h, x):
            h = jnp.tanh(x @ params["u"] + h @ params["w"] + params["b"])
            return h, h @ params["v"]

        return half_square(lax.scan(step, jnp.zeros(6, dtype), x)[1])

    return loss, weights(dtype, u=(6, 6), w=(6, 6), b=6, v=(6, 2)), sequence(dtype)


@program()
def scan_from_a_learned_state(dtype):
    def loss(params, x):
        def step(h, x):
            return jnp.tanh(h @ params["w"] + x), h

        last, states = lax.scan(step, params["start"], x)
        return half_square(last) + half_square(states)

    return loss, weights(dtype, start=6, w=(6, 6)), sequence(dtype)


@program()
def scan_of_stack_without_data_in_the_carry(dtype):
    """The carry is a parameter and stays one: data comes as an input of each step, or never."""

    def loss(params, x):
        def step(w, x):
            return jnp.tanh(w @ params["w"]), half_square(x @ w)

        w, losses = lax.scan(step, params["w"], x)
        return losses.sum() + half_square(w)

    return loss, weights(dtype, w=(6, 6)), sequence(dtype)


@program()
def scan_carries_a_parameter_unchanged(dtype):
    """Passed through the carry instead of as a constant."""

    def loss(params, x):
        def step(carry, x):
            return (jnp.sin(carry[0] @ carry[1]) + x, carry[1]), None

        return half_square(lax.scan(step, (jnp.zeros(6, dtype), params["w"]), x)[0][0])

    return loss, weights(dtype, w=(6, 6)), sequence(dtype)


@program()
def scan_swaps_two_parameters(dtype):
    """Each step uses the other one: which parameter a value is depends on the step."""

    def loss(params, x):
        def step(carry, x):
            return (jnp.sin(carry[0] @ carry[1]) + x, carry[2], carry[1]), None

        start = (jnp.zeros(6, dtype), params["w"], params["v"])
        return half_square(lax.scan(step, start, x)[0][0])

    return loss, weights(dtype, w=(6, 6), v=(6, 6)), sequence(dtype)


@program()
def scan_carry_turns_into_data(dtype):
    """Derived in the first step, data from the second on."""

    def loss(params, x):
        def step(carry, x):
            w, h = carry
            return (w + 0.1 * jnp.outer(h, x), jnp.tanh(h @ w)), None

        w, h = lax.scan(step, (params["w"], jnp.ones(6, dtype)), x)[0]
        return half_square(h @ w)

    return loss, weights(dtype, w=(6, 6)), sequence(dtype)


@program()
def scan_over_sliced_and_stacked_layers(dtype):
    """The stack is made of single parameters, and its order is turned."""

    def loss(params, x):
        layers = jnp.stack([params["a"], params["b"].T, params["a"]])[::-1]
        return half_square(lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, layers)[0])

    return loss, weights(dtype, a=(6, 6), b=(6, 6)), sequence(dtype)


@program()
def scan_over_time_major_parameter(dtype):
    """One bias for each time step, beside the data of that step."""

    def loss(params, x):
        def step(h, z):
            return jnp.tanh(h @ params["w"] + z[0] * z[1]), None

        return half_square(lax.scan(step, jnp.ones(6, dtype), (x, params["b"]))[0])

    return loss, weights(dtype, w=(6, 6), b=(4, 6)), sequence(dtype)


@program()
def scan_in_scan(dtype):
    """Over layers, and in each over time."""

    def loss(params, x):
        def layer(x, p):
            def step(h, x):
                h = jnp.tanh(x @ p["w"] + p["b"] * h)
                return h, h

            return lax.scan(step, jnp.zeros(6, dtype), x)[1] + params["skip"] * x, None

        layers = {name: params[name] for name in ("w", "b")}
        return half_square(lax.scan(layer, x, layers)[0])

    return loss, stack(dtype, skip=6), sequence(dtype)


@program()
def scan_in_scan_of_the_same_stack(dtype):
    """Two by two layers, and the stack as a whole again inside."""

    def loss(params, x):
        def inner(x, w):
            return jnp.tanh(x @ w), None

        def outer(x, ws):
            return lax.scan(inner, x, ws)[0] + x @ params["w"][0, 1], None

        return half_square(lax.scan(outer, x, params["w"])[0])

    return loss, weights(dtype, w=(2, 2, 6, 6)), sequence(dtype)


@program()
def scan_with_a_step_counter(dtype):
    """An int32 in the carry decides which layer is used."""

    def loss(params, x):
        def step(carry, x):
            i, h = carry
            return (i + 1, jnp.tanh(h @ params["w"][i % 3] + x)), None

        return half_square(lax.scan(step, (jnp.int32(0), jnp.ones(6, dtype)), x)[0][1])

    return loss, weights(dtype, w=(3, 6, 6)), sequence(dtype)


@program()
def scan_of_length_one_and_of_none(dtype):
    def loss(params, x):
        def step(x, p):
            return dense_tanh(p, x), None

        x = lax.scan(step, x, jax.tree.map(lambda leaf: leaf[:1], params))[0]
        return half_square(lax.scan(step, x, jax.tree.map(lambda leaf: leaf[:0], params))[0])

    return loss, stack(dtype), sequence(dtype)
