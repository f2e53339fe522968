"""Pallas kernels in interpret mode and calls back into Python, each with its own rule."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from experiments.gradcheck_corpus.functions_draw import of, ruled
from experiments.gradcheck_corpus.kinds import Function

# --- kernels ------------------------------------------------------------------------------------


def _like(x, shape=None):
    return jax.ShapeDtypeStruct(x.shape if shape is None else shape, x.dtype)


def _kernel(body, out, *args, **options):
    return pl.pallas_call(body, out_shape=out, interpret=True, **options)(*args)


def _softmax_kernel(x_ref, y_ref):
    x = x_ref[...]
    e = jnp.exp(x - x.max(-1, keepdims=True))
    y_ref[...] = e / e.sum(-1, keepdims=True)


def _softmax_back(y_ref, g_ref, dx_ref):
    y, g = y_ref[...], g_ref[...]
    dx_ref[...] = y * (g - (g * y).sum(-1, keepdims=True))


def _softmax(x):
    return _kernel(_softmax_kernel, _like(x), x)


def _softmax_fwd(x):
    y = _softmax(x)
    return y, y


def _bias_silu_kernel(x_ref, b_ref, y_ref):
    z = x_ref[...] + b_ref[...]
    y_ref[...] = z / (1 + jnp.exp(-z))


def _bias_silu_back(x_ref, b_ref, g_ref, d_ref):
    z = x_ref[...] + b_ref[...]
    s = 1 / (1 + jnp.exp(-z))
    d_ref[...] = g_ref[...] * s * (1 + z * (1 - s))


def _bias_silu(x, b):
    return _kernel(_bias_silu_kernel, _like(x), x, b)


def _bias_silu_bwd(kept, g):
    x, b = kept
    d = _kernel(_bias_silu_back, _like(x), x, b, g)
    return d, d.sum(0)


def _product_kernel(a_ref, b_ref, y_ref):
    y_ref[...] = a_ref[...] @ b_ref[...]


def _tiled(a, b):
    """One tile of 4 × 4 of the result for each program; sizes divide."""
    (m, k), n = a.shape, b.shape[1]
    return _kernel(
        _product_kernel, _like(a, (m, n)), a, b, grid=(m // 4, n // 4),
        in_specs=[pl.BlockSpec((4, k), lambda i, j: (i, 0)),
                  pl.BlockSpec((k, 4), lambda i, j: (0, j))],
        out_specs=pl.BlockSpec((4, 4), lambda i, j: (i, j)),
    )  # fmt: skip


def _padded_product(a, b):
    (m, _), n = a.shape, b.shape[1]
    a, b = jnp.pad(a, ((0, -m % 4), (0, 0))), jnp.pad(b, ((0, 0), (0, -n % 4)))
    return _tiled(a, b)[:m, :n]


def _norm_kernel(x_ref, y_ref, inverse_ref):
    x = x_ref[...]
    x = x - x.mean(-1, keepdims=True)
    inverse = lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5)
    y_ref[...], inverse_ref[...] = x * inverse, inverse


def _norm_back(hat_ref, inverse_ref, g_ref, dx_ref):
    hat, g = hat_ref[...], g_ref[...]
    d = g - g.mean(-1, keepdims=True) - hat * (g * hat).mean(-1, keepdims=True)
    dx_ref[...] = inverse_ref[...] * d


def _norm_fwd(x):
    y, inverse = _kernel(_norm_kernel, (_like(x), _like(x, (x.shape[0], 1))), x)
    return y, (y, inverse)


def _decay_kernel(a_ref, x_ref, y_ref):
    def step(t, h):
        h = a_ref[...] * h + x_ref[t]
        y_ref[t] = h
        return h

    lax.fori_loop(0, x_ref.shape[0], step, jnp.zeros_like(a_ref[...]))


def _decay(a, x):
    return _kernel(_decay_kernel, _like(x), a, x)


def _decay_fwd(a, x):
    h = _decay(a, x)
    return h, (a, h)


def _decay_bwd(kept, g):
    a, h = kept
    r = _decay(a, g[::-1])[::-1]
    return (r[1:] * h[:-1]).sum(0), r


def _axpy_kernel(a_ref, x_ref, y_ref, out_ref):
    out_ref[...] = a_ref[0] * x_ref[...] + y_ref[...]


def _axpy(a, x, y):
    return _kernel(_axpy_kernel, _like(x), a[None], x, y)


KERNELS: tuple[Function, ...] = (
    Function(
        "softmax kernel",
        ruled(_softmax, _softmax_fwd, lambda y, g: (_kernel(_softmax_back, _like(y), y, g),)),
        of((3, 7)),
    ),
    Function(
        "bias and silu kernel",
        ruled(_bias_silu, lambda x, b: (_bias_silu(x, b), (x, b)), _bias_silu_bwd),
        of((4, 5), (5,)),
    ),
    Function(
        "product by tiles",
        ruled(
            _tiled,
            lambda a, b: (_tiled(a, b), (a, b)),
            lambda kept, g: (g @ kept[1].T, kept[0].T @ g),
        ),
        of((8, 3), (3, 12)),
    ),
    Function(
        "product by tiles, padded",
        ruled(
            _padded_product,
            lambda a, b: (_padded_product(a, b), (a, b)),
            lambda kept, g: (_padded_product(g, kept[1].T), _padded_product(kept[0].T, g)),
        ),
        of((6, 3), (3, 5)),
    ),
    Function(
        "norm kernel",
        ruled(
            lambda x: _norm_fwd(x)[0],
            _norm_fwd,
            lambda kept, g: (_kernel(_norm_back, _like(g), *kept, g),),
        ),
        of((5, 8)),
    ),
    Function(
        "decay kernel",
        ruled(_decay, _decay_fwd, _decay_bwd),
        lambda rng, dtype: (
            jnp.asarray(rng.uniform(-0.9, 0.9, 3), dtype),
            jnp.asarray(rng.normal(size=(6, 3)), dtype),
        ),
    ),
    Function(
        "axpy kernel",
        ruled(
            _axpy,
            lambda a, x, y: (_axpy(a, x, y), (a, x)),
            lambda kept, g: (jnp.vdot(g, kept[1]), kept[0] * g, g),
        ),
        of((), (9,), (9,)),
    ),
)
