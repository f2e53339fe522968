"""The command line: `list`, `claims`, or one experiment with its typed settings."""

from __future__ import annotations

import dataclasses
import importlib
import shlex
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import tyro

from experiments.framework import claims, terminal
from experiments.framework.discover import Entry, find_experiments, pick
from experiments.framework.run import Run

PROGRAM = "python -m experiments"


@dataclass(frozen=True)
class RunOptions:
    """Options that every experiment has."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for this run, new or empty; runs/NAME/<UTC time> if not given."""
    debug: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show the traceback of a failing run."""


def main(arguments: list[str] | None = None, package: str = "experiments") -> int:
    """Run the command line and return the exit code: 0 done, 1 run failed, 2 wrong input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    entries = find_experiments(package)
    if not arguments or arguments[0] in ("-h", "--help", "list"):
        _print_list(entries)
        return 0
    name, *rest = arguments
    try:
        if name == "claims":
            doc = "All rows of the sources, with what the newest runs found about each."
            claims.run_claims(_parse(claims.ClaimsSettings, name, doc, rest))
            return 0
        entry = pick(name, entries)
        module = _load(entry)
        settings, options = _parse_experiment(entry, module, rest)
        command = f"{PROGRAM} {shlex.join([entry.name, *rest])}"
        run = Run(entry.name, settings, options.out, doc=module.__doc__ or "", command=command)
    except (ValueError, TypeError, OSError, ImportError) as error:
        if "--debug" in rest:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 2
    return _execute(run, module, settings, options)


def _execute(run: Run, module: ModuleType, settings: Any, options: RunOptions) -> int:
    code = 0
    try:
        with run:
            module.run(settings, run)
    except KeyboardInterrupt:
        print(f"{run.name}: stopped; what it had written is in {run.folder}", file=sys.stderr)
        code = 130
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        print(
            f"{run.name} failed: {type(error).__name__}: {error}\n"
            f"what it had written is kept; traceback: {run.folder / 'error.txt'} (or --debug)",
            file=sys.stderr,
        )
        code = 1
    print(f"Report: {run.report}")
    return code


def _load(entry: Entry) -> ModuleType:
    try:
        return importlib.import_module(entry.module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{entry.name}: expected the package {error.name!r}, got no such package installed; "
            "install what the experiments need from the repository: pip install -e '.[experiments]'"
        ) from error


def _parse_experiment(
    entry: Entry, module: ModuleType, arguments: list[str]
) -> tuple[Any, RunOptions]:
    shared = {field.name for field in dataclasses.fields(RunOptions)}
    clash = shared & {field.name for field in dataclasses.fields(module.Settings)}
    if clash:
        raise TypeError(
            f"{entry.name}: Settings must leave {sorted(shared)} to the framework, "
            f"got fields {sorted(clash)}; rename them"
        )
    both = dataclasses.make_dataclass(
        "Command",
        [
            ("settings", Annotated[module.Settings, tyro.conf.arg(name="")]),
            ("options", Annotated[RunOptions, tyro.conf.arg(name="")]),
        ],
    )
    parsed = _parse(both, entry.name, module.__doc__ or "", arguments)
    return parsed.settings, parsed.options


def _parse(kind: Any, name: str, doc: str, arguments: list[str]) -> Any:
    return tyro.cli(kind, prog=f"{PROGRAM} {name}", description=doc, args=arguments)


def _print_list(entries: list[Entry]) -> None:
    console = terminal.make_console()
    width = max((len(entry.name) for entry in entries), default=0)
    for title, is_bench in (("Experiments", False), ("Benchmarks", True)):
        chosen = [entry for entry in entries if entry.is_bench == is_bench]
        console.print(title, style="bold")
        for entry in chosen:
            console.print(f"  {entry.name:{width}}  {entry.summary}", soft_wrap=True)
        if not chosen:
            console.print("  none yet")
        console.print()
    console.print(f"{PROGRAM} NAME --help   what it asks, and its settings")
    console.print(f"{PROGRAM} NAME          run it; results and report go to runs/NAME/")
    console.print(f"{PROGRAM} claims        every claim of the sources, and what was found")
