"""The three products of a convolution.

For x (N, *space, C), kernel w (*size, C/groups, K), dy (N, *out, K), and the window of
`jaxdl.window`:

    y  = correlate(x, w)           y[n, p, k]  = Σ x[n, s·p + δ·q − lo, c]·w[q, c, k]   over q, c
    dx = correlate_input(dy, w)    its transpose in x: the same sum over p, q with s·p + δ·q − lo
                                   equal to the place in x, and over k
    dw = correlate_kernel(x, dy)   dw[q, c, k] = Σ x[n, s·p + δ·q − lo, c]·dy[n, p, k]  over n, p

On GPU and TPU all three are XLA's convolutions. On the CPU XLA has no good kernel for the gradient
of the kernel, nor for few channels, and matrix products take their place:

- the gradient of the kernel comes from patches of a few images at a time, one product each;
- with few channels, y and dw come from *strips*: what lies under the kernel at four neighbouring
  places of the last axis, times a matrix in which the kernel stands four times, each time one
  place further down. Its zeros cost less than narrow products do.
"""

import itertools
from collections.abc import Sequence
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxdl.numerics import explicit_sharding, wide
from jaxdl.window import Window, window_slices

_LETTERS = {1: "W", 2: "HW", 3: "DHW"}
_BLOCK_ELEMENTS = 2**20  # of the patches in one matrix product on the CPU: 4 MB in float32
_FEW_CHANNELS = 4  # up to so many, strips pay
_STRIP = 4  # places of a strip


def _axes(window: Window) -> tuple[str, str, str]:
    letters = _LETTERS[len(window.size)]
    return f"N{letters}C", f"{letters}IO", f"N{letters}C"


def correlate(x: Array, w: Array, window: Window) -> Array:
    """y = x ⋆ w: (N, *space, C) and (*size, C/groups, K) to (N, *out, K)."""
    if not _strips_pay(x, window):
        return _by_library(x, w, window)
    return lax.platform_dependent(
        x,
        w,
        cpu=lambda x, w: _by_strips(x, w, window),
        default=lambda x, w: _by_library(x, w, window),
    )


def _by_library(x: Array, w: Array, window: Window) -> Array:
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
    by_products = _kernel_by_strips if _strips_pay(x, window) else _kernel_by_patches
    return lax.platform_dependent(
        x,
        dy,
        cpu=lambda x, dy: by_products(x, dy, window),
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


# --- strips -------------------------------------------------------------------------------------


def _strips_pay(x: Array, window: Window) -> bool:
    dense = {*window.strides, *window.dilation, window.groups} == {1}
    # split over Explicit axes, examples cannot be told from strips in a reshape
    return dense and x.shape[-1] <= _FEW_CHANNELS and explicit_sharding(x) is None


def _strips(x: Array, window: Window) -> Array:
    """(N, *out but the last, strips, m): all that lies under four neighbouring places, in a row.

    The last axis of m is that of the channels, before it lie the T + k − 1 places of the last axis
    of space, before them those of the kernel's other axes.
    """
    n, c, out, k = len(x), x.shape[-1], window.out(x.shape[1:-1]), window.size[-1]
    strips, beyond = -(-out[-1] // _STRIP), -(-(k - 1) // _STRIP)
    padding = [(0, 0), *window.padding, (0, 0)]
    lo = padding[-2][0]
    padding[-2] = (lo, (strips + beyond) * _STRIP - x.shape[-2] - lo)
    # a negative padding cuts off what no strip needs
    x = lax.pad(x, jnp.zeros((), x.dtype), [(lo, hi, 0) for lo, hi in padding])
    x = x.reshape(*x.shape[:-2], strips + beyond, _STRIP * c)
    widths = [_STRIP] * beyond + [k - 1 - _STRIP * (beyond - 1)] if beyond else [_STRIP]
    wide = [x[..., i : i + strips, : width * c] for i, width in enumerate(widths)]
    x = jnp.concatenate(wide, axis=-1)
    rows = [
        lax.slice(
            x,
            (0, *place, 0, 0),
            (n, *(p + o for p, o in zip(place, out[:-1], strict=True)), *x.shape[-2:]),
        )
        for place in itertools.product(*map(range, window.size[:-1]))
    ]
    return jnp.concatenate(rows, axis=-1)


def _by_strips(x: Array, w: Array, window: Window) -> Array:
    *size, c, features = w.shape
    places = np.arange(_STRIP + size[-1] - 1)[:, None] - np.arange(_STRIP)
    inside = ((places >= 0) & (places < size[-1]))[:, :, None, None]
    kernel = w.reshape(-1, size[-1], c, features)[:, np.clip(places, 0, size[-1] - 1)]
    matrix = jnp.where(inside, kernel, 0).swapaxes(2, 3).reshape(-1, _STRIP * features)
    y = jnp.matmul(_strips(x, window), matrix, preferred_element_type=wide(x.dtype)).astype(x.dtype)
    out = window.out(x.shape[1:-1])
    return y.reshape(*y.shape[:-2], -1, features)[..., : out[-1], :]


def _kernel_by_strips(x: Array, dy: Array, window: Window) -> Array:
    strips, k, features = _strips(x, window), window.size[-1], dy.shape[-1]
    whole = strips.shape[-2] * _STRIP
    padding = [(0, 0)] * (dy.ndim - 2) + [(0, whole - dy.shape[-2]), (0, 0)]
    rows = jnp.pad(dy, padding).reshape(*strips.shape[:-1], _STRIP * features)
    leading = tuple(range(strips.ndim - 1))
    product = lax.dot_general(
        strips, rows, ((leading, leading), ((), ())), preferred_element_type=wide(x.dtype)
    )
    product = product.reshape(-1, _STRIP + k - 1, x.shape[-1], _STRIP, features)
    # the kernel stands in the matrix four times; its gradient is the sum of theirs
    dw = sum(product[:, i : i + k, :, i] for i in range(_STRIP))
    return jnp.asarray(dw).reshape(*window.size, x.shape[-1], features)
