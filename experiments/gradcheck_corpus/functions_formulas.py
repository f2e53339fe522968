"""Formulas of the sciences with rules by hand."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
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
)
from experiments.gradcheck_corpus.kinds import Function


def _planck(x):
    """x³/(eˣ − 1)."""
    return x**3 / jnp.expm1(x)


def _planck_slope(x):
    """Without e²ˣ, which overflows long before the slope is 0."""
    e = jnp.expm1(x)
    return 3 * x * x / e + x**3 / e / jnp.expm1(-x)


# --- formulas -----------------------------------------------------------------------------------


def _pairs(x):
    d = x[:, None] - x[None]
    n = x.shape[0]
    r2 = (d * d).sum(-1) + jnp.eye(n, dtype=x.dtype)
    return d, r2, 1 - jnp.eye(n, dtype=x.dtype)


def _lennard_jones(x):
    _, r2, other = _pairs(x)
    s = r2**-3
    return 2 * (other * (s * s - s)).sum()


def _lennard_jones_bwd(g, x):
    d, r2, other = _pairs(x)
    s = r2**-3
    return (g * 4 * ((other * (6 * s - 12 * s * s) / r2)[..., None] * d).sum(1),)


def _coulomb(x, charge):
    _, r2, other = _pairs(x)
    return 0.5 * charge @ (other * lax.rsqrt(r2)) @ charge


def _coulomb_bwd(g, x, charge):
    d, r2, other = _pairs(x)
    potential = other * lax.rsqrt(r2)
    pull = charge[:, None] * charge * potential / r2
    return -g * (pull[..., None] * d).sum(1), g * potential @ charge


def _springs(x, stiffness, rest, ends):
    """Σ ½k(|xᵢ − xⱼ| − l)² over the bonds of a list of index pairs."""
    d = x[ends[:, 0]] - x[ends[:, 1]]
    return 0.5 * (stiffness * (jnp.sqrt((d * d).sum(-1)) - rest) ** 2).sum()


def _springs_bwd(g, x, stiffness, rest, ends):
    d = x[ends[:, 0]] - x[ends[:, 1]]
    length = jnp.sqrt((d * d).sum(-1))
    stretch = length - rest
    force = g * (stiffness * stretch / length)[:, None] * d
    dx = jnp.zeros_like(x).at[ends[:, 0]].add(force).at[ends[:, 1]].add(-force)
    return dx, 0.5 * g * stretch**2, -g * stiffness * stretch, None


def _morse_bwd(g, r, depth, width):
    e = jnp.exp(-width * (r - 1))
    dr = 2 * depth * width * e * (1 - e)
    return g * dr, (g * (1 - e) ** 2).sum(), (g * 2 * depth * e * (1 - e) * (r - 1)).sum()


def _haversine(a, b):
    """Of (latitude, longitude) in radians."""
    s = (jnp.sin((a[:, 0] - b[:, 0]) / 2) ** 2
         + jnp.cos(a[:, 0]) * jnp.cos(b[:, 0]) * jnp.sin((a[:, 1] - b[:, 1]) / 2) ** 2)  # fmt: skip
    return 2 * jnp.arcsin(jnp.sqrt(s)), s


def _haversine_bwd(g, a, b):
    _, s = _haversine(a, b)
    d = g / jnp.sqrt(s * (1 - s))
    turn = jnp.sin((a[:, 1] - b[:, 1]) / 2) ** 2
    lat = jnp.sin(a[:, 0] - b[:, 0]) / 2
    ca, cb, sa, sb = jnp.cos(a[:, 0]), jnp.cos(b[:, 0]), jnp.sin(a[:, 0]), jnp.sin(b[:, 0])
    lon = ca * cb * jnp.sin(a[:, 1] - b[:, 1]) / 2
    da = jnp.stack([d * (lat - sa * cb * turn), d * lon], -1)
    return da, jnp.stack([d * (-lat - ca * sb * turn), -d * lon], -1)


def _black_scholes(spot, strike, volatility):
    """A call of one year without interest."""
    d = jnp.log(spot / strike) / volatility + volatility / 2
    return spot * special.ndtr(d) - strike * special.ndtr(d - volatility)


def _black_scholes_bwd(g, spot, strike, volatility):
    d = jnp.log(spot / strike) / volatility + volatility / 2
    density = jnp.exp(-0.5 * d * d) / math.sqrt(2 * math.pi)
    return g * special.ndtr(d), -g * special.ndtr(d - volatility), g * spot * density


def _hill(x, k, n):
    """NaN without a threshold or an exponent, which are positive."""
    return jnp.where((k > 0) & (n > 0), x**n / (k**n + x**n), jnp.nan)


def _hill_bwd(g, x, k, n):
    """Without a division by x, which may be 0, and without 1 − y, which cancels."""
    total = k**n + x**n
    y, rest = x**n / total, k**n / total
    log = jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, k) / k), 0)
    dx = g * rest * n * x ** (n - 1) / total
    return dx, -(g * y * rest * n / k).sum(), (g * y * rest * log).sum()


def _arrhenius_bwd(g, rate, energy, temperature):
    e = jnp.exp(-energy / (8.314 * temperature))
    slope = g * rate * e / (8.314 * temperature)
    return (g * e).sum(), -slope.sum(), slope * energy / temperature


def _minmod(a, b):
    """The smaller slope where both have one sign, else 0."""
    return jnp.where(a * b > 0, jnp.where(jnp.abs(a) < jnp.abs(b), a, b), 0)


def _minmod_bwd(g, a, b):
    first = jnp.abs(a) < jnp.abs(b)
    g = jnp.where(a * b > 0, g, 0)
    return jnp.where(first, g, 0), jnp.where(first, 0, g)


def _lorentz(v):
    return lax.rsqrt(1 - (v * v).sum(-1))


def _bond_args(rng, dtype):
    ends = jnp.asarray([[0, 1], [1, 2], [2, 3], [3, 0], [0, 2], [1, 4]], jnp.int32)
    return normal(rng, dtype, 5, 3), positive(rng, dtype, 6), positive(rng, dtype, 6), ends


def _atoms(rng, dtype, n=4):
    grid = 1.3 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    return (jnp.asarray(grid[:n] + 0.15 * rng.normal(size=(n, 3)), dtype),)


def _places(rng, dtype):
    return tuple(jnp.asarray(rng.uniform(-1.2, 1.2, (5, 2)), dtype) for _ in range(2))


def _market(rng, dtype):
    return (
        positive(rng, dtype, 6),
        positive(rng, dtype, 6),
        jnp.asarray(rng.uniform(0.2, 0.6, 6), dtype),
    )


def _three(rng, dtype):
    return positive(rng, dtype, 7), positive(rng, dtype), positive(rng, dtype)


def _heat(rng, dtype):
    return (
        jnp.asarray(2e9, dtype),
        jnp.asarray(4.2e4, dtype),
        jnp.asarray(rng.uniform(250, 400, 5), dtype),
    )


_NO_BFLOAT16 = "jax.scipy.special has the normal distribution in float32 and float64 only"


FORMULAS: tuple[Function, ...] = (
    Function("planck", pointwise(_planck, _planck_slope), between(0.3, 9, (8,))),
    Function(
        "fermi",
        pointwise(
            lambda x: 1 / (jnp.exp(x) + 1), lambda x: -jax.nn.sigmoid(x) * jax.nn.sigmoid(-x)
        ),
        of((9,), scale=6),
    ),
    Function("lennard-jones", from_inputs(_lennard_jones, _lennard_jones_bwd), _atoms),
    Function(
        "coulomb",
        from_inputs(_coulomb, _coulomb_bwd),
        lambda rng, dtype: (*_atoms(rng, dtype, 5), normal(rng, dtype, 5)),
    ),
    Function("springs", from_inputs(_springs, _springs_bwd), _bond_args),
    Function(
        "morse",
        from_inputs(lambda r, d, a: d * (1 - jnp.exp(-a * (r - 1))) ** 2, _morse_bwd),
        _three,
    ),
    Function(
        "great circle", from_inputs(lambda a, b: _haversine(a, b)[0], _haversine_bwd), _places
    ),
    Function(
        "option price", from_inputs(_black_scholes, _black_scholes_bwd), _market, WIDE, _NO_BFLOAT16
    ),
    Function("hill", from_inputs(_hill, _hill_bwd), _three),
    Function(
        "arrhenius",
        from_inputs(lambda a, e, t: a * jnp.exp(-e / (8.314 * t)), _arrhenius_bwd),
        _heat,
    ),
    Function("minmod", from_inputs(_minmod, _minmod_bwd), of((11,), (11,))),
    Function(
        "lorentz factor",
        from_inputs(_lorentz, lambda g, v: ((g * _lorentz(v) ** 3)[:, None] * v,)),
        of((5, 3), scale=0.25),
    ),
)
