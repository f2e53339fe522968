"""Locally connected layers: a convolution whose kernel is another one at every place.

Shapes: x (N, *space, C), w (P, m, K) with P places of the output and m = size · C values under the
window, b (*out, K), y (N, *out, K). With patch[n, p] the values of x under the window at p:

    y[n, p, k]   = Σ patch[n, p, m]·w[p, m, k] + b[p, k]   over m
    dpatch       = Σ dy[n, p, k]·w[p, m, k]                over k; dx adds up what overlaps
    dw[p, m, k]  = Σ patch[n, p, m]·dy[n, p, k]            over n alone: nothing is shared
    db[p, k]     = Σ dy[n, p, k]                           over n

Reference: Goodfellow, Bengio & Courville (2016), section 9.5; Taigman et al. (2014), DeepFace.
"""

from collections.abc import Sequence
from functools import partial
from math import prod

import jax
import jax.numpy as jnp

from jaxdl.core.factors import Local, Sum
from jaxdl.core.layer import Layer, leaf
from jaxdl.numerics.checks import check_params
from jaxdl.numerics.pytree import Static
from jaxdl.numerics.window import (
    Padding,
    add_slices,
    check_images,
    check_kernel,
    place_window,
    window_slices,
)

_NAME = "locally_connected"


def _init(key, x, *, features, size, place, use_bias, w_init):
    check_images(_NAME, x, len(size))
    out = place(x.shape[1:-1]).out(x.shape[1:-1])
    w = w_init(key, (prod(out), prod(size) * x.shape[-1], features), x.dtype)
    return {"w": w} | ({"b": jnp.zeros((*out, features), x.dtype)} if use_bias else {})


def _patches(x, window):
    """(N, P, m): the values under the window at every place, place by place of the window."""
    slices = jnp.stack(window_slices(x, window), axis=-2)
    # in two steps: under Explicit mesh axes a reshape merges one group of axes at a time
    by_place = slices.reshape(len(x), -1, *slices.shape[-2:])
    return by_place.reshape(*by_place.shape[:2], -1)


def _fwd(params, x, *, features, size, place):
    check_images(_NAME, x, len(size))
    window = place(x.shape[1:-1])
    out = window.out(x.shape[1:-1])
    w_shape = (prod(out), prod(size) * x.shape[-1], features)
    check_params(_NAME, params, w=w_shape, b=(*out, features))
    y = jnp.einsum("npm,pmk->npk", _patches(x, window), params["w"].astype(x.dtype))
    y = y.reshape(len(x), *out, features)
    if "b" in params:
        y = y + params["b"].astype(x.dtype)
    return y, {"x": x, "window": Static(window)}  # x: its patches are size times as large


def _bwd(params, residuals, dy):
    x, window = residuals["x"], residuals["window"].value
    d = dy.reshape(len(dy), -1, dy.shape[-1])
    factors = {"w": Local(_patches(x, window), d)}
    if "b" in params:
        factors |= {"b": Sum(dy)}
    dpatch = jnp.einsum("npk,pmk->npm", d, params["w"].astype(dy.dtype))
    parts = dpatch.reshape(*dy.shape[:-1], -1).reshape(*dy.shape[:-1], -1, x.shape[-1])
    slices = [parts[..., i, :] for i in range(parts.shape[-2])]
    return factors, add_slices(slices, window, x.shape[1:-1])


def locally_connected(
    features: int,
    size: int | Sequence[int],
    *,
    rank: int = 2,
    strides: int | Sequence[int] = 1,
    padding: Padding = "valid",
    dilation: int | Sequence[int] = 1,
    use_bias: bool = True,
    w_init: jax.nn.initializers.Initializer = jax.nn.initializers.lecun_normal(batch_axis=0),
) -> Layer:
    """A convolution without sharing: (N, *space, C) floating point to (N, *out, features).

    The parameters belong to one size of input: w (places, values under the window, features) and
    b (*out, features). For the arguments and errors see `conv`.
    """
    size, strides, dilation = check_kernel(_NAME, features, size, rank, strides, padding, dilation)
    place = partial(
        place_window, _NAME, size=size, strides=strides, padding=padding, dilation=dilation
    )
    return leaf(
        _NAME,
        partial(_init, features=features, size=size, place=place, use_bias=use_bias, w_init=w_init),
        partial(_fwd, features=features, size=size, place=place),
        _bwd,
        params=("w", "b") if use_bias else ("w",),
        detail=f"{features}, {'×'.join(map(str, size))}",
    )
