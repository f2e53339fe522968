"""Convolution through the Fourier transform: products in place of sums over the kernel.

Shapes as for `conv` with stride 1: x (N, *space, C), w (*size, C, K), b (K,), y (N, *out, K). With
F the transform over axes padded to at least the size of the padded input, so that nothing wraps
round into the part that is kept, and * the complex conjugate:

    F(y)[f, k]    = Σ F(x)[f, c]·F(w)[f, c, k]*    over c        (the correlation theorem)
    F(dx)[f, c]   = Σ F(dy)[f, k]·F(w)[f, c, k]    over k        (dx is a true convolution)
    F(dw)[f, c, k] = Σ F(x)[n, f, c]·F(dy)[n, f, k]*   over n

The cost does not depend on the size of the kernel: it pays for large ones. Rounding errors are
relative to the largest value, not to each.

Reference: Mathieu, Henaff & LeCun (2014, arXiv:1312.5851).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core.factors import ConvOuter, Sum
from jaxdl.core.layer import Layer, leaf
from jaxdl.numerics.checks import check_params
from jaxdl.numerics.dtypes import wide
from jaxdl.numerics.pytree import Static
from jaxdl.numerics.sharding import explicit_sharding
from jaxdl.numerics.window import (
    Padding,
    Window,
    check_images,
    check_kernel,
    place_window,
    turn_kernel,
)


def _fast_length(n: int) -> int:
    """The smallest length from n on whose only prime factors are 2, 3 and 5."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


def _lengths(window: Window, space: Sequence[int]) -> tuple[int, ...]:
    padded = (n + lo + hi for n, (lo, hi) in zip(space, window.padding, strict=True))
    return tuple(_fast_length(n) for n in padded)


def _pad(x: Array, window: Window) -> Array:
    return jnp.pad(x, [(0, 0), *window.padding, (0, 0)])


def _forward(array: Array, lengths: tuple[int, ...], first: int) -> Array:
    """The transform over the axes of space, which begin at `first`, in float32 or wider."""
    axes = tuple(range(first, first + len(lengths)))
    return jnp.fft.rfftn(array.astype(wide(array.dtype)), lengths, axes)


def _back(array: Array, lengths: tuple[int, ...], first: int) -> Array:
    return jnp.fft.irfftn(array, lengths, tuple(range(first, first + len(lengths))))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SpectralOuter(ConvOuter):
    """`ConvOuter` whose gradient is formed by the Fourier transform."""

    def form(self, param: Array) -> Array:
        x, d = self._images(self.x), self._images(self.d)
        lengths = _lengths(self.window, x.shape[1:-1])
        product = jnp.einsum(
            "n...c,n...k->...ck",
            _forward(_pad(x, self.window), lengths, 1),
            _forward(d, lengths, 1).conj(),
            out_sharding=explicit_sharding(param),
        )
        dw = _back(product, lengths, 0)[tuple(slice(k) for k in self.window.size)]
        return turn_kernel(dw, self.flip)


def _init(key, x, *, features, size, use_bias, w_init):
    check_images("fft_conv", x, len(size))
    w = w_init(key, (*size, x.shape[-1], features), x.dtype)
    return {"w": w} | ({"b": jnp.zeros(features, x.dtype)} if use_bias else {})


def _fwd(params, x, *, features, size, padding, flip):
    check_params("fft_conv", params, w=(*size, None, features), b=(features,))
    check_images("fft_conv", x, len(size), params["w"].shape[-2])
    space, ones = x.shape[1:-1], (1,) * len(size)
    window = place_window("fft_conv", space, size, ones, padding, ones)
    lengths = _lengths(window, space)
    w = turn_kernel(params["w"].astype(x.dtype), flip)
    product = jnp.einsum(
        "n...c,...ck->n...k",
        _forward(_pad(x, window), lengths, 1),
        _forward(w, lengths, 0).conj(),
    )
    y = _back(product, lengths, 1)
    y = y[(slice(None), *(slice(p) for p in window.out(space)))].astype(x.dtype)
    if "b" in params:
        y = y + params["b"].astype(x.dtype)
    return y, {"x": x, "window": Static(window)}  # x: half of dw


def _bwd(params, residuals, dy, *, flip):
    x, window = residuals["x"], residuals["window"].value
    factors = {"w": SpectralOuter(x, dy, window, flip)}
    if "b" in params:
        factors |= {"b": Sum(dy)}
    space = x.shape[1:-1]
    lengths = _lengths(window, space)
    w = turn_kernel(params["w"].astype(dy.dtype), flip)
    product = jnp.einsum("n...k,...ck->n...c", _forward(dy, lengths, 1), _forward(w, lengths, 0))
    dx = _back(product, lengths, 1)
    inside = (slice(lo, lo + n) for n, (lo, _) in zip(space, window.padding, strict=True))
    return factors, dx[(slice(None), *inside)].astype(dy.dtype)


def fft_conv(
    features: int,
    size: int | Sequence[int],
    *,
    rank: int = 2,
    padding: Padding = "valid",
    flip: bool = False,
    use_bias: bool = True,
    w_init: jax.nn.initializers.Initializer = jax.nn.initializers.lecun_normal(),
) -> Layer:
    """`conv` with stride 1 by Fourier transforms: the same parameters and the same result.

    (N, *space, C) floating point to (N, *out, features). For arguments and errors see `conv`.
    """
    size, _, _ = check_kernel("fft_conv", features, size, rank, padding=padding)
    return leaf(
        "fft_conv",
        partial(_init, features=features, size=size, use_bias=use_bias, w_init=w_init),
        partial(_fwd, features=features, size=size, padding=padding, flip=flip),
        partial(_bwd, flip=flip),
        params=("w", "b") if use_bias else ("w",),
        detail=f"{features}, {'×'.join(map(str, size))}",
    )
