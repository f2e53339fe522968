"""Rules of tangents (`custom_jvp`), and rules whose own derivative is wrong."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from experiments.gradcheck_corpus.kinds import Mistake, Pair, Rule, normal
from experiments.gradcheck_corpus.pairs_tools import kept, normals, of

_TWICE = "differentiated a second time"


def tangent(f: Rule, rule: Rule) -> Rule:
    """f with rule(primals, tangents) for the tangent of its result."""
    made = jax.custom_jvp(f)
    made.defjvp(lambda primals, tangents: (made(*primals), rule(primals, tangents)))
    return made


def _product(x, y):
    return x * jnp.sin(y)


PRODUCT = Pair(
    "tangent of a product",
    tangent(_product, lambda p, t: t[0] * jnp.sin(p[1]) + t[1] * p[0] * jnp.cos(p[1])),
    normals((6,), (6,)),
    {
        "one term dropped": Mistake(
            tangent(_product, lambda p, t: t[0] * jnp.sin(p[1])), "args[1]",
            "zero: the rule gives nothing",
        ),
        "tangents swapped": Mistake(
            tangent(_product, lambda p, t: t[1] * jnp.sin(p[1]) + t[0] * p[0] * jnp.cos(p[1])),
            "args", r"the gradient of args\[1\]",
        ),
        "sign of one term": Mistake(
            tangent(_product, lambda p, t: t[0] * jnp.sin(p[1]) - t[1] * p[0] * jnp.cos(p[1])),
            "args[1]", "the sign",
        ),
    },
)  # fmt: skip


def _softplus(x):
    return jnp.logaddexp(x, 0.0)


_softplus_right = tangent(_softplus, lambda p, t: jax.nn.sigmoid(p[0]) * t[0])
SOFTPLUS = Pair(
    "tangent of softplus", _softplus_right, normals((3, 5)),
    {
        "slope held constant": Mistake(
            tangent(_softplus, lambda p, t: lax.stop_gradient(jax.nn.sigmoid(p[0])) * t[0]),
            diagnosis=_TWICE, source="jax#34353",
        ),
        "slope at the other sign": Mistake(
            tangent(_softplus, lambda p, t: jax.nn.sigmoid(-p[0]) * t[0])
        ),
        "slope by a coarse difference": Mistake(
            tangent(_softplus, lambda p, t: (
                _softplus(p[0] + 1e-2) - _softplus(p[0] - 1e-2)) / 2e-2 * t[0])
        ),
        "slope by a fine difference": Mistake(
            tangent(_softplus, lambda p, t: (
                _softplus(p[0] + 1e-4) - _softplus(p[0])) / 1e-4 * t[0])
        ),
    },
)  # fmt: skip


def _rows(x, w):
    return x @ w


ROWS = Pair(
    "tangent of a matrix product",
    tangent(_rows, lambda p, t: t[0] @ p[1] + p[0] @ t[1]), normals((5, 4), (4, 3)),
    {
        "a term by half": Mistake(
            tangent(_rows, lambda p, t: t[0] @ p[1] + 0.5 * p[0] @ t[1]), "args[1]",
            r"0\.5 times the right gradient",
        ),
        "first row of the tangent": Mistake(
            tangent(_rows, lambda p, t: t[0][:1] @ p[1] + p[0] @ t[1]), "args[0]"
        ),
    },
)  # fmt: skip


# --- right once, wrong twice --------------------------------------------------------------------

_slope_right = jax.custom_jvp(lambda x: 1 / (1 + x * x))
_slope_right.defjvp(
    lambda p, t: (_slope_right(*p), -2 * p[0] / (1 + p[0] ** 2) ** 2 * t[0])
)  # fmt: skip
_slope_wrong = jax.custom_jvp(lambda x: 1 / (1 + x * x))
_slope_wrong.defjvp(lambda p, t: (_slope_wrong(*p), -2 * p[0] / (1 + p[0] ** 2) * t[0]))

ARCTAN = Pair(
    "arctan", of(jnp.arctan, lambda x, g: g * _slope_right(x)), normals((8,)),
    {
        "slope's own rule is wrong": Mistake(
            of(jnp.arctan, lambda x, g: g * _slope_wrong(x)), diagnosis=_TWICE, source="jax#34353"
        ),
        "slope of the cotangent stopped": Mistake(
            of(jnp.arctan, lambda x, g: lax.stop_gradient(g) / (1 + x * x)), "",
            _TWICE,
        ),
    },
)  # fmt: skip


def _energy(x, w):
    return jnp.log(jnp.cosh(x @ w)).sum(-1)


def _energy_with(held=lambda h: h):
    def bwd(x, w, g):
        h = held(jnp.tanh(x @ w)) * g[:, None]
        return h @ w.T, x.T @ h

    return kept(_energy, bwd)


ENERGY = Pair(
    "energy, for its force", _energy_with(), normals((5, 3), (3, 4)),
    {
        "activations held in the backward": Mistake(
            _energy_with(lax.stop_gradient), "args", _TWICE
        ),
    },
)  # fmt: skip


def _norm(x):
    return jnp.sqrt((x * x).sum(-1) + 1e-12)


def _norm_with(unit):
    return of(_norm, lambda x, g: g[:, None] * unit(x))


NORM = Pair(
    "smoothed length", _norm_with(lambda x: x / _norm(x)[:, None]), normals((6, 3)),
    {
        "length held": Mistake(
            _norm_with(lambda x: x / lax.stop_gradient(_norm(x))[:, None]), diagnosis=_TWICE
        ),
        "another epsilon": Mistake(
            _norm_with(lambda x: x / jnp.sqrt((x * x).sum(-1, keepdims=True) + 1e-6))
        ),
    },
)  # fmt: skip

# --- gradients that are meant to differ ---------------------------------------------------------


def _through_clip(x, keep=lambda x, g: jnp.where(jnp.abs(x) <= 1, g, 0)):
    return of(lambda x: jnp.round(jnp.clip(x, -1, 1)), keep)(x)


STRAIGHT = Pair(
    "straight through rounding", lambda x: _through_clip(x), normals((20,)),
    {
        "outside the range too": Mistake(lambda x: _through_clip(x, lambda x, g: g)),
        "closed above alone": Mistake(
            lambda x: _through_clip(x, lambda x, g: jnp.where(x <= 1, g, 0))
        ),
        "rounded too": Mistake(
            lambda x: _through_clip(
                x, lambda x, g: jnp.where(jnp.abs(x) <= 1, jnp.round(4 * g) / 4, 0)
            ),
            diagnosis="not a linear function of the cotangent",
        ),
    },
    {"expect": lambda g, x: (jnp.where(jnp.abs(x) <= 1, g, 0),)},
)  # fmt: skip


def _reversed_with(bwd):
    return kept(lambda x, strength: x, bwd)


REVERSED = Pair(
    "gradient reversal",
    _reversed_with(lambda x, s, g: (-s * g, jnp.zeros_like(s))),
    lambda rng, dtype: (normal(rng, dtype, 4, 3), jnp.asarray(0.3, dtype)),
    {
        "not reversed": Mistake(
            _reversed_with(lambda x, s, g: (s * g, jnp.zeros_like(s))), "args[0]", "the sign"
        ),
        "strength forgotten": Mistake(
            _reversed_with(lambda x, s, g: (-g, jnp.zeros_like(s))), "args[0]",
            r"3\.3333\d+ times the right gradient",
        ),
    },
    {"expect": lambda g, x, s: (-s * g, jnp.zeros_like(s)), "wrt": ["args[0]"]},
)  # fmt: skip

PAIRS = (PRODUCT, SOFTPLUS, ROWS, ARCTAN, ENERGY, NORM, STRAIGHT, REVERSED)
