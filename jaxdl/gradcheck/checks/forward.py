"""The forward rule returns what the function returns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxdl.gradcheck.checks.agreement import native_gradients
from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.oracles.rounding import eps, jittered
from jaxdl.gradcheck.problem.problem import like
from jaxdl.gradcheck.report.findings import Finding

_ULPS = 16.0


def forward(case: Case) -> Iterator[Finding]:
    """The forward rule returns what f returns, to a few units in the last place."""
    problem = case.problem
    direct, (ruled, _, _) = problem.outputs(*problem.inputs), native_gradients(case)
    near = jittered(case.rng(23), problem.inputs, max(eps(x.dtype) for x in problem.inputs))
    moved = problem.outputs(*map(like, problem.inputs, near))
    for i, (a, b, c) in enumerate(zip(direct, ruled, moved, strict=True)):
        x, y, z = (np.asarray(v, np.float64) for v in (a, b, c))
        size = np.maximum(np.abs(x), np.sqrt(np.mean(x**2)) if x.size else 0)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        with np.errstate(invalid="ignore", divide="ignore"):
            ulps = np.where(same, 0.0, np.abs(x - y) / (size * eps(a.dtype)))
            spread = np.nan_to_num(np.abs(x - z) / (size * eps(a.dtype)), nan=0, posinf=0)
        worst = float(np.nan_to_num(ulps, nan=np.inf).max(initial=0.0))
        most = _ULPS * max(1.0, float(spread.max(initial=0.0)))  # more where f is ill-conditioned
        yield Finding(
            "forward", "pass" if worst <= most else "fail", leaf=f"output {i}",
            text=f"the forward rule differs from f by {worst:.3g} units in the last place of a "
            f"typical entry, at most {most:.3g} are rounding; both must return the same",
            figures={"ulps": worst},
        )  # fmt: skip
