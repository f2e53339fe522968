"""The same comparison at other arguments than the given ones, where rules tend to go wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax

from jaxdl.gradcheck._case import Case, stress_points
from jaxdl.gradcheck._draw import cotangents
from jaxdl.gradcheck._entries import dot
from jaxdl.gradcheck._held import held_points, promises
from jaxdl.gradcheck._problem import like
from jaxdl.gradcheck._report import Finding
from jaxdl.gradcheck._slopes import differences

_BY_DIFFERENCES = ("other signs", "fresh")  # points at which slopes can be found: off all ties


def stress(case: Case) -> Iterator[Finding]:
    """The check 'dot' at points derived from the given ones, where rules tend to go wrong."""
    for sample, inputs in stress_points(case.problem.inputs, case.rng(13)):
        if not case.reference and sample not in _BY_DIFFERENCES:
            continue
        if _finite(case, inputs):
            for finding in judge(case, sample, inputs):
                yield elsewhere(case, finding, "stress")
    for sample, problem in held_points(case.problem, case.rng(38)):
        other = case.again(problem)
        other.sizes = case.sizes
        if _finite(other, problem.inputs) and _traces(other):
            for finding in judge(other, sample):
                yield elsewhere(case, finding, "stress", held=True)


def judge(case: Case, sample: str, inputs: Sequence[Any] | None = None) -> Iterator[Finding]:
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
    return differences(replace(case.again(moved), notes=[]), sample)


def elsewhere(case: Case, finding: Finding, name: str, held: bool = False) -> Finding:
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


def confirmed(case: Case) -> bool:
    """Whether the vote has no doubt about the reference at the given arguments."""
    again = replace(case, power={}, sizes=[], wrong=set(), doubtful=set(), notes=[])
    with case.mode():
        return all(finding.outcome != "inconclusive" for finding in dot(again))


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


def comes_to_rest(case: Case) -> bool:
    """Whether what f iterates is at its end at the given arguments, or nearly."""
    with case.mode():
        inputs = case.at(case.problem.inputs)
        weights = cotangents(case.rng(39), jax.eval_shape(case.probe.f, *inputs))
        return case.probe.rests(inputs, weights)
