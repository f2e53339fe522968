"""A kernel over one array without channels, and its turned form."""

import jax.numpy as jnp
import numpy as np

import jaxdl


def filtered(x, w, **options):
    """One array without channels, x, through `jaxdl.conv` with the kernel w."""
    x, w = jnp.asarray(x), jnp.asarray(w)
    layer = jaxdl.conv(1, w.shape, rank=w.ndim, use_bias=False, **options)
    return np.asarray(layer.apply({"w": w[..., None, None]}, x[None, ..., None])[0, ..., 0])


def turned(w):
    """w with every axis reversed: in two dimensions, turned by 180°."""
    return w[(slice(None, None, -1),) * w.ndim]
