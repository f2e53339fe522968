"""The score of the gradient checker: its harness, the other checkers, and how kills are counted.

This module is also the corpus of the small runs: it has `FUNCTIONS`, `PAIRS`, `SUBJECTS`, `sieved`.
"""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import gradcheck_score
from experiments.framework.run import Run
from experiments.gradcheck_corpus import baselines, harness, items
from experiments.gradcheck_corpus.baselines import BASELINES, Baseline, judge
from experiments.gradcheck_corpus.items import QUICK, STANDARD, Item, evaluate
from experiments.gradcheck_corpus.kinds import Function, Mistake, Pair, ruled
from experiments.gradcheck_score import tables

CORPUS = "tests.gradcheck.corpus.test_gradcheck_score"


# --- the corpus ---------------------------------------------------------------------------------


def scaled(factor):
    """2·x, with a rule that gives factor·g."""
    return ruled(lambda x: x * 2, lambda x: (x * 2, None), lambda _, g: (g * factor,))


def make_args(rng, dtype):
    return (jnp.asarray(0.1 * rng.normal(size=5), dtype),)


def hangs(x):
    time.sleep(100)
    return x


FUNCTIONS = [
    Function("double", scaled(2), make_args, ("float32",)),
    Function("held", lambda x, n: x[n] * 2, lambda rng, dtype: (*make_args(rng, dtype), 3)),
]
PAIRS = [Pair("double", scaled(2), make_args, {
    "sign": Mistake(scaled(-2), diagnosis="sign"),
    "elsewhere": Mistake(scaled(-2), leaf="args[1]"),
    "none": Mistake(scaled(2)),
})]  # fmt: skip
SUBJECTS = {"layer": None, "hanging": None, "dying": None}


def sieved(layer, most):
    if layer == "hanging":
        time.sleep(100)
    if layer == "dying":
        raise SystemExit
    args = make_args(np.random.default_rng(0), jnp.float32)
    kept = [SimpleNamespace(name=f"wrong {k}", kind="sign", f=scaled(-2 - k), right=scaled(2),
                            args=args) for k in range(most)]  # fmt: skip
    return SimpleNamespace(kept=kept, equivalents=["same"], at_kinks=[], twins=[])


pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def as_users_have_it():
    with jax.numpy_dtype_promotion("standard"):
        yield


# --- the other checkers -------------------------------------------------------------------------


@pytest.mark.parametrize("name", BASELINES)
def test_another_checker_passes_the_right_rule_and_fails_a_wrong_sign(name):
    args = make_args(np.random.default_rng(0), BASELINES[name].dtype)
    assert judge(name, scaled(2), args, {}) == {"outcome": "pass"}
    assert judge(name, scaled(-2), args, {})["outcome"] == "fail"


@pytest.mark.parametrize("name", BASELINES)
def test_it_is_given_floating_point_leaves_alone(name):
    dtype = BASELINES[name].dtype
    args = ({"w": jnp.full(3, 0.05, dtype), "rows": jnp.array([1, 1, 2])}, "mode", None)

    def f(tree, mode, nothing):
        assert mode == "mode" and nothing is None
        return {"y": tree["w"][tree["rows"]] * 2, "count": tree["rows"]}

    assert judge(name, f, args, {}) == {"outcome": "pass"}


def test_errors_are_no_false_alarms_and_what_cannot_be_told_is_left_out():
    def broken(x):
        raise TypeError("not this")

    args = (jnp.ones(3, jnp.float32),)
    found = judge("check_grads float32", broken, args, {})
    assert found["outcome"] == "refused" and "TypeError: not this" in found["text"]
    assert judge("five-point", broken, args, {"expect": print})["outcome"] == "left out"
    many = (jnp.ones(2001, jnp.float64),)
    assert judge("PyTorch slow", broken, many, {})["outcome"] == "left out"


def test_tolerances_are_those_of_pytorch():
    args = make_args(np.random.default_rng(0), "float64")
    for name, seen, unseen in (("PyTorch slow", 1.1e-3, 0.9e-3), ("five-point", 1.1e-4, 0.9e-4)):
        assert judge(name, scaled(2 * (1 + seen)), args, {})["outcome"] == "fail"
        assert judge(name, scaled(2 * (1 + unseen)), args, {})["outcome"] == "pass"


@pytest.mark.parametrize("fast", [False, True])
def test_the_criterion_decides_as_pytorch_does(fast):
    torch = pytest.importorskip("torch")
    given = np.random.default_rng(1).normal(size=(3, 4))

    class Cube(torch.autograd.Function):
        factor = 3.0

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, *g):
            return Cube.factor * ctx.saved_tensors[0] ** 2 * g[0]

    for factor in (3.0, 3.0005, 3.1, -3.0):
        Cube.factor = factor
        x = torch.tensor(given, requires_grad=True)
        theirs = torch.autograd.gradcheck(Cube.apply, x, fast_mode=fast, raise_exception=False)
        f = ruled(lambda x: x**3, lambda x: (x**3, x),
                  lambda x, g, factor=factor: (factor * x**2 * g,))  # fmt: skip
        ours = judge(f"PyTorch {'fast' if fast else 'slow'}", f, (jnp.asarray(given),), {})
        assert (ours["outcome"] == "pass") == theirs


