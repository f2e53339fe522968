"""The same bits every time the gradient is run."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.checks.results import Note
from jaxdl.gradcheck.oracles.probe import backward_of, to_numpy
from jaxdl.gradcheck.oracles.rounding import eps
from jaxdl.gradcheck.problem.directions import cotangents
from jaxdl.gradcheck.report.findings import Finding

_RUNS = 5


def determinism(case: Case) -> Iterator[Finding | Note]:
    """Run after run, the compiled gradient has the same bits, or the same to rounding."""
    problem = case.problem
    weights = cotangents(case.rng(50), jax.eval_shape(problem.outputs, *problem.inputs))
    backward = jax.jit(backward_of(problem.outputs))
    first, *others = (to_numpy(backward(problem.inputs, weights)) for _ in range(_RUNS))
    for leaf, name in enumerate(problem.input_names):
        size = np.abs(first[leaf]) + np.sqrt(np.mean(np.nan_to_num(first[leaf]) ** 2))
        with np.errstate(invalid="ignore"):
            apart = [np.abs(o[leaf] - first[leaf]) for o in others]
        worst = float(max(np.max(np.nan_to_num(a / (size + 1e-300))) for a in apart))
        bits = all(np.array_equal(o[leaf], first[leaf], equal_nan=True) for o in others)
        rounding = 1e3 * eps(problem.inputs[leaf].dtype)
        told = f"in {_RUNS} runs the gradient differs by up to {worst:.2g} of its size"
        if not bits and worst <= rounding:
            yield Note(f"{name}: {told}; sums in an order that changes do that")
        yield Finding("determinism", "pass" if worst <= rounding else "fail", leaf=name, text=told,
                      figures={"difference": worst})  # fmt: skip
