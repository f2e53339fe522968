"""The same comparison at points where rules tend to go wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax

from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.checks.judge import as_found_elsewhere, judge
from jaxdl.gradcheck.checks.results import Result, findings_of
from jaxdl.gradcheck.problem.integers import held_points
from jaxdl.gradcheck.problem.points import stress_points
from jaxdl.gradcheck.report.findings import Finding

_BY_DIFFERENCES = ("other signs", "fresh")  # points at which slopes can be found: off all ties


def stress(case: Case) -> Iterator[Result]:
    """The check 'dot' at points derived from the given ones, where rules tend to go wrong."""
    for sample, inputs in stress_points(case.problem.inputs, case.rng(13)):
        if not case.reference and sample not in _BY_DIFFERENCES:
            continue
        if _finite(case, inputs):
            for found in judge(case, sample, inputs):
                if isinstance(found, Finding):
                    found = as_found_elsewhere(case, found, "stress")
                yield found
    for sample, problem in held_points(case.problem, case.rng(38)):
        other = case.elsewhere(problem)
        if _finite(other, problem.inputs) and _traces(other):
            for finding in findings_of(judge(other, sample)):
                yield as_found_elsewhere(case, finding, "stress", held=True)


def _traces(case: Case) -> bool:
    """Whether f, its rule and what it is held against take such integers without an error."""
    inputs = case.at(case.problem.inputs)
    try:
        weights = jax.eval_shape(case.probe.f, *inputs)
        jax.eval_shape(case.probe.rule, inputs, weights)
        jax.eval_shape(case.probe.truth, inputs, weights)
    except Exception:
        return False
    return True


def _finite(case: Case, inputs: Sequence[Any]) -> bool:
    """Whether these arguments lie in the domain of f."""
    try:
        return case.probe.is_finite(case.at(inputs))
    except Exception:
        return False
