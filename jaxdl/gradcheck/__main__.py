"""Check rules from the command line: ``python -m jaxdl.gradcheck package.module:function``.

A target is ``module:function``, or a ``module``: then every `jax.custom_vjp` and `jax.custom_jvp`
in it, and whatever else it names. Arguments come from ``--args module:make_args``, a function
without arguments that returns a tuple; for a module from a dictionary in it, such as

    gradcheck_args = {
        "layer_norm": lambda: (jnp.linspace(-2, 3, 40).reshape(5, 8), jnp.arange(1.0, 9)),
        "attention": attention_args,
    }

All reports that are no pass are printed, then a table of all functions; progress goes to standard
error. Colours are used on a terminal, unless NO_COLOR is set, and everywhere if FORCE_COLOR is.

Exit code 0: all pass. 1: a check failed. 2: none failed, but one was inconclusive or could not be
run, or a function of the module has no arguments in `gradcheck_args`. 3: the command is wrong, or
a file cannot be written.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TextIO

import jax

from jaxdl.gradcheck import GradcheckError, Report, check
from jaxdl.gradcheck._check import NO_CHECKS
from jaxdl.gradcheck.checks.levels import LEVELS
from jaxdl.gradcheck.report.html import unwritable, write_html
from jaxdl.gradcheck.report.text import brief, paint, printable, weakest_power

_WORDS = 60  # letters of the worst finding in the table


class _UsageError(Exception):
    """Told without a traceback."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(3, f"gradcheck: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        skip = _skips(options.skip)
        for option, path in (("--json", options.json), ("--html", options.html)):
            why = "" if path is None else unwritable(path)
            if why:
                raise _UsageError(
                    f"{option} must name a file that can be written, got {path}: {why}; create "
                    "its folder or name another file"
                )
        jobs, missing = _jobs(options.target, options.args)
    except _UsageError as error:
        print(f"gradcheck: {error}", file=sys.stderr)
        return 3
    settings = {"level": options.level, "seed": options.seed, "skip": skip, "wrt": options.wrt}
    color = _colored(sys.stdout)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    reports: dict[str, Report] = {}
    not_checked = dict.fromkeys(missing, "needs an entry in gradcheck_args")
    for i, (name, (f, make_args)) in enumerate(jobs.items(), 1):
        if len(jobs) > 1:
            place = f"{i:{len(str(len(jobs)))}}/{len(jobs)}"
            print(f"gradcheck: {place} {name} …", end=" ", file=sys.stderr, flush=True)
        start = time.perf_counter()
        try:
            report = check(f, *make_args(), raises=False, **settings)
            reports[name] = replace(report, seconds=time.perf_counter() - start)
            said = report.outcome
        except Exception as error:  # of f as well: the others are checked all the same
            kind = "" if isinstance(error, GradcheckError) else f"{type(error).__name__}: "
            first = (str(error).splitlines() or [""])[0]
            not_checked[name] = printable(f"{kind}{first}")
            said = "not checked"
        if len(jobs) > 1:
            print(f"{said}, {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
        if name in reports and reports[name].outcome != "pass":
            print(reports[name].text(color, width), end="\n\n")
    print("\n".join(_table(reports, not_checked, color)))
    try:
        if options.json is not None:
            record = {name: report.to_dict() for name, report in reports.items()}
            options.json.write_text(json.dumps(record, indent=1, allow_nan=False), encoding="utf-8")
        if options.html is not None:
            write_html(reports, options.html, not_checked=not_checked)
    except OSError as error:  # it could be written when the work began
        print(f"gradcheck: cannot write a report: {error}", file=sys.stderr)
        return 3
    outcomes = {report.outcome for report in reports.values()}
    return 1 if "fail" in outcomes else 2 if "inconclusive" in outcomes or not_checked else 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "python -m jaxdl.gradcheck",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", help="module:function, or a module")
    parser.add_argument("--args", metavar="MODULE:MAKE_ARGS", help="returns the arguments, a tuple")
    parser.add_argument("--level", choices=tuple(LEVELS), default="standard")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers")
    parser.add_argument("--skip", action="append", default=[], metavar="NAME=REASON",
                        help="a check not to run, and why; may be repeated")  # fmt: skip
    parser.add_argument("--wrt", action="append", metavar="PATTERN",
                        help="a leaf to differentiate, such as 'args[0]*'; may be repeated; "
                        "all floating-point leaves by default")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all reports to a file")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with all reports")
    return parser


