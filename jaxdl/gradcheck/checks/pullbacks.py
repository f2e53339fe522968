"""Two pullbacks at a time: state that a rule keeps outside its residuals."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.oracles.probe import to_numpy
from jaxdl.gradcheck.problem.directions import cotangents, direction
from jaxdl.gradcheck.problem.problem import like
from jaxdl.gradcheck.report.findings import Finding


def pullbacks(case: Case) -> Iterator[Finding]:
    """Two pullbacks at once do not disturb each other; one called twice gives the same bits."""
    problem = case.problem
    inputs = problem.inputs
    moved = [like(x, x + direction(case.rng(6), x.shape)) for x in inputs]
    y, first = jax.vjp(problem.outputs, *inputs)
    weights = cotangents(case.rng(7), y)
    expected = to_numpy(first(weights))
    _, mine = jax.vjp(problem.outputs, *inputs)
    _, other = jax.vjp(problem.outputs, *moved)
    other(weights)
    for name, a, b in zip(problem.input_names, to_numpy(mine(weights)), expected, strict=True):
        same = np.array_equal(a, b, equal_nan=True)
        yield Finding(
            "pullbacks", "pass" if same else "fail", leaf=name,
            text="the gradient changed after the pullback at another point was called: the rule "
            "keeps something outside its residuals",
        )  # fmt: skip
