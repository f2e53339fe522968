"""One wrong rule for every check of `jaxdl.gradcheck`, which it must fail by name, and its twin.

Each runs one check alone, so that no other can stand in for it: dropping a check, or swapping its
outcomes, fails here (`python -m tests.gradcheck.mutate_gradcheck`). And what is inconclusive is no
pass and no failure, wherever an outcome is told.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero

from jaxdl import gradcheck
from jaxdl.gradcheck import Finding, Report
from jaxdl.gradcheck._check import check as real_check
from jaxdl.gradcheck.checks.levels import DIFFERENCES, LEVELS
from tests.gradcheck.twins import others_than

Rule = Callable[..., Any]
X = np.array([0.3, -1.2, 2.0, 0.7, -0.4, 1.6], np.float32)


@pytest.fixture(autouse=True)
def default_mode(x64_off):
    """Users have 32 bits, and NumPy's ways with dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def ruled(f: Rule, bwd: Rule, fwd: Rule | None = None) -> Rule:
    """f with a backward rule of its arguments, as a tuple, and the cotangent."""
    made = jax.custom_vjp(f)
    made.defvjp(fwd or (lambda *args: (f(*args), args)), bwd)
    return made


def _log_exp(x: Any) -> Any:
    """log(1 + eˣ), without overflow."""
    return jnp.logaddexp(x, 0.0)


def sine(factor: Any = lambda x, g: 1.0) -> Rule:
    """sin whose gradient is times a factor."""
    return ruled(jnp.sin, lambda kept, g: (g * jnp.cos(kept[0]) * factor(kept[0], g),))


# --- the rules ----------------------------------------------------------------------------------


def _counting() -> Rule:
    """Another slope each time that it is traced."""
    traced = []

    def factor(x, g):
        traced.append(None)
        return 1 + len(traced) / 8

    return sine(factor)


def _kept_outside() -> Rule:
    kept = {}

    def fwd(x):
        kept["x"] = x
        return jnp.sin(x), None

    return ruled(jnp.sin, lambda _, g: (g * jnp.cos(kept["x"]),), fwd)


def _alone(factor: float) -> Rule:
    """Of two factors: what the gradient of one is taken times where the other has none."""
    f = jax.custom_vjp(lambda x, y: x * y)

    def fwd(x, y):
        both = () if x.perturbed and y.perturbed else None
        return x.value * y.value, (x.value, y.value, both)

    def bwd(kept, g):
        x, y, both = kept
        times = factor if both is None else 1.0
        return g * y * times, g * x * times

    f.defvjp(fwd, bwd, symbolic_zeros=True)
    return f


def _one_of_two(factor: float) -> Rule:
    """Of two outputs: what the gradient is taken times where the second has no cotangent."""
    f = jax.custom_vjp(lambda x: (jnp.sin(x), x * x))

    def bwd(x, g):
        first, second = g
        if isinstance(second, SymbolicZero):
            return (factor * first * jnp.cos(x),)
        first = 0 if isinstance(first, SymbolicZero) else first
        return (first * jnp.cos(x) + 2 * second * x,)

    f.defvjp(lambda x: ((jnp.sin(x.value), x.value**2), x.value), bwd, symbolic_zeros=True)
    return f


def _mapped(times: float) -> Rule:
    """Its slope under vmap is taken times a number."""
    slope = custom_vmap(jnp.cos)
    slope.def_vmap(lambda size, batched, x: (times * jnp.cos(x), batched[0]))
    return ruled(jnp.sin, lambda kept, g: (g * slope(kept[0]),))


def _traced(x: Any, g: Any) -> float:
    return 1.001 if isinstance(g, Tracer) else 1.0


def _rounded(y: Any) -> Any:
    return y.astype(jnp.bfloat16).astype(y.dtype)


def _tanh(slope: Rule) -> Rule:
    return ruled(jnp.tanh, lambda kept, g: (slope(kept[0], g),))


def _plain(x: Any, g: Any) -> Any:
    return g * (1 - jnp.tanh(x) ** 2)


def _dense(bias: Rule) -> Rule:
    return ruled(lambda x, b: x + b, lambda kept, g: (g, bias(g)))


