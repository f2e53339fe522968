"""`Run`: the folder of one run, and everything an experiment says while it runs.

runs/NAME/20260131T120000Z/
    settings.json   settings, versions, command; written first
    log.jsonl       one line per `log` call, as things happen
    results.json    results and claims; replaced whole after each addition
    NAME.png        figures
    report.html     all of it on one page that can be sent as it is
    error.txt       the traceback, if the run failed
"""

from __future__ import annotations

import json
import os
import re
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from experiments.framework import environment, report, sources, terminal
from experiments.framework.values import as_bool, to_json, write_json, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Before anything imports pyplot: a run draws into files and needs no screen.
os.environ.setdefault("MPLBACKEND", "Agg")

T = TypeVar("T")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Run:
    """A run folder, open as a context manager; what was recorded before a failure stays.

    Args:
        name: the experiment's name, `bench.NAME` for a benchmark.
        settings: the experiment's dataclass of settings.
        out: the run folder; `runs/NAME/<UTC time>` below the current directory by default.
        doc: the experiment's docstring, shown at the head of the report.
        command: the command line that repeats the run.

    Raises:
        FileExistsError: `out` holds something already.
        OSError: the folder cannot be created.
        TypeError: a setting that JSON cannot hold.
    """

    folder: Path

    def __init__(
        self,
        name: str,
        settings: Any = None,
        out: Path | str | None = None,
        *,
        doc: str = "",
        command: str = "",
    ):
        self.name = name
        self.doc = doc
        self._settings = to_json(settings, "settings") or {}
        self._environment = environment.describe()
        self._command = command
        self._console = terminal.make_console()
        self._bars = terminal.Bars(self._console)
        self._clock = time.monotonic()
        self._body: list[str] = []  # fragments of HTML, in the order in which they came
        self._figures: set[str] = set()
        started = datetime.now(UTC)
        self._record: dict[str, Any] = {
            "experiment": name,
            "status": "running",
            "started": started.isoformat(),
            "seconds": None,
            "results": {},
            "claims": [],
        }
        self.folder = _new_folder(name, started, out)
        self._write_settings()
        self._write_results()

    # What an experiment calls

    def text(self, text: str, *, mono: bool = False) -> None:
        """Say something, in the terminal and the report; `mono` keeps spaces and line breaks."""
        self._console.print(text, soft_wrap=mono)
        self._body.append(report.text(text, mono=mono))

    def heading(self, title: str) -> None:
        """Begin a section."""
        self._console.print(f"\n{title}", style="bold")
        self._body.append(report.heading(title))

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Show a table in the terminal and the report.

        Floats are written with six significant digits: pass text where it should be otherwise.
        Nothing of it enters results.json: call `result` for what others should read.

        Raises:
            ValueError: a row that has not one cell for each column.
        """
        rows = [list(row) for row in rows]
        for i, row in enumerate(rows):
            if len(row) != len(columns):
                raise ValueError(
                    f"table {title!r}: row {i} must have {len(columns)} cells, one for each of "
                    f"{list(columns)}, got {len(row)}; add what is missing, None for no value"
                )
        terminal.print_table(self._console, title, columns, rows)
        self._body.append(report.table(title, columns, rows))

    def figure(self, name: str, fig: Figure, caption: str = "") -> Path:
        """Save a Matplotlib figure as `NAME.png`, put it into the report, and close it.

        Raises:
            ValueError: a name that is taken, or that is no plain file name.
        """
        if not _FILE_NAME.fullmatch(name) or name in self._figures:
            wrong = "was used before" if name in self._figures else "is no plain file name"
            raise ValueError(
                f"figure: name must be new in this run and of letters, digits, '_', '-' and '.', "
                f"got {name!r}, which {wrong}; choose another"
            )
        self._figures.add(name)
        path = self.folder / f"{name}.png"
        fig.savefig(path, dpi=150, bbox_inches="tight")
        self._body.append(report.figure(path.read_bytes(), caption or name))
        from matplotlib import pyplot  # here: runs without a picture do not pay for the import

        pyplot.close(fig)  # pyplot keeps every figure alive otherwise
        return path

    def result(self, name: str, value: Any) -> None:
        """Record a named value in results.json: numbers, text, arrays, lists and dicts of them.

        NaN and infinities become the strings "nan", "inf" and "-inf".

        Raises:
            ValueError: the name was used before.
            TypeError: a value that JSON cannot hold.
        """
        results = self._record["results"]
        if name in results:
            raise ValueError(
                f"result: name must be new in this run, got {name!r}, recorded before as "
                f"{str(results[name])[:60]}; choose another, or use log for a series"
            )
        results[name] = to_json(value, f"result {name!r}")
        self._note_device()
        self._write_results()

    def claim(self, row_id: str, claim: str, expected: Any, found: Any, holds: bool) -> None:
        """Report on a row of the sources, such as "A5": what it claims and what was found.

        Raises:
            ValueError: there is no such row.
            TypeError: `holds` is no boolean, or a value that JSON cannot hold.
        """
        entry = {
            "id": sources.check_row(row_id),
            "claim": claim,
            "expected": to_json(expected, f"claim {row_id} expected"),
            "found": to_json(found, f"claim {row_id} found"),
            "holds": as_bool(holds, f"claim {row_id} holds"),
        }
        self._record["claims"].append(entry)
        self._note_device()
        self._write_results()

    def log(self, **values: Any) -> None:
        """Append a line to log.jsonl: `time`, in seconds since the start, and the values.

        Raises:
            ValueError: a value called `time`.
            TypeError: a value that JSON cannot hold.
        """
        if "time" in values:
            raise ValueError(
                f"log: 'time' must be left to the log, which sets it, got time={values['time']!r}; "
                "choose another name"
            )
        line = {"time": round(self._seconds(), 3)}
        line |= {key: to_json(value, f"log {key!r}") for key, value in values.items()}
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        self._note_device()

    def progress(self, work: Iterable[T] | int, description: str) -> Iterator[Any]:
        """Iterate over `work`, or over range(work), with a bar; loops may lie inside each other.

        Where the output is no terminal, a line every half minute takes the bar's place.
        """
        return self._bars.track(work, description)

    # The course of a run

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()
        if error is None:
            self._record["status"] = "done"
        else:
            self._record["status"] = "failed"
            self._record["error"] = f"{type(error).__name__}: {error}".removesuffix(": ")
            tracing = "".join(traceback.format_exception(kind, error, trace))
            write_text(self.folder / "error.txt", tracing)
        self._record["seconds"] = round(self._seconds(), 3)
        self._write_results()
        self._note_device()
        page = report.page(
            self._record, self._settings, self._environment, self.doc, self._command, self._body
        )
        write_text(self.report, page)

    @property
    def report(self) -> Path:
        """Where the report is, once the run has ended."""
        return self.folder / "report.html"

    def _seconds(self) -> float:
        return time.monotonic() - self._clock

    def _note_device(self) -> None:
        # At the first result and not at the start: asking starts JAX's backend, and an
        # experiment may still have to choose the platform or the number of devices.
        if self._environment["device"] is None:
            self._environment["device"] = environment.device()
            self._write_settings()

    def _write_settings(self) -> None:
        value = {
            "experiment": self.name,
            "settings": self._settings,
            "environment": self._environment,
            "command": self._command,
        }
        write_json(self.folder / "settings.json", value)

    def _write_results(self) -> None:
        write_json(self.folder / "results.json", self._record)


def _new_folder(name: str, started: datetime, out: Path | str | None) -> Path:
    """Create the run folder; never one that holds something already."""
    try:
        if out is not None:
            folder = Path(out)
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise FileExistsError(
                    f"run folder: expected a new or empty one, got {folder}, which holds files; "
                    "choose another with --out DIR"
                )
            return folder
        parent = Path("runs") / name
        parent.mkdir(parents=True, exist_ok=True)
        stamp = f"{started:%Y%m%dT%H%M%SZ}"
        for number in range(1, 1000):  # several runs may start within one second
            folder = parent / (stamp if number == 1 else f"{stamp}-{number}")
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                continue
        raise FileExistsError(f"run folder: expected a free name like {parent / stamp}, got none")
    except OSError as error:
        if error.errno is None:  # our own text from above
            raise
        place = Path(out) if out is not None else Path("runs") / name
        raise OSError(
            f"run folder: expected a place to write to, got {place} "
            f"({error.strerror}: {error.filename}); choose another with --out DIR"
        ) from error
