"""What may be behind a failure, or a doubt, that is no mistake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.oracles.probe import to_numpy
from jaxdl.gradcheck.report.findings import Finding


def hints(case: Case, findings: Sequence[Finding]) -> Iterator[str]:
    """What may be behind a failure, or a doubt, that is no mistake."""
    failed = [f for f in findings if f.outcome in ("fail", "inconclusive")]
    if failed and not all(
        np.all(np.isfinite(y)) for y in to_numpy(case.problem.outputs(*case.problem.inputs))
    ):
        yield "f is not finite at the given arguments: give others, at which it is defined"
    if any(f.sample == "given" and f.name in ("dot", "taylor") for f in failed):
        if case.holds_back():
            yield (
                "f has a stop_gradient: where the gradient is meant to differ from the derivative, "
                "give expect="
            )
        if case.rests():
            yield (
                "f has loops: where they end before they come to rest, and the rule is that of the "
                "limit, a small difference is no mistake; let them run further for the check"
            )
    elif any("among the integers" in f.sample or "all booleans" in f.sample for f in failed):
        yield (
            "only with other integers or booleans: if f relies on more than their range, let it "
            "return NaN where that does not hold"
        )
