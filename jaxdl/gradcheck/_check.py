"""The function `check`: chooses the oracle, runs the checks of a level, tells what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck import _strip
from jaxdl.gradcheck._case import BLIND, Case
from jaxdl.gradcheck._levels import DIFFERENCES, LEVELS, NEED_REFERENCE
from jaxdl.gradcheck._probe import SAFETY, Probe, backward_of
from jaxdl.gradcheck._problem import GradcheckError, Problem, checked_outputs, state, x64
from jaxdl.gradcheck._report import Finding, Report

Level = Literal["quick", "standard"]
# Their code runs outside XLA or is compiled for one dtype: float64 does not reach it.
_NARROW = ("pure_callback", "io_callback", "ffi_call", "custom_call", "pallas_call")


def check(
    f: Callable[..., Any],
    *args: Any,
    kwargs: Mapping[str, Any] | None = None,
    ref: Literal["auto", "strip", "fd"] | Callable[..., Any] = "auto",
    samples: Sequence[tuple[Any, ...]] | None = None,
    wrt: Sequence[str] | None = None,
    level: Level = "standard",
    expect: Callable[..., Any] | None = None,
    skip: Mapping[str, str] | None = None,
    seed: int = 0,
    raises: bool = True,
) -> Report:
    """Whether the gradients of a function with hand-written rules are right.

    The rules (`custom_vjp`, `custom_jvp`) that belong to f are taken out, and JAX differentiates
    what is left in float64; every entry of every gradient by the rule must agree with it, to the
    rounding that was measured. Where they differ, finite differences that know their error vote.

    Args:
      f: any function of arrays that JAX can trace; its results may be any pytree.
      *args: its arguments: pytrees of arrays. Floating-point arrays and Python floats are
        differentiated (see wrt); integers, keys, None and other objects are held.
      kwargs: its keyword arguments.
      ref: what the rules are held against. 'strip' is the above; 'fd' finite differences of f
        alone; a function with the meaning of f; 'auto' is 'strip' where there is a rule to take
        out and it can be, else 'fd'.
      samples: further argument tuples, of any shapes.
      wrt: paths of the leaves to differentiate, such as "args[0]['w']" or 'scale'; * is wild. All
        floating-point leaves by default.
      level: 'quick' (structure, linearity, every entry of the gradient at the given arguments) or
        'standard' (also at points where rules tend to fail, under jit and vmap, for subsets of the
        arguments, second order, in low precision).
      expect: where the gradient is meant to differ from the derivative: a function of the
        cotangent (a pytree as f returns) and f's arguments that returns the intended gradients,
        one for each positional argument.
      skip: names of checks not to run, with the reason for the report.
      seed: of all random numbers.
      raises: whether anything but a pass is an AssertionError.

    Returns:
      A `Report`: outcome, findings, power, notes.

    Raises:
      AssertionError: the outcome is 'fail' or 'inconclusive'; the message is the report.
      GradcheckError: nothing to differentiate, complex arrays, an unknown level, check or path.
    """
    if level not in LEVELS:
        raise GradcheckError(f"gradcheck: level must be one of {', '.join(LEVELS)}, got {level!r}")
    skip = dict(skip or {})
    known = LEVELS["standard"].keys() | {"differences", "power"}
    for name in skip:
        if name not in known:
            raise GradcheckError(
                f"gradcheck: skip names the check {name!r}; there are {', '.join(sorted(known))}"
            )
    points = [("given", args), *((f"samples[{i}]", s) for i, s in enumerate(samples or ()))]
    reports = [
        _at(f, name, point, kwargs, ref, wrt, level, expect, skip, seed) for name, point in points
    ]
    report = reports[0] if len(reports) == 1 else _joined(reports)
    if raises and report.outcome != "pass":
        raise AssertionError(str(report))
    return report


def _at(f, sample, args, kwargs, ref, wrt, level, expect, skip, seed) -> Report:
    problem = state(f, args, kwargs, wrt)
    checked_outputs(problem)
    _repeatable(problem)
    jaxpr = jax.make_jaxpr(problem.outputs)(*problem.inputs)
    rules, notes = _strip.rule_names(jaxpr), []
    names = {eqn.primitive.name for eqn in _strip.equations(jaxpr)}
    narrow = sorted(names & set(_NARROW))
    if narrow:
        notes.append(f"{', '.join(narrow)} has no float64: compared in the given dtypes")
    chosen = _choose(problem, ref, expect, rules, narrow, notes)
    findings: list[Finding] = []
    mode = nullcontext if narrow else x64
    with mode():
        working = problem if narrow else problem.widened()
        truth, oracle = chosen(working)
        if not narrow:
            try:
                jax.eval_shape(working.outputs, *working.inputs)
            except TypeError as error:  # a dtype is written down in f
                notes.append(
                    f"{problem.name} has no float64 ({str(error).splitlines()[0][:100]}): compared "
                    "in the given dtypes"
                )
                narrow, mode = ["dtype"], nullcontext
    if narrow:
        working = problem
        truth, oracle = chosen(working)
    case = Case(problem, Probe(working.outputs, truth), not narrow, seed, expect is None)
    checks = dict(LEVELS[level])
    if oracle == "finite differences":
        checks = {n: c for n, c in checks.items() if n not in NEED_REFERENCE} | DIFFERENCES
    for name, (run, native) in checks.items():
        if name in skip:
            findings.append(Finding(name, "skipped", text=skip[name]))
            continue
        with nullcontext() if native else mode():
            findings += _run(name, run, case)
    if sample != "given":
        findings = [_named(finding, sample) for finding in findings]
    seen = {n: case.power.get(n, np.inf) for n in problem.input_names}
    if "power" in skip:
        findings.append(Finding("power", "skipped", text=skip["power"]))
    else:
        with mode():
            findings += _vacuous(case, seen, {f.leaf for f in findings if f.outcome != "pass"})
    notes += _audit(problem)
    return Report(problem.name, rules, oracle, level, findings, seen, notes)


def _run(name: str, run: Any, case: Case) -> list[Finding]:
    """A check's findings; one that cannot be run does not take the others with it."""
    findings = []
    try:
        for finding in run(case):
            findings.append(finding)
    except GradcheckError:
        raise
    except Exception as error:
        first = (str(error).splitlines() or [""])[0][:200]
        text = f"the check could not be run: {type(error).__name__}: {first}"
        findings.append(Finding(name, "inconclusive", text=text))
    return findings


