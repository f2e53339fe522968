"""Gradients that were found in two ways: the usual one, and whether another is the same."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.problem.directions import cotangents
from jaxdl.gradcheck.report.findings import Finding

MOST_ALONE = 8  # arguments or outputs that are taken one by one


def same(
    check: str,
    name: str,
    got: np.ndarray,
    want: np.ndarray,
    rounding: float,
    how: str,
    floor: float = 0.0,
) -> Finding:
    """Whether a gradient that was found in another way (`how`) is the same, to rounding."""
    size = np.abs(want) + np.sqrt(np.mean(np.where(np.isfinite(want), want, 0) ** 2))
    with np.errstate(invalid="ignore"):
        off = ~((np.abs(got - want) <= 1e4 * rounding * size + floor) | (got == want))
    off &= ~(np.isnan(got) & np.isnan(want))
    if not off.any():
        return Finding(check, "pass", leaf=name)
    index = tuple(int(i) for i in np.argwhere(off)[0])
    return Finding(
        check, "fail", leaf=name, index=index,
        text=f"{how} the gradient is another: {int(off.sum())} of {off.size} entries differ, "
        f"first at {index}: {got[index]:.9g}, else {want[index]:.9g}",
    )  # fmt: skip


def usual_gradients(
    case: Case, key: int
) -> tuple[list[Any], list[Any], list[np.ndarray], float, list[Any]]:
    """Inputs, cotangents, the gradients by the rule, their rounding and their floors."""
    inputs = case.at(case.problem.inputs)
    weights = cotangents(case.rng(key), jax.eval_shape(case.probe.f, *inputs))
    whole = case.probe.gradients(inputs, weights)[0]
    rounding, floors = case.probe.rounding(inputs, weights), case.probe.floors(inputs, weights)
    return inputs, weights, whole, rounding, floors


def native_gradients(case: Case) -> tuple[list[Any], list[Any], list[Any]]:
    """Outputs of the forward rule, gradients, and the cotangent, in the given dtypes."""
    problem = case.problem
    y, vjp = jax.vjp(problem.outputs, *problem.inputs)
    weights = cotangents(case.rng(2), y)
    return y, list(vjp(weights)), weights
