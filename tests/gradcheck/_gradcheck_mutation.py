"""A pytest plugin that breaks the checker in one place, named by an environment variable.

``JAXDL_GRADCHECK_MUTATION`` is 'drop NAME' (the check is not in the table), 'check NAME: A to B'
(its findings of outcome A have outcome B), 'vote: A to B' or 'report: A to B'; a reducer's contract
in `check_layer` has the name 'reducer NAME', and 'held points' are those of the check stress.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jaxdl.gradcheck import _check_at, _layer
from jaxdl.gradcheck.checks import dot, levels, stress
from jaxdl.gradcheck.report.report import Report

VARIABLE = "JAXDL_GRADCHECK_MUTATION"
SWAPS = (("pass", "fail"), ("fail", "pass"), ("inconclusive", "pass"), ("fail", "inconclusive"))
CHECKS = (*levels.LEVELS["full"], *levels.DIFFERENCES)
REDUCERS = tuple(f"reducer {name}" for name in _layer.REDUCERS)
# What cannot come of a check cannot be swapped: cost only measures, power only doubts.
_CANNOT = {("cost", "fail"), ("power", "pass"), ("power", "fail")}


def mutations() -> list[str]:
    """Of the checker, each by its name."""
    found = [f"drop {name}" for name in (*CHECKS, "power", "held points", *REDUCERS)]
    for name in (*CHECKS, "power"):
        found += [f"check {name}: {a} to {b}" for a, b in SWAPS if (name, a) not in _CANNOT]
    found += [f"check {name}: {a} to {b}" for name in REDUCERS for a, b in SWAPS[:2]]
    return found + [f"{part}: {a} to {b}" for part in ("vote", "report") for a, b in SWAPS]


def part_of(mutation: str) -> str:
    """The check that it changes, 'vote' or 'report'."""
    return mutation.partition(":")[0].removeprefix("drop ").removeprefix("check ")


def install(mutation: str) -> None:
    """Break the checker in this process.

    Raises:
      ValueError: there is no such mutation.
    """
    if mutation not in mutations():
        raise ValueError(f"{VARIABLE} must be one of {', '.join(mutations())}, got {mutation!r}")
    part = part_of(mutation)
    if mutation.startswith("drop "):
        _drop(part)
        return
    old, _, new = mutation.rpartition(": ")[2].partition(" to ")

    def swapped(outcome: str) -> Any:
        return new if outcome == old else outcome

    def changed(record: Any) -> Any:
        if not hasattr(record, "outcome"):  # what a check returns beside its findings
            return record
        return replace(record, outcome=swapped(record.outcome))

    if part == "report":
        right: Any = Report.outcome
        setattr(Report, "outcome", property(lambda self: swapped(right.fget(self))))  # noqa: B010
    elif part in REDUCERS:
        name = part.removeprefix("reducer ")
        run = _layer.REDUCERS[name]
        _layer.REDUCERS[name] = lambda at: (changed(f) for f in run(at))
    elif part == "vote":
        _wrap(dot, "vote", lambda found, *args: changed(found))
    elif part == "power":
        _wrap(_check_at, "power", lambda found, *args: [changed(f) for f in found])
    else:
        _wrap(_check_at, "_run", lambda found, name, *args: (
            [changed(f) for f in found] if name == part else found))  # fmt: skip


def _drop(name: str) -> None:
    if name == "power":
        _wrap(_check_at, "power", lambda found, *args: [])
    if name == "held points":
        _wrap(stress, "held_points", lambda found, *args: iter(()))
    _layer.REDUCERS.pop(name.removeprefix("reducer "), None)
    for table in (*levels.LEVELS.values(), levels.QUICK, levels.STANDARD, levels.FULL,
                  levels.DIFFERENCES):  # fmt: skip
        table.pop(name, None)


def _wrap(module: Any, name: str, after: Callable[..., Any]) -> None:
    right = getattr(module, name)
    setattr(module, name, lambda *args: after(right(*args), *args))


def pytest_configure(config: Any) -> None:
    mutation = os.environ.get(VARIABLE)
    if mutation:
        install(mutation)


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """The tests of what is broken come first."""
    part = part_of(os.environ.get(VARIABLE, ""))
    if part in REDUCERS:
        items.sort(key=lambda item: "gradcheck_layers" not in item.nodeid or "[" in item.name)
    elif part == "held points":
        items.sort(key=lambda item: "gradcheck_integers" not in item.nodeid)
    elif part:
        items.sort(key=lambda item: f"[{part}" not in item.name and f"_{part}" not in item.name)