def _changing() -> Rule:
    """Not twice the same: a callback counts."""
    count = iter(range(1, 10_000))

    def factor(x, g):
        shape = jax.ShapeDtypeStruct((), x.dtype)
        return jax.pure_callback(lambda: np.asarray(next(count), shape.dtype), shape)

    return sine(factor)


def _relu(below: float) -> Rule:
    return ruled(lambda x: jnp.maximum(x, 0), lambda kept, g: (jnp.where(kept[0] > below, g, 0),))


def _root(slope: Rule) -> Rule:
    def f(x):
        return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)

    return ruled(f, lambda kept, g: (g * slope(kept[0]),))


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@dataclass(frozen=True)
class Sentinel:
    """A wrong rule that this check alone need not miss, and a right one."""

    wrong: Rule
    right: Rule
    """Functions without arguments that make the rules: some count how often they are called."""
    args: tuple[Any, ...] = (X,)
    settings: dict[str, Any] = field(default_factory=dict)
    told_as: tuple[str, ...] = ()
    """Names of its findings, where they are not the check's."""


def _of_sine(factor: Rule, **more: Any) -> Sentinel:
    return Sentinel(lambda: sine(factor), sine, **more)


SENTINELS = {
    "extremes": Sentinel(
        lambda: ruled(_log_exp, lambda kept, g: (g * jnp.exp(kept[0]) / (1 + jnp.exp(kept[0])),)),
        lambda: ruled(_log_exp, lambda kept, g: (g * jax.nn.sigmoid(kept[0]),)),
    ),
    "contract": Sentinel(
        lambda: ruled(jnp.sin, lambda kept, g: ((g * jnp.cos(kept[0])).astype(jnp.bfloat16),)),
        sine,
    ),
    "forward": Sentinel(
        lambda: ruled(jnp.sin, lambda x, g: (g * jnp.cos(x),), lambda x: (1.001 * jnp.sin(x), x)),
        sine,
    ),
    "zero": Sentinel(
        lambda: ruled(jnp.sin, lambda kept, g: (g * jnp.cos(kept[0]) + 0.1,)), sine
    ),
    "scaling": Sentinel(
        lambda: ruled(jnp.sin, lambda kept, g: (jnp.clip(g * jnp.cos(kept[0]), -1, 1),)), sine
    ),
    "finite": Sentinel(
        lambda: _root(lambda x: (x > 0) * 0.5 / jnp.sqrt(x)),
        lambda: _root(lambda x: jnp.where(x > 0, 0.5 / jnp.sqrt(jnp.where(x > 0, x, 1)), 0)),
    ),
    "dot": _of_sine(lambda x, g: 1.001),
    "additivity": _of_sine(lambda x, g: jnp.sign(g)),
    "stress": Sentinel(lambda: _relu(-1e-2), lambda: _relu(0.0), told_as=("stress", "dot")),
    "shapes": _of_sine(
        lambda x, g: jnp.where(jnp.arange(x.size) < 16, 1, 0), args=(_normal(16),)
    ),
    "transforms": _of_sine(_traced, told_as=("jit", "vmap")),
    "transforms-vmap": Sentinel(lambda: _mapped(2.0), lambda: _mapped(1.0), told_as=("vmap",)),
    "subsets": Sentinel(lambda: _alone(2.0), lambda: _alone(1.0), (X, X[::-1].copy())),
    "subsets-outputs": Sentinel(lambda: _one_of_two(2.0), lambda: _one_of_two(1.0), (X,)),
    "pullbacks": Sentinel(_kept_outside, sine),
    "second order": Sentinel(
        lambda: _tanh(lambda x, g: g * jax.lax.stop_gradient(1 - jnp.tanh(x) ** 2)),
        lambda: _tanh(_plain),
    ),
    "precision": Sentinel(lambda: _tanh(lambda x, g: _rounded(_plain(x, g))),
                          lambda: _tanh(_plain), (_normal(40),)),
    "taylor": _of_sine(lambda x, g: 1.01),
    "loops": Sentinel(_counting, sine),
    "checkpoint": Sentinel(_counting, sine),
    "microbatches": Sentinel(lambda: _dense(lambda g: g.mean(0)),
                             lambda: _dense(lambda g: g.sum(0)), (_normal(4, 3), _normal(3))),
    "determinism": Sentinel(_changing, sine),
    "traces": Sentinel(_counting, sine),
    "growth": Sentinel(
        lambda: _tanh(lambda x, g: _rounded(_plain(x, g)) if x.size > 100 else _plain(x, g)),
        lambda: _tanh(_plain),
    ),
    "differences": _of_sine(lambda x, g: 1.01, settings={"ref": "fd"}),
}  # fmt: skip
ELSEWHERE = {"sharded", "cost"}  # below: one takes two devices, the other fails nothing


