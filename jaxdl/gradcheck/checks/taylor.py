"""Taylor's remainder: f(x + hu) − f(x) − h⟨gradient, u⟩ must vanish as h², not as h."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from jaxdl.gradcheck.checks.agreement import same
from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.oracles.directional import along, slope_along
from jaxdl.gradcheck.oracles.probe import scale_of
from jaxdl.gradcheck.problem.directions import cotangents, direction
from jaxdl.gradcheck.report.findings import Finding

_STEPS = 14
_FIRST = 2.0**-2  # of the leaf's size
_VISIBLE = 64.0  # times the rounding of f: below it a remainder is rounding
_SQUARE = 1.5  # a smaller order is no square


class Remainder(NamedTuple):
    """How the error of the first-order expansion falls with the step."""

    steps: np.ndarray
    remainders: np.ndarray
    order: float
    """Of the smallest steps at which it is more than rounding; NaN where it never is."""


def remainder(
    g: Callable[[float], float], slope: float, scale: float, eps: float, size: float
) -> Remainder:
    """Of a function of one number and what is said to be its derivative at 0.

    Args:
      g: float to float.
      slope: its derivative, as it is claimed.
      scale: the first steps, relative to this length.
      eps: the relative precision in which g is computed.
      size: of the terms that g sums up.
    """
    at_zero = g(0.0)
    steps = scale * _FIRST * 2.0 ** -np.arange(_STEPS)
    found = np.array([abs(g(h) - at_zero - h * slope) for h in steps])
    usable = np.isfinite(found) & (found > _VISIBLE * eps * (size + abs(slope) * steps))
    orders = [
        float(np.log2(found[i] / found[i + 1]))
        for i in range(_STEPS - 1)
        if usable[i] and usable[i + 1]
    ]
    return Remainder(steps, found, float(np.median(orders[-3:])) if orders else np.nan)


def taylor(case: Case) -> Iterator[Finding]:
    """Along a direction in each argument, the remainder of the rule's gradient is of second order.

    Where it looks like first order, finite differences say whether the slope is to blame, or f,
    whose second derivative may be infinite there.
    """
    inputs = case.at(case.problem.inputs)
    weights = cotangents(case.rng(30), jax.eval_shape(case.probe.f, *inputs))
    gradients, wanted = case.probe.gradients(inputs, weights)
    held = case.holds_back()
    kinked = case.probe.kinked(inputs, weights, case.rng(31))
    rounding = case.probe.rounding(inputs, weights)
    size = case.probe.size_of(inputs, weights)
    for leaf, name in enumerate(case.problem.input_names):
        smooth = ~kinked[leaf] & np.isfinite(gradients[leaf])
        if not smooth.any():
            yield Finding("taylor", "skipped", leaf=name, text=f"{name}: f is smooth along none")
            continue
        u = np.where(smooth, direction(case.rng(32, leaf), smooth.shape), 0.0)
        mine = float(np.vdot(gradients[leaf][smooth], u[smooth]))
        g = along(case.probe, inputs, weights, leaf, u)
        found = remainder(g, mine, scale_of(inputs[leaf]), rounding, size)
        curves = {"step": found.steps.tolist(), "remainder": found.remainders.tolist()}
        figures = {"order": found.order, "slope": mine}
        if np.isnan(found.order) or found.order >= _SQUARE:
            yield Finding("taylor", "pass", leaf=name, figures=figures, curves=curves)
            continue
        judge = slope_along(case.probe, inputs, weights, leaf, u)
        slack = 4 * judge.error + _VISIBLE * rounding * float(np.sum(np.abs(gradients[leaf] * u)))
        text = (
            f"the remainder falls as the step to the power {found.order:.2g}, not 2; slope by the "
            f"rule {mine:.9g}, by finite differences {judge.value:.9g} ± {judge.error:.1g}"
        )
        off = abs(judge.value - mine)
        if (
            held
            and off > slack
            and same("", "", gradients[leaf], wanted[leaf], rounding, "").outcome == "pass"
        ):
            why = (
                "stop_gradient in f holds part of the derivative back, and the rule does as f does"
            )
            yield Finding("taylor", "skipped", leaf=name, text=f"{name}: {why}")
            continue
        # a step across a kink spoils the order, and the differences know
        outcome = "fail" if off > slack and judge.error < 0.1 * off else "pass"
        yield Finding("taylor", outcome, "given", name, (), text, figures, replay=case.replay(),
                      curves=curves)  # fmt: skip
