"""All checks of a level at one tuple of arguments."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck.checks.case import Case, Check
from jaxdl.gradcheck.checks.dot import confirmed
from jaxdl.gradcheck.checks.hints import hints
from jaxdl.gradcheck.checks.levels import (
    LEVELS,
    NEED_REST,
    Table,
    applicable,
    named,
    of_low_precision,
)
from jaxdl.gradcheck.checks.power import power
from jaxdl.gradcheck.checks.refusals import must_repeat, not_given, refused_by_jax
from jaxdl.gradcheck.checks.results import Found, Note, Result
from jaxdl.gradcheck.checks.shrunk import of_sizes
from jaxdl.gradcheck.oracles import strip
from jaxdl.gradcheck.oracles.probe import Probe
from jaxdl.gradcheck.oracles.reference import Oracle, Reference, by_differences, choose, narrow
from jaxdl.gradcheck.oracles.working_dtype import working_dtype
from jaxdl.gradcheck.problem.audit import audit
from jaxdl.gradcheck.problem.problem import GradcheckError, Problem, checked_outputs, state, x64
from jaxdl.gradcheck.report.findings import Finding
from jaxdl.gradcheck.report.report import Report

Level = Literal["quick", "standard", "full"]


@dataclass(frozen=True)
class Asked:
    """What `check` was asked, beside the arguments."""

    f: Callable[..., Any]
    kwargs: Mapping[str, Any] | None
    ref: Reference
    wrt: Sequence[str] | None
    level: Level
    expect: Callable[..., Any] | None
    skip: Mapping[str, str]
    seed: int


def check_at(
    asked: Asked,
    sample: str,
    args: tuple[Any, ...],
    *,
    dtype: np.dtype | None = None,
    only: Collection[str] | None = None,
) -> Report:
    """All checks of the level at some arguments.

    Args:
      asked: what `check` was asked.
      sample: a name for the arguments.
      args: the positional ones.
      dtype: all arguments are cast to it, and only the checks of low precision run.
      only: names of checks, in place of those of the level.
    """
    problem = _stated(asked, args, dtype)
    jaxpr = jax.make_jaxpr(problem.outputs)(*problem.inputs)
    rules = strip.rule_names(jaxpr)
    refused = not_given(problem, rules) or refused_by_jax(problem, rules)
    if refused is not None:
        findings = [_of_sample(refused, sample)]
        return Report(problem.name, rules, "the contract alone", asked.level, findings, {})

    case, oracle, notes = _held_against(asked, problem, rules, narrow(jaxpr))
    checks = _chosen(asked, oracle, rules, dtype, only)
    found = _collected(case, checks, asked.skip)
    power_of: dict[str, float] = {}
    if dtype is None and only is None:
        power_of = {name: found.seen.power.get(name, np.inf) for name in problem.input_names}
        if sample == "given" and "shrink" not in asked.skip:
            found = _with_least_failure(found, case)
        found = found.and_then(_weighed(found, case, power_of, asked.skip))
        found = found.and_then(map(Note, audit(problem)))
    found = found.and_then(map(Note, hints(case, found.findings)))

    findings = [_of_sample(finding, sample) for finding in found.findings]
    notes += found.notes
    return Report(problem.name, rules, oracle.name, asked.level, findings, power_of, notes)


def _stated(asked: Asked, args: tuple[Any, ...], dtype: np.dtype | None) -> Problem:
    """The function and its arguments, of which all that can be refused is."""
    problem = state(asked.f, args, asked.kwargs, asked.wrt)
    if dtype is not None:
        problem = problem.at([jnp.asarray(x, dtype) for x in problem.inputs])
    checked_outputs(problem)
    must_repeat(problem)
    return problem


def _held_against(
    asked: Asked, problem: Problem, rules: list[str], without_float64: list[str]
) -> tuple[Case, Oracle, list[str]]:
    """The function beside its oracle, and what is to be said of that choice."""
    oracle = choose(problem, asked.ref, asked.expect, rules)
    working, why = working_dtype(problem, oracle.truth, without_float64)
    case, notes = _case(asked, problem, oracle, working), [*oracle.notes, *why]
    in_doubt = asked.ref == "auto" and (case.forward_mode or case.probe.iterates)
    if in_doubt and not confirmed(case):
        notes.append(
            "f has loops, of which the derivative is not that of what they look for, by finite "
            "differences at the given arguments: those judge"
        )
        oracle = by_differences()
        case = _case(asked, problem, oracle, working)
    return case, oracle, notes


def _case(asked: Asked, problem: Problem, oracle: Oracle, working: Any) -> Case:
    """The function beside what it is held against, in the dtype in which they are compared."""

    def at(problem: Problem) -> Case:
        with x64(working == jnp.float64):
            widened = problem if working is None else problem.widened(working)
        return Case(
            problem,
            Probe(widened.outputs, oracle.truth(widened), oracle.further(widened)),
            oracle.truth(problem),
            working,
            asked.seed,
            arbiter=asked.expect is None,
            again=at,
            rests=rests,
            reference=oracle.is_reference,
            forward_mode=not oracle.reverse,
        )

    rests = cache(lambda: given.probe.iterates and given.comes_to_rest())
    given = at(problem)
    return given


def _chosen(
    asked: Asked,
    oracle: Oracle,
    rules: list[str],
    dtype: np.dtype | None,
    only: Collection[str] | None,
) -> Table:
    """The checks to run."""
    if dtype is not None:
        table = of_low_precision()
    else:
        table = LEVELS[asked.level] if only is None else named(only)
    return applicable(table, oracle, bool(rules), asked.expect is not None)


def _collected(case: Case, checks: Table, skip: Mapping[str, str]) -> Found:
    """What the checks find, one after the other; each knows what those before it have seen."""
    found = Found()
    for name, (check, in_given_dtypes) in checks.items():
        why = skip.get(name)
        if why is None and found.seen.loose and name in NEED_REST:
            why = "f has not come to rest"
        if why is not None:
            found = found.and_then([Finding(name, "skipped", text=why)])
            continue
        with nullcontext() if in_given_dtypes else case.mode():
            found = found.and_then(_run(name, check, replace(case, seen=found.seen)))
    return found


def _run(name: str, check: Check, case: Case) -> list[Result]:
    """What a check returns; one that cannot be run does not take the others with it."""
    results: list[Result] = []
    try:
        for result in check(case):
            results.append(result)
    except GradcheckError:
        raise
    except jax.errors.UnexpectedTracerError:
        text = "the rule keeps a tracer, and reads it in another call: it must keep nothing"
        results.append(Finding(name, "fail", text=text))
    except Exception as error:
        first = (str(error).splitlines() or [""])[0][:200]
        text = f"the check could not be run: {type(error).__name__}: {first}"
        results.append(Finding(name, "inconclusive", text=text))
    return results


def _with_least_failure(found: Found, case: Case) -> Found:
    """The same; the first failure tells the least sizes and values at which it is still there."""
    with case.mode():
        return replace(found, findings=of_sizes(found.findings, replace(case, seen=found.seen)))


def _weighed(
    found: Found, case: Case, power_of: Mapping[str, float], skip: Mapping[str, str]
) -> Sequence[Result]:
    """Whether an error could have been seen at all, leaf by leaf."""
    if "power" in skip:
        return [Finding("power", "skipped", text=skip["power"])]
    told = {f.leaf for f in found.findings if f.outcome in ("fail", "inconclusive")}

    def weigh(case: Case) -> Iterator[Finding]:
        return power(case, power_of, told)

    with case.mode():
        return _run("power", weigh, case)


def _of_sample(finding: Finding, sample: str) -> Finding:
    """A finding at arguments of that name."""
    if sample == "given":
        return finding
    where = sample if finding.sample == "given" else f"{sample}, {finding.sample}"
    return replace(finding, sample=where)