# --- counting -----------------------------------------------------------------------------------


def counted(checker, right, wrong):
    records = {Item("pairs", "p", "", checker): {"outcome": right},
               Item("pairs", "p", "m", checker): {"outcome": wrong}}  # fmt: skip
    return next(iter(tables.judged(records).values()))


def test_a_kill_needs_the_right_twin_to_pass():
    assert counted(STANDARD, "pass", "fail") == "killed"
    assert counted(STANDARD, "fail", "fail") == "right twin not passed"
    assert counted(STANDARD, "inconclusive", "fail") == "right twin not passed"
    assert counted(STANDARD, "pass", "pass") == "survived"
    for outcome in ("inconclusive", "refused", "not finished"):
        assert counted(STANDARD, "pass", outcome) == outcome
    assert counted("five-point", "pass", "refused") == "killed"
    assert counted("five-point", "left out", "left out") == "left out"
    assert tables.share(["killed", "left out", "survived", "killed"], "killed") == (2, 3)


def always(f, inputs):
    raise AssertionError("never right")


def test_a_checker_that_always_fails_has_no_kills(monkeypatch):
    monkeypatch.setitem(baselines.BASELINES, "always", Baseline(always, "float32"))
    records = {}
    for twin in ("", *PAIRS[0].mistakes):
        item = Item("pairs", "double", twin, "always")
        records[item] = evaluate(item, CORPUS)
    functions = {Item("functions", "double", checker="always"): records[next(iter(records))]}
    found = tables.rates(["always"], functions, records, {})
    assert found == {"always": {"false alarms": (1, 1), "by hand": (0, 3), "automatic": (0, 0)}}


def test_leaf_and_diagnosis():
    found = {twin: evaluate(Item("pairs", "double", twin, QUICK), CORPUS)
             for twin in ("sign", "elsewhere", "none")}  # fmt: skip
    assert found["sign"]["outcome"] == "fail"
    assert found["sign"]["named"] and found["sign"]["diagnosed"]
    assert not found["elsewhere"]["named"] and "diagnosed" not in found["elsewhere"]
    assert found["none"]["outcome"] == "pass"


# --- the power curve, and times -----------------------------------------------------------------


def test_power_curve_ends_at_the_first_error_that_is_not_seen(monkeypatch):
    monkeypatch.setattr(items, "EPSILONS", (1e-1, 1e-3, 1e-20, 1e-2))
    found = {
        (checker, kind): evaluate(
            Item("power", kind, checker=checker, dtype="float64", size=100), CORPUS
        )
        for checker in (QUICK, "PyTorch fast")
        for kind in ("dense", "single")
    }
    assert found[QUICK, "dense"]["seen"] == found[QUICK, "single"]["seen"] == [1e-1, 1e-3]
    assert len(found["PyTorch fast", "dense"]["seen"]) < 2
    monkeypatch.setitem(baselines.BASELINES, "always", Baseline(always, "float32"))
    blamed = evaluate(Item("power", "dense", checker="always", size=100), CORPUS)
    assert blamed["outcome"] == "fail" and "seen" not in blamed


def test_times_are_of_all_levels_in_turn(monkeypatch, tmp_path, x64_off):
    monkeypatch.setattr(items, "LEVELS", {"quick": None})
    item = Item("time", "double", size=2)
    found = evaluate(item, CORPUS)
    assert set(found["times"]) == {"check_grads", "quick"}
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in found["times"].values())
    with Run("score", None, tmp_path / "run") as out:
        record = {"times": {"check_grads": [1.0, 2.0, 3.0], "standard": [5.0, 40.0, 30.0]}}
        assert tables.Tables(out).times({item: record}) == {"standard": [10.0]}


def test_times_are_of_functions_of_floating_point_arrays(x64_off):
    settings = gradcheck_score.Settings(corpus=CORPUS, repetitions=2)
    assert gradcheck_score.of_time(settings) == [[Item("time", "double", size=2)]]


# --- workers, and a whole run -------------------------------------------------------------------


def test_what_needs_two_devices_finds_them():
    count = "import jax; print(jax.device_count())"
    environment = os.environ | {"XLA_FLAGS": harness.FLAGS, "JAX_PLATFORMS": "cpu"}
    told = subprocess.run([sys.executable, "-c", count], env=environment, capture_output=True,
                          encoding="utf-8", check=True)  # fmt: skip
    assert told.stdout.split() == ["2"]


