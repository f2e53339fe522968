"""How far off each entry of a gradient is, folded to a table that can be looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

_MOST_CELLS = 48  # rows and columns of an error map


def error_map(got: Any, want: Any) -> list[list[float]]:
    """`Finding.errors` of a leaf: +inf where either is no number, -inf where they are the same.

    The last axis is that of the columns, the others are folded into the rows; a vector is a row.
    """
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if not got.size:
        return []
    sizes = np.abs(np.where(np.isfinite(want), want, 0))
    largest = float(sizes.max()) or 1.0
    size = largest * float(np.sqrt(np.mean(np.square(sizes / largest))))  # squares may overflow
    with np.errstate(all="ignore"):
        error = np.abs(got - want) / (size or 1.0)
        error = np.where(np.isfinite(error), error, np.inf)
        error = np.where((got == want) | (np.isnan(got) & np.isnan(want)), 0.0, error)
        table = np.log10(error).reshape(-1, got.shape[-1] if got.ndim else 1)
    for axis, length in enumerate(table.shape):
        table = np.maximum.reduceat(table, range(0, length, _block(length)), axis=axis)
    return table.tolist()


def cell_of(index: Sequence[int], shape: Sequence[int]) -> tuple[int, int]:
    """Row and column of an entry in the `error_map` of a leaf of that shape."""
    rows, columns = map_shape(shape)
    flat = int(np.ravel_multi_index(tuple(index), tuple(shape))) if len(shape) else 0
    return flat // columns // _block(rows), flat % columns // _block(columns)


def map_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a leaf, before blocks of them are put together."""
    return math.prod(shape[:-1]), shape[-1] if len(shape) else 1


def blocks(shape: Sequence[int]) -> tuple[int, int]:
    """How many rows and columns of a leaf are in one cell of its `error_map`."""
    rows, columns = map_shape(shape)
    return _block(rows), _block(columns)


def _block(length: int) -> int:
    return max(1, -(-length // _MOST_CELLS))
