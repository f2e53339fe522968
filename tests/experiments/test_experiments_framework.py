"""The frame around the experiments: the command line, the run folder, claims, the report.

Fake experiments in a package of their own stand in for the real ones; one subprocess checks that
listing the real ones stays clear of JAX.
"""

from __future__ import annotations

import importlib
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments.framework import environment, terminal
from experiments.framework.claims import ClaimsSettings, claims_table, newest_results, run_claims
from experiments.framework.cli import main
from experiments.framework.discover import find_experiments, pick
from experiments.framework.run import Run
from experiments.framework.sources import GROUPS, ROWS, check_row, group_of
from experiments.framework.values import as_bool, show, to_json

ROOT = Path(__file__).resolve().parents[2]

FAKE = '''"""Does a [small] thing work?

The sources claim that x < 1 & y > 2.
"""
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    seeds: int = 3
    """How many seeds to train."""
    fail: bool = False  # stop half way

    def __post_init__(self):
        if self.seeds < 1:
            raise ValueError(f"seeds: must be at least 1, got {self.seeds}; give a larger number")


def run(settings, out):
    for step in out.progress(2, "steps"):
        out.log(step=step)
    out.result("seeds", settings.seeds)
    out.claim("A3", "It works", 1.0, 1.0, True)
    if settings.fail:
        raise RuntimeError("half way")
    out.table("Numbers", ["seed", "error"], [[0, 0.5]])
'''


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A package of fake experiments, and an empty current directory to run them in."""
    name = "fakelab"
    folder = tmp_path / "code" / name
    (folder / "bench").mkdir(parents=True)
    (folder / "folded").mkdir()
    for file, code in {
        "__init__.py": "",
        "bench/__init__.py": "",
        "thing.py": FAKE,
        "bench/speed.py": FAKE.replace("Does a [small] thing work?", "How fast is it?"),
        "helpers.py": "raise RuntimeError('never imported')",
        "needy.py": "import no_such_package_here\n" + FAKE.replace('"""\n', '"""\n', 1),
        "_private.py": FAKE,
        "folded/__init__.py": FAKE,
        "folded/parts.py": FAKE,
        "clash.py": FAKE.replace("seeds: int = 3", "out: int = 3\n    seeds: int = 3"),
    }.items():
        (folder / file).write_text(code)
    monkeypatch.syspath_prepend(str(folder.parent))
    importlib.invalidate_caches()
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    yield name
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        del sys.modules[module]


def read(folder: Path, name: str = "results.json"):
    def refuse(constant):  # json accepts NaN and Infinity, which are not JSON
        raise AssertionError(f"{name} holds {constant}")

    return json.loads((folder / name).read_text(), parse_constant=refuse)


def only_run(name: str) -> Path:
    (folder,) = (Path("runs") / name).iterdir()
    return folder


# The command line


def test_list_shows_experiments_and_benchmarks_apart(lab, capsys):
    assert main([], lab) == 0
    out = capsys.readouterr().out
    experiments, benchmarks = out.split("Benchmarks")
    assert re.search(r"thing +Does a \[small\] thing work\?", experiments)
    assert re.search(r"bench\.speed +How fast is it\?", benchmarks)
    assert re.search(r"folded +Does a", experiments) and "parts" not in out
    assert "helpers" not in out and "private" not in out
    assert not [m for m in sys.modules if m.startswith(f"{lab}.")], "listing imports nothing"


def test_a_file_that_does_not_parse_is_listed_with_its_error(lab, tmp_path):
    (tmp_path / "code" / lab / "broken.py").write_text("def run(:\n")
    (broken,) = [entry for entry in find_experiments(lab) if entry.name == "broken"]
    assert "cannot be read" in broken.summary


@pytest.mark.parametrize("spelling", ["bench.speed", "bench/speed", "bench/speed.py"])
def test_spellings_of_a_benchmark(lab, spelling):
    assert pick(spelling, find_experiments(lab)).name == "bench.speed"


@pytest.mark.parametrize(
    ("typed", "meant"), [("thign", "thing"), ("speed", "bench.speed"), ("claim", "claims")]
)
def test_unknown_name_gives_the_closest_and_the_list(lab, capsys, typed, meant):
    assert main([typed], lab) == 2
    error = capsys.readouterr().err
    assert f"got '{typed}'; did you mean '{meant}'?" in error
    assert "expected one of clash, folded, needy, thing, bench.speed, claims" in error
    assert not Path("runs").exists()


def test_help_shows_the_typed_settings(lab, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["thing", "--help"], lab)
    assert stop.value.code == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in ("The sources claim", "--seeds INT", "How many seeds to train", "stop half way"):
        assert words in out
    assert "--out DIR" in out and "--debug" in out


def test_option_with_a_typing_error_is_refused_with_a_suggestion(lab, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["thing", "--seed", "4"], lab)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "--seed" in error and "Perhaps you meant" in error and "--seeds INT" in error
    assert not Path("runs").exists()


def test_bad_settings_missing_packages_and_clashes_are_told_in_one_line(lab, capsys):
    for arguments, words in (
        (["thing", "--seeds", "0"], "seeds: must be at least 1, got 0; give a larger number"),
        (["needy"], "needy: expected the package 'no_such_package_here', got no such package"),
        (["clash"], "Settings must leave ['debug', 'out'] to the framework, got fields ['out']"),
    ):
        assert main(arguments, lab) == 2
        error = capsys.readouterr().err
        assert words in error and "Traceback" not in error
    assert not Path("runs").exists()


def test_a_run_leaves_its_folder_and_names_the_report_last(lab, capsys):
    assert main(["thing", "--seeds", "5"], lab) == 0
    folder = only_run("thing")
    assert capsys.readouterr().out.splitlines()[-1] == f"Report: {folder / 'report.html'}"
    assert re.fullmatch(r"\d{8}T\d{6}Z", folder.name)

    settings = read(folder, "settings.json")
    assert settings["settings"] == {"seeds": 5, "fail": False}
    assert settings["command"] == "python -m experiments thing --seeds 5"
    environment = settings["environment"]
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["numpy"] == np.__version__
    assert environment["device"].startswith(("cpu:", "gpu:", "tpu:"))
    assert {"jax", "jaxlib", "jaxdl", "commit", "dirty"} <= set(environment)

    results = read(folder)
    assert (results["experiment"], results["status"]) == ("thing", "done")
    assert results["results"] == {"seeds": 5}
    claim = {"id": "A3", "claim": "It works", "expected": 1.0, "found": 1.0, "holds": True}
    assert results["claims"] == [claim]
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1]
    assert not list(folder.glob(".*")), "no drafts are left"


def test_a_failing_run_keeps_what_it_wrote(lab, capsys):
    assert main(["thing", "--fail"], lab) == 1
    streams = capsys.readouterr()
    folder = only_run("thing")
    assert "thing failed: RuntimeError: half way" in streams.err
    assert "Traceback" not in streams.err
    assert streams.out.splitlines()[-1] == f"Report: {folder / 'report.html'}"
    results = read(folder)
    assert (results["status"], results["error"]) == ("failed", "RuntimeError: half way")
    assert results["results"] == {"seeds": 3} and len(results["claims"]) == 1
    assert len((folder / "log.jsonl").read_text().splitlines()) == 2
    assert "Traceback" in (folder / "error.txt").read_text()
    assert "RuntimeError: half way" in (folder / "report.html").read_text()


def test_debug_shows_the_traceback(lab, capsys):
    assert main(["thing", "--fail", "--debug"], lab) == 1
    assert "Traceback" in capsys.readouterr().err


def test_out_chooses_the_folder_and_never_overwrites(lab, capsys):
    assert main(["thing", "--out", "here"], lab) == 0
    before = Path("here/results.json").read_bytes()
    capsys.readouterr()
    assert main(["bench.speed", "--out", "here"], lab) == 2
    error = capsys.readouterr().err
    assert "expected a new or empty one, got here, which holds files" in error
    assert "--out DIR" in error
    assert Path("here/results.json").read_bytes() == before


def test_out_that_cannot_be_created(lab, capsys):
    Path("file").write_text("")
    for place in ("file/run", "file"):
        assert main(["thing", "--out", place], lab) == 2
        assert f"expected a place to write to, got {place}" in capsys.readouterr().err


def test_listing_the_real_experiments_stays_clear_of_jax():
    code = (
        "import sys; from experiments.__main__ import _main; sys.argv = ['x']; code = _main(); "
        "assert 'jax' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "python -m experiments NAME --help" in done.stdout


# The run itself


def test_runs_within_one_second_get_folders_of_their_own(lab):
    folders = {Run("same").folder for _ in range(3)}
    assert len(folders) == 3


def test_results_are_on_disk_before_the_run_ends(lab):
    run = Run("x")
    assert read(run.folder)["status"] == "running"
    run.result("a", 1)
    run.log(step=1)
    assert read(run.folder)["results"] == {"a": 1}
    assert (run.folder / "log.jsonl").read_text().endswith("}\n")


def test_nothing_touches_a_device_before_the_first_result(lab, monkeypatch):
    asked = []
    monkeypatch.setattr(environment, "device", lambda: asked.append(1) or "cpu: fake × 1")
    with Run("x") as run:
        run.text("words")
        list(run.progress(2, "loop"))
        assert not asked
        run.result("a", 1)
        run.result("b", 1)
    assert len(asked) == 1
    assert read(run.folder, "settings.json")["environment"]["device"] == "cpu: fake × 1"


def test_values_that_are_not_finite_leave_valid_json(lab):
    with Run("x") as run:
        run.result("nan", math.nan)
        run.result("nested", {"inf": [np.float32(np.inf), -math.inf]})
        run.result("array", jnp.array([1.0, jnp.nan]))
        run.claim("A7", "c", math.nan, jnp.float32(math.nan), False)
        run.log(loss=math.nan)
    results = read(run.folder)
    assert results["results"] == {
        "nan": "nan",
        "nested": {"inf": ["inf", "-inf"]},
        "array": [1.0, "nan"],
    }
    assert math.isnan(float(results["results"]["nan"]))
    assert results["claims"][0]["found"] == "nan"
    assert json.loads((run.folder / "log.jsonl").read_text())["loss"] == "nan"


def test_to_json_keeps_numbers_exactly():
    x = 0.1 + 0.2
    assert to_json({"a": (np.float64(x), x)}, "v") == {"a": [x, x]}
    assert to_json(jnp.arange(3), "v") == [0, 1, 2]
    assert to_json([np.bool_(True), np.int8(3), None], "v") == [True, 3, None]
    assert to_json(jnp.ones((1, 2), jnp.bfloat16), "v") == [[1.0, 1.0]]
    assert to_json(np.array([0.5], np.longdouble), "v") == [0.5]
    assert type(to_json(np.float32(0.5), "v")) is float


@pytest.mark.parametrize("value", [object(), {1, 2}, 1j, np.array([1j]), [{"a": object()}]])
def test_values_that_json_cannot_hold_are_refused_and_change_nothing(lab, value):
    run = Run("x")
    with pytest.raises(TypeError, match=r"result 'odd'.*: expected .*got .*; "):
        run.result("odd", value)
    assert read(run.folder)["results"] == {}


@pytest.mark.parametrize(
    ("use", "error", "words"),
    [
        (
            lambda r: r.claim("A9", "c", 1, 1, True),
            ValueError,
            "of A1…A8, B1…B16.* got 'A9'; the rows",
        ),
        (lambda r: r.claim("a5", "c", 1, 1, True), ValueError, r"got 'a5'; did you mean 'A5'"),
        (lambda r: r.claim("A5", "c", 1, 1, 0.5), TypeError, "holds: expected True or False"),
        (lambda r: r.claim("A5", "c", 1, 1, "no"), TypeError, "holds: .* got 'no'; compare first"),
        (lambda r: [r.result("a", i) for i in (1, 2)], ValueError, "got 'a', recorded before as 1"),
        (lambda r: r.log(time=1), ValueError, "'time' must be left to the log"),
        (lambda r: r.table("t", ["a", "b"], [[1]]), ValueError, r"row 0 must have 2 cells.* got 1"),
        (lambda r: r.figure("../x", None), ValueError, "got '../x', which is no plain file name"),
    ],
)
def test_wrong_use_of_a_run(lab, use, error, words):
    run = Run("x")
    with pytest.raises(error, match=words):
        use(run)
    assert read(run.folder)["claims"] == []


def test_brackets_are_words_and_not_markup(lab, capsys):
    with Run("x") as run:
        run.text("weights [0.1, 0.2] [bold]")
        run.table("T [x]", ["[a]"], [["[red]"]])
    out = capsys.readouterr().out
    for words in ("weights [0.1, 0.2] [bold]", "T [x]", "[a]", "[red]"):
        assert words in out


def test_progress_yields_the_items_and_is_silent_in_a_log(lab, capsys):
    run = Run("x")
    assert list(run.progress(3, "d")) == [0, 1, 2]
    assert list(run.progress(iter("ab"), "d")) == ["a", "b"]
    pairs = [(i, j) for i in run.progress(2, "outer") for j in run.progress("ab", "inner")]
    assert pairs == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
    assert capsys.readouterr().out == ""


def test_long_loops_say_where_they_are_in_a_log(lab, capsys, monkeypatch):
    monkeypatch.setattr(terminal, "_QUIET_SECONDS", 0.0)
    list(Run("x").progress(2, "loop"))
    assert capsys.readouterr().out.splitlines() == ["loop: 1 of 2, 0 s", "loop: 2 of 2, 0 s"]


def test_bars_nest_in_a_terminal_and_leave_it_after_a_failure():
    screen = io.StringIO()
    bars = terminal.Bars(Console(file=screen, force_terminal=True, width=80))
    kept = bars.track(3, "outer [x]")  # kept alive, as a traceback keeps it
    assert [(next(kept), j) for j in bars.track("ab", "inner")] == [(0, "a"), (1, "b")]
    bars.stop()
    assert "outer [x]" in screen.getvalue() and "inner" in screen.getvalue()
    show_cursor, hide_cursor = "\x1b[?25h", "\x1b[?25l"
    assert screen.getvalue().rfind(show_cursor) > screen.getvalue().rfind(hide_cursor)
    assert list(bars.track(2, "again")) == [0, 1]


def test_the_report_is_one_safe_page_without_outside_parts(lab):
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    axes.plot([0, 1])
    doc = "A question <b>?\n\nWhat the sources claim.\n\n- one\n- two,\n  goes on\n"
    with Run("x", {"rate": 0.5}, doc=doc) as run:
        run.heading("A part <x>")
        run.text("1 < 2 & 3\n\nsecond")
        run.text("a   b", mono=True)
        run.table("Table", ["n", "word"], [[1.23456789, "<i>"], [None, "w"]])
        path = run.figure("curve", figure, "the curve")
        run.claim("A5", "as printed", 1.0, 2.0, False)
        run.claim("A5", "with the bug", 1.0, 1.0, True)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert not pyplot.get_fignums(), "figures are closed"
    page = run.report.read_text()
    for words in (
        "A question &lt;b&gt;?",
        "<p>1 &lt; 2 &amp; 3</p><p>second</p>",
        "<h2>A part &lt;x&gt;</h2>",
        "<pre>a   b</pre>",
        '<td class="num">1.23457</td><td>&lt;i&gt;</td>',
        'src="data:image/png;base64,',
        '<p class="lines">- one\n- two, goes on</p>',
        ">no</td>",
        ">yes</td>",
        "rate",
        "jaxlib",
        'name="viewport"',
    ):
        assert words in page
    assert page.count(ROWS["A5"]) == 1
    assert not re.search(r"https?://|<script|<link", page)


def test_a_figure_name_is_used_once(lab):
    from matplotlib.figure import Figure

    run = Run("x")
    run.figure("a", Figure())
    with pytest.raises(ValueError, match="got 'a', which was used before"):
        run.figure("a", Figure())


def test_show_and_as_bool():
    assert show(0.123456789) == "0.123457" and show(0.123456789, 9) == "0.123456789"
    assert show([1.0, [2, "a"]]) == "(1, (2, a))" and show(jnp.float32(0.5)) == "0.5"
    assert show(list(range(9))) == "(0, 1, 2, 3, 4, 5, 6, 7, … (9 in all))"
    assert (show(None), show(np.bool_(False)), show({"a": 1.5})) == ("–", "no", "a = 1.5")
    assert as_bool(jnp.array(1.0) < 2, "x") is True and as_bool(np.bool_(False), "x") is False


# The claims


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
