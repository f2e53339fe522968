"""The function `check`: chooses the oracle, runs the checks of a level, tells what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.checks.dot import confirmed
from jaxdl.gradcheck.checks.hints import hints
from jaxdl.gradcheck.checks.levels import (
    DIFFERENCES,
    ELSEWHERE,
    LEVELS,
    LOW_PRECISION,
    NEED_DERIVATIVE,
    NEED_REFERENCE,
    NEED_REST,
    NEED_REVERSE,
    Table,
)
from jaxdl.gradcheck.checks.power import power
from jaxdl.gradcheck.checks.refusals import must_repeat, not_given, refused_by_jax
from jaxdl.gradcheck.checks.shrunk import of_domain, of_sizes
from jaxdl.gradcheck.oracles import strip
from jaxdl.gradcheck.oracles.probe import Probe
from jaxdl.gradcheck.oracles.reference import Reference, by_differences, choose, narrow
from jaxdl.gradcheck.oracles.working_dtype import working_dtype
from jaxdl.gradcheck.problem.audit import audit
from jaxdl.gradcheck.problem.domain import Domain, name_of
from jaxdl.gradcheck.problem.problem import GradcheckError, Problem, checked_outputs, state, x64
from jaxdl.gradcheck.report.findings import Finding
from jaxdl.gradcheck.report.report import Report

Level = Literal["quick", "standard", "full"]
NO_CHECKS = ("differences", "power", "shrink")  # what else `skip` may name


@dataclass(frozen=True)
class _Asked:
    """What `check` was asked, beside the arguments."""

    f: Callable[..., Any]
    kwargs: Mapping[str, Any] | None
    ref: Reference
    wrt: Sequence[str] | None
    level: Level
    expect: Callable[..., Any] | None
    skip: Mapping[str, str]
    seed: int


def check(
    f: Callable[..., Any],
    *args: Any,
    kwargs: Mapping[str, Any] | None = None,
    ref: Reference = "auto",
    samples: Sequence[tuple[Any, ...]] | Domain | None = None,
    wrt: Sequence[str] | None = None,
    level: Level = "standard",
    dtypes: Sequence[Any] = (),
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
        differentiated (see wrt); integers, keys, None and other objects are held. May be left out
        where samples are given.
      kwargs: its keyword arguments.
      ref: what the rules are held against. 'strip' is the above; 'fd' finite differences of f
        alone; a function with the meaning of f; 'auto' is 'strip' where there is a rule to take
        out and it can be, else 'fd'.
      samples: further argument tuples, of any shapes, or a `Domain` that draws them.
      wrt: paths of the leaves to differentiate, such as "args[0]['w']" or 'scale'; * is wild. All
        floating-point leaves by default.
      level: 'quick' (structure, linearity, every entry of the gradient at the given arguments),
        'standard' (also at points where rules tend to fail and at other sizes, under jit and vmap,
        for subsets of the arguments, second order, in low precision) or 'full' (also Taylor's
        remainder, in loops, under jax.checkpoint, on several devices, in microbatches, run after
        run, growth of the error with the sizes, and the cost beside that of autodiff).
      dtypes: further floating-point dtypes in which structure and precision are studied, such as
        'bfloat16': all floating-point arguments are cast.
      expect: where the gradient is meant to differ from the derivative: a function of the
        cotangent (a pytree as f returns) and f's arguments that returns the intended gradients,
        one for each positional argument.
      skip: names of checks not to run, with the reason for the report; 'power' accepts a vacuous
        check, 'shrink' leaves failures as large as they are.
      seed: of all random numbers.
      raises: whether anything but a pass is an AssertionError.

    Returns:
      A `Report`: outcome, findings, power, notes.

    Raises:
      AssertionError: the outcome is 'fail' or 'inconclusive'; the message is the report.
      GradcheckError: nothing to differentiate, complex arrays, an unknown level, check, dtype or
        path.
    """
    if level not in LEVELS:
        raise GradcheckError(f"gradcheck: level must be one of {', '.join(LEVELS)}, got {level!r}")
    skip = dict(skip or {})
    known = LEVELS["full"].keys() | set(NO_CHECKS)
    for name in skip:
        if name not in known:
            raise GradcheckError(
                f"gradcheck: skip names the check {name!r}; there are {', '.join(sorted(known))}"
            )
    asked = _Asked(f, kwargs, ref, wrt, level, expect, skip, seed)
    floats = [_floating(dtype) for dtype in dtypes]
    reports: list[Report] = []
    if args or samples is None:
        reports.append(_at(asked, "given", args))
    if isinstance(samples, Domain):
        for choices, drawn in samples.points(seed):
            report = _at(asked, name_of(choices), drawn)
            if report.outcome == "fail" and "shrink" not in skip:
                report = of_domain(report, samples, choices, seed, _fails_at(asked, report))
            reports.append(report)
    else:
        reports += [_at(asked, f"samples[{i}]", s) for i, s in enumerate(samples or ())]
    if not reports:
        raise GradcheckError("gradcheck: samples is empty, and no arguments are given")
    for dtype in floats:
        first = args if args or samples is None else next(iter(_tuples(samples, seed)))
        reports.append(_at(asked, f"as {dtype.name}", first, dtype))
    report = reports[0] if len(reports) == 1 else _joined(reports)
    if raises and report.outcome != "pass":
        raise AssertionError(str(report))
    return report


def _tuples(samples: Sequence[tuple[Any, ...]] | Domain, seed: int) -> Sequence[tuple[Any, ...]]:
    return [a for _, a in samples.points(seed)] if isinstance(samples, Domain) else samples


