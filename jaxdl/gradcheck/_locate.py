"""Where a gradient is wrong, and what the wrong one looks like."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

_FITS = 1e-6  # relative: this well a diagnosis must explain the wrong gradient
_APART = 100.0  # and the next one must be this much worse
ONES = "ones"
_PLAIN = {"2": 2.0, "π": float(np.pi), "√(2π)": float(np.sqrt(2 * np.pi)), "ln 2": float(np.log(2))}


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


# --- diagnosis ----------------------------------------------------------------------------------


def diagnose(
    got: np.ndarray,
    want: np.ndarray,
    constants: Mapping[str, float],
    others: Mapping[str, np.ndarray],
    parts: Mapping[str, np.ndarray],
) -> str:
    """Name what turns the right gradient into the wrong one, or nothing.

    Args:
      got: the wrong gradient.
      want: the right one, of the same shape.
      constants: numbers that a rule may have forgotten, by name (sizes of axes, their roots).
      others: the right gradients of other leaves, by name.
      parts: the right gradient for a cotangent of ones (`ONES`) and, by its name, for that of each
        output alone.
    """
    if got.size < 2 or not np.all(np.isfinite(got)):
        return ""
    if not np.linalg.norm(got):
        return "zero: the rule gives nothing to this argument"
    fits = sorted(
        (
            (_misfit(got, candidate), name)
            for name, candidate in _candidates(got, want, others, parts)
        ),
        key=lambda pair: pair[0],
    )
    if not fits or fits[0][0] > _FITS:
        return _scale(got, want, constants)
    runner_up = next((misfit for misfit, name in fits[1:]), np.inf)
    return fits[0][1] if runner_up > _APART * max(fits[0][0], 1e-12) else ""


def _misfit(got: np.ndarray, candidate: np.ndarray) -> float:
    size = float(np.linalg.norm(got))
    return float(np.linalg.norm(got - candidate)) / size if size else np.inf


def _candidates(
    got: np.ndarray,
    want: np.ndarray,
    others: Mapping[str, np.ndarray],
    parts: Mapping[str, np.ndarray],
) -> Iterator[tuple[str, np.ndarray]]:
    yield "the sign: it is the right gradient times −1", -want
    for axes in itertools.permutations(range(want.ndim)) if want.ndim <= 4 else ():
        if axes != tuple(range(want.ndim)):
            turned = want.transpose(axes)
            if turned.shape == want.shape:
                yield f"the right gradient transposed, axes {axes}", turned
    for axis, length in enumerate(want.shape):
        if length < 2:
            continue
        for shift in (1, -1):
            yield f"shifted by {shift} along axis {axis}", np.roll(want, shift, axis)
        yield f"turned round along axis {axis}", np.flip(want, axis)
        mean = want.mean(axis, keepdims=True)
        yield f"its mean over axis {axis}", np.broadcast_to(mean, want.shape)
        yield f"its sum over axis {axis}", np.broadcast_to(mean * length, want.shape)
        yield f"without its mean over axis {axis}", want - mean
        if _misfit(got - got.mean(axis, keepdims=True), want) <= _FITS:
            yield f"its mean over axis {axis} not taken off", got
    for name, other in others.items():
        if other.shape == want.shape:
            yield f"the gradient of {name}", other
    for name, part in parts.items():
        if name == ONES:
            yield "the cotangent taken as ones", part
            continue
        yield f"the cotangent of {name} is dropped", want - part
        yield f"the sign of what comes from {name}", want - 2 * part
    rounded = want.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    yield "cut to bfloat16", rounded.view(np.float32).astype(np.float64)


def _scale(got: np.ndarray, want: np.ndarray, constants: Mapping[str, float]) -> str:
    """One factor for all entries, with the constant that it is."""
    square = float(np.vdot(want, want))
    if square == 0:
        return ""
    factor = float(np.vdot(want, got)) / square
    misfit = _misfit(got, factor * want) if factor else np.inf
    if misfit > _FITS or abs(factor - 1) < _APART * misfit:
        return ""
    text = f"{factor:.9g} times the right gradient"
    fits = [
        name if number == value else f"1/{name}"
        for name, value in (*constants.items(), *_PLAIN.items())
        for number in (value, 1 / value)
        if number != 1 and abs(factor - number) <= _FITS * abs(number)
    ]
    # sizes that are the same number are told once, a plain number beside them
    told = [*fits[:1], *(name for name in fits[1:] if name.removeprefix("1/") in _PLAIN)]
    return f"{text}: {' or '.join(told)}" if told else text


def constants_of(shapes: Sequence[tuple[int, ...]], names: Sequence[str]) -> dict[str, float]:
    """Sizes that a rule may have forgotten or counted twice: axes, leaves, and their roots."""
    found: dict[str, float] = {}
    for name, shape in zip(names, shapes, strict=True):
        for axis, length in enumerate(shape):
            if length > 1:
                found.setdefault(f"axis {axis} of {name}, {length}", float(length))
                found.setdefault(f"√(axis {axis} of {name}, {length})", float(np.sqrt(length)))
                found.setdefault(f"{length} − 1 (axis {axis} of {name})", float(length - 1))
        size = int(np.prod(shape))
        if size > 1:
            found.setdefault(f"entries of {name}, {size}", float(size))
    return found
