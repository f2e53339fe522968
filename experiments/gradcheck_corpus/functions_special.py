"""Special functions and formulas of the sciences with rules by hand."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import lax
from jax.scipy import special

from experiments.gradcheck_corpus.functions_draw import (
    WIDE,
    between,
    from_inputs,
    normal,
    of,
    pointwise,
    positive,
    ruled,
)
from experiments.gradcheck_corpus.kinds import Function

_ROOT_PI = math.sqrt(math.pi)


# --- special functions --------------------------------------------------------------------------


def _log_ndtr_slope(x):
    """φ(x)/Φ(x), without dividing two small numbers."""
    return jnp.exp(-0.5 * x * x - 0.5 * math.log(2 * math.pi) - special.log_ndtr(x))


def _beta_bwd(g, a, b):
    both = special.digamma(a + b)
    return g * (special.digamma(a) - both), g * (special.digamma(b) - both)


def _xlogy(x, y):
    """0 where both are 0."""
    nothing = (x == 0) & (y == 0)
    return x * jnp.log(jnp.where(nothing, 1, y))


def _xlogy_bwd(g, x, y):
    y = jnp.where((x == 0) & (y == 0), 1, y)
    return g * jnp.log(y), g * x / y


def _gammainc_bwd(g, a, x):
    """With respect to x; the shape is an integer."""
    a = a.astype(x.dtype)
    return None, g * jnp.exp((a - 1) * jnp.log(x) - x - special.gammaln(a))


def _lambert(x):
    """w·eʷ = x for x ≥ 0, by Halley's method."""

    def step(_, w):
        e = jnp.exp(w)
        r = w * e - x
        return w - r / (e * (w + 1) - (w + 2) * r / (2 * w + 2))

    return lax.fori_loop(0, 12, step, jnp.log1p(x))


def _lambert_fwd(x):
    w = _lambert(x)
    return w, (w, x)


def _legendre(x):
    """P₀ to P₅ by their recurrence."""
    p = [jnp.ones_like(x), x]
    for n in range(1, 5):
        p.append(((2 * n + 1) * x * p[-1] - n * p[-2]) / (n + 1))
    return jnp.stack(p)


def _legendre_bwd(g, x):
    """P′ₙ₊₁ = P′ₙ₋₁ + (2n + 1)·Pₙ."""
    p, d = _legendre(x), [jnp.zeros_like(x), jnp.ones_like(x)]
    for n in range(1, 5):
        d.append(d[-2] + (2 * n + 1) * p[n])
    return (sum(a * b for a, b in zip(g, d, strict=True)),)


def _i0e_slope(x):
    return special.i1e(x) - jnp.sign(x) * special.i0e(x)


_NO_BFLOAT16 = "jax.scipy.special has the normal distribution in float32 and float64 only"


SPECIAL: tuple[Function, ...] = (
    Function("erf", pointwise(lax.erf, lambda x: 2 / _ROOT_PI * jnp.exp(-x * x)), of((9,))),
    Function(
        "erfc", pointwise(lax.erfc, lambda x: -2 / _ROOT_PI * jnp.exp(-x * x)), of((7,), scale=2)
    ),
    Function(
        "erfinv",
        ruled(
            lambda x: lax.erf_inv(x),
            lambda x: ((y := lax.erf_inv(x)), y),
            lambda y, g: (g * _ROOT_PI / 2 * jnp.exp(y * y),),
        ),
        between(-0.95, 0.95, (8,)),
    ),
    Function(
        "log gamma",
        pointwise(lambda x: special.gammaln(x), lambda x: special.digamma(x)),
        between(0.2, 9, (9,)),
    ),
    Function(
        "digamma",
        pointwise(lambda x: special.digamma(x), lambda x: special.polygamma(1, x)),
        between(0.5, 6, (6,)),
    ),
    Function(
        "log beta",
        from_inputs(lambda a, b: special.betaln(a, b), _beta_bwd),
        between(0.3, 5, (6,), (6,)),
        # for large arguments JAX's own has nine digits
        settings={
            "ref": lambda a, b: special.gammaln(a) + special.gammaln(b) - special.gammaln(a + b)
        },
    ),
    Function(
        "log of the normal distribution",
        pointwise(lambda x: special.log_ndtr(x), _log_ndtr_slope),
        of((10,), scale=4),
        WIDE,
        _NO_BFLOAT16,
    ),
    Function(
        "normal quantile",
        ruled(
            lambda p: special.ndtri(p),
            lambda p: ((y := special.ndtri(p)), y),
            lambda y, g: (g * math.sqrt(2 * math.pi) * jnp.exp(y * y / 2),),
        ),
        between(0.05, 0.95, (7,)),
        WIDE,
        _NO_BFLOAT16,
    ),
    Function(
        "x·log y",
        from_inputs(_xlogy, _xlogy_bwd),
        lambda rng, dtype: (normal(rng, dtype, 8).at[2:4].set(0), positive(rng, dtype, 8)),
    ),
    Function(
        "incomplete gamma",
        from_inputs(lambda a, x: special.gammainc(a.astype(x.dtype), x), _gammainc_bwd),
        lambda rng, dtype: (jnp.asarray([1, 2, 3, 5, 2], jnp.int32), positive(rng, dtype, 5)),
    ),
    Function(
        "lambert w",
        ruled(_lambert, _lambert_fwd, lambda wx, g: (g / (jnp.exp(wx[0]) * (1 + wx[0])),)),
        between(0, 12, (7,)),
    ),
    Function("legendre", from_inputs(_legendre, _legendre_bwd), between(-1, 1, (6,))),
    Function("scaled bessel", pointwise(lambda x: special.i0e(x), _i0e_slope), of((9,), scale=3)),
)
