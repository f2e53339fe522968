"""The function along a direction in one argument, and its slope there by finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck.oracles.finite_differences import Slope, slope
from jaxdl.gradcheck.oracles.probe import Probe, scale_of, to_numpy


def along(
    probe: Probe, inputs: Sequence[Any], weights: Sequence[Any], leaf: int, u: np.ndarray
) -> Callable[[float], float]:
    """t ↦ ⟨weights, f(x + t·u)⟩ with u in one leaf."""
    base, heavy = np.asarray(inputs[leaf], np.float64), to_numpy(weights)

    def g(t: float) -> float:
        moved = list(inputs)
        moved[leaf] = jnp.asarray(base + t * u, inputs[leaf].dtype)
        outputs = to_numpy(probe.value(*moved))
        return float(sum(np.vdot(w, y) for w, y in zip(heavy, outputs, strict=True)))

    return g


def slope_along(
    probe: Probe,
    inputs: Sequence[Any],
    weights: Sequence[Any],
    leaf: int,
    u: np.ndarray,
    scale: float | None = None,
) -> Slope:
    """d/dt ⟨weights, f(x + t·u)⟩ with u in one leaf, by finite differences.

    Steps are relative to the scale, by default the size of the leaf's entries.
    """
    rounding = probe.rounding(inputs, [jnp.asarray(w) for w in weights])
    g = along(probe, inputs, weights, leaf, u)
    size = scale_of(np.asarray(inputs[leaf], np.float64)) if scale is None else scale
    return slope(g, size, rounding)
