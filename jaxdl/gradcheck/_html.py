"""Reports as one page of HTML that needs no other file, no script and no network."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from itertools import count
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdl.gradcheck import _report, _svg
from jaxdl.gradcheck._report import Finding, Report

_SIGNS = {"fail": "✗", "inconclusive": "?", "pass": "✓", "skipped": "–"}
_WORST_FIRST = tuple(_SIGNS)
_SHAPE = re.compile(r"\[([\d, ]*)\]$")


def write_html(
    reports: Mapping[str, Report | Mapping[str, Any]] | Sequence[Report | Mapping[str, Any]],
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
    report: Report


def _entry(name: str | None, report: Any) -> _Entry:
    test = ""
    if isinstance(report, Mapping):
        test = str(report.get("test", ""))
        report = Report.from_dict(report)
    if not isinstance(report, Report):
        raise TypeError(
            f"write_html: reports must be Report or dicts as Report.to_dict gives them, got "
            f"{type(report).__name__}; give what gradcheck.check returns"
        )
    return _Entry(report.function if name is None else name, test, report)


def _text(words: Any) -> str:
    return escape(_report.printable(str(words)))


def _figure(value: float) -> str:
    return _text(f"{value:.9g}" if isinstance(value, float) else value)


def _badge(outcome: str) -> str:
    return f'<span class="badge {outcome}">{_SIGNS[outcome]} {outcome}</span>'


def _page(entries: Sequence[_Entry], not_checked: Mapping[str, str], facts: dict[str, str]) -> str:
    counts = {o: sum(e.report.outcome == o for e in entries) for o in ("fail", "inconclusive")}
    counts["pass"] = len(entries) - sum(counts.values())
    worst = next((o for o in counts if counts[o]), "")
    what = f"{len(entries)} function{'' if len(entries) == 1 else 's'}"
    badges = [
        f'<li class="{o if n else "none"}"><b>{n}</b> {_SIGNS[o]} {o}</li>'
        for o, n in counts.items()
    ]
    if not_checked:
        badges.append(f'<li class="inconclusive"><b>{len(not_checked)}</b> not checked</li>')
    levels = ", ".join(dict.fromkeys(e.report.level for e in entries)) or "none"
    power = _report.weakest((e.name, e.report) for e in entries)
    known = {"weakest power": power, "level": levels} | facts
    parts = [
        f'<header><h1>Gradient check: {what}</h1><ul class="counts">{"".join(badges)}</ul>',
        f"{_facts(known)}</header>",
        _overview(entries) if entries else "<p>Nothing was checked.</p>",
        _unchecked(not_checked),
        *(_function(f"f{i}", entry) for i, entry in enumerate(entries, 1)),
    ]
    content = "\n".join(part for part in parts if part)
    title = f"gradcheck: {what}" + (f", {counts[worst]} {worst}" if worst else "")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{_CSS}</style></head>\n<body>\n{content}\n</body></html>\n"
    )


def _facts(facts: Mapping[str, Any]) -> str:
    rows = "".join(f"<div><dt>{_text(k)}</dt><dd>{_text(v)}</dd></div>" for k, v in facts.items())
    return f'<dl class="facts">{rows}</dl>'


def _overview(entries: Sequence[_Entry]) -> str:
    """Functions by checks: a sign and a colour in each cell."""
    checks = _merged([f.name for f in entry.report.findings] for entry in entries)
    head = "".join(f'<th scope="col" class="up"><span>{_text(c)}</span></th>' for c in checks)
    rows = ""
    for i, entry in enumerate(entries, 1):
        outcome = entry.report.outcome
        cells = ""
        for check in checks:
            found = {f.outcome for f in entry.report.findings if f.name == check}
            worst = next((o for o in _WORST_FIRST if o in found), "")
            sign = (
                f'{_SIGNS[worst]}<span class="vh"> {worst}</span>'
                if worst else '<span class="vh">not run</span>'
            )  # fmt: skip
            if worst in ("fail", "inconclusive"):
                sign = f'<a href="#f{i}">{sign}</a>'
            cells += f'<td class="c {worst}">{sign}</td>'
        test = f"<small>{_text(entry.test)}</small>" if entry.test else ""
        rows += (
            f'<tr><th scope="row"><a href="#f{i}">{_text(entry.name)}</a>{test}</th>'
            f'<td class="o {outcome}">{_SIGNS[outcome]}<span> {outcome}</span></td>{cells}</tr>\n'
        )
    signs = "; ".join(f"{sign} {outcome}" for outcome, sign in _SIGNS.items())
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
    rows = "".join(
        f'<tr><th scope="row">{_text(name)}</th><td>{_text(why)}</td></tr>'
        for name, why in not_checked.items()
    )
    return (
        '<section><h2 id="unchecked">Not checked</h2><div class="scroll"><table class="plain">'
        '<thead><tr><th scope="col">function</th><th scope="col">why</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _function(anchor: str, entry: _Entry) -> str:
    report = entry.report
    bad = [f for f in report.findings if f.outcome in ("fail", "inconclusive")]
    names = {f.name for f in bad}
    passed = [f for f in report.findings if f.outcome == "pass"]
    skipped = dict.fromkeys((f.name, f.text) for f in report.findings if f.outcome == "skipped")
    clean = dict.fromkeys(f.name for f in passed if f.name not in names)
    brief = f"{len(clean)} passed" + (f", {len(skipped)} skipped" if skipped else "")
    brief += "" if report.seconds is None else f", {report.seconds:.1f} s"
    numbers = count(1)
    parts = [
        _facts(
            {"rules by hand": ", ".join(report.rules) or "none", "held against": report.oracle,
             "level": report.level} | ({"test": entry.test} if entry.test else {})
        ),
        *(_finding(f"{anchor}-{next(numbers)}", *group) for group in _report.folded(bad)),
        _curves([f for f in report.findings if f.outcome not in ("fail", "inconclusive")]),
        _power(report.power),
        _listed("Notes", report.notes),
        _listed("Skipped", [f"{name}: {why}" for name, why in skipped]),
        _listed("Passed", [", ".join(clean)] if clean else []),
    ]  # fmt: skip
    return (
        f'<details class="function {report.outcome}"{"" if report.outcome == "pass" else " open"}>'
        f"<summary>{_badge(report.outcome)} <h2>{_text(entry.name)}</h2> "
        f'<span class="soft">{_text(brief)}</span></summary>\n<div class="inside" id="{anchor}">'
        f"{''.join(parts)}</div></details>"
    )


def _finding(anchor: str, head: Finding, others: Sequence[Finding]) -> str:
    where = f"<code>{_text(head.leaf)}</code>" if head.leaf else ""
    parts = [
        f'<article class="finding {head.outcome}" aria-labelledby="{anchor}"><h3 id="{anchor}">'
        f"{_SIGNS[head.outcome]} {head.outcome}: {_text(head.name)} {where}</h3>",
        f'<p class="looks"><b>Looks like</b> {_text(head.diagnosis)}</p>' if head.diagnosis else "",
        '<dl class="lines">',
        *(_line(line) for line in head.text.splitlines()),
        _row("sample", head.sample),
        _row("also", _report.also(head, others)) if others else "",
        _row("replay", head.replay, "code") if head.replay else "",
        "</dl>",
        _error_plot(head),
        _curves([head]),
        _figures(head.figures),
        "</article>",
    ]
    return "".join(parts)


def _line(line: str) -> str:
    label = re.match(r"(\w+) {2,}(.*)", line)
    return _row(label[1], label[2]) if label else _row("", line)


def _row(name: str, words: str, tag: str = "span") -> str:
    label = f"<dt>{_text(name)}</dt>" if name else '<dt class="vh">message</dt>'
    return f"{label}<dd><{tag}>{_text(words)}</{tag}></dd>"


def _error_plot(finding: Finding) -> str:
    errors = [[float(value) for value in row] for row in finding.errors]
    rows, columns = len(errors), len(errors[0]) if errors else 0
    if not columns or any(len(row) != columns for row in errors):
        return ""
    key = [[-np.inf if value == -np.inf else np.nan_to_num(value, nan=np.inf) for value in row]
           for row in errors]  # fmt: skip
    worst = max(
        ((r, c) for r in range(rows) for c in range(columns)), key=lambda i: key[i[0]][i[1]]
    )
    named, folds = "the largest error", ""
    found = _SHAPE.search(finding.leaf)
    shape = tuple(int(n) for n in found[1].split(",") if n.strip()) if found else None
    if shape is not None:
        high, wide = _report.map_shape(shape)
        of_rows, of_columns = _report.blocks(shape)
        if (rows, columns) == (-(-high // of_rows), -(-wide // of_columns)):
            if len(shape) > 1:
                axes = "axis 0" if len(shape) == 2 else f"axes 0 to {len(shape) - 2}"
                folds = f"Rows: {axes} ({high}). Columns: axis {len(shape) - 1} ({wide}). "
            if (of_rows, of_columns) != (1, 1):
                folds += f"Each cell is the largest of {of_rows} × {of_columns} entries. "
            if len(finding.index) == len(shape) and all(
                0 <= i < n for i, n in zip(finding.index, shape, strict=True)
            ):
                worst = _report.cell_of(finding.index, shape)
                named = f"entry {finding.index}"
    value = errors[worst[0]][worst[1]]
    size = "infinite or no number" if not value < np.inf else f"{10 ** min(value, 300.0):.2g}"
    words = f"Error of each entry of {finding.path or 'the gradient'}, {rows} × {columns} cells"
    return (
        f"<figure>{_svg.heat_map(errors, worst, _report.printable(words))}<figcaption>Error of "
        "each entry relative to the root mean square of the gradient, with the number of cells. "
        f"{folds}In the frame: {_text(named)}, relative error {size}.</figcaption></figure>"
    )


def _curves(findings: Sequence[Finding]) -> str:
    parts = []
    for finding in findings:
        if len(finding.curves) > 1:
            series = {
                _report.printable(name): [float(value) for value in row]
                for name, row in finding.curves.items()
            }
            where = " ".join(part for part in (finding.path, finding.sample) if part)
            parts.append(f"<h4>{_text(finding.name)}: {_text(where)}</h4>{_svg.curves(series)}")
    return (
        f'<div class="curves">{"".join(f"<div>{part}</div>" for part in parts)}</div>'
        if parts
        else ""
    )


def _figures(figures: Mapping[str, float]) -> str:
    if not figures:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{_text(name.replace("_", " "))}</th>'
        f'<td class="num">{_figure(float(value))}</td></tr>'
        for name, value in figures.items()
    )
    return (
        '<details class="more"><summary>Figures</summary><div class="scroll"><table class="plain">'
        '<thead><tr><th scope="col">figure</th><th scope="col" class="num">value</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _power(power: Mapping[str, float]) -> str:
    if not power:
        return ""
    rows = "".join(
        f'<tr><th scope="row"><code>{_text(leaf)}</code></th><td class="num">'
        f"{f'{value:.0e}' if np.isfinite(value) else 'nothing'}</td><td>{_svg.bar(value)}</td></tr>"
        for leaf, value in power.items()
    )
    return (
        '<h3>Power</h3><div class="scroll"><table class="plain"><caption>The smallest relative '
        "error of a gradient that would have been seen; bars from 1e-16 to 1, logarithmic"
        '</caption><thead><tr><th scope="col">leaf</th><th scope="col" class="num">seen from</th>'
        f'<th scope="col"><span class="vh">bar</span></th></tr></thead><tbody>{rows}</tbody>'
        "</table></div>"
    )


def _listed(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{_text(line)}</li>" for line in lines)
    return f"<h3>{title}</h3><ul>{items}</ul>" if lines else ""


_CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b2126; --soft: #56606a; --line: #d9dee3;
  --link: #0b57a4; --panel: #f5f6f8;
  --pass: #14662f; --pass-bg: #e2f3e7; --fail: #a31b15; --fail-bg: #fde7e5;
  --inconclusive: #734d00; --inconclusive-bg: #fdf0cf;
  --e-same: #eef1f4; --e-nan: #7a3fb0; --e0: #e0e6ec; --e1: #fdeccd; --e2: #fdd9a5; --e3: #fdbb75;
  --e4: #fb9a52; --e5: #ee7038; --e6: #d64a20; --e7: #ab2a12; --e8: #6f1009;
  --s0: #0b57a4; --s1: #b3470a; --s2: #14662f; --s3: #7a3fb0; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #14181c; --ink: #e6e9ec; --soft: #a6b0b9; --line: #333b43; --link: #85bdf5;
    --panel: #1d2328;
    --pass: #7ad795; --pass-bg: #16301f; --fail: #ffa39a; --fail-bg: #431a17;
    --inconclusive: #f2c764; --inconclusive-bg: #3a2c0c;
    --e-same: #22292f; --e-nan: #b98be6; --e0: #2c353d; --e1: #46301a; --e2: #633a17; --e3: #854614;
    --e4: #ab5514; --e5: #d06c1f; --e6: #ec8c3a; --e7: #f9b56b; --e8: #fee6bd;
    --s0: #85bdf5; --s1: #f5a66b; --s2: #7ad795; --s3: #c9a2f0; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 72rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .8rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; } h4 { font-size: .9rem; margin: .8rem 0 .2rem; }
a { color: var(--link); }
code { font: .9em/1.4 ui-monospace, "SF Mono", Menlo, Consolas, monospace; white-space: pre-wrap; }
.soft, figcaption, caption, small { color: var(--soft); font-size: .875rem; }
.vh { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap; }
.counts { list-style: none; display: flex; flex-wrap: wrap; gap: .5rem; padding: 0; margin: 0; }
.counts li { padding: .3rem .8rem; border-radius: .4rem; border: 1px solid; }
.counts b { font-size: 1.3rem; } .counts .none { color: var(--soft); }
.pass { color: var(--pass); background: var(--pass-bg); }
.fail { color: var(--fail); background: var(--fail-bg); }
.inconclusive { color: var(--inconclusive); background: var(--inconclusive-bg); }
.facts { display: flex; flex-wrap: wrap; gap: .5rem 1.8rem; margin: 1rem 0; }
.facts dt { color: var(--soft); font-size: .8rem; } .facts dd { margin: 0; }
.scroll { overflow: auto; max-width: 100%; position: relative; }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--link); }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; }
caption { text-align: left; padding: 0 0 .4rem; caption-side: top; }
th, td { text-align: left; padding: .3rem .5rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 400; }
section > .scroll tbody th { position: sticky; left: 0; background: var(--paper); z-index: 1;
  min-width: 8rem; max-width: 20rem; overflow-wrap: anywhere; }
th small { display: block; }
.up { padding: .3rem 0; text-align: center; }
.up span { writing-mode: vertical-rl; transform: rotate(180deg); white-space: nowrap; }
.c { text-align: center; min-width: 1.9rem; padding: .3rem 0; font-weight: 700;
  border-left: 1px solid var(--line); }
.c.skipped { color: var(--soft); } .c a { color: inherit; display: block; }
.o { white-space: nowrap; font-weight: 600; }
.num { text-align: right; white-space: nowrap; }
.plain th, .plain td { overflow-wrap: anywhere; }
.function { color: inherit; background: none; border-top: 1px solid var(--line); padding: .6rem 0; }
.function:not(.function + .function) { margin-top: 2rem; }
.function > summary { cursor: pointer; } .function > summary h2 { display: inline; }
.inside { scroll-margin-top: 4rem; padding: 0 0 1rem; }
.badge { border-radius: .3rem; padding: .1rem .5rem; font-size: .875rem; font-weight: 600;
  white-space: nowrap; border: 1px solid; }
.finding { color: inherit; background: var(--panel); border-left: .3rem solid; padding: .1rem 1rem
  .8rem; margin: 1rem 0; border-radius: 0 .4rem .4rem 0; }
.finding.fail { border-color: var(--fail); } .finding.inconclusive { border-color:
  var(--inconclusive); }
.finding h3 { margin: .7rem 0 .4rem; }
.finding.fail h3 { color: var(--fail); } .finding.inconclusive h3 { color: var(--inconclusive); }
.finding h3 code { color: var(--ink); font-weight: 400; }
.looks { margin: .3rem 0 .6rem; font-size: 1.05rem; }
.lines { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: .4rem 0; }
.lines dt { color: var(--soft); grid-column: 1; } .lines dd { margin: 0; grid-column: 2; }
.lines dt.vh + dd { grid-column: 1 / -1; }
figure { margin: 1rem 0; } svg { display: block; }
.map, .plot { max-width: 100%; height: auto; }
.legend { list-style: none; padding: 0; margin: .4rem 0; display: flex; flex-wrap: wrap;
  gap: .1rem 1rem; font-size: .875rem; color: var(--ink); }
.key { display: inline-block; width: .8rem; height: .8rem; margin-right: .4rem;
  border: 1px solid var(--line); }
.key.long { width: 1.8rem; border: 0; }
.e-same { fill: var(--e-same); } .e-nan { fill: var(--e-nan); }
.e-0 { fill: var(--e0); } .e-1 { fill: var(--e1); } .e-2 { fill: var(--e2); }
.e-3 { fill: var(--e3); } .e-4 { fill: var(--e4); } .e-5 { fill: var(--e5); }
.e-6 { fill: var(--e6); } .e-7 { fill: var(--e7); } .e-8 { fill: var(--e8); }
.cross { stroke: var(--paper); fill: none; }
.lattice { stroke: var(--panel); fill: none; }
.edge { stroke: var(--soft); fill: none; }
.halo { fill: none; stroke: var(--paper); stroke-width: 4; }
.frame { fill: none; stroke: var(--ink); stroke-width: 2; }
.curves { display: flex; flex-wrap: wrap; gap: 0 2rem; } .curves > div { min-width: 0; }
.plot text { fill: var(--soft); font: 12px system-ui, sans-serif; }
.grid { stroke: var(--line); } .guide { stroke: var(--soft); stroke-dasharray: 5 4; }
.line { fill: none; stroke-width: 2; } .mark { stroke: var(--paper); }
.line.s0 { stroke: var(--s0); } .line.s1 { stroke: var(--s1); stroke-dasharray: 8 3; }
.line.s2 { stroke: var(--s2); stroke-dasharray: 2 3; } .line.s3 { stroke: var(--s3); }
.mark.s0 { fill: var(--s0); } .mark.s1 { fill: var(--s1); } .mark.s2 { fill: var(--s2); }
.mark.s3 { fill: var(--s3); }
.bar { width: 10rem; height: .7rem; margin-top: .35rem; } .rail { stroke: var(--line); }
.power { fill: var(--s0); } .power.weak { fill: var(--inconclusive); }
.more summary { cursor: pointer; color: var(--soft); }
ul { padding-left: 1.2rem; margin: .3rem 0; }
@media (max-width: 40rem) {
  body { padding: 1rem 1rem 3rem; } h1 { font-size: 1.3rem; }
  .facts { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem 1rem; }
  .facts > :first-child { grid-column: 1 / -1; }
  section > .scroll tbody th { min-width: 9rem; max-width: 9rem; }
  .o { text-align: center; } .o span { position: absolute; clip-path: inset(50%); width: 1px; }
  .finding { padding: .1rem .7rem .7rem; } .bar { width: 6rem; }
  .lines { grid-template-columns: 1fr; gap: 0; } .lines dd { grid-column: 1; margin: 0 0 .4rem; }
}
@media print {
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { padding: 0; max-width: none; font-size: 10pt; }
  .scroll { overflow: visible; } table { font-size: 8.5pt; }
  section > .scroll tbody th { position: static; }
  .finding, tr, figure { break-inside: avoid; } summary, h2, h3 { break-after: avoid; }
  a { color: inherit; text-decoration: none; }
}
"""
