"""The function `check`: chooses the oracle, runs the checks of a level, tells what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck._check_at import Asked, Level, check_at
from jaxdl.gradcheck.checks.levels import (
    LEVELS,
)
from jaxdl.gradcheck.checks.shrunk import of_domain
from jaxdl.gradcheck.oracles.reference import Reference
from jaxdl.gradcheck.problem.domain import Domain, name_of
from jaxdl.gradcheck.problem.problem import GradcheckError
from jaxdl.gradcheck.report.report import Report

NO_CHECKS = ("differences", "power", "shrink")  # what else `skip` may name


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
    asked = Asked(f, kwargs, ref, wrt, level, expect, skip, seed)
    floats = [_floating(dtype) for dtype in dtypes]
    reports: list[Report] = []
    if args or samples is None:
        reports.append(check_at(asked, "given", args))
    if isinstance(samples, Domain):
        for choices, drawn in samples.points(seed):
            report = check_at(asked, name_of(choices), drawn)
            if report.outcome == "fail" and "shrink" not in skip:
                report = of_domain(report, samples, choices, seed, _fails_at(asked, report))
            reports.append(report)
    else:
        reports += [check_at(asked, f"samples[{i}]", s) for i, s in enumerate(samples or ())]
    if not reports:
        raise GradcheckError("gradcheck: samples is empty, and no arguments are given")
    for dtype in floats:
        first = args if args or samples is None else next(iter(_tuples(samples, seed)))
        reports.append(check_at(asked, f"as {dtype.name}", first, dtype=dtype))
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


def _fails_at(asked: Asked, report: Report) -> Callable[[tuple[Any, ...]], bool]:
    """Whether arguments fail a check that failed before."""
    names = {finding.name for finding in report.findings if finding.outcome == "fail"}

    def fails(args: tuple[Any, ...]) -> bool:
        found = check_at(asked, "shrunk", args, only=names)
        return any(f.outcome == "fail" and f.name in names for f in found.findings)

    return fails


def _joined(reports: Sequence[Report]) -> Report:
    power: dict[str, float] = {}
    for report in reports:
        for name, value in report.power.items():
            power[name] = min(power.get(name, np.inf), value)
    findings = [finding for report in reports for finding in report.findings]
    notes = list(dict.fromkeys(note for report in reports for note in report.notes))
    return replace(reports[0], findings=findings, power=power, notes=notes)