def test_an_item_that_hangs_or_ends_its_process_does_not_take_the_others_with_it(tmp_path):
    group = [Item("list", layer, size=2) for layer in ("hanging", "layer", "dying", "layer")]
    group[3] = Item("list", "layer", size=1)
    found = dict(harness.work([group], CORPUS, tmp_path, workers=2, limit=6))
    assert found[group[0]]["outcome"] == "not finished"
    assert found[group[1]]["mutants"] == [["wrong 0", "sign"], ["wrong 1", "sign"]]
    assert found[group[2]]["outcome"] == "refused" and "workers.log" in found[group[2]]["text"]
    assert len(found[group[3]]["mutants"]) == 1


SMALL = gradcheck_score.Settings(
    parts=("functions", "pairs", "mutants", "baselines"), seeds=2, baseline_seeds=1, mutants=1,
    every=3, dtypes=("float32",), workers=1, corpus=CORPUS,
)  # fmt: skip


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("score") / "run"
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        Run("gradcheck_score", SMALL, folder) as out,
    ):
        gradcheck_score.run(SMALL, out)
    return folder


def results(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))["results"]


def test_a_run_scores_all_checkers(first_run):
    found = results(first_run)
    score = found["score"]
    assert set(score) == {STANDARD, QUICK, *BASELINES}
    assert score[STANDARD] == {"false alarms": [0, 2], "by hand": [2, 3], "automatic": [1, 1]}
    assert score["check_grads float64"] == {
        "false alarms": [0, 0], "by hand": [2, 3], "automatic": [1, 1]}  # fmt: skip
    assert found["survivors"] == ["double: none"]
    assert found["named"] == [1, 2] and found["diagnosed"] == [1, 1]
    assert found["aims"]["mistakes by hand found"][-1] == "no"
    assert (first_run / "rates.png").stat().st_size > 5000
    summary = (first_run / "summary.md").read_text(encoding="utf-8")
    assert "python -m experiments gradcheck_score --parts functions pairs mutants" in summary
    assert "| double: none | survived | not known |" in summary


def resumed(first_run, folder, monkeypatch, lines):
    """The results of a run that goes on from those lines, and what it still asked for."""
    earlier = folder / "earlier"
    earlier.mkdir()
    (earlier / "items.jsonl").write_text("\n".join(lines), encoding="utf-8")
    asked = []

    def work(groups, *_, **__):
        for item in (item for group in groups for item in group):
            asked.append(item)
            yield item, {"outcome": "pass", "seconds": 0.0}

    monkeypatch.setattr(harness, "work", work)
    settings = gradcheck_score.Settings(**vars(SMALL) | {"resume": earlier})
    with jax.enable_x64(False), Run("gradcheck_score", settings, folder / "run") as out:
        gradcheck_score.run(settings, out)
    return results(folder / "run"), asked


def test_a_run_goes_on_where_another_was_cut_off(first_run, tmp_path, monkeypatch):
    lines = (first_run / "items.jsonl").read_text(encoding="utf-8").splitlines()
    key = Item("pairs", "double", "sign", STANDARD).key
    (wanted,) = [line for line in lines if json.loads(line)["item"] == key]
    rest = [line for line in lines if line is not wanted]
    found, asked = resumed(first_run, tmp_path, monkeypatch, [*rest, wanted[: len(wanted) // 2]])
    assert [item.key for item in asked] == [key]
    assert found["score"][STANDARD]["by hand"] == [1, 3]  # the stand-in says it passes


def test_a_finished_run_has_nothing_to_do(first_run, tmp_path, monkeypatch):
    lines = (first_run / "items.jsonl").read_text(encoding="utf-8").splitlines()
    found, asked = resumed(first_run, tmp_path, monkeypatch, lines)
    assert not asked and found["score"] == results(first_run)["score"]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"parts": ("pair",)}, "parts: must be some of functions, pairs"),
        ({"parts": ()}, "parts: must be some of"),
        ({"dtypes": ("int32",)}, "dtypes: must be some of float32"),
        ({"seeds": 0}, "seeds: must be at least 1, got 0"),
        ({"every": 0}, "every: must be at least 1"),
        ({"entries": (5,)}, "entries: must be some numbers from 10 up"),
        ({"workers": -1}, "workers: must be 0"),
        ({"limit": 0.0}, "limit: must be a positive number"),
    ],
)
def test_wrong_settings(wrong, text):
    with pytest.raises(ValueError, match=text):
        gradcheck_score.Settings(**wrong)


def test_resume_must_be_a_run(tmp_path):
    with pytest.raises(ValueError, match=r"resume: must be the folder .* with its items\.jsonl"):
        gradcheck_score.Settings(resume=tmp_path)
