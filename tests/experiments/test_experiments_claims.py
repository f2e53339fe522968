"""The claims of the sources: the newest runs, and the table."""

from __future__ import annotations

import json
import re
from pathlib import Path

from experiments.framework.claims import ClaimsSettings, claims_table, newest_results, run_claims
from experiments.framework.cli import main
from experiments.framework.sources import GROUPS, ROWS, check_row, group_of


def test_the_sources_have_all_rows():
    counts = {letter: sum(row[0] == letter for row in ROWS) for letter in GROUPS}
    assert counts == {"A": 8, "B": 16, "C": 6, "D": 13}
    assert all(check_row(row) == row and group_of(row) for row in ROWS)


def record(experiment, started, claims, status="done"):
    keys = ("id", "claim", "expected", "found", "holds")
    folder = Path("runs") / experiment / started
    folder.mkdir(parents=True)
    value = {"experiment": experiment, "started": started, "status": status}
    value["claims"] = [dict(zip(keys, claim, strict=True)) for claim in claims]
    (folder / "results.json").write_text(json.dumps(value))


def test_claims_come_from_the_newest_run_of_each_experiment(lab, capsys):
    record("old", "2026-01-02T00:00", [("A3", "late", 1, 2, False)])
    record("old", "2026-01-01T00:00", [("A3", "early", 1, 1, True), ("A4", "early", 1, 1, True)])
    record("two", "2026-01-01T00:00", [("A3", "also", [0.75136507], 1, True)], "failed")
    record("bench.x", "2026-01-01T00:00", [("Z1", "gone", 1, 1, True)])
    (Path("runs") / "results.json").write_text('{"experiment": ')
    rows, summary = claims_table(newest_results(Path("runs")))
    assert [row[0] for row in rows if row[0] != "A3"] == [row for row in ROWS if row != "A3"]
    assert [row[1:] for row in rows if row[0] == "A3"] == [
        [f"{ROWS['A3']}\n· late", "old", "1", "2", "no"],
        ["· also", "two (failed)", "(0.75136507)", "1", "yes"],
    ]
    assert all(row[2] == "not covered yet" for row in rows if row[0] != "A3")
    assert summary.startswith("1 of 43 rows covered; all claims hold in 0 of them, not all in 1")
    errors = capsys.readouterr().err
    assert "got 'Z1' from bench.x; skipped" in errors
    assert "expected the results of a run in runs/results.json" in errors


def test_the_claims_command(lab, capsys):
    assert main(["claims"], lab) == 0  # before any run
    streams = capsys.readouterr()
    assert "run an experiment first" in streams.err and "0 of 43 rows covered" in streams.out
    assert main(["thing"], lab) == 0
    assert main(["claims", "--write", "claims.md"], lab) == 0
    out = capsys.readouterr().out
    assert "It works" in out and "not covered yet" in out and "1 of 43 rows covered" in out
    assert f"| A3 | {ROWS['A3']}<br>· It works | thing | 1 | 1 | yes |" in Path(
        "claims.md"
    ).read_text(encoding="utf-8")
    assert main(["claims", "--runs", "nowhere"], lab) == 2
    assert "got nowhere, which is none; choose another with --runs" in capsys.readouterr().err


def test_all_rows_are_in_the_printed_table(lab, capsys):
    run_claims(ClaimsSettings())
    out = capsys.readouterr().out
    assert all(re.search(rf"│ {row} +│", out) for row in ROWS)
