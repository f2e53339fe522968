"""The one-page report of a run: plain HTML with its style and pictures inside."""

from __future__ import annotations

import base64
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from experiments.framework.sources import ROWS
from experiments.framework.terminal import is_number
from experiments.framework.values import show

_CSS = """
:root { --ink: #1c2126; --soft: #5d6770; --line: #dfe3e7; --good: #17693a; --bad: #b3261e; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 54rem; color: var(--ink);
  background: #fff; font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .8rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p { margin: .6rem 0; max-width: 44rem; }
.lead { font-size: 1.1rem; margin: 0 0 .6rem; }
.lines { white-space: pre-wrap; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.yes { color: var(--good); font-weight: 600; }
.no { color: var(--bad); font-weight: 600; }
.badge { color: #fff; background: var(--soft); border-radius: 1rem; padding: .1rem .65rem;
  font-size: .85rem; font-weight: 600; }
.badge.done { background: var(--good); } .badge.failed { background: var(--bad); }
.error { border-left: 4px solid var(--bad); background: #fdf3f2; padding: .7rem 1rem;
  white-space: pre-wrap; }
.scroll { overflow-x: auto; margin: .4rem 0 1.2rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .35rem .9rem .35rem 0;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
.num { text-align: right; white-space: nowrap; }
td small { color: var(--soft); display: block; }
pre, code { font: .83rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { background: #f5f6f8; padding: .8rem 1rem; border-radius: .3rem; overflow-x: auto; }
figure { margin: 1rem 0 1.6rem; }
img { max-width: 100%; height: auto; display: block; }
@media (max-width: 40rem) {
  body { padding-top: 1.5rem; }
  .claims thead { display: none; }
  .claims, .claims tbody, .claims tr, .claims td { display: block; border: 0; padding: 0; }
  .claims tr { border-bottom: 1px solid var(--line); padding: .6rem 0; }
  .claims td { text-align: left; white-space: normal; }
  .claims td[data-name]::before { content: attr(data-name) ": "; color: var(--soft); }
}
@media print {
  body { padding: 0; max-width: none; font-size: 10.5pt; }
  .scroll, pre { overflow: visible; }
  table { font-size: 8.5pt; } td small { font-size: 8pt; } th { white-space: normal; }
  pre { white-space: pre-wrap; }
  figure, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  p .badge.badge { color: var(--ink); background: none; border: 1px solid; }
}
"""


def heading(title: str) -> str:
    """A section title."""
    return f"<h2>{escape(title)}</h2>"


def text(words: str, *, mono: bool = False) -> str:
    """Paragraphs, divided by empty lines; or the text as it stands, if `mono`."""
    if mono:
        return f"<pre>{escape(words)}</pre>"
    paragraphs = [_fill_items(part.strip()) for part in words.split("\n\n")]
    return "".join(
        f"<p{_LISTED if _is_list(part) else ''}>{escape(part)}</p>" for part in paragraphs if part
    )


_LISTED = ' class="lines"'


def _is_list(paragraph: str) -> bool:
    # Lists and small tables of a docstring keep their lines; prose is filled anew.
    return any(line.startswith((" ", "- ", "* ", "|")) for line in paragraph.splitlines())


def _fill_items(paragraph: str) -> str:
    # An item that goes on over indented lines is one line here, which the page breaks anew.
    if not paragraph.startswith(("- ", "* ")):
        return paragraph
    return re.sub(r"\n {2,}(?![-*|])", " ", paragraph)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; columns of numbers align right."""
    cells = [[show(cell) for cell in row] for row in rows]
    classes = [
        ' class="num"' if cells and all(is_number(row[i]) or row[i] == "–" for row in cells) else ""
        for i in range(len(columns))
    ]
    head = "".join(f"<th{c}>{escape(name)}</th>" for c, name in zip(classes, columns, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{c}>{escape(cell)}</td>" for c, cell in zip(classes, row, strict=True))
        + "</tr>\n"
        for row in cells
    )
    title = f"<h3>{escape(title)}</h3>" if title else ""
    return (
        f'{title}<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def figure(png: bytes, caption: str) -> str:
    """A picture inside the page itself."""
    data = base64.b64encode(png).decode("ascii")
    words = escape(caption)
    return (
        f'<figure><img alt="{words}" src="data:image/png;base64,{data}">'
        f"<figcaption>{words}</figcaption></figure>"
    )


def page(
    record: Mapping[str, Any],
    settings: Mapping[str, Any],
    environment: Mapping[str, Any],
    doc: str,
    command: str,
    body: Sequence[str],
) -> str:
    """The whole report: what was asked, what the sources claim, what was found, and with what."""
    summary, _, rest = inspect.cleandoc(doc).partition("\n")
    status = record["status"]
    parts = [
        f"<h1>{escape(record['experiment'])}</h1>",
        f'<p class="lead">{escape(summary)}</p>' if summary else "",
        f'<p class="soft"><span class="badge {status}">{status}</span> '
        f"{escape(record['started'][:16].replace('T', ' '))} UTC · {record['seconds']:.1f} s</p>",
    ]
    if "error" in record:
        parts.append(f'<div class="error">{escape(record["error"])}</div>')
    parts += [text(rest), _claims(record["claims"])]
    if body:
        # A section needs a title only where the experiment did not begin with one itself.
        parts += [] if body[0].startswith("<h2>") else [heading("What was found")]
        parts += body
    if record["results"]:
        rows = [[name, show(value)] for name, value in record["results"].items()]
        parts += [heading("Results"), table("", ["name", "value"], rows)]
    if settings:
        rows = [[name, show(value)] for name, value in settings.items()]
        parts += [heading("Settings"), table("", ["setting", "value"], rows)]
    rows = [[name, value] for name, value in environment.items()]
    parts += [heading("Made with"), table("", ["what", "version"], rows)]
    if command:
        parts.append(f"<pre>{escape(command)}</pre>")
    content = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(record['experiment'])}</title>\n<style>{_CSS}</style></head>\n"
        f"<body>\n{content}\n</body></html>\n"
    )


def _claims(claims: Sequence[Mapping[str, Any]]) -> str:
    if not claims:
        return ""
    rows, row_before = "", None
    for claim in claims:
        verdict = "yes" if claim["holds"] else "no"
        row_id, said = claim["id"], escape(claim["claim"])
        if row_id != row_before:  # the row's own words once, above all the claims about it
            said = f"<small>{escape(ROWS[row_id])}</small>{said}"
        row_before = row_id
        rows += (
            f"<tr><td>{row_id}</td><td>{said}</td>"
            f'<td data-name="expected">{escape(show(claim["expected"], 10))}</td>'
            f'<td data-name="found">{escape(show(claim["found"], 10))}</td>'
            f'<td data-name="holds" class="{verdict}">{verdict}</td></tr>\n'
        )
    head = "".join(f"<th>{name}</th>" for name in ("row", "claim", "expected", "found", "holds"))
    return (
        heading("Claims of the sources") + '<div class="scroll"><table class="claims">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>"
    )
