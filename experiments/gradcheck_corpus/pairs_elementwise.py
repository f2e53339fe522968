"""Rules of functions that act on every entry alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from experiments.gradcheck_corpus.kinds import Mistake, Pair
from experiments.gradcheck_corpus.pairs_tools import normals, of

_TWICE = "differentiated a second time"
_NEGATIVE = r"args\[0\] is negative"

TANH = Pair(
    "tanh", of(jnp.tanh, lambda x, g: g * (1 - jnp.tanh(x) ** 2)), normals((17,)),
    {
        "no square": Mistake(of(jnp.tanh, lambda x, g: g * (1 - jnp.tanh(x)))),
        "stopped": Mistake(
            of(jnp.tanh, lambda x, g: g * lax.stop_gradient(1 - jnp.tanh(x) ** 2)),
            diagnosis=_TWICE,
        ),
        "of its result taken again": Mistake(
            of(jnp.tanh, lambda x, g: g * (1 - jnp.tanh(jnp.tanh(x)) ** 2))
        ),
    },
)  # fmt: skip


def _relu(x):
    return jnp.maximum(x, 0)


RELU = Pair(
    "relu", of(_relu, lambda x, g: jnp.where(x > 0, g, 0)), normals((4, 6)),
    {
        "leaky": Mistake(
            of(_relu, lambda x, g: jnp.where(x > 0, g, 0.01 * g)), diagnosis=_NEGATIVE
        ),
        "twice at zero": Mistake(
            of(_relu, lambda x, g: jnp.where(x > 0, g, 0) + jnp.where(x == 0, 2 * g, 0)),
            diagnosis="no valid subgradient",
        ),
        "open a little below zero": Mistake(
            of(_relu, lambda x, g: jnp.where(x >= -1e-3, g, 0))
        ),
        "gate of the cotangent": Mistake(  # as in guided backpropagation
            of(_relu, lambda x, g: jnp.where(x > 0, jnp.maximum(g, 0), 0)),
            diagnosis="not a linear function of the cotangent",
        ),
    },
)  # fmt: skip
RELU_AT_ZERO = Pair(
    "relu, one at zero", of(_relu, lambda x, g: jnp.where(x >= 0, g, 0)), normals((4, 6)), {}
)

SQUARE = Pair(
    "square", of(lambda x: x**2, lambda x, g: 2 * x * g), normals((4,)),
    {
        "cotangent ignored where it is 1": Mistake(
            of(lambda x: x**2, lambda x, g: jnp.where(g == 1, jnp.ones_like(g), 2 * x * g)),
            diagnosis="not a linear function of the cotangent", source="TransformerEngine#2139",
        ),
        "factor missing": Mistake(
            of(lambda x: x**2, lambda x, g: x * g), diagnosis=r"0\.5 times the right gradient: 1/2"
        ),
        "of the absolute value": Mistake(
            of(lambda x: x**2, lambda x, g: 2 * jnp.abs(x) * g), diagnosis=_NEGATIVE
        ),
    },
)  # fmt: skip

ABS = Pair(
    "absolute value", of(jnp.abs, lambda x, g: g * jnp.sign(x)), normals((9,)),
    {
        "0/0 at zero": Mistake(of(jnp.abs, lambda x, g: g * x / jnp.abs(x)), diagnosis="NaN"),
        "the size of the gradient": Mistake(
            of(jnp.abs, lambda x, g: g * jnp.ones_like(x)), diagnosis=_NEGATIVE
        ),
    },
)  # fmt: skip


def _gelu(x):
    return jax.nn.gelu(x, approximate=False)


def _gelu_slope(x, g):
    return g * (jax.scipy.stats.norm.cdf(x) + x * jax.scipy.stats.norm.pdf(x))


GELU = Pair(
    "gelu", of(_gelu, _gelu_slope), normals((5, 5)),
    {
        "of the tanh form": Mistake(of(_gelu, lambda x, g: jax.vjp(jax.nn.gelu, x)[1](g)[0])),
        "density not normalised": Mistake(
            of(_gelu, lambda x, g: g * (jax.scipy.stats.norm.cdf(x) + x * jnp.exp(-(x**2) / 2)))
        ),
        "a shorter constant": Mistake(  # 0.4 for 1/√(2π)
            of(_gelu, lambda x, g: g * (jax.scipy.stats.norm.cdf(x) + 0.399 * x * jnp.exp(-x*x/2)))
        ),
    },
)  # fmt: skip


def _silu_slope(x, g, form=1.0):
    s = jax.nn.sigmoid(x)
    return g * (s + form * x * s * (1 - s))


SILU = Pair(
    "silu", of(lambda x: x * jax.nn.sigmoid(x), _silu_slope), normals((6, 3)),
    {
        "gate alone": Mistake(
            of(lambda x: x * jax.nn.sigmoid(x), lambda x, g: _silu_slope(x, g, 0.0))
        ),
    },
)  # fmt: skip


def _log_sigmoid(x):
    return -jnp.logaddexp(0.0, -x)


LOG_SIGMOID = Pair(
    "log sigmoid", of(_log_sigmoid, lambda x, g: g * jax.nn.sigmoid(-x)),
    normals((40,), scale=5.0),
    {
        "tail by cancellation": Mistake(
            of(_log_sigmoid, lambda x, g: g * (1 - jax.nn.sigmoid(x))),
            diagnosis="beyond what rounding explains",
        ),
        "overflow": Mistake(
            of(_log_sigmoid, lambda x, g: g * jnp.exp(-x) / (1 + jnp.exp(-x))), diagnosis="NaN"
        ),
    },
)  # fmt: skip


def _elu(x):
    return jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0)))


ELU = Pair(
    "elu", of(_elu, lambda x, g: g * jnp.where(x > 0, 1, _elu(x) + 1)), normals((3, 8)),
    {
        "value for slope below zero": Mistake(
            of(_elu, lambda x, g: g * jnp.where(x > 0, 1, _elu(x))), diagnosis=_NEGATIVE
        ),
    },
)  # fmt: skip

CLIP = Pair(
    "clip", of(lambda x: jnp.clip(x, -1, 1), lambda x, g: g * (jnp.abs(x) < 1)), normals((30,)),
    {
        "open below": Mistake(of(lambda x: jnp.clip(x, -1, 1), lambda x, g: g * (x < 1))),
        "straight through": Mistake(of(lambda x: jnp.clip(x, -1, 1), lambda x, g: g)),
    },
)  # fmt: skip


def _huber(x):
    return jnp.where(jnp.abs(x) < 1, 0.5 * x * x, jnp.abs(x) - 0.5)


HUBER = Pair(
    "huber", of(_huber, lambda x, g: g * jnp.clip(x, -1, 1)), normals((25,)),
    {
        "sign lost in the tails": Mistake(
            of(_huber, lambda x, g: g * jnp.where(jnp.abs(x) < 1, x, 1))
        ),
    },
)  # fmt: skip

PAIRS = (TANH, RELU, RELU_AT_ZERO, SQUARE, ABS, GELU, SILU, LOG_SIGMOID, ELU, CLIP, HUBER)
