"""Reports as one page of HTML that needs no other file, no script and no network."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdl.gradcheck.report.findings import Findings
from jaxdl.gradcheck.report.html_parts import SIGNS, fact_list, plain_table, text
from jaxdl.gradcheck.report.html_section import section
from jaxdl.gradcheck.report.html_style import CSS
from jaxdl.gradcheck.report.text import weakest

_WORST_FIRST = tuple(SIGNS)


def write_html(
    reports: Mapping[str, Findings | Mapping[str, Any]] | Sequence[Findings | Mapping[str, Any]],
    path: str | Path,
    *,
    not_checked: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    date: datetime | str | None = None,
) -> None:
    """Write one page about any number of reports.

    Args:
      reports: by name, or in a row: then each has its function's name. Also as dicts, as
        `Report.to_dict` gives them; one with a "test" shows that too.
      path: the file; what it held is lost.
      not_checked: functions that could not be checked, with the reason.
      environment: what the checks ran with, by name; versions and device of this process by
        default.
      date: of the run; now by default.

    Raises:
      TypeError: something that is no report.
      OSError: the file cannot be written.
    """
    pairs = reports.items() if isinstance(reports, Mapping) else ((None, r) for r in reports)
    entries = [_entry(name, report) for name, report in pairs]
    entries.sort(key=lambda e: _WORST_FIRST.index(e.report.outcome))
    if not isinstance(date, str):
        date = (date or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M %Z").strip()
    facts = dict(environment_here() if environment is None else environment) | {"date": date}
    content = _page(entries, dict(not_checked or {}), facts)
    Path(path).write_text(content, encoding="utf-8")


def unwritable(path: str | Path) -> str:
    """Why a file cannot be written, before there is anything to write; empty where it can."""
    path = Path(path)
    existed = path.exists()
    try:
        path.open("a").close()
    except OSError as error:
        return error.strerror or str(error)
    if not existed:
        path.unlink()
    return ""


def environment_here() -> dict[str, str]:
    """Versions and devices of this process."""
    try:
        devices = jax.devices()
        kinds = sorted({f"{d.platform} {d.device_kind}".replace("cpu cpu", "cpu") for d in devices})
        device = f"{len(devices)} × {', '.join(kinds)}"
    except RuntimeError as error:  # the page is worth more than this line of it
        device = f"none: {error}"
    return {
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": device,
    }


@dataclass(frozen=True)
class _Entry:
    name: str
    test: str
    report: Findings


def _entry(name: str | None, report: Any) -> _Entry:
    test = ""
    if isinstance(report, Mapping):
        test = str(report.get("test", ""))
        report = Findings.from_dict(report)
    if not isinstance(report, Findings):
        raise TypeError(
            f"write_html: reports must be Report or dicts as Report.to_dict gives them, got "
            f"{type(report).__name__}; give what gradcheck.check returns"
        )
    return _Entry(report.function if name is None else name, test, report)


def _page(entries: Sequence[_Entry], not_checked: Mapping[str, str], facts: dict[str, str]) -> str:
    counts = {o: sum(e.report.outcome == o for e in entries) for o in ("fail", "inconclusive")}
    counts["pass"] = len(entries) - sum(counts.values())
    worst = next((o for o in counts if counts[o]), "")
    what = f"{len(entries)} function{'' if len(entries) == 1 else 's'}"
    badges = [
        f'<li class="{o if n else "none"}"><b>{n}</b> {SIGNS[o]} {o}</li>'
        for o, n in counts.items()
    ]
    if not_checked:
        badges.append(f'<li class="inconclusive"><b>{len(not_checked)}</b> not checked</li>')
    levels = ", ".join(dict.fromkeys(e.report.level for e in entries)) or "none"
    power = weakest((e.name, e.report) for e in entries)
    known = {"weakest power": power, "level": levels} | facts
    parts = [
        f'<header><h1>Gradient check: {what}</h1><ul class="counts">{"".join(badges)}</ul>',
        f"{fact_list(known)}</header>",
        _overview(entries) if entries else "<p>Nothing was checked.</p>",
        _unchecked(not_checked),
        *(section(f"f{i}", e.name, e.report, e.test) for i, e in enumerate(entries, 1)),
    ]
    content = "\n".join(part for part in parts if part)
    title = f"gradcheck: {what}" + (f", {counts[worst]} {worst}" if worst else "")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{CSS}</style></head>\n<body>\n{content}\n</body></html>\n"
    )


def _overview(entries: Sequence[_Entry]) -> str:
    """Functions by checks: a sign and a colour in each cell."""
    checks = _merged([f.name for f in entry.report.findings] for entry in entries)
    head = "".join(f'<th scope="col" class="up"><span>{text(c)}</span></th>' for c in checks)
    rows = ""
    for i, entry in enumerate(entries, 1):
        outcome = entry.report.outcome
        cells = ""
        for check in checks:
            found = {f.outcome for f in entry.report.findings if f.name == check}
            worst = next((o for o in _WORST_FIRST if o in found), "")
            sign = (
                f'{SIGNS[worst]}<span class="vh"> {worst}</span>'
                if worst else '<span class="vh">not run</span>'
            )  # fmt: skip
            if worst in ("fail", "inconclusive"):
                sign = f'<a href="#f{i}">{sign}</a>'
            cells += f'<td class="c {worst}">{sign}</td>'
        test = f"<small>{text(entry.test)}</small>" if entry.test else ""
        rows += (
            f'<tr><th scope="row"><a href="#f{i}">{text(entry.name)}</a>{test}</th>'
            f'<td class="o {outcome}">{SIGNS[outcome]}<span> {outcome}</span></td>{cells}</tr>\n'
        )
    signs = "; ".join(f"{sign} {outcome}" for outcome, sign in SIGNS.items())
    return (
        '<section aria-labelledby="all"><h2 id="all">All checks</h2>'
        f'<p class="soft" id="signs">{signs}; empty: not run</p>'
        '<div class="scroll" tabindex="0" role="region" aria-labelledby="all">'
        '<table aria-labelledby="all" aria-describedby="signs"><thead><tr>'
        '<th scope="col">function</th><th scope="col" class="o"><span>outcome</span></th>'
        f"{head}</tr></thead>\n"
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _merged(rows: Iterable[Sequence[str]]) -> list[str]:
    """All names, each after the one that comes before it where it is first met."""
    names: list[str] = []
    for row in rows:
        place = 0
        for name in row:
            if name not in names:
                names.insert(place, name)
            place = max(place, names.index(name) + 1)
    return names


def _unchecked(not_checked: Mapping[str, str]) -> str:
    if not not_checked:
        return ""
    rows = [(text(name), text(why)) for name, why in not_checked.items()]
    table = plain_table(["function", "why"], rows)
    return f'<section><h2 id="unchecked">Not checked</h2>{table}</section>'
