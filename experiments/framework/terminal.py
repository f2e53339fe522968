"""The terminal side of a run: tables and progress, quiet where nobody watches."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from experiments.framework.values import show

T = TypeVar("T")
_NUMBER = re.compile(r"[-−+±]?\d[\d.,]*(e[-+]?\d+)?( ?[^\s\d]{1,3})?")
_QUIET_SECONDS = 30.0


def make_console() -> Console:
    """A console for standard output; wide where the output goes to a file and nothing wraps."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    return Console(width=width, highlight=False, markup=False)


def is_number(text: str) -> bool:
    """Whether a cell reads as a number, perhaps with a short unit: such columns align right."""
    return bool(_NUMBER.fullmatch(text))


def print_table(
    console: Console,
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    max_widths: Mapping[str, int] | None = None,
) -> None:
    """Print a table; cells are shown as `show` writes them, never read as markup."""
    cells = [[show(cell) for cell in row] for row in rows]
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        right = bool(cells) and all(is_number(row[i]) or row[i] == "–" for row in cells)
        table.add_column(
            Text(column),
            justify="right" if right else "left",
            overflow="fold",
            max_width=(max_widths or {}).get(column),
        )
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


class Bars:
    """Progress bars, one inside the other if need be; plain lines, now and then, in a log."""

    def __init__(self, console: Console):
        self._console = console
        self._shown: Progress | None = None

    def track(self, work: Iterable[T] | int, description: str) -> Iterator[Any]:
        """Yield the items of `work` (or 0 … work−1) while showing how far it has come."""
        items: Iterable[Any] = range(work) if isinstance(work, int) else work
        total = len(items) if isinstance(items, Sized) else None
        if not self._console.is_terminal:
            yield from self._lines(items, total, description)
            return
        outermost = self._shown is None
        if self._shown is None:
            self._shown = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=self._console,
                transient=True,
                refresh_per_second=4,  # more would be felt in the times of a benchmark
            )
            self._shown.start()
        bars = self._shown
        task = bars.add_task(description, total=total)
        try:
            for item in items:
                yield item
                bars.advance(task)
        finally:
            bars.remove_task(task)
            if outermost and self._shown is bars:
                self.stop()

    def _lines(self, items: Iterable[Any], total: int | None, name: str) -> Iterator[Any]:
        start = last = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            if now - last >= _QUIET_SECONDS:
                last = now
                of = f" of {total}" if total else ""
                print(f"{name}: {done}{of}, {now - start:.0f} s", flush=True)

    def stop(self) -> None:
        """Take the bars away; a failing loop leaves them behind otherwise."""
        if self._shown is not None:
            self._shown.stop()
            self._shown = None