def alone(check: str, f: Rule, *args: Any, **settings: Any) -> Report:
    """A report of one check, all others skipped."""
    others = others_than(check) | {"power": "not its subject"}
    return real_check(f, *args, level="full", skip=others, raises=False, **settings)


def told(report: Report, *names: str) -> set[str]:
    """Outcomes of the findings of these names; others were skipped."""
    return {f.outcome for f in report.findings if f.name in names} - {"skipped"}


@pytest.mark.parametrize("name", SENTINELS)
def test_the_check_fails_the_wrong_rule_and_passes_its_twin(name):
    sentinel, check = SENTINELS[name], name.partition("-")[0]
    names = sentinel.told_as or (check,)
    report = alone(check, sentinel.right(), *sentinel.args, **sentinel.settings)
    assert told(report, *names) == {"pass"}, str(report)
    report = alone(check, sentinel.wrong(), *sentinel.args, **sentinel.settings)
    assert "fail" in told(report, *names), str(report)


def test_cost_tells_figures():
    (finding,) = [f for f in alone("cost", sine(), X).findings if f.name == "cost"]
    assert finding.outcome == "pass" and finding.figures["time"] > 0


TWO_DEVICES = """
import json, os
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
from tests.gradcheck import _gradcheck_mutation as mutation
if os.environ.get(mutation.VARIABLE):
    mutation.install(os.environ[mutation.VARIABLE])
from tests.gradcheck.checks.test_gradcheck_sentinels import X, _counting, alone, sine, told
print(json.dumps([sorted(told(alone("sharded", f(), X), "sharded")) for f in (sine, _counting)]))
"""


def test_sharded_fails_the_wrong_rule_and_passes_its_twin():
    done = subprocess.run([sys.executable, "-c", TWO_DEVICES], capture_output=True, timeout=300,
                          encoding="utf-8", env=os.environ)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["pass"], ["fail"]]


# --- inconclusive -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*LEVELS["full"], *DIFFERENCES])
def test_a_check_that_crashes_is_inconclusive(name, monkeypatch):
    def crashes(case):
        raise RuntimeError("no memory")
        yield

    ref = "fd" if name in DIFFERENCES else "auto"
    table = DIFFERENCES if name in DIFFERENCES else LEVELS["full"]
    monkeypatch.setitem(table, name, (crashes, False))
    report = alone(name, sine(), X, ref=ref)
    assert told(report, name) == {"inconclusive"} and report.outcome == "inconclusive"
    assert "could not be run: RuntimeError: no memory" in str(report)


def _steep() -> Rule:
    """Its slope is lost to differences: it is wrong in the ninth digit."""

    def f(x):
        return jnp.sin(1e3 * x) + 1e6

    return ruled(f, lambda kept, g: (g * 1e3 * jnp.cos(1e3 * kept[0]) * (1 + 1e-9),))


@pytest.mark.parametrize(
    ("why", "f", "settings"),
    [
        ("agree with the rule, not the reference", sine(), {"ref": lambda x: 1.5 * jnp.sin(x)}),
        ("agree with neither", sine(lambda x, g: 2), {"ref": lambda x: 3 * jnp.sin(x)}),
        ("cannot tell the two apart", _steep(), {}),
        ("close by there is no difference", sine(lambda x, g: jnp.where(x == 2, 2, 1)), {}),
    ],
)
def test_the_vote_is_open(why, f, settings):
    report = alone("dot", f, X, **settings)
    assert told(report, "dot") == {"inconclusive"} and why in str(report), str(report)


def test_the_vote_at_a_kink():
    """At 0 a slope of 1 is right for relu; 2 is not."""
    x = np.array([0, 1, -1, 2], np.float32)
    for slope, outcome in ((1, "pass"), (2, "fail")):
        f = ruled(
            lambda x: jnp.maximum(x, 0),
            lambda kept, g, s=slope: (g * (kept[0] > 0) + s * g * (kept[0] == 0),),
        )
        assert told(alone("dot", f, x), "dot") == {outcome}