def _floating(dtype: Any) -> np.dtype:
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise GradcheckError(
            f"gradcheck: dtypes takes floating-point dtypes such as 'bfloat16', got {dtype!r}"
        )
    return found


def _fails_at(asked: _Asked, report: Report) -> Callable[[tuple[Any, ...]], bool]:
    """Whether arguments fail a check that failed before."""
    names = {finding.name for finding in report.findings if finding.outcome == "fail"}
    table = {n: c for n, c in LEVELS["full"].items() if n in names}

    def fails(args: tuple[Any, ...]) -> bool:
        found = _at(asked, "shrunk", args, table=table)
        return any(f.outcome == "fail" and f.name in names for f in found.findings)

    return fails


def _at(
    asked: _Asked,
    sample: str,
    args: tuple[Any, ...],
    dtype: np.dtype | None = None,
    table: Table | None = None,
) -> Report:
    """All checks of the level at some arguments; with a dtype those of precision, cast to it."""
    problem = state(asked.f, args, asked.kwargs, asked.wrt)
    if dtype is not None:
        problem = problem.at([jnp.asarray(x, dtype) for x in problem.inputs])
    checked_outputs(problem)
    must_repeat(problem)
    jaxpr = jax.make_jaxpr(problem.outputs)(*problem.inputs)
    rules, notes = strip.rule_names(jaxpr), []
    refused = not_given(problem, rules) or refused_by_jax(problem, rules)
    if refused is not None:
        finding = refused if sample == "given" else _named(refused, sample)
        return Report(problem.name, rules, "the contract alone", asked.level, [finding], {}, notes)
    oracle = choose(problem, asked.ref, asked.expect, rules, notes)
    dtype_of_probe = working_dtype(problem, oracle.truth, narrow(jaxpr), notes)

    def case_of(problem: Problem) -> Case:
        with x64(dtype_of_probe == jnp.float64):
            working = problem if dtype_of_probe is None else problem.widened(dtype_of_probe)
        probe = Probe(working.outputs, oracle.truth(working), oracle.further(working))
        return Case(
            problem, probe, oracle.truth(problem), dtype_of_probe, asked.seed,
            asked.expect is None, case_of, notes=notes, reference=oracle.is_reference,
            forward_mode=not oracle.reverse, rests=rests,
        )  # fmt: skip

    rests = cache(lambda: case.probe.iterates and case.comes_to_rest())
    case = case_of(problem)
    in_doubt = asked.ref == "auto" and (case.forward_mode or case.probe.iterates)
    if in_doubt and not confirmed(case):
        notes.append(
            "f has loops, of which the derivative is not that of what they look for, by finite "
            "differences at the given arguments: those judge"
        )
        oracle = by_differences()
        case = case_of(problem)
    checks = dict(LEVELS[asked.level] if table is None else table)
    if dtype is not None:
        checks = {n: c for n, c in LEVELS["standard"].items() if n in LOW_PRECISION}
    if asked.expect is not None:
        checks = {n: c for n, c in checks.items() if n not in NEED_DERIVATIVE}
    if not oracle.reverse:
        checks = {n: c for n, c in checks.items() if n not in NEED_REVERSE}
    if not oracle.is_reference:
        dropped = NEED_REFERENCE if rules else NEED_REFERENCE + ELSEWHERE
        checks = {n: c for n, c in checks.items() if n not in dropped} | DIFFERENCES
    findings: list[Finding] = []
    for name, (run, native) in checks.items():
        if name in asked.skip:
            findings.append(Finding(name, "skipped", text=asked.skip[name]))
            continue
        if case.loose and name in NEED_REST:
            findings.append(Finding(name, "skipped", text="f has not come to rest"))
            continue
        with nullcontext() if native else case.mode():
            findings += _run(name, run, case)
    seen = {n: case.power.get(n, np.inf) for n in problem.input_names}
    if table is None and dtype is None:
        if sample == "given" and "shrink" not in asked.skip:
            with case.mode():
                findings = of_sizes(findings, case)
        if "power" in asked.skip:
            findings.append(Finding("power", "skipped", text=asked.skip["power"]))
        else:
            told = {f.leaf for f in findings if f.outcome != "pass"}
            with case.mode():
                findings += _run("power", lambda case: power(case, seen, told), case)
        notes += audit(problem)
    else:
        seen = {}
    notes += hints(case, findings)
    if sample != "given":
        findings = [_named(finding, sample) for finding in findings]
    return Report(problem.name, rules, oracle.name, asked.level, findings, seen, notes)


def _run(name: str, run: Any, case: Case) -> list[Finding]:
    """A check's findings; one that cannot be run does not take the others with it."""
    findings = []
    try:
        for finding in run(case):
            findings.append(finding)
    except GradcheckError:
        raise
    except jax.errors.UnexpectedTracerError:
        text = "the rule keeps a tracer, and reads it in another call: it must keep nothing"
        findings.append(Finding(name, "fail", text=text))
    except Exception as error:
        first = (str(error).splitlines() or [""])[0][:200]
        text = f"the check could not be run: {type(error).__name__}: {first}"
        findings.append(Finding(name, "inconclusive", text=text))
    return findings


def _named(finding: Finding, sample: str) -> Finding:
    return replace(
        finding, sample=sample if finding.sample == "given" else f"{sample}, {finding.sample}"
    )


def _joined(reports: Sequence[Report]) -> Report:
    power: dict[str, float] = {}
    for report in reports:
        for name, value in report.power.items():
            power[name] = min(power.get(name, np.inf), value)
    findings = [finding for report in reports for finding in report.findings]
    notes = list(dict.fromkeys(note for report in reports for note in report.notes))
    return replace(reports[0], findings=findings, power=power, notes=notes)
