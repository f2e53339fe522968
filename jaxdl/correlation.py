"""The three products of a convolution.

For x (N, *space, C), kernel w (*size, C/groups, K), dy (N, *out, K), and the window of
`jaxdl.window`:

    y  = correlate(x, w)           y[n, p, k]  = Σ x[n, s·p + δ·q − lo, c]·w[q, c, k]   over q, c
    dx = correlate_input(dy, w)    its transpose in x: the same sum over p, q with s·p + δ·q − lo
                                   equal to the place in x, and over k
    dw = correlate_kernel(x, dy)   dw[q, c, k] = Σ x[n, s·p + δ·q − lo, c]·dy[n, p, k]  over n, p

On GPU and TPU all three are XLA's convolutions. On the CPU the gradient of the kernel is taken
from patches of a few images at a time, one matrix product each: XLA has no good kernel for it.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jaxdl.numerics import wide
from jaxdl.window import Window, window_slices

_LETTERS = {1: "W", 2: "HW", 3: "DHW"}
_BLOCK_ELEMENTS = 2**20  # of the patches in one matrix product on the CPU: 4 MB in float32


def _axes(window: Window) -> tuple[str, str, str]:
    letters = _LETTERS[len(window.size)]
    return f"N{letters}C", f"{letters}IO", f"N{letters}C"


def correlate(x: Array, w: Array, window: Window) -> Array:
    """y = x ⋆ w: (N, *space, C) and (*size, C/groups, K) to (N, *out, K)."""
    return lax.conv_general_dilated(
        x,
        w,
        window.strides,
        window.padding,
        rhs_dilation=window.dilation,
        feature_group_count=window.groups,
        dimension_numbers=_axes(window),
    )


def correlate_input(dy: Array, w: Array, window: Window, space: Sequence[int]) -> Array:
    """The transpose of `correlate` in x: (N, *out, K) and the kernel to (N, *space, C)."""
    *size, c, k = w.shape
    groups = window.groups
    # kernel turned round and its channels exchanged, group by group
    turned = w.reshape(*size, c, groups, k // groups)[(slice(None, None, -1),) * len(size)]
    turned = jnp.swapaxes(turned, -1, -3).reshape(*size, k // groups, groups * c)
    padding = []
    for n, p, (lo, _), e, s in zip(
        space, dy.shape[1:-1], window.padding, window.extent, window.strides, strict=True
    ):
        before = e - 1 - lo
        padding.append((before, n - ((p - 1) * s + 1) - before + e - 1))
    return lax.conv_general_dilated(
        dy,
        turned,
        (1,) * len(size),
        padding,
        lhs_dilation=window.strides,
        rhs_dilation=window.dilation,
        feature_group_count=groups,
        dimension_numbers=_axes(window),
    )


def correlate_kernel(x: Array, dy: Array, window: Window, out_sharding: Any = None) -> Array:
    """The gradient of the kernel: (N, *space, C) and (N, *out, K) to (*size, C/groups, K).

    In float32 or wider; `out_sharding` is where it lives under Explicit mesh axes.
    """
    if window.groups > 1 or out_sharding is not None:
        return _kernel_by_library(x, dy, window, out_sharding)
    return lax.platform_dependent(
        x,
        dy,
        cpu=lambda x, dy: _kernel_by_patches(x, dy, window),
        default=lambda x, dy: _kernel_by_library(x, dy, window),
    )


def _kernel_by_library(x: Array, dy: Array, window: Window, out_sharding: Any = None) -> Array:
    """A convolution with the axes exchanged: examples are summed over, channels are the examples.

    In the kernel's place is dy, with the strides for dilation, and the other way round.
    """
    padding = [
        (lo, (p - 1) * s + e - n - lo)
        for n, p, (lo, _), e, s in zip(
            x.shape[1:-1], dy.shape[1:-1], window.padding, window.extent, window.strides,
            strict=True,
        )
    ]  # fmt: skip
    letters = _LETTERS[len(window.size)]
    return lax.conv_general_dilated(
        x,
        dy,
        window.dilation,
        padding,
        rhs_dilation=window.strides,
        batch_group_count=window.groups,
        dimension_numbers=(f"C{letters}N", f"I{letters}O", f"{letters}NC"),
        preferred_element_type=wide(x.dtype),
        out_sharding=out_sharding,
    )


def _kernel_by_patches(x: Array, dy: Array, window: Window) -> Array:
    """Patches of a few images, as a matrix, times their cotangents; summed over the blocks.

    A block is small enough for its patches to stay in the cache, and large enough for the product
    to be worth two threads.
    """
    n, *out, k = dy.shape
    c, places = x.shape[-1], prod(window.size)
    block = max(1, min(n, _BLOCK_ELEMENTS // (prod(out) * places * c)))
    missing = -n % block  # zeros add nothing to the sum

    def blocks(array: Array) -> Array:
        padded = jnp.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1))
        return padded.reshape(-1, block, *array.shape[1:])

    def step(total, images):
        x, dy = images
        patches = jnp.concatenate(window_slices(x, window), axis=-1).reshape(-1, places * c)
        product = lax.dot_general(
            patches,
            dy.reshape(-1, k),
            (((0,), (0,)), ((), ())),
            preferred_element_type=total.dtype,
        )
        return total + product, None

    zero = jnp.zeros((places * c, k), wide(x.dtype))
    total, _ = lax.scan(step, zero, (blocks(x), blocks(dy)))
    return total.reshape(*window.size, c, k)
