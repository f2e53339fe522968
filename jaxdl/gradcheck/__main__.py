"""Check rules from the command line: ``python -m jaxdl.gradcheck package.module:function``.

A target is ``module:function``, or a ``module``: then every `jax.custom_vjp` and `jax.custom_jvp`
in it. Arguments come from ``--args module:make_args``, a function without arguments that returns a
tuple; for a module from a dictionary in it, ``gradcheck_args = {"name": make_args, ...}``.

Exit code 0: all pass. 1: a check failed. 2: none failed, but one was inconclusive or could not be
run, or a function of the module has no arguments in `gradcheck_args`. 3: the command is wrong.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxdl.gradcheck import GradcheckError, Report, check


class _UsageError(Exception):
    """Told without a traceback."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m jaxdl.gradcheck",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", help="module:function, or a module")
    parser.add_argument("--args", metavar="MODULE:MAKE_ARGS", help="returns the arguments, a tuple")
    parser.add_argument("--level", choices=("quick", "standard"), default="standard")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all reports to a file")
    options = parser.parse_args(arguments)
    try:
        jobs, missing = _jobs(options.target, options.args)
    except _UsageError as error:
        print(f"gradcheck: {error}", file=sys.stderr)
        return 3
    reports: dict[str, Report] = {}
    broken: dict[str, str] = {}
    for name, (f, make_args) in jobs.items():
        try:
            reports[name] = check(
                f, *make_args(), level=options.level, seed=options.seed, raises=False
            )
        except Exception as error:  # of f as well: the others are checked all the same
            kind = "" if isinstance(error, GradcheckError) else f"{type(error).__name__}: "
            broken[name] = f"{kind}{(str(error).splitlines() or [''])[0]}"
            continue
        if reports[name].outcome != "pass":
            print(reports[name], end="\n\n")
    width = max(map(len, [*reports, *missing, *broken]), default=0)
    for name, report in reports.items():
        weakest = max(report.power.values(), default=float("inf"))
        print(f"{name:{width}}  {report.outcome:12}  weakest power {weakest:.0e}")
    for name in missing:
        print(f"{name:{width}}  not checked   needs an entry in gradcheck_args")
    for name, why in broken.items():
        print(f"{name:{width}}  not checked   {why}")
    if options.json is not None:
        record = {name: report.to_dict() for name, report in reports.items()}
        options.json.write_text(json.dumps(record, indent=1), encoding="utf-8")
    outcomes = {report.outcome for report in reports.values()}
    return 1 if "fail" in outcomes else 2 if "inconclusive" in outcomes or missing or broken else 0


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
    sys.exit(main())
