"""Finite differences that know their error.

Central differences at steps h, h/2, h/4, ... and Neville's extrapolation to step 0 (Ridders 1982,
Advances in Engineering Software 4, 75-76), with two additions: the noise of the function is
measured on the line, not assumed, and carried through the table, so that every entry has a bound
on its roundoff beside the estimate of its truncation; the entry with the smallest sum wins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_SHRINK = 2.0
_ROWS = 9
_FIRST = 2.0**-3  # of the scale along the direction


class Slope(NamedTuple):
    """A derivative and how far off it may be."""

    value: float
    error: float


def noise_level(values: np.ndarray) -> float:
    """Standard deviation of the noise in values at equal, very small steps.

    From a table of differences (Hamming 1971, Introduction to Applied Numerical Analysis; Moré &
    Wild 2011, SIAM J. Sci. Comput. 33, 1292): the k-th difference of a smooth function vanishes
    with the step, that of independent noise σ has standard deviation σ·√C(2k, k).
    """
    found = []
    differences = values
    spread = 1.0
    for order in range(1, len(values) - 2):
        differences = np.diff(differences)
        spread *= 2 * (2 * order - 1) / order  # C(2k, k) from C(2k − 2, k − 1)
        if order >= 3:
            found.append(np.sqrt(np.mean(differences**2) / spread))
    return float(min(found))


def slope(
    g: Callable[[float], float], scale: float = 1.0, eps: float = float(np.finfo(np.float64).eps)
) -> Slope:
    """dg/dt at 0 of a function of one number, with its error.

    Args:
      g: float to float (float64); its result may be noisy.
      scale: length over which g is expected to change by its own size.
      eps: the coarsest relative precision in which g is computed on the way.

    Returns:
      value and error; both NaN where g is not finite near 0.
    """
    step = max(2.0**-26, 4 * eps) * scale  # shorter ones would not get through coarse roundings
    near = np.array([g(k * step) for k in range(-4, 5)])
    if not np.all(np.isfinite(near)):
        return Slope(np.nan, np.nan)
    noise = max(noise_level(near), eps * float(np.max(np.abs(near))))
    best = Slope(np.nan, np.inf)
    table: list[list[tuple[float, float]]] = []
    for row in range(_ROWS):
        h = _FIRST * scale / _SHRINK**row
        ahead, behind = g(h), g(-h)
        if not np.isfinite(ahead) or not np.isfinite(behind):
            table.clear()  # beyond the domain of g: begin again with smaller steps
            continue
        rounding = max(noise, eps * max(abs(ahead), abs(behind)))
        entries = [((ahead - behind) / (2 * h), rounding / h)]
        for column in range(1, len(table) + 1):
            factor = _SHRINK ** (2 * column)
            (fine, fine_noise), (coarse, coarse_noise) = entries[-1], table[-1][column - 1]
            value = (factor * fine - coarse) / (factor - 1)
            roundoff = (factor * fine_noise + coarse_noise) / (factor - 1)
            truncation = max(abs(value - fine), abs(value - coarse))
            if np.isfinite(value) and truncation + roundoff < best.error:
                best = Slope(value, truncation + roundoff)
            entries.append((value, roundoff))
        table.append(entries)
    return best if np.isfinite(best.error) else Slope(np.nan, np.nan)