def _skips(given: Sequence[str]) -> dict[str, str]:
    known = set(NO_CHECKS).union(*LEVELS.values())
    skip = {}
    for each in given:
        name, equals, reason = each.partition("=")
        if not (equals and reason.strip()):
            raise _UsageError(f"--skip must be NAME=REASON, got {each!r}; say why")
        if name not in known:
            raise _UsageError(
                f"--skip names the check {name!r}; there are {', '.join(sorted(known))}"
            )
        skip[name] = reason
    return skip


def _colored(stream: TextIO) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _table(reports: Mapping[str, Report], not_checked: Mapping[str, str], color: bool) -> list[str]:
    """One line for each function."""
    width = max(map(len, ["function", *reports, *not_checked]))
    head = f"{'function':{width}}  {'outcome':12}  weakest power  {'time':>8}  worst finding"
    lines = [f"\x1b[1m{head}\x1b[0m" if color else head]
    for name, report in reports.items():
        power = weakest_power(report)
        outcome = f"{report.outcome:12}"
        said = brief(report)
        said = said if len(said) <= _WORDS else said[: _WORDS - 1].rstrip() + "…"
        outcome = paint(outcome, report.outcome) if color else outcome
        weakest = "none" if power is None else f"{power:.0e}"
        seconds = f"{report.seconds or 0:.1f} s"
        lines.append(f"{name:{width}}  {outcome}  {weakest:>13}  {seconds:>8}  {said}".rstrip())
    lines += [f"{name:{width}}  not checked   {why}" for name, why in not_checked.items()]
    return lines


def _jobs(
    target: str, args: str | None
) -> tuple[dict[str, tuple[Callable[..., Any], Callable[[], Any]]], list[str]]:
    """What to check by name, and the names of what has no arguments."""
    if ":" in target:
        if args is None:
            raise _UsageError(f"{target} needs --args MODULE:MAKE_ARGS")
        return {target: (_named(target), _called(_named(args), args))}, []
    module = _module(target)
    if args is not None:
        raise _UsageError(f"--args goes with module:function; {target} takes its gradcheck_args")
    rules = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, jax.custom_vjp | jax.custom_jvp)
    }
    if not rules:
        raise _UsageError(f"{target} has no jax.custom_vjp and no jax.custom_jvp at its top level")
    known = getattr(module, "gradcheck_args", {})
    unknown = [name for name in known if not callable(getattr(module, name, None))]
    if unknown:
        raise _UsageError(f"gradcheck_args of {target} names {', '.join(unknown)}, not in it")
    names = list(dict.fromkeys([*rules, *known]))
    jobs = {
        name: (getattr(module, name), _called(known[name], f"gradcheck_args[{name!r}]"))
        for name in names
        if name in known
    }
    return jobs, [name for name in names if name not in known]


def _called(make_args: Any, name: str) -> Callable[[], tuple[Any, ...]]:
    if not callable(make_args):
        raise _UsageError(f"{name} must be a function that returns the arguments")

    def call() -> tuple[Any, ...]:
        args = make_args()
        if not isinstance(args, tuple):
            raise GradcheckError(f"gradcheck: {name}() must be a tuple of arguments, got {args!r}")
        return args

    return call


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise _UsageError(f"cannot import {name}: {error}") from error


def _named(path: str) -> Any:
    module, _, name = path.partition(":")
    found: Any = _module(module)
    for part in name.split("."):
        if not hasattr(found, part):
            raise _UsageError(f"{module} has no {name}")
        found = getattr(found, part)
    return found


if __name__ == "__main__":
    sys.path.insert(0, "")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a narrow encoding must not end the run
            stream.reconfigure(errors="replace")
    sys.exit(main())
