"""Gradients that are meant to be another than the derivative: straight-through and the like."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from experiments.gradcheck_corpus.functions_draw import (
    normal,
    of,
)
from experiments.gradcheck_corpus.kinds import Function

# --- gradients that are meant to be another -----------------------------------------------------


@jax.custom_vjp
def rounded(x):
    return jnp.round(x)


rounded.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))


@jax.custom_vjp
def signed(x):
    """±1; the gradient passes where |x| ≤ 1."""
    return jnp.where(x >= 0, 1, -1).astype(x.dtype)


signed.defvjp(lambda x: (signed(x), x), lambda x, g: (jnp.where(jnp.abs(x) <= 1, g, 0),))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def reversed_gradient(x, strength):
    return x


reversed_gradient.defvjp(lambda x, s: (x, None), lambda s, _, g: (-s * g,))


@jax.custom_vjp
def quantised(x, step):
    """Learned step size (Esser et al. 2020): to integers from −4 to 3."""
    return jnp.clip(jnp.round(x / step), -4, 3) * step


def _quantised_slopes(x, step):
    z = x / step
    inside = (z >= -4) & (z <= 3)
    return inside, jnp.where(inside, jnp.round(z) - z, jnp.clip(z, -4, 3))


def _quantised_bwd(kept, g):
    inside, slope = _quantised_slopes(*kept)
    return jnp.where(inside, g, 0), jnp.sum(g * slope)


quantised.defvjp(lambda x, s: (quantised(x, s), (x, s)), _quantised_bwd)


def _hard_choice(logits):
    """One-hot forward, softmax backward, by stop_gradient alone."""
    soft = jax.nn.softmax(logits, -1)
    hard = jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=logits.dtype)
    return soft + lax.stop_gradient(hard - soft)


def _soft_choice(g, logits):
    return jax.vjp(lambda x: jax.nn.softmax(x, -1), logits)[1](g)


@jax.custom_vjp
def straight_spike(v):
    """A spike, and a surrogate slope (Zenke & Ganguli 2018)."""
    return (v > 0).astype(v.dtype)


straight_spike.defvjp(
    lambda v: (straight_spike(v), v), lambda v, g: (g / (10 * jnp.abs(v) + 1) ** 2,)
)


def _expects(expect):
    return {"expect": expect}


INTENDED: tuple[Function, ...] = (
    Function(
        "round, straight through", rounded, of((7,), scale=3), settings=_expects(lambda g, x: (g,))
    ),
    Function(
        "sign, straight through",
        signed,
        of((9,)),
        settings=_expects(lambda g, x: (jnp.where(jnp.abs(x) <= 1, g, 0),)),
    ),
    Function(
        "gradient reversed",
        lambda x: reversed_gradient(x, 0.3),
        of((4, 3)),
        settings=_expects(lambda g, x: (-0.3 * g,)),
    ),
    Function(
        "quantiser of a learned step",
        quantised,
        lambda rng, dtype: (normal(rng, dtype, 11), jnp.asarray(0.3, dtype)),
        settings=_expects(
            lambda g, x, s: (
                jnp.where(_quantised_slopes(x, s)[0], g, 0),
                jnp.sum(g * _quantised_slopes(x, s)[1]),
            )
        ),
    ),
    Function(
        "hard choice, soft gradient", _hard_choice, of((4, 5)), settings=_expects(_soft_choice)
    ),
    Function(
        "spike",
        straight_spike,
        of((9,)),
        settings=_expects(lambda g, v: (g / (10 * jnp.abs(v) + 1) ** 2,)),
    ),
)
