"""Calls back into Python by pure_callback, each with its own rule."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from experiments.gradcheck_corpus.functions_draw import distinct, of, positive, ruled
from experiments.gradcheck_corpus.kinds import Function

# --- kernels ------------------------------------------------------------------------------------


def _like(x, shape=None):
    return jax.ShapeDtypeStruct(x.shape if shape is None else shape, x.dtype)


# --- calls back into Python ---------------------------------------------------------------------


def _called(function, x, shape=None, method="expand_dims"):
    """A function of NumPy arrays, whose result is cast to the dtype of x."""

    def host(x):
        return np.asarray(function(np.asarray(x))).astype(x.dtype)

    return jax.pure_callback(host, _like(x, shape), x, vmap_method=method)


def _host_erfcx(x):
    return _called(scipy.special.erfcx, x)


def _host_erfcx_bwd(kept, g):
    x, y = kept
    return (g * (2 * x * y - 2 / np.sqrt(np.pi).item()),)


def _host_sort(x):
    return _called(partial(np.sort, axis=-1), x)


def _host_sort_bwd(x, g):
    place = jnp.argsort(jnp.argsort(x, -1), -1)
    return (jnp.take_along_axis(g, place, -1),)


def _host_cumsum(x):
    return _called(partial(np.cumsum, axis=-1), x)


def _host_j0(x):
    return _called(scipy.special.j0, x)


def _host_eigenvalues(a):
    """Of the symmetric part; the vectors are found again by JAX."""
    return _called(np.linalg.eigvalsh, (a + a.T) / 2, a.shape[:1], "sequential")


def _host_eigenvalues_bwd(a, g):
    vectors = jnp.linalg.eigh((a + a.T) / 2)[1]
    return ((vectors * g) @ vectors.T,)


def _host_two(x, y):
    """Two arguments, two results."""
    both = (_like(x), _like(x))
    host = lambda x, y: (np.asarray(np.hypot(x, y)), np.asarray(np.arctan2(y, x)))  # noqa: E731
    return jax.pure_callback(host, both, x, y, vmap_method="broadcast_all")


def _host_two_fwd(x, y):
    r, angle = _host_two(x, y)
    return (r, angle), (x, y, r)


def _host_two_bwd(kept, g):
    x, y, r = kept
    gr, ga = g
    return (gr * x - ga * y / r) / r, (gr * y + ga * x / r) / r


_NUMPY = "the routine of NumPy or SciPy has no bfloat16, and float64 needs JAX's global flag"


_SINGLE = ("float32",)


CALLBACKS: tuple[Function, ...] = (
    Function(
        "host: scaled erfc",
        ruled(_host_erfcx, lambda x: ((y := _host_erfcx(x)), (x, y)), _host_erfcx_bwd),
        of((7,)),
        _SINGLE,
        _NUMPY,
    ),
    Function(
        "host: sort",
        ruled(_host_sort, lambda x: (_host_sort(x), x), _host_sort_bwd),
        lambda rng, dtype: (distinct(rng, dtype, 3, 6),),
        _SINGLE,
        _NUMPY,
    ),
    Function(
        "host: cumsum",
        ruled(
            _host_cumsum,
            lambda x: (_host_cumsum(x), None),
            lambda _, g: (_host_cumsum(g[..., ::-1])[..., ::-1],),
        ),
        of((2, 8)),
        _SINGLE,
        _NUMPY,
    ),
    Function(
        "host: bessel",
        ruled(
            _host_j0, lambda x: (_host_j0(x), x), lambda x, g: (-g * _called(scipy.special.j1, x),)
        ),
        lambda rng, dtype: (4 * positive(rng, dtype, 6),),
        _SINGLE,
        _NUMPY,
    ),
    Function(
        "host: eigenvalues",
        ruled(_host_eigenvalues, lambda a: (_host_eigenvalues(a), a), _host_eigenvalues_bwd),
        of((4, 4)),
        _SINGLE,
        _NUMPY,
    ),
    Function(
        "host: polar coordinates",
        ruled(_host_two, _host_two_fwd, _host_two_bwd),
        of((6,), (6,)),
        _SINGLE,
        _NUMPY,
    ),
)
