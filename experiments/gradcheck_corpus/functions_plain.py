"""Functions without a rule by hand: JAX's own derivative is what is judged.

Among them are the hard ones: kinks and ties, functions near the edge of their domain, cancellation,
entries of all sizes, gradients that vanish.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.gradcheck_corpus.functions_draw import (
    NO_BFLOAT16_LINALG,
    WIDE,
    between,
    definite,
    distinct,
    integers,
    normal,
    of,
    positive,
    regular,
)
from experiments.gradcheck_corpus.kinds import Function


def _guarded_root(x):
    """0 below 0, and no NaN from the branch that is not taken."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)


def _spread(rng, dtype):
    """Entries from 1e-6 to 1e6."""
    return (jnp.asarray(10.0 ** rng.uniform(-6, 6, 9) * rng.choice([-1, 1], 9), dtype),)


def _tied(rng, dtype):
    """Every row's maximum stands in it twice."""
    x = rng.normal(size=(4, 6))
    x[:, 4] = x[:, 1] = 3.0
    return (jnp.asarray(x, dtype),)


def _with_zeros(rng, dtype):
    return (normal(rng, dtype, 8).at[jnp.array([2, 5])].set(0),)


def _one_zero(rng, dtype):
    return (normal(rng, dtype, 6).at[3].set(0),)


def _alternating(x):
    """A sum whose terms cancel to a thousandth."""
    return jnp.sum(x * (1 + 1e-3 * jnp.arange(x.size)) * (-1) ** jnp.arange(x.size))


def _mean_field(x):
    def step(z, _):
        return jnp.tanh(0.5 * z @ x), None

    return lax.scan(step, jnp.ones_like(x[0]), None, length=5)[0]


def _logistic(x, r):
    return lax.fori_loop(0, 6, lambda _, x: r * x * (1 - x), x)


def _sinkhorn(x):
    """Rows and columns normalised in turn, in logarithms."""
    for _ in range(4):
        x = x - jax.nn.logsumexp(x, 1, keepdims=True)
        x = x - jax.nn.logsumexp(x, 0, keepdims=True)
    return jnp.exp(x)


def _soft_alignment(d):
    """Soft dynamic time warping of a small cost matrix."""
    n, m = d.shape
    table = {(-1, -1): jnp.zeros((), d.dtype)}
    for i in range(n):
        for j in range(m):
            near = [table[k] for k in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if k in table]
            table[i, j] = d[i, j] - jax.nn.logsumexp(-jnp.stack(near))
    return table[n - 1, m - 1]


def _kalman(q, r, ys):
    def step(carry, y):
        m, p = carry
        p = p + q
        gain = p / (p + r)
        m = m + gain * (y - m)
        return (m, (1 - gain) * p), 0.5 * ((y - m) ** 2 / (p + r) + jnp.log(p + r))

    return lax.scan(step, (jnp.zeros_like(q), jnp.ones_like(q)), ys)[1].sum()


def _spectrum(x):
    f = jnp.fft.rfft(x)
    return jnp.real(f) ** 2 + jnp.imag(f) ** 2


def _filter_args(rng, dtype):
    return positive(rng, dtype), positive(rng, dtype), normal(rng, dtype, 7)


_NO_FFT = "the FFT has no bfloat16"
_SMALL = "in bfloat16 the digits that do not cancel are not there"

