"""Rules in other forms: custom_jvp, nested, straight-through, several transforms in one."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.gradcheck_corpus.functions_draw import (
    WIDE,
    from_inputs,
    normal,
    of,
    pointwise,
    positive,
    regular,
)
from experiments.gradcheck_corpus.kinds import Function

# --- custom_jvp ---------------------------------------------------------------------------------


@jax.custom_jvp
def log1pexp(x):
    return jnp.logaddexp(x, 0)


@log1pexp.defjvp
def _log1pexp_jvp(primals, tangents):
    (x,), (t,) = primals, tangents
    return log1pexp(x), jax.nn.sigmoid(x) * t


@jax.custom_jvp
def safe_norm(x):
    return jnp.sqrt(jnp.sum(x * x, -1))


@safe_norm.defjvp
def _safe_norm_jvp(primals, tangents):
    """Tangent 0 at 0."""
    (x,), (t,) = primals, tangents
    r = safe_norm(x)
    return r, jnp.where(r == 0, 0, (x * t).sum(-1) / jnp.where(r == 0, 1, r))


@jax.custom_jvp
def softmax(x):
    e = jnp.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@softmax.defjvp
def _softmax_jvp(primals, tangents):
    y, (t,) = softmax(*primals), tangents
    return y, y * (t - (y * t).sum(-1, keepdims=True))


@jax.custom_jvp
def product(x, y, z):
    return x * jnp.sin(y) + z


product.defjvps(
    lambda t, out, x, y, z: t * jnp.sin(y), lambda t, out, x, y, z: t * x * jnp.cos(y),
    lambda t, out, x, y, z: t,
)  # fmt: skip


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def polynomial(x, power, shift):
    return (x + shift) ** power


@polynomial.defjvp
def _polynomial_jvp(power, shift, primals, tangents):
    (x,), (t,) = primals, tangents
    return polynomial(x, power, shift), power * (x + shift) ** (power - 1) * t


@jax.custom_jvp
def polar(x, y):
    return {"r": jnp.hypot(x, y), "angle": jnp.arctan2(y, x)}


@polar.defjvp
def _polar_jvp(primals, tangents):
    (x, y), (tx, ty) = primals, tangents
    out = polar(x, y)
    r = out["r"]
    return out, {"r": (x * tx + y * ty) / r, "angle": (x * ty - y * tx) / r**2}


@jax.custom_jvp
def inverse(a):
    return jnp.linalg.inv(a)


@inverse.defjvp
def _inverse_jvp(primals, tangents):
    y, (t,) = inverse(*primals), tangents
    return y, -y @ t @ y


@jax.custom_jvp
def root(a):
    """The real root of x³ + x = a: eight steps of Newton, and the theorem on implicit functions."""
    return lax.fori_loop(0, 30, lambda _, x: x - (x**3 + x - a) / (3 * x * x + 1), a)


@root.defjvp
def _root_jvp(primals, tangents):
    x, (t,) = root(*primals), tangents
    return x, t / (3 * x * x + 1)


# --- rules in rules -----------------------------------------------------------------------------


_SINE = pointwise(jnp.sin, jnp.cos)


@jax.custom_vjp
def wave(x, k):
    """Its rule uses another function with a rule."""
    return _SINE(k * x)


def _wave_bwd(kept, g):
    x, k = kept
    slope = g * _SINE(k * x + np.pi / 2)
    return slope * k, jnp.sum(slope * x)


wave.defvjp(lambda x, k: (wave(x, k), (x, k)), _wave_bwd)


@jax.custom_vjp
def block(params, x):
    """The rule is jax.vjp of the parts, which have rules of their own: computed again backwards."""
    return log1pexp(softmax(x @ params["a"]) @ params["b"])


def _block_bwd(kept, g):
    plain = lambda p, x: log1pexp(softmax(x @ p["a"]) @ p["b"])  # noqa: E731
    return jax.vjp(plain, *kept)[1](g)


block.defvjp(lambda p, x: (block(p, x), (p, x)), _block_bwd)


@jax.custom_gradient
def cubed(x):
    return x**3, lambda g: (3 * x * x * g,)


@jax.jit
def _many(x):
    """A rule under jit, scan, cond and checkpoint."""
    x = jax.checkpoint(_SINE)(x)
    x, _ = lax.scan(lambda c, _: (_SINE(c) + 0.5 * c, None), x, None, length=3)
    return lax.cond(x[0] > 5, jnp.exp, _SINE, x)


def _mapped(x, w):
    return jax.vmap(lambda row: _SINE(row @ w))(x)


def _sine_or_nothing(x, y):
    return _SINE(x) * lax.stop_gradient(y)


RULES: tuple[Function, ...] = (
    Function("log1pexp", log1pexp, of((9,), scale=10)),
    Function(
        "norm, safe at 0", safe_norm, lambda rng, dtype: (normal(rng, dtype, 4, 3).at[2].set(0),)
    ),
    Function("softmax by tangents", softmax, of((3, 6))),
    Function("three tangents", product, of((7,), (7,), (7,))),
    Function("static in custom_jvp", lambda x: polynomial(x, 3, 0.5), of((8,))),
    Function("polar coordinates", polar, of((6,), (6,))),
    Function(
        "inverse by tangents",
        inverse,
        lambda rng, dtype: (regular(rng, dtype, 3),),
        WIDE,
        "the factorisations of jax.numpy.linalg have no bfloat16",
    ),
    Function("implicit root", root, of((7,))),
    Function(
        "rule in a rule", wave, lambda rng, dtype: (normal(rng, dtype, 6), positive(rng, dtype))
    ),
    Function(
        "block of ruled parts",
        block,
        lambda rng, dtype: (
            {"a": normal(rng, dtype, 3, 4), "b": normal(rng, dtype, 4, 2)},
            normal(rng, dtype, 5, 3),
        ),
    ),
    Function("custom_gradient", cubed, of((6,))),
    Function("under jit, scan, cond and checkpoint", _many, of((5,))),
    Function("under vmap", _mapped, of((4, 3), (3,))),
    Function(
        "with a stopped argument",
        from_inputs(_sine_or_nothing, lambda g, x, y: (g * jnp.cos(x) * y, jnp.zeros_like(y))),
        of((5,), (5,)),
        settings={"wrt": ["args[0]"]},
    ),
)
