"""What the parts of the page of reports have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from jaxdl.gradcheck.report.text import printable

SIGNS = {"fail": "✗", "inconclusive": "?", "pass": "✓", "skipped": "–"}  # the worst first


def text(words: Any) -> str:
    """Words as they are, whatever characters they have."""
    return escape(printable(str(words)))


def fact_list(facts: Mapping[str, Any]) -> str:
    """Names and values, side by side."""
    rows = "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in facts.items())
    return f'<dl class="facts">{rows}</dl>'


def plain_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    caption: str = "",
    numbers: Sequence[int] = (),
) -> str:
    """Cells are HTML; the first of a row is its head. `numbers` are the columns of figures."""
    kinds = [' class="num"' if i in numbers else "" for i in range(len(heads))]
    head = "".join(f'<th scope="col"{kind}>{h}</th>' for h, kind in zip(heads, kinds, strict=True))
    body = "".join(
        f'<tr><th scope="row">{first}</th>'
        + "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(others, kinds[1:], strict=True))
        + "</tr>"
        for first, *others in rows
    )
    return (
        f'<div class="scroll"><table class="plain">{caption and f"<caption>{caption}</caption>"}'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
