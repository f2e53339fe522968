"""The table of all rows of the sources, with what the newest runs found about each."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.framework import terminal
from experiments.framework.sources import GROUPS, ROWS
from experiments.framework.values import show, write_text

COLUMNS = ("id", "statement", "experiment", "expected", "found", "holds")
UNCOVERED = "not covered yet"


@dataclass(frozen=True)
class ClaimsSettings:
    """Where to read results, and where to write the table."""

    runs: Path = Path("runs")
    """Folder below which the results.json files are sought, at any depth."""
    write: Path | None = None
    """File to write the table to as Markdown, replaced if it is there."""


def newest_results(runs: Path) -> list[dict[str, Any]]:
    """The newest results.json of each experiment below `runs`, by its time of start.

    A file that cannot be read is named on standard error and skipped.
    """
    newest: dict[str, dict[str, Any]] = {}
    for path in sorted(runs.rglob("results.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            name, started, _ = record["experiment"], record["started"], record["claims"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(
                f"claims: expected the results of a run in {path}, got {error!r}; "
                "skipped; delete the file or run the experiment again",
                file=sys.stderr,
            )
            continue
        if name not in newest or started > newest[name]["started"]:
            newest[name] = record
    return [newest[name] for name in sorted(newest)]


def claims_table(records: Iterable[dict[str, Any]]) -> tuple[list[list[str]], str]:
    """Rows of the table (`COLUMNS`), at least one for each row of the sources, and a summary."""
    found: dict[str, list[list[str]]] = {row_id: [] for row_id in ROWS}
    verdicts: dict[str, list[bool]] = {row_id: [] for row_id in ROWS}
    for record in records:
        status = "" if record.get("status") == "done" else f" ({record.get('status')})"
        for claim in record["claims"]:
            row_id = claim["id"]
            if row_id not in ROWS:
                print(
                    f"claims: expected row ids of experiments/framework/sources.py, "
                    f"got {row_id!r} from "
                    f"{record['experiment']}; skipped; run the experiment again",
                    file=sys.stderr,
                )
                continue
            first = f"{ROWS[row_id]}\n" if not found[row_id] else ""
            cells = [f"{first}· {claim['claim']}", record["experiment"] + status]
            cells += [show(claim["expected"], 10), show(claim["found"], 10), show(claim["holds"])]
            found[row_id].append([row_id, *cells])
            verdicts[row_id].append(claim["holds"])
    rows: list[list[str]] = []
    for row_id, statement in ROWS.items():
        rows += found[row_id] or [[row_id, statement, UNCOVERED, "–", "–", "–"]]
    covered = [row for row in verdicts.values() if row]
    holding = sum(all(row) for row in covered)
    summary = (
        f"{len(covered)} of {len(ROWS)} rows covered; all claims hold in {holding} of them, "
        f"not all in {len(covered) - holding}"
    )
    return rows, summary


def run_claims(settings: ClaimsSettings) -> None:
    """Print the table, and write it to a file if asked to.

    Raises:
        FileNotFoundError: a folder of runs was asked for by name and is not there.
    """
    if not settings.runs.is_dir():
        message = f"claims: expected a folder of runs, got {settings.runs}, which is none"
        if settings.runs != ClaimsSettings().runs:
            raise FileNotFoundError(f"{message}; choose another with --runs DIR")
        print(f"{message}; run an experiment first", file=sys.stderr)
    rows, summary = claims_table(newest_results(settings.runs))
    console = terminal.make_console()
    widths = {"experiment": 18, "expected": 18, "found": 18}  # the room is for the statements
    terminal.print_table(console, "Claims of the sources", COLUMNS, rows, widths)
    print(summary)
    if settings.write is not None:
        write_text(settings.write, _markdown(rows, summary))
        print(f"Written: {settings.write}")


def _markdown(rows: list[list[str]], summary: str) -> str:
    lines = ["# Claims of the sources", "", f"{summary}.", ""]
    lines += [f"- {letter}: {title}" for letter, title in GROUPS.items()]
    lines += ["", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        cells = [cell.replace("|", "\\|").replace("\n", "<br>") for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
