"""The report of one call of `check`: what was found, and the ways to show it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from jaxdl.gradcheck.report.findings import Findings
from jaxdl.gradcheck.report.html import write_html
from jaxdl.gradcheck.report.text import told


@dataclass(frozen=True)
class Report(Findings):
    """All findings of one call of `check`."""

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict` to a file."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1), encoding="utf-8")

    def to_html(self, path: str | Path) -> None:
        """Write it as a page that needs no other file; `write_html` puts several on one."""
        write_html([self], path)

    def text(self, color: bool = False, width: int | None = None) -> str:
        """For people: what is wrong first, the same at other samples in one line.

        Args:
          color: whether heads are bold, and outcomes coloured, by ANSI sequences.
          width: of the terminal, at which long lines are broken; not at all by default.
        """
        return told(self, color, width)

    def __str__(self) -> str:
        return self.text()
