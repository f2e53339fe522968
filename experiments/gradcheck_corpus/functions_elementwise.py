"""Elementwise functions with rules by hand: activations and small formulas."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp

from experiments.gradcheck_corpus.functions_draw import (
    between,
    of,
    pointwise,
)
from experiments.gradcheck_corpus.kinds import Function

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805
_C = math.sqrt(2 / math.pi)


# --- one argument -------------------------------------------------------------------------------


def _mish_slope(x):
    t = jnp.tanh(jax.nn.softplus(x))
    return t + x * (1 - t * t) * jax.nn.sigmoid(x)


def _silu_slope(x):
    s = jax.nn.sigmoid(x)
    return s * (1 + x * (1 - s))


def _gelu_slope(x):
    return 0.5 * (1 + jax.lax.erf(x / math.sqrt(2))) + x * jnp.exp(-x * x / 2) / math.sqrt(
        2 * math.pi
    )


def _gelu_tanh(x):
    return 0.5 * x * (1 + jnp.tanh(_C * (x + 0.044715 * x**3)))


def _gelu_tanh_slope(x):
    t = jnp.tanh(_C * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * _C * (1 + 3 * 0.044715 * x * x)


def _selu(x):
    return _SELU_SCALE * jnp.where(x > 0, x, _SELU_ALPHA * jnp.expm1(jnp.minimum(x, 0)))


def _selu_slope(x):
    return _SELU_SCALE * jnp.where(x > 0, 1, _SELU_ALPHA * jnp.exp(jnp.minimum(x, 0)))


def _hard_swish(x):
    return x * jnp.clip(x + 3, 0, 6) / 6


def _hard_swish_slope(x):
    return jnp.where(x <= -3, 0, jnp.where(x >= 3, 1, x / 3 + 0.5))


def _stable_sigmoid(x):
    e = jnp.exp(-jnp.abs(x))
    return jnp.where(x >= 0, 1, e) / (1 + e)


def _sigmoid_slope(x):
    e = jnp.exp(-jnp.abs(x))
    return e / (1 + e) ** 2


def _log_cosh(x):
    return jnp.abs(x) + jnp.log1p(jnp.exp(-2 * jnp.abs(x))) - math.log(2)


def _log1mexp(x):
    small = x < math.log(2)
    a = jnp.log(-jnp.expm1(-jnp.where(small, x, 1)))
    return jnp.where(small, a, jnp.log1p(-jnp.exp(-jnp.where(small, 1, x))))


def _sinc(x):
    near = jnp.abs(x) < 0.3
    t, s = jnp.where(near, 1, x), jnp.where(near, x, 0) ** 2
    series = 1 - s / 6 * (1 - s / 20 * (1 - s / 42 * (1 - s / 72 * (1 - s / 110))))
    return jnp.where(near, series, jnp.sin(t) / t)


def _sinc_slope(x):
    near = jnp.abs(x) < 0.3
    t, u = jnp.where(near, 1, x), jnp.where(near, x, 0)
    s = u * u
    series = -u / 3 * (1 - s / 10 * (1 - s / 28 * (1 - s / 54 * (1 - s / 88 * (1 - s / 130)))))
    return jnp.where(near, series, (jnp.cos(t) - jnp.sin(t) / t) / t)


def _growth(x):
    """(eˣ − 1)/x, 1 at 0."""
    near = jnp.abs(x) < 0.02
    t, u = jnp.where(near, 1, x), jnp.where(near, x, 0)
    series = 1 + u / 2 * (1 + u / 3 * (1 + u / 4 * (1 + u / 5 * (1 + u / 6 * (1 + u / 7)))))
    return jnp.where(near, series, jnp.expm1(t) / t)


def _growth_slope(x):
    near = jnp.abs(x) < 0.02
    t, u = jnp.where(near, 1, x), jnp.where(near, x, 0)
    series = 1 / 2 + u * (1 / 3 + u * (1 / 8 + u * (1 / 30 + u * (1 / 144 + u * (1 / 840)))))
    return jnp.where(near, series, (jnp.exp(t) - jnp.expm1(t) / t) / t)


def _bump(x):
    inside = jnp.abs(x) < 1
    return jnp.where(inside, jnp.exp(-1 / (1 - jnp.where(inside, x, 0) ** 2)), 0)


def _bump_slope(x):
    inside = jnp.abs(x) < 1
    u = jnp.where(inside, x, 0)
    return jnp.where(inside, jnp.exp(-1 / (1 - u * u)) * -2 * u / (1 - u * u) ** 2, 0)


def _smoothstep(x):
    t = jnp.clip(x, 0, 1)
    return t * t * (3 - 2 * t)


def _logit_slope(x):
    return 1 / (x * (1 - x))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def elu(x, alpha):
    """As a library has it, with its constant as a static argument."""
    return jnp.where(x > 0, x, alpha * jnp.expm1(jnp.minimum(x, 0)))


elu.defvjp(
    lambda x, alpha: (elu(x, alpha), x),
    lambda alpha, x, g: (g * jnp.where(x > 0, 1, alpha * jnp.exp(jnp.minimum(x, 0))),),
)


def _range_slope(x):
    return jnp.where((x > -1) & (x < 2), 1, 0).astype(x.dtype)


ELEMENTWISE: tuple[Function, ...] = (
    Function("softplus", pointwise(lambda x: jnp.logaddexp(x, 0), jax.nn.sigmoid), of((13,))),
    Function(
        "mish", pointwise(lambda x: x * jnp.tanh(jax.nn.softplus(x)), _mish_slope), of((5, 4))
    ),
    Function("silu", pointwise(lambda x: x * jax.nn.sigmoid(x), _silu_slope), of((3, 7))),
    Function(
        "silu large", pointwise(lambda x: x * jax.nn.sigmoid(x), _silu_slope), of((11,), scale=40)
    ),
    Function(
        "gelu erf",
        pointwise(lambda x: 0.5 * x * (1 + jax.lax.erf(x / math.sqrt(2))), _gelu_slope),
        of((17,)),
    ),
    Function("gelu tanh", pointwise(_gelu_tanh, _gelu_tanh_slope), of((2, 3, 5))),
    Function("selu", pointwise(_selu, _selu_slope), of((12,))),
    Function("elu", lambda x: elu(x, 0.7), of((9,))),
    Function(
        "leaky relu",
        pointwise(
            lambda x: jnp.where(x >= 0, x, 0.01 * x),
            lambda x: jnp.where(x >= 0, 1, 0.01).astype(x.dtype),
        ),
        of((4, 6)),
    ),
    Function(
        "relu6",
        pointwise(lambda x: jnp.clip(x, 0, 6), lambda x: ((x > 0) & (x < 6)).astype(x.dtype)),
        of((19,), scale=4),
    ),
    Function("clip", pointwise(lambda x: jnp.clip(x, -1, 2), _range_slope), of((15,), scale=2)),
    Function("hard swish", pointwise(_hard_swish, _hard_swish_slope), of((14,), scale=3)),
    Function(
        "hard sigmoid",
        pointwise(
            lambda x: jnp.clip(x / 6 + 0.5, 0, 1),
            lambda x: jnp.where(jnp.abs(x) < 3, 1 / 6, 0).astype(x.dtype),
        ),
        of((16,), scale=3),
    ),
    Function(
        "softsign",
        pointwise(lambda x: x / (1 + jnp.abs(x)), lambda x: 1 / (1 + jnp.abs(x)) ** 2),
        of((10,), scale=3),
    ),
    Function(
        "log sigmoid",
        pointwise(lambda x: -jax.nn.softplus(-x), lambda x: jax.nn.sigmoid(-x)),
        of((11,), scale=10),
    ),
    Function(
        "sigmoid by exp(−|x|)", pointwise(_stable_sigmoid, _sigmoid_slope), of((12,), scale=8)
    ),
    Function(
        "logit",
        pointwise(lambda x: jnp.log(x) - jnp.log1p(-x), _logit_slope),
        between(0.05, 0.95, (8,)),
    ),
    Function("cube root", pointwise(jnp.cbrt, lambda x: 1 / (3 * jnp.cbrt(x) ** 2)), of((7,))),
    Function(
        "tanhshrink", pointwise(lambda x: x - jnp.tanh(x), lambda x: jnp.tanh(x) ** 2), of((13,))
    ),
    Function(
        "smooth abs",
        pointwise(lambda x: jnp.sqrt(x * x + 1e-4), lambda x: x / jnp.sqrt(x * x + 1e-4)),
        of((6,)),
    ),
    Function(
        "squareplus",
        pointwise(
            lambda x: (x + jnp.sqrt(x * x + 4)) / 2, lambda x: (1 + x / jnp.sqrt(x * x + 4)) / 2
        ),
        of((10,)),
    ),
    Function("log cosh", pointwise(_log_cosh, jnp.tanh), of((9,), scale=5)),
    Function(
        "log(1 − exp(−x))", pointwise(_log1mexp, lambda x: 1 / jnp.expm1(x)), between(0.05, 6, (9,))
    ),
    Function("sin(x)/x", pointwise(_sinc, _sinc_slope), of((14,))),
    Function("(exp(x) − 1)/x", pointwise(_growth, _growth_slope), of((12,))),
    Function("bump", pointwise(_bump, _bump_slope), between(-1.3, 1.3, (16,))),
    Function(
        "smoothstep",
        pointwise(_smoothstep, lambda x: jnp.where((x > 0) & (x < 1), 6 * x * (1 - x), 0)),
        between(-0.5, 1.5, (11,)),
    ),
    Function(
        "gaussian",
        pointwise(lambda x: jnp.exp(-x * x / 2), lambda x: -x * jnp.exp(-x * x / 2)),
        of((3, 5), scale=1.5),
    ),
    Function(
        "angle wrapped",
        pointwise(lambda x: x - 2 * math.pi * jnp.floor(x / (2 * math.pi)), jnp.ones_like),
        of((9,), scale=4),
    ),
    Function("abs", pointwise(jnp.abs, jnp.sign), of((8,))),
    Function(
        "reciprocal",
        pointwise(lambda x: 1 / x, lambda x: -1 / (x * x)),
        of((6,), shift=3, scale=0.5),
    ),
)
