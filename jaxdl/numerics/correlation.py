"""The three products of a convolution.

For x (N, *space, C), kernel w (*size, C/groups, K), dy (N, *out, K), and the window of
`jaxdl.numerics.window`:

    y  = correlate(x, w)           y[n, p, k]  = Σ x[n, s·p + δ·q − lo, c]·w[q, c, k]   over q, c
    dx = correlate_input(dy, w)    its transpose in x: the same sum over p, q with s·p + δ·q − lo
                                   equal to the place in x, and over k
    dw = correlate_kernel(x, dy)   dw[q, c, k] = Σ x[n, s·p + δ·q − lo, c]·dy[n, p, k]  over n, p

On GPU and TPU all three are XLA's convolutions. On the CPU XLA has no good kernel for the gradient
of the kernel, nor for few channels, and matrix products take their place:

- the gradient of the kernel comes from patches of a few images at a time, one product each;
- with few channels, dx comes from patches of dy along the last axis: one product gives what each of
  them adds to the places under the kernel's other axes;
- with few channels, y and dw come from *strips*: what lies under the kernel at four neighbouring
  places of the last axis, times a matrix in which the kernel stands four times, each time one
  place further down. Its zeros cost less than narrow products do.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxdl.numerics.dtypes import wide
from jaxdl.numerics.sharding import explicit_sharding
from jaxdl.numerics.window import Window, add_slices, turn_kernel

_LETTERS = {1: "W", 2: "HW", 3: "DHW"}
BLOCK_ELEMENTS = 2**19  # of the patches in one matrix product on the CPU: 2 MB in float32
_FEW_CHANNELS = 4  # up to so many, strips pay
_VECTOR = 8  # numbers that one instruction works on: with fewer outputs XLA's convolution is slow
_WIDE_PATCH = 128  # beyond so many numbers, copying patches costs more than is gained
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
    narrow = w.shape[-2] < _VECTOR and window.size[-1] * w.shape[-1] <= _WIDE_PATCH
    if not (narrow and _dense(window) and explicit_sharding(dy) is None):
        return _input_by_library(dy, w, window, space)
    return lax.platform_dependent(
        dy,
        w,
        cpu=lambda dy, w: _input_by_rows(dy, w, window, space),
        default=lambda dy, w: _input_by_library(dy, w, window, space),
    )


def _input_by_library(dy: Array, w: Array, window: Window, space: Sequence[int]) -> Array:
    *size, c, k = w.shape
    groups = window.groups
    # kernel turned round and its channels exchanged, group by group
    turned = turn_kernel(w).reshape(*size, c, groups, k // groups)
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


def _input_by_rows(dy: Array, w: Array, window: Window, space: Sequence[int]) -> Array:
    *size, last, c, k = w.shape
    before, width = last - 1 - window.padding[-1][0], space[-1]
    shifts = (before, width + last - 1 - before - dy.shape[-2], 0)
    others = prod(size)  # places of the kernel's other axes
    rows = replace(window, size=(*size, 1), padding=(*window.padding[:-1], (0, 0)))
    matrix = jnp.flip(w.reshape(-1, last, c, k), 1).transpose(1, 3, 0, 2).reshape(last * k, -1)

    def of_block(dy):
        dy = lax.pad(dy, jnp.zeros((), dy.dtype), [*[(0, 0, 0)] * (dy.ndim - 2), shifts, (0, 0, 0)])
        patches = [lax.slice_in_dim(dy, q, q + width, axis=-2) for q in range(last)]
        product = jnp.matmul(jnp.concatenate(patches, axis=-1), matrix)
        product = product.reshape(*product.shape[:-1], others, c)
        return add_slices([product[..., i, :] for i in range(others)], rows, space)

    work = prod(dy.shape[1:-2]) * width * sum(matrix.shape)
    dx = lax.map(of_block, _blocks(dy, work, BLOCK_ELEMENTS))
    return dx.reshape(dx.shape[0] * dx.shape[1], *space, c)[: len(dy)]


def _blocks(array: Array, work: int, most: int) -> Array:
    """(N, …) to (blocks, images of a block, …): equal blocks of at most `most` / `work` images.

    Behind the last image stand zeros, at most one a block.
    """
    n = len(array)
    count = max(1, -(-n // max(1, most // work)))
    each = -(-n // count)
    padded = lax.pad(
        array,
        jnp.zeros((), array.dtype),
        [(0, count * each - n, 0)] + [(0, 0, 0)] * (array.ndim - 1),
    )
    return padded.reshape(count, each, *array.shape[1:])


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

    The places stand in the columns of the matrix: its product with dy then contracts the axes in
    which matrix products are fastest. A block is small enough for its patches to stay in the cache,
    and large enough for the product to be worth two threads.
    """
    k, rows = dy.shape[-1], prod(window.size) * x.shape[-1]
    work = prod(dy.shape[1:-1]) * rows
    x = jnp.moveaxis(_blocks(x, work, BLOCK_ELEMENTS), -1, 1)  # (blocks, C, images, *space)
    dy = _blocks(dy, work, BLOCK_ELEMENTS)  # zeros add nothing to the sum

    def step(total, images):
        x, dy = images
        product = jnp.matmul(
            columns(x, window),
            dy.reshape(prod(dy.shape[:-1]), k),
            preferred_element_type=total.dtype,
        )
        return total + product, None

    total, _ = lax.scan(step, jnp.zeros((rows, k), wide(x.dtype)), (x, dy))
    return total.reshape(*window.size, x.shape[1], k)


def patch_products(x: Array, window: Window) -> Array:
    """Σ p⊗p over all patches p of all images: (N, *space, C) to (size·C, size·C)."""
    rows = prod(window.size) * x.shape[-1]
    places = prod(window.out(x.shape[1:-1]))
    x = jnp.moveaxis(_blocks(x, places * rows, BLOCK_ELEMENTS), -1, 1)  # images of zeros add none

    def step(total, x):
        patches = columns(x, window)
        return total + jnp.matmul(patches, patches.T, preferred_element_type=total.dtype), None

    return lax.scan(step, jnp.zeros((rows, rows), wide(x.dtype)), x)[0]


def columns(x: Array, window: Window) -> Array:
    """(C, ..., *space) to (size·C, ...·out): in each column what lies under the kernel somewhere.

    One axis after the other: the strided copies of the first are the fewest.
    """
    c, rank = len(x), len(window.size)
    first = x.ndim - rank
    out = window.out(x.shape[first:])
    pairs = [(0, 0, 0)] * first + [(*pair, 0) for pair in window.padding]
    x = lax.pad(x, jnp.zeros((), x.dtype), pairs)
    for i in reversed(range(rank)):
        axis, step = x.ndim - rank + i, window.strides[i]
        starts = range(0, window.extent[i], window.dilation[i])
        ends = (out[i] - 1) * step + 1
        x = jnp.stack([lax.slice_in_dim(x, q, q + ends, step, axis) for q in starts])
    return x.reshape(prod(window.size) * c, prod(x.shape[rank + 1 :]))


# --- strips -------------------------------------------------------------------------------------


def _dense(window: Window) -> bool:
    return {*window.strides, *window.dilation, window.groups} == {1}


def _strips_pay(x: Array, window: Window) -> bool:
    # split over Explicit axes, examples cannot be told from strips in a reshape
    return _dense(window) and x.shape[-1] <= _FEW_CHANNELS and explicit_sharding(x) is None


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
    y = y.reshape(*y.shape[:-2], _STRIP * y.shape[-2], features)
    return y[..., : out[-1], :]


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
