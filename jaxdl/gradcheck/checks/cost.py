"""What the gradient costs, beside that of autodiff."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.checks.results import Note
from jaxdl.gradcheck.oracles import strip
from jaxdl.gradcheck.oracles.probe import backward_of
from jaxdl.gradcheck.problem.directions import cotangents
from jaxdl.gradcheck.report.findings import Finding

_TIMED = 15  # calls of each side


def cost(case: Case) -> Iterator[Finding | Note]:
    """Time, operations and temporary memory of the compiled gradient, beside autodiff's."""
    problem = case.problem
    weights = cotangents(case.rng(52), jax.eval_shape(problem.outputs, *problem.inputs))
    stripped = strip.strip(problem.outputs)
    sides = [
        jax.jit(backward_of(f)).lower(problem.inputs, weights).compile()
        for f in (problem.outputs, stripped)
    ]
    times: list[list[float]] = [[], []]
    order = case.rng(53)
    for _ in range(_TIMED):
        for side in order.permutation(2):
            begun = time.perf_counter()
            jax.block_until_ready(sides[side](problem.inputs, weights))
            times[side].append(time.perf_counter() - begun)
    figures = {"time": float(np.median(times[0]) / np.median(times[1]))}
    for name, measure in (("operations", _operations), ("temporary memory", _memory)):
        rule, plain = map(measure, sides)
        if rule is not None and plain is not None:
            figures |= {name: rule, f"{name} of autodiff": plain}
    told = [f"{figures['time']:.2f} × the time"]
    for name in ("operations", "temporary memory"):
        if figures.get(f"{name} of autodiff"):
            told.append(f"{figures[name] / figures[f'{name} of autodiff']:.2f} × the {name}")
    yield Note(f"compiled, the gradient takes {', '.join(told)} of autodiff's")
    yield Finding("cost", "pass", figures=figures)


def _operations(compiled: Any) -> float | None:
    found = compiled.cost_analysis()
    found = found[0] if isinstance(found, list | tuple) else found
    return float(found["flops"]) if found and "flops" in found else None


def _memory(compiled: Any) -> float | None:
    found = compiled.memory_analysis()
    return None if found is None else float(found.temp_size_in_bytes)
