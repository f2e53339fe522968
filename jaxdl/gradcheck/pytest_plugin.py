"""A pytest plugin: the fixture `gradcheck`, options for a whole run, and a closing line.

Ask for it in the topmost conftest.py: ``pytest_plugins = ["jaxdl.gradcheck.pytest_plugin"]``.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxdl.gradcheck import Report, check

_REPORTS = pytest.StashKey[list[dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gradcheck", "checks of hand-written gradients")
    group.addoption("--gradcheck-level", choices=("quick", "standard"), default="standard",
                    help="level of checks that do not name one")  # fmt: skip
    group.addoption("--gradcheck-seed", type=int, default=0, help="seed of checks without one")
    group.addoption("--gradcheck-json", metavar="FILE", help="write all reports to a file")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_REPORTS] = []


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
        report = check(f, *args, raises=False, **settings)
        config.stash[_REPORTS].append(report.to_dict() | {"test": request.node.nodeid})
        if raises and report.outcome != "pass":
            pytest.fail(str(report), pytrace=False)
        return report

    return checked


def pytest_sessionfinish(session: pytest.Session) -> None:
    config, output = session.config, getattr(session.config, "workeroutput", None)
    if output is not None:  # a worker of pytest-xdist: its controller tells
        output["gradcheck"] = json.dumps(config.stash[_REPORTS])
        return
    path = config.getoption("--gradcheck-json")
    if path:
        Path(path).write_text(json.dumps(config.stash[_REPORTS], indent=1), encoding="utf-8")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    found = getattr(node, "workeroutput", {}).get("gradcheck", "[]")
    node.config.stash[_REPORTS] += json.loads(found)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    reports = config.stash[_REPORTS]
    if not reports:
        return
    counts = [f"{sum(r['outcome'] == outcome for r in reports)} {outcome}"
              for outcome in ("pass", "fail", "inconclusive")]  # fmt: skip
    powers = [(float(value), f"{leaf} of {report['function']}")
              for report in reports for leaf, value in report["power"].items()]  # fmt: skip
    weakest, where = max(powers)
    told = f"gradcheck: {len(reports)} checks ({', '.join(counts)})"
    terminalreporter.write_line(f"{told}; weakest power {weakest:.0e}, {where}")
