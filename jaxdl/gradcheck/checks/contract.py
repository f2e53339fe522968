"""Gradients have the structure, shapes and dtypes of their arguments."""

from __future__ import annotations

from collections.abc import Iterator

import jax

from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.oracles.probe import backward_of
from jaxdl.gradcheck.problem.directions import cotangents
from jaxdl.gradcheck.report.findings import Finding


def contract(case: Case) -> Iterator[Finding]:
    """Gradients have the structure, shapes and dtypes of their arguments."""
    problem = case.problem
    weights = cotangents(case.rng(1), jax.eval_shape(problem.outputs, *problem.inputs))
    shapes = jax.eval_shape(backward_of(problem.outputs), problem.inputs, weights)
    for name, x, g in zip(problem.input_names, problem.inputs, shapes, strict=True):
        if (g.shape, g.dtype) == (x.shape, x.dtype):
            yield Finding("contract", "pass", leaf=name)
            continue
        yield Finding(
            "contract", "fail", leaf=name,
            text=f"the gradient must be {x.dtype}{list(x.shape)} as the argument, got "
            f"{g.dtype}{list(g.shape)}; cast it in the rule",
        )  # fmt: skip
