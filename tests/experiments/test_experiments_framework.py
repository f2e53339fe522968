"""The command line of the experiments, on fake ones in a package of their own.

One subprocess checks that listing the real ones stays clear of JAX.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.framework.cli import main
from experiments.framework.discover import find_experiments, pick
from tests.experiments.running import results

ROOT = Path(__file__).resolve().parents[2]


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

    settings = results(folder, "settings.json")
    assert settings["settings"] == {"seeds": 5, "fail": False}
    assert settings["command"] == "python -m experiments thing --seeds 5"
    environment = settings["environment"]
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["numpy"] == np.__version__
    assert environment["device"].startswith(("cpu:", "gpu:", "tpu:"))
    assert {"jax", "jaxlib", "jaxdl", "commit", "dirty"} <= set(environment)

    found = results(folder)
    assert (found["experiment"], found["status"]) == ("thing", "done")
    assert found["results"] == {"seeds": 5}
    claim = {"id": "A3", "claim": "It works", "expected": 1.0, "found": 1.0, "holds": True}
    assert found["claims"] == [claim]
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
    found = results(folder)
    assert (found["status"], found["error"]) == ("failed", "RuntimeError: half way")
    assert found["results"] == {"seeds": 3} and len(found["claims"]) == 1
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
