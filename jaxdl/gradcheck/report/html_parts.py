"""What the parts of the page of reports have in common."""

from __future__ import annotations

from collections.abc import Mapping
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
