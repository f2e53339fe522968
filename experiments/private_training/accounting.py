"""ε of a whole training, by dp-accounting where it is installed: counting is left to it."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np

from experiments.private_training.training import Recipe

DELTA = 1e-5
ORDERS = (*range(2, 65), 80, 128, 256, 512)  # of Rényi divergence; whole ones: quick, none fails
MISSING = (
    "ε was not computed, and nothing was held at equal ε: that needs the package dp-accounting, "
    "which is not installed (pip install dp-accounting). Noise multipliers σ are given instead."
)


def library() -> Any:
    """The module `dp_accounting`, or None."""
    name = "dp_accounting"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def epsilon(recipe: Recipe, n: int) -> float | None:
    """ε at δ = 1e-5 for n examples; infinite without noise or clipping; None: not installed."""
    if recipe.sigma == 0 or recipe.per == "none":
        return float("inf")
    dp = library()
    if dp is None:
        return None
    accountant = dp.rdp.RdpAccountant(ORDERS)
    accountant.compose(_event(dp, recipe.sigma, recipe, n))
    return float(accountant.get_epsilon(target_delta=DELTA))


def noise_for(target: float, recipe: Recipe, n: int) -> float:
    """The σ at which this training has ε = target."""
    dp = library()
    found = dp.calibrate_dp_mechanism(
        lambda: dp.rdp.RdpAccountant(ORDERS),
        lambda sigma: _event(dp, sigma, recipe, n),
        target,
        DELTA,
        bracket_interval=dp.LowerEndpointAndGuess(0.1, 1.0),
        tol=1e-3,
    )
    return float(found)


def _event(dp: Any, sigma: float, recipe: Recipe, n: int) -> Any:
    one_step = dp.PoissonSampledDpEvent(recipe.batch / n, dp.GaussianDpEvent(sigma))
    return dp.SelfComposedDpEvent(one_step, recipe.steps)


def largest_advantage(epsilon: float | None) -> float | None:
    """What no attack exceeds: true less false positives ≤ (e^ε - 1 + 2δ)/(e^ε + 1)."""
    if epsilon is None:
        return None
    return float(np.tanh(epsilon / 2) + 2 * DELTA / (1 + np.exp(min(epsilon, 700))))
