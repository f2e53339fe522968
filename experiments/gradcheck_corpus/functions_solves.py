"""Solves and factorisations with rules by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from experiments.gradcheck_corpus.functions_draw import (
    NO_BFLOAT16_LINALG,
    WIDE,
    definite,
    from_inputs,
    normal,
    of,
    regular,
    ruled,
)
from experiments.gradcheck_corpus.kinds import Function, MakeArgs, Rule


def _inverse_fwd(a):
    y = jnp.linalg.inv(a)
    return y, y


def _solve_fwd(a, b):
    x = jnp.linalg.solve(a, b)
    return x, (a, x)


def _solve_bwd(kept, g):
    a, x = kept
    db = jnp.linalg.solve(a.T, g)
    return -db @ x.T, db


def _triangular(a, b):
    return solve_triangular(a, b, lower=True)


def _triangular_fwd(a, b):
    x = _triangular(a, b)
    return x, (a, x)


def _triangular_bwd(kept, g):
    a, x = kept
    db = solve_triangular(a, g, lower=True, trans=1)
    return jnp.tril(-db @ x.T), db


def _cholesky(a):
    return jnp.linalg.cholesky((a + a.T) / 2, symmetrize_input=False)


def _cholesky_fwd(a):
    y = _cholesky(a)
    return y, y


def _cholesky_bwd(y, g):
    """Murray (2016, arXiv:1602.07527), equation 10."""
    phi = jnp.tril(y.T @ g)
    phi = phi - jnp.diag(jnp.diag(phi)) / 2
    half = solve_triangular(y, phi, lower=True, trans=1)
    s = solve_triangular(y, half.T, lower=True, trans=1).T
    return ((s + s.T) / 2,)


def _log_det(a):
    return jnp.linalg.slogdet(a)[1]


def _det(a):
    if a.shape != (3, 3):
        raise ValueError(f"determinant: a must be of shape (3, 3), got {a.shape}")
    return jnp.linalg.det(a)


def _cofactors(a):
    """Not det(a)·a⁻ᵀ, which a singular matrix does not have."""
    return jnp.stack([jnp.cross(a[1], a[2]), jnp.cross(a[2], a[0]), jnp.cross(a[0], a[1])])


def _eigenvalues(a):
    return jnp.linalg.eigvalsh((a + a.T) / 2)


def _eigenvalues_fwd(a):
    values, vectors = jnp.linalg.eigh((a + a.T) / 2)
    return values, vectors


def _nuclear_fwd(a):
    u, s, vt = jnp.linalg.svd(a, full_matrices=False)
    return s.sum(), u @ vt


def _square_root(a):
    values, vectors = jnp.linalg.eigh((a + a.T) / 2)
    return (vectors * jnp.sqrt(values)) @ vectors.T


def _square_root_fwd(a):
    values, vectors = jnp.linalg.eigh((a + a.T) / 2)
    roots = jnp.sqrt(values)
    return (vectors * roots) @ vectors.T, (roots, vectors)


def _square_root_bwd(kept, g):
    """Y·dY + dY·Y = dA, in the basis of the eigenvectors."""
    roots, vectors = kept
    inner = vectors.T @ g @ vectors / (roots[:, None] + roots)
    s = vectors @ inner @ vectors.T
    return ((s + s.T) / 2,)


def _mahalanobis(x, a):
    return jnp.sum(x * jnp.linalg.solve(a, x.T).T, -1)


def _mahalanobis_bwd(g, x, a):
    y, z = jnp.linalg.solve(a, x.T).T, jnp.linalg.solve(a.T, x.T).T
    return g[:, None] * (y + z), -(z * g[:, None]).T @ y


def _ridge(x, y):
    return jnp.linalg.solve(x.T @ x + 0.1 * jnp.eye(x.shape[1], dtype=x.dtype), x.T @ y)


def _ridge_bwd(g, x, y):
    m = x.T @ x + 0.1 * jnp.eye(x.shape[1], dtype=x.dtype)
    w, u = jnp.linalg.solve(m, x.T @ y), jnp.linalg.solve(m, g)
    return (y - x @ w) @ u.T - x @ u @ w.T, x @ u


def _tridiagonal(lower, middle, upper, b):
    """A tridiagonal system by elimination (Thomas), in two scans."""

    def down(carry, row):
        c, d = carry
        low, mid, up, right = row
        pivot = mid - low * c
        new = up / pivot, (right - low * d) / pivot
        return new, new

    zero = jnp.zeros_like(b[0])
    _, (c, d) = jax.lax.scan(down, (zero, zero), (lower, middle, upper, b))

    def back(x, row):
        x = row[1] - row[0] * x
        return x, x

    return jax.lax.scan(back, zero, (c, d), reverse=True)[1]


def _tridiagonal_fwd(lower, middle, upper, b):
    x = _tridiagonal(lower, middle, upper, b)
    return x, (lower, middle, upper, x)


def _tridiagonal_bwd(kept, g):
    """The adjoint system is the transposed one; lower[0] and upper[-1] are not used."""
    lower, middle, upper, x = kept
    zero = jnp.zeros_like(g[:1])
    db = _tridiagonal(jnp.concatenate([zero, upper[:-1]]), middle,
                      jnp.concatenate([lower[1:], zero]), g)  # fmt: skip
    d_lower = jnp.concatenate([zero, -db[1:] * x[:-1]])
    d_upper = jnp.concatenate([-db[:-1] * x[1:], zero])
    return d_lower, -db * x, d_upper, db


def _system(rng, dtype):
    return regular(rng, dtype, 4), normal(rng, dtype, 4, 3)


def _tridiagonal_args(rng, dtype):
    bands = (normal(rng, dtype, 7), 4 + normal(rng, dtype, 7), normal(rng, dtype, 7))
    return *bands, normal(rng, dtype, 7)


def _factored(name: str, f: Rule, make_args: MakeArgs) -> Function:
    return Function(name, f, make_args, WIDE, NO_BFLOAT16_LINALG)


def _one(draw, size):
    """One such matrix as the only argument."""
    return lambda rng, dtype: (draw(rng, dtype, size),)


SOLVES: tuple[Function, ...] = (
    _factored(
        "inverse",
        ruled(jnp.linalg.inv, _inverse_fwd, lambda y, g: (-y.T @ g @ y.T,)),
        _one(regular, 4),
    ),
    _factored("solve", ruled(jnp.linalg.solve, _solve_fwd, _solve_bwd), _system),
    _factored("triangular solve", ruled(_triangular, _triangular_fwd, _triangular_bwd), _system),
    _factored("cholesky", ruled(_cholesky, _cholesky_fwd, _cholesky_bwd), _one(definite, 4)),
    _factored(
        "log determinant",
        from_inputs(_log_det, lambda g, a: (g * jnp.linalg.inv(a).T,)),
        _one(regular, 5),
    ),
    _factored(
        "determinant", from_inputs(_det, lambda g, a: (g * _cofactors(a),)), _one(regular, 3)
    ),
    _factored(
        "eigenvalues",
        ruled(_eigenvalues, _eigenvalues_fwd, lambda v, g: ((v * g) @ v.T,)),
        lambda rng, dtype: (normal(rng, dtype, 5, 5),),
    ),
    _factored(
        "nuclear norm",
        ruled(
            lambda a: jnp.linalg.svd(a, compute_uv=False).sum(),
            _nuclear_fwd,
            lambda uv, g: (g * uv,),
        ),
        of((5, 3)),
    ),
    _factored(
        "symmetric square root",
        ruled(_square_root, _square_root_fwd, _square_root_bwd),
        _one(definite, 4),
    ),
    _factored(
        "mahalanobis",
        from_inputs(_mahalanobis, _mahalanobis_bwd),
        lambda rng, dtype: (normal(rng, dtype, 5, 3), regular(rng, dtype, 3)),
    ),
    _factored("ridge regression", from_inputs(_ridge, _ridge_bwd), of((9, 3), (9, 2))),
    Function(
        "tridiagonal solve",
        ruled(_tridiagonal, _tridiagonal_fwd, _tridiagonal_bwd),
        _tridiagonal_args,
    ),
)
