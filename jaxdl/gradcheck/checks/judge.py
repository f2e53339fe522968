"""Gradients at other arguments than the given ones: how they are judged, and what that is worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.checks.differences import differences
from jaxdl.gradcheck.checks.dot import dot
from jaxdl.gradcheck.checks.results import Result, findings_of
from jaxdl.gradcheck.problem.integers import promises
from jaxdl.gradcheck.problem.problem import like
from jaxdl.gradcheck.report.findings import Finding


def judge(case: Case, sample: str, inputs: Sequence[Any] | None = None) -> Iterator[Result]:
    """The check 'dot' at other arguments; 'differences' where there is no reference."""
    if case.reference:
        return dot(case, sample, inputs)
    moved = (
        case.problem
        if inputs is None
        else case.problem.at(
            [like(x, new) for x, new in zip(case.problem.inputs, inputs, strict=True)]
        )
    )
    return findings_of(differences(case.again(moved), sample))


def as_found_elsewhere(case: Case, finding: Finding, name: str, held: bool = False) -> Finding:
    """A finding at other points than the given ones, as one of the check of that name.

    Where integers were changed (held) apart that say one thing, rows and their ends, a failure is
    none. A derivative in forward mode that finite differences do not confirm there says nothing,
    nor do differences that are too coarse.
    """
    if (case.forward_mode or not case.reference) and finding.outcome == "inconclusive":
        text = f"{finding.sample}: finite differences cannot tell"
        return replace(finding, name=name, outcome="skipped", text=text)
    if held and finding.outcome == "fail" and len(promises(case.problem)) > 1:
        apart = "or else several integer arguments belong together, and no longer do"
        text = f"{finding.text}\n{apart}"
        return replace(finding, name=name, outcome="inconclusive", text=text)
    return replace(finding, name=name)