def test_differences_that_see_little():
    coarse = ruled(lambda x: _rounded(jnp.sin(_rounded(x))), sine_slope)
    assert "inconclusive" in told(alone("differences", coarse, X, ref="fd"), "differences")


def sine_slope(kept: Any, g: Any) -> Any:
    return (g * jnp.cos(kept[0]),)


def doubtful(**settings: Any) -> Report:
    """Of relu where it is zero: any gradient of zeros is right there."""
    return real_check(_relu(0.0), -np.ones(3, np.float32), level="quick", raises=False, **settings)


def test_power_doubts_what_could_not_be_seen():
    report = doubtful()
    assert told(report, "power") == {"inconclusive"} and report.outcome == "inconclusive"
    assert told(real_check(_relu(0.0), X, level="quick"), "power") == set()
    assert doubtful(skip={"power": "known"}).outcome == "pass"


# --- what becomes of it -------------------------------------------------------------------------


def report_of(*outcomes: Any) -> Report:
    findings = [Finding("dot", outcome) for outcome in outcomes]
    return Report("f", [], "an oracle", "quick", findings, {})


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        (["pass", "pass"], "pass"),
        (["pass", "skipped"], "pass"),
        (["pass", "inconclusive"], "inconclusive"),
        (["inconclusive", "fail", "pass"], "fail"),
        (["pass", "fail"], "fail"),
    ],
)
def test_the_outcome_of_a_report(outcomes, expected):
    report = report_of(*outcomes)
    assert report.outcome == report.to_dict()["outcome"] == expected
    assert str(report).startswith(f"gradcheck {expected.upper()}")


def test_only_a_pass_does_not_raise_in_a_report():
    assert gradcheck.check(sine(), X, level="quick").outcome == "pass"
    with pytest.raises(AssertionError, match="gradcheck INCONCLUSIVE"):
        gradcheck.check(_relu(0.0), -np.ones(3, np.float32), level="quick")
    with pytest.raises(AssertionError, match="gradcheck FAIL"):
        gradcheck.check(sine(lambda x, g: 2), X, level="quick")


RULES = """
import jax.numpy as jnp, numpy as np
from tests.gradcheck.checks.test_gradcheck_sentinels import X, _relu, sine
right, wrong, doubtful = sine(), sine(lambda x, g: 2.0), _relu(0.0)
def x(): return (X,)
def below(): return (-np.ones(3, np.float32),)
"""
PLUGIN = """
from gradcheck_told import *
def test_right(gradcheck): gradcheck(right, *x())
def test_doubtful(gradcheck): gradcheck(doubtful, *below())
def test_wrong(gradcheck): gradcheck(wrong, *x())
"""


@pytest.mark.parametrize(("name", "args", "code"), [
    ("right", "x", 0), ("wrong", "x", 1), ("doubtful", "below", 2)])  # fmt: skip
def test_the_command_line_of_a_report(name, args, code, tmp_path, monkeypatch, capsys):
    from jaxdl.gradcheck.__main__ import main

    (tmp_path / "gradcheck_told.py").write_text(RULES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gradcheck_told", raising=False)
    call = [f"gradcheck_told:{name}", "--args", f"gradcheck_told:{args}", "--level", "quick"]
    assert main(call) == code
    monkeypatch.delitem(sys.modules, "gradcheck_told", raising=False)


def test_the_plugin_and_a_report(tmp_path):
    (tmp_path / "gradcheck_told.py").write_text(RULES)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["jaxdl.gradcheck.pytest_plugin"]\n')
    (tmp_path / "test_told.py").write_text(PLUGIN)
    here = os.getcwd()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--gradcheck-level",
         "quick", "."], cwd=tmp_path, capture_output=True, timeout=300, encoding="utf-8",
        env=os.environ | {"PYTHONPATH": here, "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert "2 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "FAILED test_told.py::test_doubtful" in done.stdout
    assert "(1 pass, 1 fail, 1 inconclusive)" in done.stdout


def test_every_check_has_a_sentinel():
    checks = {name.partition("-")[0] for name in SENTINELS} | ELSEWHERE
    assert checks == {*LEVELS["full"], *DIFFERENCES}
