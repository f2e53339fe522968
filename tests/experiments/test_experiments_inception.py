"""The cost of Inception modules: exact counts, ranks, and settings that take seconds."""

import pytest

from experiments import inception_cost
from tests.experiments.running import drawn, record, run

pytestmark = pytest.mark.long


def modules():
    return {
        name: (inception_cost.inception_module(*spec), maps)
        for name, (spec, maps) in inception_cost.MODULES.items()
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A run with the three modules 3a; compiling is most of the time."""
    settings = inception_cost.Settings(examples=1, repetitions=1, rank_inputs=2)
    folder = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MODULES", "PUBLISHED"):
            whole = getattr(inception_cost, name)
            patch.setattr(inception_cost, name, {k: whole[k] for k in whole if k.startswith("3a")})
        return run(inception_cost, settings, folder) | {"folder": folder}


def test_counts_are_those_of_the_formula_and_the_paper(tmp_path):
    cost = {}
    found = record(tmp_path / "run", lambda out: cost.update(inception_cost.count(modules(), out)))
    # 192 maps: 64 + 9·128 + 25·32 + 32 weights for each; biases of 256 maps
    plain, reduced = cost["3a, not reduced"], cost["3a, to 64"]
    assert plain["weights"] == 192 * (64 + 9 * 128 + 25 * 32 + 32) == 393_216
    assert plain["parameters"] == 393_216 + 256
    assert reduced["weights"] == 192 * (64 + 64 + 64 + 32) + 64 * (9 * 128 + 25 * 32) == 167_936
    assert cost["3a of GoogLeNet"]["weights"] == 163_328
    assert cost["3b of GoogLeNet"]["weights"] == 388_096
    assert all(row["multiply_adds"] == 784 * row["weights"] for row in cost.values())
    formula, paper_3a, paper_3b, share, kept = found["claims"]
    assert formula["holds"] and "formula" in formula["claim"]
    assert paper_3a["holds"] and paper_3a["found"] == "159.5 and 128.0"
    assert paper_3b["holds"] and paper_3b["found"] == "379.0 and 304.3"
    assert share["holds"] and share["found"] == f"{167_936 / 393_216:.3f}"
    assert kept["holds"] and kept["found"] == "401,408"


def test_what_is_kept_grows_by_the_reduced_maps(found):
    assert found["status"] == "done"
    cost = found["results"]["cost"]
    more = cost["3a, to 64"]["kept_bytes"] - cost["3a, not reduced"]["kept_bytes"]
    assert more == 4 * 784 * 2 * 64  # float32; what relu keeps is what the next kernel keeps
    more = cost["3a of GoogLeNet"]["kept_bytes"] - cost["3a, not reduced"]["kept_bytes"]
    assert more == 4 * 784 * (96 + 16)


def test_ranks_are_bounded_by_the_reduction(found):
    ranks = found["results"]["ranks"]
    assert ranks["3a, not reduced, 3×3"] == {"one": [192, 192], "all": 192}
    for what, most in (("to 64, 3×3", 64), ("to 64, 5×5", 64), ("of GoogLeNet, 5×5", 16)):
        here = ranks[f"3a {what}" if what.startswith("of") else f"3a, {what}"]
        # Half of the reduced maps are active at one input, three quarters at one of two.
        assert all(0 < one < here["all"] <= most for one in here["one"])


def test_times_and_figures_are_there(found):
    shares = found["results"]["time_shares"]
    assert shares["3a, not reduced"]["forward"]["median"] == 1
    assert shares["3a of GoogLeNet"]["backward"]["median"] > 0
    assert drawn(found["folder"], "cost", "trade")


def test_a_formula_that_is_wrong_is_noticed(monkeypatch, tmp_path):
    right = inception_cost.formula
    monkeypatch.setattr(
        inception_cost, "formula", lambda *args: (right(*args)[0], 1 + right(*args)[1], 0)
    )
    found = record(tmp_path / "run", lambda out: inception_cost.count(modules(), out))
    assert found["claims"][0]["holds"] is False
