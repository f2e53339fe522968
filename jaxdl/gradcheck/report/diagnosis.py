"""What a wrong gradient looks like: the right one, with some mistake."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

_FITS = 1e-6  # relative: this well a diagnosis must explain the wrong gradient
_APART = 100.0  # and the next one must be this much worse
ONES = "ones"
_PLAIN = {"2": 2.0, "π": float(np.pi), "√(2π)": float(np.sqrt(2 * np.pi)), "ln 2": float(np.log(2))}


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