def _repeatable(problem: Problem) -> None:
    first, second = (problem.outputs(*problem.inputs) for _ in range(2))
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        if not np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True):
            raise GradcheckError(
                f"gradcheck: {problem.name} is not deterministic: output {i} differs between two "
                "calls with the same arguments; hold its random state fixed, e.g. pass a key"
            )


def _choose(problem, ref, expect, rules, narrow, notes) -> Callable[[Problem], tuple[Any, str]]:
    """What gives the gradients that the rules are held against, and its name."""
    if expect is not None:
        return lambda p: (_intended(p, expect), "the intended gradient")
    if callable(ref):
        other = ref
        return lambda p: (
            backward_of(Problem(other, p.structure, p.leaves, p.names, p.wrt).outputs),
            f"the reference {getattr(other, '__name__', 'function')}",
        )
    if ref not in ("auto", "strip", "fd"):
        raise GradcheckError(
            f"gradcheck: ref must be 'auto', 'strip', 'fd' or a function, got {ref!r}"
        )
    by_differences = lambda p: (backward_of(p.outputs), "finite differences")  # noqa: E731
    if ref == "fd":
        return by_differences
    if not rules and ref == "auto":
        notes.append("no rule written by hand was found: JAX's own derivative was checked")
        return by_differences
    stripped = _strip.strip(problem.outputs)
    try:
        shapes = jax.eval_shape(problem.outputs, *problem.inputs)
        jax.eval_shape(backward_of(stripped), problem.inputs,
                       [jnp.zeros(s.shape, s.dtype) for s in shapes])  # fmt: skip
    except Exception as error:
        if ref == "strip":
            raise GradcheckError(
                f"gradcheck: {problem.name} without its rules cannot be differentiated: "
                f"{str(error).splitlines()[0]}; give ref='fd' or a function of the same meaning"
            ) from error
        notes.append(
            f"without its rules {problem.name} cannot be differentiated "
            f"({str(error).splitlines()[0][:100]})"
        )
        return by_differences
    return lambda p: (backward_of(_strip.strip(p.outputs)), "the primal without its rules")


