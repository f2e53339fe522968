"""Sliding windows: their geometry, and the three products of a convolution.

A window of `size` places, `dilation` apart, steps over an input by `strides`, with `padding`
zeros on either side of it. For x (N, *space, C), kernel w (*size, C/groups, K), dy (N, *out, K):

    y  = correlate(x, w)           y[n, p, k]  = Σ x[n, s·p + δ·q − lo, c]·w[q, c, k]   over q, c
    dx = correlate_input(dy, w)    its transpose in x: the same sum over p, q with s·p + δ·q − lo
                                   equal to the place in x, and over k
    dw = correlate_kernel(x, dy)   dw[q, c, k] = Σ x[n, s·p + δ·q − lo, c]·dy[n, p, k]  over n, p

On GPU and TPU all three are XLA's convolutions. On the CPU the gradient of the kernel is taken
from patches of a few images at a time, one matrix product each: XLA has no good kernel for it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import jax.numpy as jnp
from jax import Array, lax

from jaxdl.numerics import wide

Padding = Literal["valid", "same", "full"] | int | Sequence[int | tuple[int, int]]

_LETTERS = {1: "W", 2: "HW", 3: "DHW"}
_BLOCK_ELEMENTS = 2**20  # of the patches in one matrix product on the CPU: 4 MB in float32


@dataclass(frozen=True)
class Window:
    """Where a window goes for one size of input; hashable, so that it can be static."""

    size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1

    @property
    def extent(self) -> tuple[int, ...]:
        """Length of the dilated window along each axis."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.size, self.dilation, strict=True))

    def out(self, space: Sequence[int]) -> tuple[int, ...]:
        """How many places the window takes along each axis of an input of that size."""
        axes = zip(space, self.padding, self.extent, self.strides, strict=True)
        return tuple((n + lo + hi - e) // s + 1 for n, (lo, hi), e, s in axes)

    @property
    def letters(self) -> tuple[str, str, str]:
        """Axes of input, kernel and output, in the notation of `lax.conv_general_dilated`."""
        letters = _LETTERS[len(self.size)]
        return f"N{letters}C", f"{letters}IO", f"N{letters}C"


def per_axis(name: str, what: str, value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """One number for all axes, or one for each, as a tuple of positive numbers."""
    values = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(values) != rank or any(not isinstance(v, int) or v < 1 for v in values):
        raise ValueError(
            f"{name}: {what} must be a positive whole number, or {rank} of them, got {value!r}; "
            f"e.g. {what}={(1,) * rank if rank > 1 else 1}"
        )
    return values


def check_padding(name: str, padding: Padding, rank: int) -> None:
    """Raise ValueError unless `padding` is one that `place_window` understands."""
    if isinstance(padding, str):
        ok = padding in ("valid", "same", "full")
    elif isinstance(padding, int):
        ok = padding >= 0
    else:
        pairs = [(p, p) if isinstance(p, int) else tuple(p) for p in padding]
        ok = len(pairs) == rank and all(len(p) == 2 and min(p) >= 0 for p in pairs)
    if not ok:
        raise ValueError(
            f"{name}: padding must be 'valid', 'same', 'full', a number, or {rank} numbers or "
            f"pairs (before, after), none negative, got {padding!r}; e.g. padding='same'"
        )


def place_window(
    name: str,
    space: Sequence[int],
    size: tuple[int, ...],
    strides: tuple[int, ...],
    padding: Padding,
    dilation: tuple[int, ...],
    groups: int = 1,
) -> Window:
    """The window on an input of spatial size `space`.

    'valid' adds nothing; 'same' makes ⌈n/stride⌉ places, the odd zero behind, as XLA does;
    'full' lets every overlap count: extent − 1 on both sides.

    Raises:
      ValueError: the window does not fit into the input even once.
    """
    extent = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    if padding == "valid":
        pairs = [(0, 0)] * len(size)
    elif padding == "full":
        pairs = [(e - 1, e - 1) for e in extent]
    elif padding == "same":
        missing = [
            max((-(-n // s) - 1) * s + e - n, 0)
            for n, s, e in zip(space, strides, extent, strict=True)
        ]
        pairs = [(m // 2, m - m // 2) for m in missing]
    elif isinstance(padding, int):
        pairs = [(padding, padding)] * len(size)
    else:
        assert not isinstance(padding, str)
        pairs = [(p, p) if isinstance(p, int) else (p[0], p[1]) for p in padding]
    window = Window(size, strides, tuple(pairs), dilation, groups)
    if min(window.out(space)) < 1:
        raise ValueError(
            f"{name}: the window must fit into the padded input at least once, got a window of "
            f"extent {tuple(extent)} on an input of size {tuple(space)} with padding "
            f"{tuple(pairs)}; use a smaller kernel or pool, or more padding"
        )
    return window


def correlate(x: Array, w: Array, window: Window) -> Array:
    """y = x ⋆ w: (N, *space, C) and (*size, C/groups, K) to (N, *out, K)."""
    return lax.conv_general_dilated(
        x,
        w,
        window.strides,
        window.padding,
        rhs_dilation=window.dilation,
        feature_group_count=window.groups,
        dimension_numbers=window.letters,
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
        dimension_numbers=window.letters,
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


def window_slices(x: Array, window: Window, fill: float = 0.0) -> list[Array]:
    """For each place q in the window, what lies under it at every place p: (N, *out, C) each."""
    space = x.shape[1:-1]
    padded = x
    if any(lo or hi for lo, hi in window.padding):
        padded = jnp.pad(x, [(0, 0), *window.padding, (0, 0)], constant_values=fill)
    out = window.out(space)
    slices = []
    for place in itertools.product(*map(range, window.size)):
        starts = [q * d for q, d in zip(place, window.dilation, strict=True)]
        ends = [
            start + (p - 1) * s + 1 for start, p, s in zip(starts, out, window.strides, strict=True)
        ]
        slices.append(
            lax.slice(
                padded,
                (0, *starts, 0),
                (len(x), *ends, x.shape[-1]),
                (1, *window.strides, 1),
            )
        )
    return slices


def add_slices(slices: Sequence[Array], window: Window, space: Sequence[int]) -> Array:
    """The transpose of `window_slices`: everything goes back to where it came from, added up."""
    total = None
    places = itertools.product(*map(range, window.size))
    for part, place in zip(slices, places, strict=True):
        padding = [(0, 0, 0)]
        for q, d, (lo, _), s, p, n in zip(
            place, window.dilation, window.padding, window.strides, part.shape[1:-1], space,
            strict=True,
        ):  # fmt: skip
            before = q * d - lo  # negative: what lay in the padding is cut off
            padding.append((before, n - before - (p - 1) * s - 1, s - 1))
        spread = lax.pad(part, jnp.zeros((), part.dtype), [*padding, (0, 0, 0)])
        total = spread if total is None else total + spread
    assert total is not None, "a window has at least one place"
    return total
