"""Where a gradient is wrong."""

from __future__ import annotations

import numpy as np


def where(got: np.ndarray, want: np.ndarray, wrong: np.ndarray) -> str:
    """How many entries are wrong, in which range of which axis, and what stands there."""
    count, size = int(wrong.sum()), wrong.size
    if size == 1:
        return "its only entry is wrong"
    if count == size:
        return f"all {size} entries are wrong"
    lines = [f"{size - count} of {size} entries agree; wrong: {_range(wrong)}"]
    values = got[wrong]
    if np.all(values == 0):
        lines.append("they are exactly 0")
    elif np.all(np.isnan(values)):
        lines.append("they are NaN")
    return "; ".join(lines)


def _range(wrong: np.ndarray) -> str:
    """A range along the axis that tells right from wrong best, or the number of entries."""
    for axis, length in enumerate(wrong.shape):
        others = tuple(a for a in range(wrong.ndim) if a != axis)
        some = np.asarray(wrong.any(axis=others))
        every = np.asarray(wrong.all(axis=others))
        if not np.array_equal(some, every) or some.all():
            continue
        first, last = int(np.argmax(some)), length - int(np.argmax(some[::-1]))
        if some[first:last].all():
            return f"[{first}:{last}] of axis {axis}{_block(first, last, length)}"
        steps = np.diff(np.flatnonzero(some))
        if len(steps) and (steps == steps[0]).all():
            return f"[{first}::{int(steps[0])}] of axis {axis}"
    return f"{int(wrong.sum())} entries, no range of one axis"


def _block(first: int, last: int, length: int) -> str:
    """The sizes of blocks after which just this tail is left over."""
    if last != length or first == 0:
        return ""
    tail = length - first
    blocks = [2**k for k in range(1, 11) if 2**k < length and length % 2**k == tail]
    return "; " + " = ".join(f"{length} % {b}" for b in blocks) + f" = {tail}" if blocks else ""


def condition(wrong: np.ndarray, x: np.ndarray, name: str) -> str:
    """What the entries of an argument have in common where its gradient is wrong, if anything."""
    if not 0 < wrong.sum() < wrong.size:
        return ""
    kinds = {
        "negative": x < 0, "positive": x > 0, "zero": x == 0, "not zero": x != 0,
        "above 1": x > 1, "below −1": x < -1, "beyond ±1": np.abs(x) > 1,
        "within ±1": np.abs(x) < 1,
    }  # fmt: skip
    return next((f"where {name} is {k}" for k, m in kinds.items() if np.array_equal(m, wrong)), "")


def worst(got: np.ndarray, want: np.ndarray, tolerance: np.ndarray) -> tuple[int, ...]:
    """The entry that is furthest beyond its tolerance."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        excess = np.abs(got - want) / tolerance
    excess = np.where(np.isfinite(got) == np.isfinite(want), np.nan_to_num(excess), np.inf)
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(excess)), got.shape))
