"""Rules of functions of one entry, or of two, that have special points."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from experiments.gradcheck_corpus.kinds import Mistake, Pair, normal
from experiments.gradcheck_corpus.pairs_tools import integers, kept, normals, of, uniforms


def _entropy(p):
    return jnp.where(p > 0, -p * jnp.log(jnp.where(p > 0, p, 1)), 0)


ENTROPY = Pair(
    "entropy",
    of(_entropy, lambda p, g: jnp.where(p > 0, -g * (jnp.log(jnp.where(p > 0, p, 1)) + 1), 0)),
    uniforms((12,)),
    {
        "NaN through where": Mistake(
            of(_entropy, lambda p, g: jnp.where(p > 0, g, 0) * (-jnp.log(p) - 1)), diagnosis="NaN",
            source="jax#3058",
        ),
    },
)  # fmt: skip

_EPS = 1e-6
LOG_EPS = Pair(
    "log with an epsilon", of(lambda x: jnp.log(x + _EPS), lambda x, g: g / (x + _EPS)),
    uniforms((10,)),
    {
        "epsilon forgotten": Mistake(of(lambda x: jnp.log(x + _EPS), lambda x, g: g / x)),
        "floor for sum": Mistake(
            of(lambda x: jnp.log(x + _EPS), lambda x, g: g / jnp.maximum(x, _EPS))
        ),
    },
)  # fmt: skip


def _sinc(x):
    return jnp.where(x == 0, 1, jnp.sin(x) / jnp.where(x == 0, 1, x))


def _sinc_slope(x, g):
    safe = jnp.where(x == 0, 1, x)
    return g * jnp.where(x == 0, 0, (jnp.cos(x) - jnp.sin(x) / safe) / safe)


SINC = Pair(
    "sinc", of(_sinc, _sinc_slope), normals((16,)),
    {
        "0/0 at zero": Mistake(
            of(_sinc, lambda x, g: g * (jnp.cos(x) - jnp.sin(x) / x) / x), diagnosis="NaN"
        ),
    },
)  # fmt: skip


# --- of two arguments ---------------------------------------------------------------------------


def _power(x, n):
    return x**n


def _power_with(dx):
    return kept(_power, lambda x, n, g: (dx(x, n, g), None))


POWER = Pair(
    "integer powers",
    _power_with(lambda x, n, g: g * n.astype(x.dtype) * x ** jnp.maximum(n - 1, 0)),
    lambda rng, dtype: (normal(rng, dtype, 20), integers(rng, 4, 20)),
    {
        "1 for the power 0": Mistake(
            _power_with(
                lambda x, n, g: g * jnp.maximum(n, 1).astype(x.dtype) * x ** jnp.maximum(n - 1, 0)
            ),
            source="jax#17995",
        ),
        "0·∞ at zero": Mistake(
            _power_with(lambda x, n, g: g * n.astype(x.dtype) * x**n / x), diagnosis="NaN"
        ),
    },
)  # fmt: skip

MAXIMUM = Pair(
    "maximum of two",
    kept(jnp.maximum, lambda x, y, g: (jnp.where(x > y, g, 0), jnp.where(x > y, 0, g))),
    normals((12,), (12,)),
    {
        "both of a tie": Mistake(
            kept(jnp.maximum, lambda x, y, g: (jnp.where(x >= y, g, 0), jnp.where(x > y, 0, g))),
            "args", "no valid subgradient",
        ),
        "the smaller one": Mistake(
            kept(jnp.maximum, lambda x, y, g: (jnp.where(x > y, 0, g), jnp.where(x > y, g, 0))),
            "args", r"the gradient of args\[1\]",
        ),
    },
)  # fmt: skip

_angle = jnp.arctan2


def _angle_with(sign=-1.0, square=True):
    def bwd(y, x, g):
        r2 = x * x + y * y
        r2 = r2 if square else jnp.sqrt(r2)
        return g * x / r2, sign * g * y / r2

    return kept(_angle, bwd)


ANGLE = Pair(
    "angle", _angle_with(), normals((11,), (11,)),
    {
        "sign of the second": Mistake(_angle_with(sign=1.0), "args[1]", "the sign"),
        "radius not squared": Mistake(_angle_with(square=False), "args"),
    },
)  # fmt: skip

GATE = Pair(
    "gated unit",
    kept(lambda a, b: a * jax.nn.sigmoid(b), lambda a, b, g: (
        g * (s := jax.nn.sigmoid(b)), g * a * s * (1 - s))),
    normals((5, 4), (5, 4)),
    {
        "halves swapped": Mistake(
            kept(lambda a, b: a * jax.nn.sigmoid(b), lambda a, b, g: (
                g * a * (s := jax.nn.sigmoid(b)) * (1 - s), g * s)),
            "args", r"the gradient of args\[1\]",
        ),
        "value forgotten": Mistake(
            kept(lambda a, b: a * jax.nn.sigmoid(b), lambda a, b, g: (
                g * (s := jax.nn.sigmoid(b)), g * s * (1 - s))),
            "args[1]", r"args\[0\]",
        ),
    },
)  # fmt: skip

PAIRS = (ENTROPY, LOG_EPS, SINC, POWER, MAXIMUM, ANGLE, GATE)
