"""The section about one report on the page: its findings with drawings, its power, the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import count

import numpy as np

from jaxdl.gradcheck.report import svg
from jaxdl.gradcheck.report.error_map import blocks, cell_of, map_shape
from jaxdl.gradcheck.report.findings import Finding, Findings
from jaxdl.gradcheck.report.html_parts import SIGNS, fact_list, plain_table, text
from jaxdl.gradcheck.report.text import also, folded, printable

_SHAPE = re.compile(r"\[([\d, ]*)\]$")


def section(anchor: str, name: str, report: Findings, test: str) -> str:
    """A report under a name, open unless all passed; `test` is the one it comes from, or empty."""
    bad = [f for f in report.findings if f.outcome in ("fail", "inconclusive")]
    wrong = {f.name for f in bad}
    passed = [f for f in report.findings if f.outcome == "pass"]
    skipped = dict.fromkeys((f.name, f.text) for f in report.findings if f.outcome == "skipped")
    clean = dict.fromkeys(f.name for f in passed if f.name not in wrong)
    brief = f"{len(clean)} passed" + (f", {len(skipped)} skipped" if skipped else "")
    brief += "" if report.seconds is None else f", {report.seconds:.1f} s"
    numbers = count(1)
    parts = [
        fact_list(
            {"rules by hand": ", ".join(report.rules) or "none", "held against": report.oracle,
             "level": report.level} | ({"test": test} if test else {})
        ),
        *(_finding(f"{anchor}-{next(numbers)}", *group) for group in folded(bad)),
        _curves([f for f in report.findings if f.outcome not in ("fail", "inconclusive")]),
        _power(report.power),
        _listed("Notes", report.notes),
        _listed("Skipped", [f"{check}: {why}" for check, why in skipped]),
        _listed("Passed", [", ".join(clean)] if clean else []),
    ]  # fmt: skip
    return (
        f'<details class="function {report.outcome}"{"" if report.outcome == "pass" else " open"}>'
        f"<summary>{_badge(report.outcome)} <h2>{text(name)}</h2> "
        f'<span class="soft">{text(brief)}</span></summary>\n<div class="inside" id="{anchor}">'
        f"{''.join(parts)}</div></details>"
    )


def _badge(outcome: str) -> str:
    return f'<span class="badge {outcome}">{SIGNS[outcome]} {outcome}</span>'


def _finding(anchor: str, head: Finding, others: Sequence[Finding]) -> str:
    where = f"<code>{text(head.leaf)}</code>" if head.leaf else ""
    parts = [
        f'<article class="finding {head.outcome}" aria-labelledby="{anchor}"><h3 id="{anchor}">'
        f"{SIGNS[head.outcome]} {head.outcome}: {text(head.name)} {where}</h3>",
        f'<p class="looks"><b>Looks like</b> {text(head.diagnosis)}</p>' if head.diagnosis else "",
        '<dl class="lines">',
        *(_line(line) for line in head.text.splitlines()),
        _row("sample", head.sample),
        _row("also", also(head, others)) if others else "",
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
    label = f"<dt>{text(name)}</dt>" if name else '<dt class="vh">message</dt>'
    return f"{label}<dd><{tag}>{text(words)}</{tag}></dd>"


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
        high, wide = map_shape(shape)
        of_rows, of_columns = blocks(shape)
        if (rows, columns) == (-(-high // of_rows), -(-wide // of_columns)):
            if len(shape) > 1:
                axes = "axis 0" if len(shape) == 2 else f"axes 0 to {len(shape) - 2}"
                folds = f"Rows: {axes} ({high}). Columns: axis {len(shape) - 1} ({wide}). "
            if (of_rows, of_columns) != (1, 1):
                folds += f"Each cell is the largest of {of_rows} × {of_columns} entries. "
            if len(finding.index) == len(shape) and all(
                0 <= i < n for i, n in zip(finding.index, shape, strict=True)
            ):
                worst = cell_of(finding.index, shape)
                named = f"entry {finding.index}"
    value = errors[worst[0]][worst[1]]
    size = "infinite or no number" if not value < np.inf else f"{10 ** min(value, 300.0):.2g}"
    words = f"Error of each entry of {finding.path or 'the gradient'}, {rows} × {columns} cells"
    return (
        f"<figure>{svg.heat_map(errors, worst, printable(words))}<figcaption>Error of "
        "each entry relative to the root mean square of the gradient, with the number of cells. "
        f"{folds}In the frame: {text(named)}, relative error {size}.</figcaption></figure>"
    )


def _curves(findings: Sequence[Finding]) -> str:
    parts = []
    for finding in findings:
        if len(finding.curves) > 1:
            series = {
                printable(name): [float(value) for value in row]
                for name, row in finding.curves.items()
            }
            where = " ".join(part for part in (finding.path, finding.sample) if part)
            parts.append(f"<h4>{text(finding.name)}: {text(where)}</h4>{svg.curves(series)}")
    return (
        f'<div class="curves">{"".join(f"<div>{part}</div>" for part in parts)}</div>'
        if parts
        else ""
    )


def _figures(figures: Mapping[str, float]) -> str:
    if not figures:
        return ""
    rows = [
        (text(name.replace("_", " ")), f"{float(value):.9g}") for name, value in figures.items()
    ]
    table = plain_table(["figure", "value"], rows, numbers=[1])
    return f'<details class="more"><summary>Figures</summary>{table}</details>'


def _power(power: Mapping[str, float]) -> str:
    if not power:
        return ""
    rows = [
        (
            f"<code>{text(leaf)}</code>",
            f"{value:.0e}" if np.isfinite(value) else "nothing",
            svg.bar(value),
        )
        for leaf, value in power.items()
    ]
    caption = (
        "The smallest relative error of a gradient that would have been seen; bars from 1e-16 to "
        "1, logarithmic"
    )
    heads = ["leaf", "seen from", '<span class="vh">bar</span>']
    return f"<h3>Power</h3>{plain_table(heads, rows, caption, numbers=[1])}"


def _listed(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<h3>{title}</h3><ul>{items}</ul>" if lines else ""
