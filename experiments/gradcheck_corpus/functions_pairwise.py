"""Elementwise functions of several arguments with rules by hand."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from experiments.gradcheck_corpus.functions_draw import (
    from_inputs,
    of,
    positive,
    ruled,
    summed_to,
)
from experiments.gradcheck_corpus.kinds import Function

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805
_C = math.sqrt(2 / math.pi)


@jax.custom_vjp
def prelu(x, slope):
    """One slope for each channel."""
    return jnp.where(x > 0, x, slope * x)


prelu.defvjp(
    lambda x, slope: (prelu(x, slope), (x, slope)),
    lambda kept, g: (
        jnp.where(kept[0] > 0, g, g * kept[1]),
        jnp.sum(jnp.where(kept[0] > 0, 0, g * kept[0]), axis=tuple(range(g.ndim - 1))),
    ),
)


def _swish_bwd(g, x, beta):
    s = jax.nn.sigmoid(beta * x)
    return g * (s + beta * x * s * (1 - s)), jnp.sum(g * x * x * s * (1 - s))


def _snake_bwd(g, x, a):
    d_a = (x * jnp.sin(2 * a * x) - jnp.sin(a * x) ** 2 / a) / a
    return g * (1 + jnp.sin(2 * a * x)), summed_to(g * d_a, a)


def _shrink(x, level):
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - level, 0)


def _shrink_bwd(g, x, level):
    g = jnp.where(jnp.abs(x) > level, g, 0)
    return g, summed_to(-jnp.sign(x) * g, level)


def _power_bwd(g, x, p):
    """At x = 0 and p = 0 too: d/dx x⁰ = 0, and xᵖ·log x → 0."""
    dx = g * jnp.where(p == 0, 0, p * x ** jnp.where(p == 0, 1, p - 1))
    dp = g * jnp.where(x == 0, 0, x**p * jnp.log(jnp.where(x == 0, 1, x)))
    return dx, summed_to(dp, p)


def _hypot(x, y):
    big = jnp.maximum(jnp.abs(x), jnp.abs(y))
    safe = jnp.where(big == 0, 1, big)
    inside = (x / safe) ** 2 + (y / safe) ** 2
    return jnp.where(big == 0, 0, safe * jnp.sqrt(jnp.where(big == 0, 1, inside)))


def _hypot_fwd(x, y):
    r = _hypot(x, y)
    return r, (x, y, jnp.where(r == 0, 1, r))


def _atan2_bwd(g, y, x):
    r = x * x + y * y
    return g * x / r, -g * y / r


def _safe_divide(a, b):
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))


def _safe_divide_bwd(g, a, b):
    safe = jnp.where(b == 0, 1, b)
    return jnp.where(b == 0, 0, g / safe), jnp.where(b == 0, 0, -g * a / safe**2)


def _logaddexp_bwd(g, a, b):
    return g * jax.nn.sigmoid(a - b), g * jax.nn.sigmoid(b - a)


def _swiglu_bwd(g, a, b):
    s = jax.nn.sigmoid(a)
    return g * b * s * (1 + a * (1 - s)), g * a * s


def _glu(x):
    a, b = jnp.split(x, 2, -1)
    return a * jax.nn.sigmoid(b)


def _glu_bwd(g, x):
    a, b = jnp.split(x, 2, -1)
    s = jax.nn.sigmoid(b)
    return (jnp.concatenate([g * s, g * a * s * (1 - s)], -1),)


def _lerp_bwd(g, a, b, t):
    return g * (1 - t), g * t, summed_to(g * (b - a), t)


def _power_args(rng, dtype):
    return positive(rng, dtype, 4, 3), jnp.asarray(rng.normal(size=3), dtype)


PAIRWISE: tuple[Function, ...] = (
    Function("prelu", prelu, of((2, 5, 3), (3,))),
    Function(
        "swish with slope",
        from_inputs(lambda x, b: x * jax.nn.sigmoid(b * x), _swish_bwd),
        of((5, 3), ()),
    ),
    Function(
        "snake",
        from_inputs(lambda x, a: x + jnp.sin(a * x) ** 2 / a, _snake_bwd),
        lambda rng, dtype: (jnp.asarray(rng.normal(size=(4, 3)), dtype), positive(rng, dtype, 3)),
    ),
    Function(
        "soft threshold",
        from_inputs(_shrink, _shrink_bwd),
        lambda rng, dtype: (
            jnp.asarray(rng.normal(size=(6, 4)), dtype),
            jnp.asarray(rng.uniform(0.2, 0.8, (1, 4)), dtype),
        ),
    ),
    Function("power", from_inputs(lambda x, p: x**p, _power_bwd), _power_args),
    Function(
        "hypot",
        ruled(_hypot, _hypot_fwd, lambda kept, g: (g * kept[0] / kept[2], g * kept[1] / kept[2])),
        of((7,), (7,)),
    ),
    Function("atan2", from_inputs(jnp.arctan2, _atan2_bwd), of((5,), (5,), shift=0.5)),
    Function("safe division", from_inputs(_safe_divide, _safe_divide_bwd), of((9,), (9,), shift=1)),
    Function("logaddexp", from_inputs(jnp.logaddexp, _logaddexp_bwd), of((6,), (6,), scale=5)),
    Function(
        "swiglu",
        from_inputs(lambda a, b: a * jax.nn.sigmoid(a) * b, _swiglu_bwd),
        of((4, 5), (4, 5)),
    ),
    Function("glu", from_inputs(_glu, _glu_bwd), of((3, 8))),
    Function(
        "lerp", from_inputs(lambda a, b, t: a + t * (b - a), _lerp_bwd), of((2, 6), (2, 6), (6,))
    ),
)
