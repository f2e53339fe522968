"""Traced again the gradient is the same program, and no tracer is kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.oracles import strip
from jaxdl.gradcheck.oracles.probe import backward_of
from jaxdl.gradcheck.problem.directions import cotangents
from jaxdl.gradcheck.report.findings import Finding


def traces(case: Case) -> Iterator[Finding]:
    """Traced twice the gradient is the same program, no tracer is kept, nothing is traced again."""
    problem = case.problem
    weights = cotangents(case.rng(51), jax.eval_shape(problem.outputs, *problem.inputs))
    calls = 0

    def counted(*inputs: Any) -> list[Any]:
        nonlocal calls
        calls += 1
        return problem.outputs(*inputs)

    compiled = jax.jit(backward_of(counted))
    compiled(problem.inputs, weights)
    once = calls
    compiled([x * 2 for x in problem.inputs], weights)
    yield Finding(
        "traces", "pass" if calls == once else "fail",
        text="called again with arguments of the same shapes, the compiled gradient was traced "
        f"again: f ran {calls - once} more times",
    )  # fmt: skip
    leaks = _leak(problem.outputs, problem.inputs, weights)
    if leaks and not _leak(strip.strip(problem.outputs), problem.inputs, weights):
        yield Finding("traces", "fail", text=f"a rule keeps a tracer: {leaks}")
    else:
        yield Finding("traces", "pass")
    first, second = (_program(problem.outputs, problem.inputs, weights) for _ in range(2))
    yield Finding(
        "traces", "pass" if first == second or _changes(case, weights) else "fail",
        text="traced twice, the gradient is two different programs: a rule reads or keeps "
        "something outside its arguments",
    )  # fmt: skip


def _leak(f: Callable[..., Any], inputs: list[Any], weights: list[Any]) -> str:
    try:
        with jax.checking_leaks():
            jax.jit(backward_of(f)).trace(inputs, weights)
    except Exception as error:
        text = str(error)
        if "eak" in text:
            return text.splitlines()[0][:200]
    return ""


def _changes(case: Case, weights: list[Any]) -> bool:
    """Whether f itself is another program each time, without its rules."""
    f = strip.strip(case.problem.outputs)
    try:
        first, second = (_program(f, case.problem.inputs, weights) for _ in range(2))
    except Exception:  # a callback has no derivative without its rule
        return False
    return first != second


def _program(f: Callable[..., Any], inputs: list[Any], weights: list[Any]) -> str:
    """The gradient's jaxpr, without the addresses of what it calls."""
    text = str(jax.make_jaxpr(backward_of(f))(inputs, weights))
    return re.sub(r"0x[0-9a-f]+", "", text)
