"""A failure made small: the least sizes, and the plainest values, at which it is still there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.checks.dot import dot
from jaxdl.gradcheck.checks.results import findings_of
from jaxdl.gradcheck.problem.domain import Domain, name_of
from jaxdl.gradcheck.problem.shrink import smallest
from jaxdl.gradcheck.problem.sizes import dimensions, length_of, resized
from jaxdl.gradcheck.report.findings import Finding
from jaxdl.gradcheck.report.report import Report

_TRIALS = 10  # of sizes; each is a program to compile
_SHOWN = 8  # entries of an argument that is printed
_COMPARED = ("dot", "stress", "shapes")  # whose failures are made small


def of_domain(
    report: Report,
    domain: Domain,
    choices: Mapping[str, Any],
    seed: int,
    fails: Callable[[tuple[Any, ...]], bool],
) -> Report:
    """The report of a draw that failed, with a line that tells the simplest that does."""

    def at(choices: Mapping[str, Any]) -> bool:
        try:
            return fails(domain.args(choices, seed))
        except Exception:
            return False  # f refuses it, or cannot be checked there

    found, border = smallest(at, choices, domain.choices, 2 * _TRIALS)
    text = "; ".join(filter(None, [f"fails at {name_of(found)}", border]))
    return replace(report, findings=_told(report.findings, f"shrunk  {text}"))


def of_sizes(findings: Sequence[Finding], case: Case) -> list[Finding]:
    """The findings, the first failure of which tells the least lengths and values that fail."""
    if not any(f.outcome == "fail" and f.name in _COMPARED for f in findings):
        return list(findings)
    problem = case.problem
    groups = dimensions(problem)
    names = [f"{problem.names[group[0][0]]}.shape[{group[0][1]}]" for group in groups]
    given = {n: length_of(problem, g) for n, g in zip(names, groups, strict=True)}

    def at(lengths: Mapping[str, int]) -> Case:
        if lengths == given:
            return case
        return case.again(
            resized(problem, groups, [lengths[n] for n in names], case.rng(25, *lengths.values()))
        )

    def fails(lengths: Mapping[str, int]) -> bool:
        try:
            return _fails(at(lengths))
        except Exception:
            return False  # f refuses them, or its gradient is not to be had at all

    if not fails(given):  # only stress points or other sizes show it: those are told already
        return list(findings)
    lengths, border = smallest(
        fails, given, {n: range(1, size + 1) for n, size in given.items()}, _TRIALS
    )
    small = at(lengths)
    sizes = ", ".join(f"{n} = {v}" for n, v in lengths.items())
    parts = [f"fails at {sizes}" if sizes else "", border, *_values(small)]
    text = "; ".join(filter(None, parts))
    return _told(findings, f"shrunk  {text}") if text else list(findings)


def _fails(case: Case, inputs: Sequence[np.ndarray] | None = None) -> bool:
    return any(f.outcome == "fail" for f in findings_of(dot(case, "shrunk", inputs)))


def _values(case: Case) -> Iterator[str]:
    """The plainest values of each argument that still fail, where they are few."""
    inputs = [np.asarray(x, np.float64) for x in case.problem.inputs]
    for leaf, name in enumerate(case.problem.input_names):
        x = inputs[leaf]
        for plain in (np.ones_like(x), np.round(x), np.round(x, 1)):
            trial = [plain if i == leaf else other for i, other in enumerate(inputs)]
            if _fails(case, trial):
                inputs[leaf] = x = plain
                break
        if x.size <= _SHOWN:
            yield f"{name} = {np.array2string(x, separator=', ', precision=6)}".replace("\n", "")


def _told(findings: Sequence[Finding], line: str) -> list[Finding]:
    found = list(findings)
    for i, finding in enumerate(found):
        if finding.outcome == "fail" and finding.name in _COMPARED:
            found[i] = replace(finding, text=f"{finding.text}\n{line}")
            break
    return found
