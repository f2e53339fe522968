"""Sliding windows: where they go, what lies under them, and the checks of layers that use them.

A window of `size` places, `dilation` apart, steps over an input by `strides`, with `padding`
zeros on either side of it. At place p of the output its place q lies on s·p + δ·q − lo of the
input.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jax import Array, lax

from jaxdl.numerics.checks import check_floating

Padding = Literal["valid", "same", "full"] | int | Sequence[int | tuple[int, int]]


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
    if window.size == window.strides and set(window.dilation) == {1}:
        return _side_by_side(slices, window, space)
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


def _side_by_side(slices: Sequence[Array], window: Window, space: Sequence[int]) -> Array:
    """`add_slices` for windows that do not overlap: nothing is added, and each value moves once."""
    parts = list(slices)
    for axis in range(len(space), 0, -1):  # slices of the last axis lie next to each other
        k, merged = window.size[axis - 1], []
        for i in range(0, len(parts), k):
            wide = jnp.stack(parts[i : i + k], axis + 1)
            shape = wide.shape
            merged.append(wide.reshape(*shape[:axis], -1, *shape[axis + 2 :]))
        parts = merged
    (whole,) = parts
    cut = [
        (-lo, n + lo - covered, 0)
        for n, (lo, _), covered in zip(space, window.padding, whole.shape[1:-1], strict=True)
    ]
    return lax.pad(whole, jnp.zeros((), whole.dtype), [(0, 0, 0), *cut, (0, 0, 0)])


def turn_kernel(w: Array, flip: bool = True) -> Array:
    """The kernel (*size, C, K) turned round in every axis of its size; as it is without `flip`."""
    return w[(slice(None, None, -1),) * (w.ndim - 2)] if flip else w


# --- checks of layers with a window -------------------------------------------------------------


def check_images(name: str, x: Array, rank: int, channels: int | None = None) -> None:
    """Raise unless `x` is floating point, (N, *space, channels) with `rank` axes of space."""
    check_floating(name, x)
    if len(x.shape) != rank + 2:
        raise ValueError(
            f"{name}: x must have {rank + 2} axes (examples, {rank} of space, channels), got shape "
            f"{tuple(x.shape)}; reshape it, e.g. images[..., None] for one channel, or give rank"
        )
    if channels is not None and x.shape[-1] != channels:
        raise ValueError(
            f"{name}: x must have {channels} channels, as init has seen it, got x.shape == "
            f"{tuple(x.shape)}; check the layer before"
        )


def check_rank(name: str, rank: int) -> None:
    """Raise ValueError unless there are kernels of that many axes."""
    if rank not in (1, 2, 3):
        raise ValueError(f"{name}: rank must be 1, 2 or 3, got {rank!r}; images have rank 2")


def check_groups(name: str, what: str, channels: int, groups: int) -> None:
    """Raise ValueError unless `channels` fall into `groups` of equal size."""
    if channels % groups:
        raise ValueError(
            f"{name}: {what} must be a multiple of groups ({groups}), got {channels}; change one"
        )


def check_kernel(
    name: str,
    features: int,
    size: int | Sequence[int],
    rank: int,
    strides: int | Sequence[int] = 1,
    padding: Padding = "valid",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Size, strides and dilation along every axis; raise ValueError for settings that cannot be."""
    check_rank(name, rank)
    if features < 1 or groups < 1:
        raise ValueError(
            f"{name}: features and groups must be at least 1, got {features} and {groups}; "
            "groups=1 is the ordinary convolution"
        )
    check_groups(name, "features", features, groups)
    check_padding(name, padding, rank)
    return (
        per_axis(name, "size", size, rank),
        per_axis(name, "strides", strides, rank),
        per_axis(name, "dilation", dilation, rank),
    )
