"""A pytest plugin: the fixture `gradcheck`, options for a whole run, and a closing line.

Ask for it in the topmost conftest.py: ``pytest_plugins = ["jaxdl.gradcheck.pytest_plugin"]``.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jaxdl.gradcheck import Report, check
from jaxdl.gradcheck.checks.levels import LEVELS
from jaxdl.gradcheck.report.html import environment_here, unwritable, write_html
from jaxdl.gradcheck.report.text import painted, weakest

_REPORTS = pytest.StashKey[list[dict[str, Any]]]()
_ENVIRONMENT = pytest.StashKey[dict[str, str]]()
_FILES = pytest.StashKey[dict[str, Path]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gradcheck", "checks of hand-written gradients")
    group.addoption("--gradcheck-level", choices=tuple(LEVELS), default="standard",
                    help="level of checks that do not name one")  # fmt: skip
    group.addoption("--gradcheck-seed", type=int, default=0, help="seed of checks without one")
    group.addoption("--gradcheck-json", metavar="FILE", help="write all reports to a file")
    group.addoption("--gradcheck-html", metavar="FILE", help="write a page with all reports")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_REPORTS] = []
    config.stash[_ENVIRONMENT] = {}
    config.stash[_FILES] = {}
    if hasattr(config, "workerinput"):
        return  # a worker of pytest-xdist writes no files
    for option in ("--gradcheck-json", "--gradcheck-html"):
        given = config.getoption(option)
        if given:
            path = Path(given).absolute()  # a test may leave the folder
            why = unwritable(path)
            if why:
                raise pytest.UsageError(
                    f"{option} must name a file that can be written, got {path}: {why}; create "
                    "its folder or name another file"
                )
            config.stash[_FILES][option] = path


@pytest.fixture
def gradcheck(request: pytest.FixtureRequest) -> Callable[..., Report]:
    """`jaxdl.gradcheck.check` with the level and seed of the command line.

    Its report counts in the closing line, whatever the outcome.
    """
    config = request.config

    @functools.wraps(check)
    def checked(f: Callable[..., Any], *args: Any, raises: bool = True, **settings: Any) -> Report:
        settings.setdefault("level", config.getoption("--gradcheck-level"))
        settings.setdefault("seed", config.getoption("--gradcheck-seed"))
        start = time.perf_counter()
        report = check(f, *args, raises=False, **settings)
        report = replace(report, seconds=time.perf_counter() - start)
        config.stash[_REPORTS].append(report.to_dict() | {"test": request.node.nodeid})
        if raises and report.outcome != "pass":
            pytest.fail(str(report), pytrace=False)
        return report

    return checked


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    reports, files = config.stash[_REPORTS], config.stash[_FILES]
    # Only where checks ran: the controller of pytest-xdist is not to start an accelerator.
    environment = config.stash[_ENVIRONMENT] or (environment_here() if reports else {})
    output = getattr(config, "workeroutput", None)
    if output is not None:  # a worker: its controller tells
        output["gradcheck"] = json.dumps([reports, environment])
        return
    if "--gradcheck-json" in files:
        text = json.dumps(reports, indent=1, allow_nan=False)
        files["--gradcheck-json"].write_text(text, encoding="utf-8")
    if "--gradcheck-html" in files:
        write_html(reports, files["--gradcheck-html"], environment=environment)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    found = getattr(node, "workeroutput", {}).get("gradcheck")
    if found:
        reports, environment = json.loads(found)
        node.config.stash[_REPORTS] += reports
        node.config.stash[_ENVIRONMENT] |= environment


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, Any, Any]:
    """Before the failures are shown their heads get colours; after all comes the closing line."""
    if config.get_terminal_writer().hasmarkup:
        for failed in terminalreporter.getreports("failed"):
            for entry in getattr(
                getattr(failed.longrepr, "reprtraceback", None), "reprentries", ()
            ):
                if getattr(entry, "style", "") == "value":
                    entry.lines[:] = painted("\n".join(entry.lines)).split("\n")
    outcome = yield
    records = config.stash[_REPORTS]
    if not records:
        return outcome
    reports = [Report.from_dict(record) for record in records]
    counts = {o: sum(r.outcome == o for r in reports) for o in ("pass", "fail", "inconclusive")}
    functions = len({report.function for report in reports})
    told = ", ".join(f"{n} {outcome}" for outcome, n in counts.items())
    power = weakest((report.function, report) for report in reports)
    color = "red" if counts["fail"] else "yellow" if counts["inconclusive"] else "green"
    what = f"{_count(len(reports), 'check')} of {_count(functions, 'function')}"
    line = f"gradcheck: {what} ({told}); weakest power {power}"
    terminalreporter.write_line(line, **{color: True})
    for path in config.stash[_FILES].values():
        terminalreporter.write_line(f"gradcheck: wrote {path}")
    return outcome


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
