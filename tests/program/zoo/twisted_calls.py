"""Functions in functions: jit, checkpoint, rules of one's own."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from tests.program.record import (
    Program,
    dense_tanh,
    family,
    half_square,
    one_layer,
    sequence,
    weights,
)

TWISTED_CALLS: list[Program] = []
program = family("calls", TWISTED_CALLS)


@program()
def nested_jit(dtype):
    inner = jax.jit(lambda params, x: jax.jit(dense_tanh)(params, x) + x)

    def loss(params, x):
        return half_square(inner(params, inner(params, x)))

    return loss, one_layer(dtype), sequence(dtype)


@program()
def jit_returns_parameters_and_data(dtype):
    """One call gives back a parameter, a derived value, data, and a constant."""

    @jax.jit
    def inner(params, x):
        return params["b"], params["w"].T * 2, x @ params["w"], jnp.ones(6, dtype)

    def loss(params, x):
        b, w, y, one = inner(params, x)
        return half_square((y + b) @ w + one)

    return loss, one_layer(dtype), sequence(dtype)


@program()
def checkpoint(dtype):
    def loss(params, x):
        return half_square(jax.checkpoint(dense_tanh)(params, jax.checkpoint(jnp.sin)(x)))

    return loss, one_layer(dtype), sequence(dtype)


@program()
def checkpoint_closes_over_parameters(dtype):
    def loss(params, x):
        w = params["w"].T

        @partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_saveable)
        def inner(x):
            return jnp.tanh(x @ w + params["b"]), w + 1.0

        y, v = inner(x)
        return half_square(y @ v)

    return loss, one_layer(dtype), sequence(dtype)


@program()
def checkpoint_in_checkpoint(dtype):
    def loss(params, x):
        inner = jax.checkpoint(dense_tanh)
        return half_square(jax.checkpoint(lambda p, x: inner(p, x) + inner(p, 2 * x))(params, x))

    return loss, one_layer(dtype), sequence(dtype)


@program()
def checkpoint_in_scan(dtype):
    def loss(params, x):
        step = jax.checkpoint(lambda x, p: (dense_tanh(p, x), None), prevent_cse=False)
        return half_square(lax.scan(step, x, params)[0])

    return loss, weights(dtype, w=(3, 6, 6), b=(3, 6)), sequence(dtype)


@program()
def scan_in_checkpoint(dtype):
    @jax.checkpoint
    def recur(params, x):
        def step(h, x):
            h = dense_tanh(params, h + x)
            return h, h

        return lax.scan(step, jnp.zeros(6, x.dtype), x)[1]

    def loss(params, x):
        return half_square(recur(params, x))

    return loss, one_layer(dtype), sequence(dtype)


# --- own rules ----------------------------------------------------------------------------------


@jax.custom_vjp
def sign_straight_through(w):
    return jnp.sign(w)


sign_straight_through.defvjp(lambda w: (jnp.sign(w), w), lambda w, d: (d * (jnp.abs(w) < 1),))


@program(surrogate=True)
def straight_through_weights(dtype):
    """Binary weights: the rule holds for the parameter, and the gradient is not the forward's."""

    def loss(params, x):
        return half_square(x @ sign_straight_through(params["w"]) + params["b"])

    return loss, one_layer(dtype), sequence(dtype)


@jax.custom_vjp
def double_gradient(x, w):
    return x @ w


double_gradient.defvjp(
    lambda x, w: (x @ w, (x, w)), lambda kept, d: (d @ kept[1].T, 2 * kept[0].T @ d)
)


@program(surrogate=True)
def custom_vjp_of_data_and_parameter(dtype):
    """A product whose rule gives the weight twice its gradient, and that goes through a scan."""

    def loss(params, x):
        y = double_gradient(x, params["w"]) + params["b"]

        def step(y, _):
            return jnp.sin(double_gradient(y, params["w"])), None

        return half_square(lax.scan(step, y, None, length=2)[0])

    return loss, one_layer(dtype), sequence(dtype)


@jax.custom_jvp
def scaled(x, scale):
    return jnp.exp(scale) * x


@scaled.defjvp
def scaled_jvp(primals, tangents):
    x, scale = primals
    dx, dscale = tangents
    return scaled(x, scale), jnp.exp(scale) * dx + 3.0 * x * dscale


@program(surrogate=True)
def custom_jvp_with_parameter(dtype):
    def loss(params, x):
        return half_square(scaled(x @ params["w"], params["b"]))

    return loss, one_layer(dtype), sequence(dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def clip_cotangent(most, x):
    return x


clip_cotangent.defvjp(lambda most, x: (x, None), lambda most, _, d: (jnp.clip(d, -most, most),))


@program(surrogate=True, linear=False)
def custom_vjp_that_clips_cotangents(dtype):
    """Of data alone: the cotangent of an example is clipped on its way back."""

    def loss(params, x):
        h = clip_cotangent(0.3, dense_tanh(params, x))
        return half_square(clip_cotangent(0.5, h @ params["w"]))

    return loss, one_layer(dtype), sequence(dtype)


@jax.custom_vjp
def reverse_cotangent(x):
    return x


reverse_cotangent.defvjp(lambda x: (x, None), lambda _, d: (-0.5 * d,))


@program(surrogate=True)
def custom_vjp_of_data_alone(dtype):
    """Adversarial training: what is below the reversal climbs."""

    def loss(params, x):
        return half_square(reverse_cotangent(dense_tanh(params, x)) @ params["w"])

    return loss, one_layer(dtype), sequence(dtype)


@program()
def custom_gradient_of_a_derived_value(dtype):
    """jax.custom_gradient, whose rule closes over a derived value."""

    def loss(params, x):
        @jax.custom_gradient
        def normalised(w):
            size = jnp.sqrt(jnp.sum(w**2))
            y = w / size
            return y, lambda d: ((d - y * jnp.sum(y * d)) / size,)

        return half_square(x @ normalised(params["w"]) + params["b"])

    return loss, one_layer(dtype), sequence(dtype)


@program(surrogate=True)
def stopped_in_one_branch(dtype):
    """A target from the same weights, without gradient."""

    def loss(params, x):
        still = lax.stop_gradient(params)
        return half_square(dense_tanh(params, x) - dense_tanh(still, x[::-1]))

    return loss, one_layer(dtype), sequence(dtype)
