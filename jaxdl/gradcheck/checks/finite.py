"""Whether the gradient is a number where the function is finite."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxdl.gradcheck.checks.agreement import native_gradients
from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.oracles.probe import to_numpy
from jaxdl.gradcheck.report.findings import Finding


def finite(case: Case) -> Iterator[Finding]:
    """Where the function is finite its gradient is a number, infinite only if it should be."""
    y, gradients, weights = native_gradients(case)
    smooth = all(np.all(np.isfinite(a)) for a in to_numpy(y))
    with case.mode():
        wanted = case.probe.gradients(case.at(case.problem.inputs), case.heavy(weights))[1]
    for name, g, want in zip(case.problem.input_names, to_numpy(gradients), wanted, strict=True):
        bad = np.isnan(g) | (np.isinf(g) & np.isfinite(want))
        outcome = "fail" if smooth and bad.any() else "pass"
        yield Finding(
            "finite", outcome, leaf=name,
            text=f"the function is finite here, but {int(bad.sum())} of {bad.size} entries of the "
            "gradient are NaN, or infinite where they should not be",
        )  # fmt: skip