PLAIN: tuple[Function, ...] = (
    Function(
        "plain: sort", lambda x: jnp.sort(x, -1) * jnp.arange(1.0, 6, dtype=x.dtype), of((3, 5))
    ),
    Function("plain: cumprod with a zero", lambda x: jnp.cumprod(x), _one_zero),
    Function("plain: prod with two zeros", lambda x: jnp.prod(x), _with_zeros),
    Function("plain: norm", lambda x: jnp.linalg.norm(x, axis=-1), of((4, 3))),
    Function("plain: variance far from 0", lambda x: jnp.var(x), of((9,), shift=100), WIDE, _SMALL),
    Function("plain: logsumexp", lambda x: jax.nn.logsumexp(x, 0), of((6, 3), scale=20)),
    Function("plain: clip", lambda x: jnp.clip(x, -0.5, 0.8), of((13,))),
    Function("plain: abs with zeros", lambda x: jnp.abs(x), _with_zeros),
    Function("plain: max with ties", lambda x: x.max(-1), _tied),
    Function("plain: guarded root", _guarded_root, of((11,))),
    Function("plain: erfinv", lambda x: lax.erf_inv(x), between(-0.999, 0.999, (9,))),
    Function(
        "plain: large offset",
        lambda x: 1e6 + x**2,
        of((6,)),
        ("float64",),
        "in float32 and bfloat16 x² is lost beside 1e6",
    ),
    Function("plain: tiny scale", lambda x: 1e-12 * jnp.sin(x), of((7,))),
    Function("plain: tiny arguments", lambda x: x**2, of((5,), scale=1e-9)),
    Function("plain: arguments near 100", lambda x: jnp.sin(x) * x, of((6,), shift=100, scale=3)),
    Function("plain: arguments of −100 to 100", lambda x: jnp.tanh(x) + x**3, of((8,), scale=100)),
    Function("plain: entries of all sizes", lambda x: x * jnp.abs(x), _spread),
    Function("plain: log of entries of all sizes", lambda x: jnp.log(jnp.abs(x)), _spread),
    Function("plain: an empty argument", lambda x, e: jnp.sin(x) + e.sum(), of((4,), (0,))),
    Function(
        "plain: axes of size 1",
        lambda x: jax.nn.softmax(x, 1) * x.sum(2, keepdims=True),
        of((1, 4, 1)),
    ),
    Function("plain: scalar", lambda x: jnp.exp(-x * x), of(())),
    Function("plain: 4 axes", lambda x: jnp.sum(jnp.tanh(x), (1, 3)), of((2, 3, 4, 5))),
    Function("plain: 10⁴ entries", lambda x: jnp.sum(x**3) / x.size, of((101, 99))),
    Function("plain: linear", lambda x: jnp.cumsum(x) - 2 * x[::-1], of((9,))),
    Function(
        "plain: constant in one argument", lambda x, y: jnp.sin(x) + 0 * y.sum(), of((5,), (3,))
    ),
    Function("plain: rounded part", lambda x: x + jnp.round(x), of((7,))),
    Function(
        "plain: zero gradient in part", lambda x: jax.nn.relu(x[:4]) + jnp.floor(x[4:]), of((8,))
    ),
    Function("plain: cancelling sum", _alternating, of((20,)), WIDE, _SMALL),
    Function(
        "plain: log1p of small", lambda x: jnp.log1p(x) / x, of((6,), scale=1e-3), WIDE, _SMALL
    ),
    Function("plain: cube at 0", lambda x: x**3, _with_zeros),
    Function("plain: |x|^1.5", lambda x: jnp.abs(x) ** 1.5, of((8,))),
    Function("plain: exp, large", lambda x: jnp.exp(x), between(-40, 40, (7,))),
    Function(
        "plain: median",
        lambda x: jnp.median(x, -1),
        lambda rng, dtype: (distinct(rng, dtype, 3, 6),),
    ),
    Function(
        "plain: quantile",
        lambda x: jnp.quantile(x, jnp.asarray(0.3, x.dtype)),
        lambda rng, dtype: (distinct(rng, dtype, 9),),
        WIDE,
        "jnp.quantile takes float32 or float64",
    ),
    Function(
        "plain: interp",
        lambda x, y: jnp.interp(x, jnp.arange(5, dtype=y.dtype), y),
        lambda rng, dtype: (jnp.asarray(rng.uniform(0.1, 3.9, 7), dtype), normal(rng, dtype, 5)),
        WIDE,
        "jnp.interp has no bfloat16",
    ),
    Function("plain: atan2", lambda y, x: jnp.arctan2(y, x), of((7,), (7,))),
    Function("plain: polyval", lambda c, x: jnp.polyval(c, x), of((4,), (6,))),
    Function(
        "plain: gather with duplicates",
        lambda x, i: x[i] ** 2,
        lambda rng, dtype: (normal(rng, dtype, 5, 2), integers(rng, 5, 9)),
    ),
    Function(
        "plain: scatter max",
        lambda x, u, i: x.at[i].max(u),
        lambda rng, dtype: (
            normal(rng, dtype, 6),
            normal(rng, dtype, 4),
            jnp.asarray([0, 2, 3, 5]),
        ),
    ),
    Function("plain: einsum", lambda a, b: jnp.einsum("ijk,kl->jil", a, b), of((2, 3, 4), (4, 5))),
    Function("plain: convolution", lambda x, k: jnp.convolve(x, k, mode="same"), of((9,), (3,))),
    Function("plain: loop of products", _mean_field, of((4, 4), scale=0.7)),
    Function(
        "plain: logistic map",
        _logistic,
        lambda rng, dtype: (jnp.asarray(rng.uniform(0.1, 0.9, 5), dtype), jnp.asarray(2.5, dtype)),
    ),
    Function("plain: sinkhorn", _sinkhorn, of((4, 3))),
    Function(
        "plain: soft alignment", _soft_alignment, lambda rng, dtype: (positive(rng, dtype, 3, 4),)
    ),
    Function("plain: kalman", _kalman, _filter_args),
    Function("plain: checkpointed", jax.checkpoint(lambda x: jnp.sin(jnp.exp(x) * x)), of((6,))),
    Function("plain: softmax of 4 axes", lambda x: jax.nn.softmax(x, 2), of((2, 1, 5, 3))),
    Function("plain: gelu", jax.nn.gelu, of((9,))),
    Function("plain: log gamma", lambda x: lax.lgamma(x), between(0.5, 30, (7,))),
    Function("plain: spectrum", _spectrum, of((2, 9)), WIDE, _NO_FFT),
    Function(
        "plain: determinant",
        lambda a: jnp.linalg.det(a),
        lambda rng, dtype: (regular(rng, dtype, 4),),
        WIDE,
        NO_BFLOAT16_LINALG,
    ),
    Function(
        "plain: log determinant",
        lambda a: jnp.linalg.slogdet(a)[1],
        lambda rng, dtype: (regular(rng, dtype, 3),),
        WIDE,
        NO_BFLOAT16_LINALG,
    ),
    Function(
        "plain: eigenvalues",
        lambda a: jnp.linalg.eigvalsh(a + a.T),
        of((4, 4)),
        WIDE,
        NO_BFLOAT16_LINALG,
    ),
    Function(
        "plain: singular values",
        lambda a: jnp.linalg.svd(a, compute_uv=False),
        of((3, 5)),
        WIDE,
        NO_BFLOAT16_LINALG,
    ),
    Function(
        "plain: cholesky",
        lambda a: jnp.linalg.cholesky(a),
        lambda rng, dtype: (definite(rng, dtype, 3),),
        WIDE,
        NO_BFLOAT16_LINALG,
    ),
    Function("plain: qr", lambda a: jnp.linalg.qr(a)[1], of((5, 3)), WIDE, NO_BFLOAT16_LINALG),
    Function(
        "plain: matrix exponential",
        lambda a: jax.scipy.linalg.expm(a),
        of((3, 3), scale=0.5),
        WIDE,
        NO_BFLOAT16_LINALG,
    ),
    Function(
        "plain: inverse, ill-conditioned",
        lambda a: jnp.linalg.inv(a @ np.diag([1.0, 1e-2, 1e-4]).astype(a.dtype)),
        lambda rng, dtype: (regular(rng, dtype, 3),),
        ("float64",),
        "in float32 the inverse keeps two digits; no bfloat16",
    ),
)
