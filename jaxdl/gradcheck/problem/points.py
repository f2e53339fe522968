"""Points derived from the given one, at which rules tend to go wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

_SORTED = 4  # entries: fewer are often in order by chance


def stress_points(
    inputs: Sequence[Any], rng: np.random.Generator
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Zeros, ties, equal extremes, large and small entries, other signs, rows of zeros: by name.

    What is sorted stays so: knots, edges of bins. A single number keeps its sign: it is a width, a
    rate, a temperature.
    """
    given = [np.asarray(x, np.float64) for x in inputs]
    points = {
        "zeros": [np.where(rng.random(x.shape) < 0.5, 0.0, x) for x in given],
        "ties": [np.round(2 * x) / 2 for x in given],
        "equal extremes": [np.clip(x, *np.quantile(x, [0.35, 0.65])) for x in given],
        "times 30": [30 * x for x in given],
        "times 0.001": [1e-3 * x for x in given],
        "other signs": [np.where(rng.random(x.shape) < 0.5, -x, x) for x in given],
        "fresh": [
            np.mean(x) + (np.std(x) or abs(np.mean(x)) or 1.0) * rng.normal(size=x.shape)
            for x in given
        ],
        "zero slices": [_with_zero_slices(x) for x in given],
    }
    for name, point in points.items():
        yield (
            name,
            [
                np.copysign(drawn, x) if x.ndim == 0 else kept_sorted(x, drawn)
                for x, drawn in zip(given, point, strict=True)
            ],
        )


def _with_zero_slices(x: np.ndarray) -> np.ndarray:
    """x with a slice of zeros along every axis, at which norms and their inverses go wrong."""
    x = x.copy()
    for axis in range(min(x.ndim, 2)):
        np.moveaxis(x, axis, 0)[0] = 0.0
    return np.zeros_like(x) if x.ndim == 1 else x


def kept_sorted(x: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """What was drawn in place of x, in ascending order if x is, which f may rely on."""
    if x.ndim == 0 or x.shape[-1] < _SORTED or not np.all(np.diff(np.asarray(x, np.float64)) > 0):
        return drawn
    drawn = np.sort(drawn, axis=-1)
    if np.all(np.diff(drawn) > 0):
        return drawn
    return np.asarray(x, np.float64) if drawn.shape == x.shape else drawn
