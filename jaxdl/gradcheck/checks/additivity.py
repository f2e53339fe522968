"""The gradient for a sum of cotangents."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.problem.directions import cotangents
from jaxdl.gradcheck.report.findings import Finding


def additivity(case: Case) -> Iterator[Finding]:
    """The gradient of a sum of cotangents is the sum of the gradients."""
    inputs = case.at(case.problem.inputs)
    shapes = jax.eval_shape(case.probe.f, *inputs)
    one, two = (cotangents(case.rng(4, i), shapes) for i in range(2))
    both = [a + b for a, b in zip(one, two, strict=True)]
    parts = [case.probe.gradients(inputs, w)[0] for w in (one, two, both)]
    rounding = case.probe.rounding(inputs, one)
    floors = case.probe.floors(inputs, both)
    for name, a, b, c, floor in zip(case.problem.input_names, *parts, floors, strict=True):
        size = np.abs(a) + np.abs(b) + np.sqrt(np.mean(a**2 + b**2))
        off = ~(np.abs(a + b - c) <= 1e4 * rounding * size + floor) & np.isfinite(a + b)
        yield Finding(
            "additivity", "fail" if off.any() else "pass", leaf=name,
            text="the gradient of two cotangents added must be the sum of their gradients; "
            f"{int(off.sum())} of {off.size} entries differ: it is not a linear function of the "
            "cotangent",
        )  # fmt: skip
