"""Solutions by iteration, and branches, with rules by hand."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.gradcheck_corpus.functions_draw import (
    between,
    from_inputs,
    normal,
    of,
    positive,
    ruled,
)
from experiments.gradcheck_corpus.kinds import Function

# --- solutions by iteration ---------------------------------------------------------------------


@jax.custom_vjp
def square_root(a):
    """Newton's iteration in a while loop, which has no reverse mode of its own; NaN below 0."""
    tolerance = 4 * jnp.finfo(a.dtype).eps
    start = jnp.maximum(a, 1)

    def go(state):
        x, last, n = state
        return jnp.any(jnp.abs(x - last) > tolerance * x) & (n < 60)

    def step(state):
        x, _, n = state
        return (x + a / x) / 2, x, n + 1

    root = lax.while_loop(go, step, (start, 2 * start, 0))[0]
    return jnp.where(a < 0, jnp.nan, root)


def _square_root_fwd(a):
    y = square_root(a)
    return y, y


square_root.defvjp(_square_root_fwd, lambda y, g: (g / (2 * y),))


def _equilibrium(w, x):
    """z = tanh(w·z + x), by iteration; NaN where that has not come to rest: there is no z."""
    step = lambda _, z: jnp.tanh(w @ z + x)  # noqa: E731
    z = lax.fori_loop(0, 80, step, jnp.zeros_like(x))
    moves = jnp.abs(step(0, z) - z).max()
    return jnp.where(moves <= 8 * jnp.finfo(z.dtype).eps, z, jnp.nan)


def _equilibrium_fwd(w, x):
    z = _equilibrium(w, x)
    return z, (w, z)


def _equilibrium_bwd(kept, g):
    """u = g + wᵀ·D·u with D = 1 − z², by iteration too."""
    w, z = kept
    d = 1 - z * z
    u = lax.fori_loop(0, 80, lambda _, u: g + w.T @ (d * u), g)
    return jnp.outer(d * u, z), d * u


def _kepler(m, e):
    """E − e·sin E = M, by Newton's method."""
    step = lambda _, x: x - (x - e * jnp.sin(x) - m) / (1 - e * jnp.cos(x))  # noqa: E731
    return lax.fori_loop(0, 12, step, m + e * jnp.sin(m))


def _kepler_fwd(m, e):
    x = _kepler(m, e)
    return x, (x, e)


def _kepler_bwd(kept, g):
    x, e = kept
    d = g / (1 - e * jnp.cos(x))
    return d, jnp.sum(d * jnp.sin(x))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def euler(field, x, theta):
    """Twenty explicit Euler steps of ẋ = field(x, θ)."""
    return lax.scan(lambda x, _: (x + 0.05 * field(x, theta), x), x, None, length=20)[0]


def _euler_fwd(field, x, theta):
    last, path = lax.scan(lambda x, _: (x + 0.05 * field(x, theta), x), x, None, length=20)
    return last, (path, theta)


def _euler_bwd(field, kept, g):
    """The discrete adjoint: each step's transpose, from the back."""
    path, theta = kept

    def step(carry, x):
        a, d = carry
        a_x, a_theta = jax.vjp(field, x, theta)[1](0.05 * a)
        return (a + a_x, d + a_theta), None

    return lax.scan(step, (g, jnp.zeros_like(theta)), path, reverse=True)[0]


euler.defvjp(_euler_fwd, _euler_bwd)


def _predator(x, theta):
    return jnp.stack([theta[0] * x[0] - theta[1] * x[0] * x[1], theta[2] * x[0] * x[1] - x[1]])


# --- branches and counted loops -----------------------------------------------------------------


def _horner(c, x):
    return lax.scan(lambda y, k: (y * x + k, None), jnp.zeros_like(x), c, reverse=True)[0]


def _horner_bwd(g, c, x):
    powers = x[None] ** jnp.arange(c.shape[0], dtype=x.dtype)[:, None]
    slopes = c[1:] * jnp.arange(1, c.shape[0]).astype(c.dtype)
    return powers @ g, g * _horner(slopes, x)


def _power(x, n):
    """xⁿ for an integer n that is known only at run time."""
    return lax.fori_loop(0, n, lambda _, y: y * x, jnp.ones_like(x))


def _by_sign(x):
    return lax.cond(x.sum() > 0, lambda x: x**2, lambda x: jnp.sin(x), x)


def _by_index_bwd(g, x, i):
    branches = [lambda: jnp.cos(x), lambda: jnp.exp(x), lambda: 3 * x * x]
    return g * lax.switch(i, branches), None


def _by_index(x, i):
    return lax.switch(i, [jnp.sin, jnp.exp, lambda x: x**3], x)


def _orbit(rng, dtype):
    return jnp.asarray(rng.uniform(0, 6, 7), dtype), jnp.asarray(rng.uniform(0.1, 0.7), dtype)


def _contraction(rng, dtype):
    """Weights of norm 0.6, so that there is an equilibrium."""
    w = rng.normal(size=(4, 4))
    return jnp.asarray(0.6 * w / np.linalg.norm(w, 2), dtype), normal(rng, dtype, 4)


ITERATION: tuple[Function, ...] = (
    Function("square root by iteration", square_root, between(0.2, 9, (6,))),
    Function(
        "equilibrium",
        ruled(_equilibrium, _equilibrium_fwd, _equilibrium_bwd),
        _contraction,
    ),
    Function("kepler", ruled(_kepler, _kepler_fwd, _kepler_bwd), _orbit),
    Function(
        "euler steps",
        lambda x, t: euler(_predator, x, t),
        lambda rng, dtype: (positive(rng, dtype, 2), positive(rng, dtype, 3)),
    ),
    Function("polynomial", from_inputs(_horner, _horner_bwd), of((5,), (7,))),
    Function(
        "integer power",
        from_inputs(_power, lambda g, x, n: (g * n.astype(x.dtype) * _power(x, n - 1), None)),
        lambda rng, dtype: (normal(rng, dtype, 5), jnp.int32(4)),
    ),
    Function(
        "branch by sign",
        from_inputs(
            _by_sign,
            lambda g, x: (lax.cond(x.sum() > 0, lambda: 2 * x * g, lambda: jnp.cos(x) * g),),
        ),
        of((4,)),
    ),
    Function(
        "branch by index",
        from_inputs(_by_index, _by_index_bwd),
        lambda rng, dtype: (normal(rng, dtype, 6), jnp.int32(2)),
    ),
)
