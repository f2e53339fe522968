"""Linear algebra with rules by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gradcheck_corpus.functions_draw import (
    WIDE,
    from_inputs,
    of,
    ruled,
)
from experiments.gradcheck_corpus.kinds import Function

# --- products -----------------------------------------------------------------------------------


def _dense(x, w, b):
    return x @ w + b


@jax.custom_vjp
def low_rank(x, w, a, b):
    """A frozen-size weight and a correction of low rank."""
    return x @ w + (x @ a) @ b


def _low_rank_fwd(x, w, a, b):
    h = x @ a
    return x @ w + h @ b, (x, w, a, b, h)


def _low_rank_bwd(kept, g):
    x, w, a, b, h = kept
    dh = g @ b.T
    return g @ w.T + dh @ a.T, x.T @ g, x.T @ dh, h.T @ g


low_rank.defvjp(_low_rank_fwd, _low_rank_bwd)


def _batched_bwd(g, a, b):
    return g @ jnp.swapaxes(b, -1, -2), jnp.swapaxes(a, -1, -2) @ g


def _bilinear(x, w, y):
    return jnp.einsum("ni,kij,nj->nk", x, w, y)


def _bilinear_bwd(g, x, w, y):
    return (
        jnp.einsum("nk,kij,nj->ni", g, w, y),
        jnp.einsum("nk,ni,nj->kij", g, x, y),
        jnp.einsum("nk,kij,ni->nj", g, w, x),
    )


def _kron_bwd(g, a, b):
    g = g.reshape(a.shape[0], b.shape[0], a.shape[1], b.shape[1])
    return jnp.einsum("ikjl,kl->ij", g, b), jnp.einsum("ikjl,ij->kl", g, a)


def _cross(a, b):
    return jnp.stack([a[..., 1] * b[..., 2] - a[..., 2] * b[..., 1],
                      a[..., 2] * b[..., 0] - a[..., 0] * b[..., 2],
                      a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]], -1)  # fmt: skip


def _toeplitz(c, x):
    """A causal Toeplitz matrix of the column c, times x."""
    n = c.shape[0]
    i = np.arange(n)[:, None] - np.arange(n)
    return jnp.where(i >= 0, c[np.maximum(i, 0)], 0) @ x


def _toeplitz_bwd(g, c, x):
    n = c.shape[0]
    i = np.arange(n)[:, None] - np.arange(n)
    dx = jnp.where(i >= 0, c[np.maximum(i, 0)], 0).T @ g
    return jnp.stack([g[k:] @ x[: n - k] for k in range(n)]), dx


def _circular(x, h):
    """Circular convolution by FFT, as it is written for long filters."""
    return jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(h), x.shape[-1])


def _circular_bwd(g, x, h):
    spectrum = jnp.fft.rfft(g)
    n = x.shape[-1]
    dx = jnp.fft.irfft(spectrum * jnp.conj(jnp.fft.rfft(h)), n)
    return dx, jnp.fft.irfft(spectrum * jnp.conj(jnp.fft.rfft(x)), n).sum(0)


def _reflect(x, v):
    """Householder: x less twice its part along v."""
    return x - 2 * jnp.outer(x @ v, v) / (v @ v)


def _reflect_bwd(g, x, v):
    s = v @ v
    xv, gv = x @ v, g @ v
    dv = -2 * (x.T @ gv + g.T @ xv) / s + 4 * v * (xv @ gv) / s**2
    return g - 2 * jnp.outer(gv, v) / s, dv


def _rotate(q, v):
    """v turned by the quaternion q (w, x, y, z) of any length: R(q)·v·|q|²."""
    w, u = q[0], q[1:]
    return (w * w - u @ u) * v + 2 * (v @ u)[:, None] * u + 2 * w * jnp.cross(u, v)


def _rotate_bwd(g, q, v):
    w, u = q[0], q[1:]
    gv, gu, vu = jnp.sum(g * v), g @ u, v @ u
    dw = 2 * w * gv + 2 * jnp.sum(g * jnp.cross(u, v))
    du = -2 * u * gv + 2 * (gu @ v + vu @ g) + 2 * w * jnp.cross(v, g).sum(0)
    dv = (w * w - u @ u) * g + 2 * gu[:, None] * u + 2 * w * jnp.cross(g, u)
    return jnp.concatenate([dw[None], du]), dv


LINEAR_ALGEBRA: tuple[Function, ...] = (
    Function(
        "dense",
        ruled(
            _dense,
            lambda x, w, b: (_dense(x, w, b), (x, w)),
            lambda kept, g: (g @ kept[1].T, kept[0].T @ g, g.sum(0)),
        ),
        of((5, 4), (4, 3), (3,)),
    ),
    Function("low-rank correction", low_rank, of((6, 4), (4, 5), (4, 2), (2, 5))),
    Function("batched matmul", from_inputs(jnp.matmul, _batched_bwd), of((2, 3, 4), (2, 4, 5))),
    Function("bilinear form", from_inputs(_bilinear, _bilinear_bwd), of((5, 3), (2, 3, 4), (5, 4))),
    Function(
        "quadratic form",
        from_inputs(
            lambda x, a: x @ a @ x, lambda g, x, a: (g * ((a + a.T) @ x), g * jnp.outer(x, x))
        ),
        of((5,), (5, 5)),
    ),
    Function(
        "outer product",
        from_inputs(lambda a, b: a[:, None] * b, lambda g, a, b: (g @ b, a @ g)),
        of((4,), (6,)),
    ),
    Function("kronecker product", from_inputs(jnp.kron, _kron_bwd), of((2, 3), (4, 2))),
    Function(
        "trace of a product",
        from_inputs(lambda a, b: jnp.trace(a @ b), lambda g, a, b: (g * b.T, g * a.T)),
        of((3, 5), (5, 3)),
    ),
    Function(
        "cross product",
        from_inputs(_cross, lambda g, a, b: (_cross(b, g), _cross(g, a))),
        of((4, 3), (4, 3)),
    ),
    Function("toeplitz", from_inputs(_toeplitz, _toeplitz_bwd), of((6,), (6,))),
    Function(
        "circular convolution by FFT",
        from_inputs(_circular, _circular_bwd),
        of((3, 8), (8,)),
        WIDE,
        "the FFT has no bfloat16",
    ),
    Function("householder", from_inputs(_reflect, _reflect_bwd), of((5, 4), (4,))),
    Function("quaternion rotation", from_inputs(_rotate, _rotate_bwd), of((4,), (5, 3))),
)
