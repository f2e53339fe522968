"""How the error in the given dtypes grows with the lengths of the arguments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import jax
import numpy as np

from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.checks.precision import precision
from jaxdl.gradcheck.oracles.probe import backward_of, to_numpy
from jaxdl.gradcheck.oracles.rounding import eps
from jaxdl.gradcheck.problem.directions import cotangents
from jaxdl.gradcheck.problem.problem import Problem
from jaxdl.gradcheck.problem.sizes import Axis, dimensions, length_of, resized
from jaxdl.gradcheck.report.findings import Finding

_LENGTHS = (32, 128, 512)
_MOST_DIMENSIONS = 2
_MOST_ENTRIES = 2**16


def growth(case: Case) -> Iterator[Finding]:
    """The error against float64, in units in the last place, for longer and longer arguments.

    At the longest, the check 'precision' decides; the curves show the rule beside autodiff.
    """
    problem = case.problem
    if not case.more_precise():
        yield Finding("growth", "skipped", text="there is nothing more precise to compare with")
        return
    groups = dimensions(problem)
    grown = False
    for number, group in enumerate(groups[:_MOST_DIMENSIONS]):
        curves: dict[str, list[float]] = {"length": [], "rule": [], "autodiff": []}
        last = None
        for length in _LENGTHS:
            if _entries(problem, group, length) > _MOST_ENTRIES:
                break
            lengths = [length if g is group else length_of(problem, g) for g in groups]
            try:
                longer = case.again(resized(problem, groups, lengths, case.rng(60, number, length)))
                rule, plain = _errors(longer)
            except Exception:
                break  # f refuses that length
            if not np.isfinite(rule + plain):
                break
            last = longer
            for name, value in zip(curves, (length, rule, plain), strict=True):
                curves[name].append(value)
        if last is None:
            continue
        grown = True
        name = f"axis {group[0][1]} of {problem.names[group[0][0]]}"
        figures = {
            f"exponent of {side}": _exponent(curves["length"], curves[side])
            for side in ("rule", "autodiff")
        }
        wrong = [f for f in precision(last) if f.outcome != "pass"]
        for finding in wrong:
            text = f"{finding.text}; at length {curves['length'][-1]:.0f} of {name}"
            yield replace(finding, name="growth", text=text, curves=curves)
        if not wrong:
            yield Finding("growth", "pass", leaf=name, figures=figures, curves=curves)
    if not grown:
        yield Finding("growth", "skipped", text="f takes no longer arguments")


def _entries(problem: Problem, group: Sequence[Axis], length: int) -> float:
    """Of the arguments, with axes of that length: a kernel may have two of them."""
    leaves, ratio = [leaf for leaf, _ in group], length / length_of(problem, group)
    return sum(problem.leaves[i].size * ratio ** leaves.count(i) for i in problem.wrt)


def _errors(case: Case) -> tuple[float, float]:
    """Of the rule and of autodiff: the largest of all leaves, in units in the last place."""
    problem = case.problem
    weights = cotangents(case.rng(61), jax.eval_shape(problem.outputs, *problem.inputs))
    mine = to_numpy(jax.jit(backward_of(problem.outputs))(problem.inputs, weights))
    plain = to_numpy(jax.jit(case.autodiff)(problem.inputs, weights))
    with case.mode():
        truth = case.probe.gradients(case.at(problem.inputs), case.heavy(weights))[1]
    found = []
    for got in (mine, plain):
        errors = []
        for g, t, x in zip(got, truth, problem.inputs, strict=True):
            size = float(np.sqrt(np.mean(t**2)))
            if size:
                errors.append(float(np.sqrt(np.mean((g - t) ** 2))) / size / eps(x.dtype))
        found.append(max(errors, default=0.0))
    return found[0], found[1]


def _exponent(lengths: list[float], errors: list[float]) -> float:
    """p of error ∝ lengthᵖ."""
    if len(lengths) < 2 or not all(errors):
        return float("nan")
    return float(np.polyfit(np.log(lengths), np.log(errors), 1)[0])
