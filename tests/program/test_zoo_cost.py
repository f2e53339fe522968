"""The command that compares costs over the zoo: it runs, in parts too, and lists what it should."""

import pytest

from tests.experiments.running import results
from tests.program import zoo_cost


def test_zoo_cost(tmp_path, x64_off):
    options = ["--examples", "10", "--repetitions", "1", "--out", str(tmp_path / "run")]
    assert zoo_cost.main(["--only", "equinox-mlp", *options]) == 0
    found = results(tmp_path / "run")["results"]
    assert found["equinox-mlp"]["differences"]["clipped sum"] < 1e-4
    assert not found["behind"]["differs"] and not found["behind"]["failed"]
    for wrong in (["--examples", "7"], ["--only", "no such model"]):
        with pytest.raises(SystemExit):
            zoo_cost.main(wrong)


def test_zoo_cost_in_parts():
    """Every model is in one part."""
    whole = [program.name for program in zoo_cost._chosen(False, [], "0/1")]
    parts = [p.name for k in range(3) for p in zoo_cost._chosen(False, [], f"{k}/3")]
    assert sorted(parts) == sorted(whole) and len(whole) >= 40


def test_zoo_cost_of_what_differs_or_fails(tmp_path, monkeypatch):
    def wrong(program, examples, repetitions, out):
        if program.name == "equinox-cnn":
            raise RuntimeError("planted")
        both = {"norms": 1.0, "clipped sum": 1.0}
        theirs = dict.fromkeys(zoo_cost.PAIRS.values(), 1)
        quartiles = {"median": 2.0, "lower_quartile": 1.5, "upper_quartile": 3.0}
        return {
            "parameters": 1, "times": dict.fromkeys(both, "1 ms"),
            "time_ratios": dict.fromkeys(both, quartiles),
            "temporary_bytes": dict.fromkeys(both, 2) | theirs,
            "memory_ratios": dict.fromkeys(both, 2.0), "differences": both, "allowed": 1e-4,
        }  # fmt: skip

    monkeypatch.setattr(zoo_cost, "measure", wrong)
    only = ["--only", "equinox-mlp", "equinox-cnn", "--out", str(tmp_path / "run")]
    assert zoo_cost.main(only) == 1
    behind = results(tmp_path / "run")["results"]["behind"]
    assert {what: len(names) for what, names in behind.items()} == {
        "slower": 2, "larger": 2, "differs": 2, "failed": 1,
    }  # fmt: skip