def _intended(problem: Problem, expect: Callable[..., Any]) -> Callable[..., list[Any]]:
    def backward(inputs: list[Any], weights: list[Any]) -> list[Any]:
        args, kwargs = jax.tree.unflatten(problem.structure, problem.at(inputs).leaves)
        shape = jax.eval_shape(problem.call, *inputs)
        fresh = iter(weights)
        leaves = [next(fresh) if jnp.issubdtype(s.dtype, jnp.inexact) else None
                  for s in jax.tree.leaves(shape)]  # fmt: skip
        cotangent = jax.tree.unflatten(jax.tree.structure(shape), leaves)
        gradients = expect(cotangent, *args, **kwargs)
        found = dict(zip(problem.names, [None] * len(problem.names), strict=True))
        for i, of_arg in enumerate(gradients):
            for path, leaf in jax.tree_util.tree_flatten_with_path(of_arg)[0]:
                found[f"args[{i}]" + jax.tree_util.keystr(path)] = leaf
        missing = [n for n in problem.input_names if found.get(n) is None]
        if missing:
            raise GradcheckError(
                f"gradcheck: expect returned no gradient for {', '.join(missing)}; return one for "
                "each positional argument, or name the others in wrt"
            )
        return [jnp.asarray(found[n], x.dtype)
                for n, x in zip(problem.input_names, inputs, strict=True)]  # fmt: skip

    return backward


def _named(finding: Finding, sample: str) -> Finding:
    return replace(
        finding, sample=sample if finding.sample == "given" else f"{sample}, {finding.sample}"
    )


def _joined(reports: Sequence[Report]) -> Report:
    power = dict(reports[0].power)
    for report in reports[1:]:
        for name, value in report.power.items():
            power[name] = min(power.get(name, np.inf), value)
    findings = [finding for report in reports for finding in report.findings]
    notes = list(dict.fromkeys(note for report in reports for note in report.notes))
    return replace(reports[0], findings=findings, power=power, notes=notes)


def _vacuous(case: Case, power: Mapping[str, float], told: set[str]) -> list[Finding]:
    """A leaf at which no error could have been seen has not been checked."""
    findings = []
    inputs = case.at(case.problem.inputs)
    outputs = jax.eval_shape(case.probe.f, *inputs)
    coarse = case.probe.rounding(inputs, [jnp.ones(s.shape, s.dtype) for s in outputs])
    for i, (name, seen) in enumerate(power.items()):
        if seen < BLIND or any(leaf.startswith(name) for leaf in told):
            continue
        if case.constant(i):
            continue  # f does not depend on it, and the rule says so
        cause = "give arguments at which the gradient is not zero and well conditioned"
        if coarse * SAFETY > BLIND / 10:
            cause = (
                f"f computes with a relative precision of {coarse:.1g} on the way, whatever the "
                "dtype of its arguments; check it without that cast, or skip={'power': why}"
            )
        text = f"a relative error below {seen:.1g} would not have been seen here; {cause}"
        findings.append(Finding("power", "inconclusive", leaf=name, text=text))
    return findings


def _audit(problem: Problem) -> list[str]:
    """What the given arguments have in common that has hidden real bugs."""
    notes = []
    for name, x in zip(problem.input_names, problem.inputs, strict=True):
        values = np.asarray(x, np.float64)
        if values.size > 1 and np.ptp(values) == 0:
            notes.append(f"{name}: all entries are equal; a sum and a mean of others look alike")
        elif values.size > 2 and np.all(values > 0):
            notes.append(f"{name}: all entries are positive; wrong signs and branches may not show")
        if values.ndim >= 2 and len(set(values.shape[-2:])) == 1 and values.shape[-1] > 1:
            notes.append(
                f"{name}: axes of equal length {values.shape[-1]}; give another sample in which "
                "they differ, or a transpose may not show"
            )
            if values.ndim == 2 and np.array_equal(values, values.T):
                notes.append(f"{name}: symmetric; a transpose does not show")
    return notes
