"""What running the gradient shows: the same bits every time, one trace, its cost."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxdl.gradcheck import _strip
from jaxdl.gradcheck._case import Case
from jaxdl.gradcheck._draw import cotangents
from jaxdl.gradcheck._precision import eps
from jaxdl.gradcheck._probe import backward_of, to_numpy
from jaxdl.gradcheck._report import Finding

_RUNS = 5
_TIMED = 15  # calls of each side


def determinism(case: Case) -> Iterator[Finding]:
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
            case.notes.append(f"{name}: {told}; sums in an order that changes do that")
        yield Finding("determinism", "pass" if worst <= rounding else "fail", leaf=name, text=told,
                      figures={"difference": worst})  # fmt: skip


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
    if leaks and not _leak(_strip.strip(problem.outputs), problem.inputs, weights):
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
    f = _strip.strip(case.problem.outputs)
    try:
        first, second = (_program(f, case.problem.inputs, weights) for _ in range(2))
    except Exception:  # a callback has no derivative without its rule
        return False
    return first != second


def _program(f: Callable[..., Any], inputs: list[Any], weights: list[Any]) -> str:
    """The gradient's jaxpr, without the addresses of what it calls."""
    text = str(jax.make_jaxpr(backward_of(f))(inputs, weights))
    return re.sub(r"0x[0-9a-f]+", "", text)


def cost(case: Case) -> Iterator[Finding]:
    """Time, operations and temporary memory of the compiled gradient, beside autodiff's."""
    problem = case.problem
    weights = cotangents(case.rng(52), jax.eval_shape(problem.outputs, *problem.inputs))
    stripped = _strip.strip(problem.outputs)
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
    case.notes.append(f"compiled, the gradient takes {', '.join(told)} of autodiff's")
    yield Finding("cost", "pass", figures=figures)


def _operations(compiled: Any) -> float | None:
    found = compiled.cost_analysis()
    found = found[0] if isinstance(found, list | tuple) else found
    return float(found["flops"]) if found and "flops" in found else None


def _memory(compiled: Any) -> float | None:
    found = compiled.memory_analysis()
    return None if found is None else float(found.temp_size_in_bytes)
