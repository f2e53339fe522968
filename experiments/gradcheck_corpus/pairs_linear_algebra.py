"""Rules of linear algebra and transforms: solving, inverses, determinants, Fourier."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from experiments.gradcheck_corpus.kinds import Mistake, Pair, normal
from experiments.gradcheck_corpus.pairs_tools import kept, normals, of


def _well_conditioned(rng, dtype, n):
    return normal(rng, dtype, n, n) + 2 * n**0.5 * jnp.eye(n, dtype=dtype)


def _positive(rng, dtype, n):
    a = rng.normal(size=(n, n + 2))
    return jnp.asarray(a @ a.T / n, dtype)


def _solve(a, b):
    return jnp.linalg.solve(a, b)


def _solve_with(turned=True, sign=-1.0, order="right"):
    def bwd(a, b, g):
        db = jnp.linalg.solve(a.T if turned else a, g)
        y = _solve(a, b)
        return sign * (jnp.outer(db, y) if order == "right" else jnp.outer(y, db)), db

    return kept(_solve, bwd)


SOLVE = Pair(
    "linear system", _solve_with(),
    lambda rng, dtype: (_well_conditioned(rng, dtype, 4), normal(rng, dtype, 4)),
    {
        "matrix not transposed": Mistake(_solve_with(turned=False), "args"),
        "sign": Mistake(_solve_with(sign=1.0), "args[0]", "the sign"),
        "outer product turned": Mistake(
            _solve_with(order="wrong"), "args[0]", r"the right gradient transposed, axes \(1, 0\)"
        ),
    },
)  # fmt: skip


def _inverse_with(form):
    return of(jnp.linalg.inv, lambda a, g: form(jnp.linalg.inv(a), g))


INVERSE = Pair(
    "inverse", _inverse_with(lambda b, g: -b.T @ g @ b.T),
    lambda rng, dtype: (_well_conditioned(rng, dtype, 5),),
    {
        "not transposed": Mistake(_inverse_with(lambda b, g: -b @ g @ b)),
        "of the forward's form": Mistake(_inverse_with(lambda b, g: -b.T @ g.T @ b.T)),
        "sign": Mistake(_inverse_with(lambda b, g: b.T @ g @ b.T), diagnosis="the sign"),
    },
)  # fmt: skip


def _log_det(a):
    return jnp.linalg.slogdet(a)[1]


LOG_DET = Pair(
    "logarithm of a determinant", of(_log_det, lambda a, g: g * jnp.linalg.inv(a).T),
    lambda rng, dtype: (_well_conditioned(rng, dtype, 4),),
    {
        "not transposed": Mistake(
            of(_log_det, lambda a, g: g * jnp.linalg.inv(a)),
            diagnosis=r"the right gradient transposed, axes \(1, 0\)",
        ),
        "of the determinant": Mistake(
            of(_log_det, lambda a, g: g * jnp.linalg.det(a) * jnp.linalg.inv(a).T),
            diagnosis="times the right gradient",
        ),
    },
)  # fmt: skip


def _quadratic(x, a):
    return x @ a @ x


def _quadratic_with(form, outer=jnp.outer):
    return kept(_quadratic, lambda x, a, g: (g * form(x, a), g * outer(x, x)))


QUADRATIC = Pair(
    "quadratic form", _quadratic_with(lambda x, a: a @ x + x @ a),
    lambda rng, dtype: (normal(rng, dtype, 5), _positive(rng, dtype, 5)),
    {
        "as if symmetric": Mistake(_quadratic_with(lambda x, a: 2 * a @ x), "args[0]"),
        "one side alone": Mistake(
            _quadratic_with(lambda x, a: a @ x), "args[0]", r"0\.5 times the right gradient: 1/2"
        ),
    },
)  # fmt: skip


def _factor(a):
    return jnp.linalg.cholesky(a, symmetrize_input=False)


def _cholesky(a):
    return _factor((a + a.T) / 2)


def _cholesky_with(half=0.5, symmetric=True):
    def bwd(a, g):
        low = _cholesky(a)
        phi = jnp.tril(low.T @ jnp.tril(g))
        phi = phi - (1 - half) * jnp.diag(jnp.diag(phi))
        inner = lax.linalg.triangular_solve(low, phi, lower=True, transpose_a=True, left_side=True)
        da = lax.linalg.triangular_solve(low, inner, lower=True, left_side=False)
        return ((da + da.T) / 2 if symmetric else da,)

    return kept(_cholesky, bwd)


CHOLESKY = Pair(
    "Cholesky factor", _cholesky_with(), lambda rng, dtype: (_positive(rng, dtype, 4),),
    {
        "diagonal not halved": Mistake(_cholesky_with(half=1.0)),
        "not made symmetric": Mistake(_cholesky_with(symmetric=False)),
    },
)  # fmt: skip


def _spectrum(x):
    """Power of each frequency of a real signal."""
    f = jnp.fft.rfft(x)
    return f.real**2 + f.imag**2


def _spectrum_with(twice=False, conjugate=True, factor=2.0):
    def bwd(x, g):
        f = jnp.fft.rfft(x)
        w = factor * g * (f if conjugate else f.conj())
        n = len(x)
        if not twice:  # irfft counts the inner frequencies two times
            inner = jnp.arange(len(g)) > 0
            inner &= jnp.arange(len(g)) < (n + 1) // 2
            w = jnp.where(inner, w / 2, w)
        return (n * jnp.fft.irfft(w, n),)

    return kept(_spectrum, bwd)


SPECTRUM = Pair(
    "power spectrum", _spectrum_with(), normals((9,)),
    {
        "inner frequencies twice": Mistake(_spectrum_with(twice=True)),
        "conjugate": Mistake(_spectrum_with(conjugate=False), source="ChainRules.jl#600"),
        "2 forgotten": Mistake(
            _spectrum_with(factor=1.0), diagnosis=r"0\.5 times the right gradient: 1/2"
        ),
    },
)  # fmt: skip


def _circular(x, k):
    """Circular convolution."""
    return jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(k), x.shape[0])


def _circular_with(conj=jnp.conj):
    def back(g, other):
        return jnp.fft.irfft(jnp.fft.rfft(g) * conj(jnp.fft.rfft(other)), g.shape[0])

    return kept(_circular, lambda x, k, g: (back(g, k), jax.vjp(_circular, x, k)[1](g)[1]))


CIRCULAR = Pair(
    "circular convolution", _circular_with(), normals((8,), (8,)),
    {"conjugate missing": Mistake(_circular_with(lambda f: f), "args[0]",
                                  source="ChainRules.jl#600")},
)  # fmt: skip


def _distances(x, y):
    return ((x[:, None] - y[None]) ** 2).sum(-1)


def _distances_with(dx=lambda x, y, g: 2 * (g.sum(1)[:, None] * x - g @ y), sign=-1.0, axis=0):
    return kept(_distances, lambda x, y, g: (
        dx(x, y, g), sign * 2 * (g.T @ x - g.sum(axis)[:, None] * y)))  # fmt: skip


DISTANCES = Pair(
    "squared distances", _distances_with(), normals((5, 3), (5, 3)),
    {
        "sign of the second": Mistake(_distances_with(sign=1.0), "args[1]", "the sign"),
        "sum over the wrong axis": Mistake(_distances_with(axis=1), "args[1]"),
        "mixed term by half": Mistake(
            _distances_with(dx=lambda x, y, g: 2 * g.sum(1)[:, None] * x - g @ y), "args[0]"
        ),
    },
)  # fmt: skip


def _trace(a, b):
    return jnp.trace(a @ b)


TRACE = Pair(
    "trace of a product", kept(_trace, lambda a, b, g: (g * b.T, g * a.T)), normals((4, 4), (4, 4)),
    {
        "not transposed": Mistake(
            kept(_trace, lambda a, b, g: (g * b, g * a.T)), "args[0]",
            r"the right gradient transposed, axes \(1, 0\)",
        ),
        "product's rule": Mistake(
            kept(_trace, lambda a, b, g: (g * b.T, g * b.T)), "args[1]",
            r"the gradient of args\[0\]",
        ),
    },
)  # fmt: skip

PAIRS = (
    SOLVE, INVERSE, LOG_DET, QUADRATIC, CHOLESKY, SPECTRUM, CIRCULAR, DISTANCES, TRACE,
)  # fmt: skip
