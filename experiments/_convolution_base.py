"""What the parts of `convolution_algebra` share."""

import jax.numpy as jnp
import numpy as np

import jaxdl

EXACT = 1e-12  # relative, in float64


def filtered(x, w, **options):
    """One array without channels, x, through `jaxdl.conv` with the kernel w."""
    x, w = jnp.asarray(x), jnp.asarray(w)
    layer = jaxdl.conv(1, w.shape, rank=w.ndim, use_bias=False, **options)
    return np.asarray(layer.apply({"w": w[..., None, None]}, x[None, ..., None])[0, ..., 0])


def relative(found, truth):
    """‖found − truth‖ / ‖truth‖."""
    truth = np.asarray(truth)
    return float(np.linalg.norm(np.asarray(found) - truth) / np.linalg.norm(truth))


def turned(w):
    """w with every axis reversed: in two dimensions, turned by 180°."""
    return w[(slice(None, None, -1),) * w.ndim]
