"""Other arguments than the given ones: domains, sizes, dtypes, and failures made small."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import gradcheck
from jaxdl.gradcheck import Domain, GradcheckError
from jaxdl.gradcheck.problem.problem import state
from jaxdl.gradcheck.problem.shrink import smallest
from jaxdl.gradcheck.problem.sizes import dimensions, resized
from tests.gradcheck import twins
from tests.gradcheck.twins import drawn, others_than


@pytest.fixture(autouse=True)
def default_mode(x64_off):
    with jax.numpy_dtype_promotion("standard"):
        yield


def _scaled(block):
    """x·s whose rule drops what is left over after the last whole block."""

    @jax.custom_vjp
    def scaled(x, s):
        return x * s

    def bwd(kept, g):
        x, s = kept
        whole = len(s) // block * block
        return g * s, (g * x).sum(0).at[whole:].set(0)

    scaled.defvjp(lambda x, s: (x * s, (x, s)), bwd)
    return scaled


# --- other sizes --------------------------------------------------------------------------------


def test_a_tail_is_found_where_the_given_sizes_fit_the_block():
    skip = others_than("dot", "stress", "extremes", "shapes")
    report = gradcheck.check(_scaled(8), drawn(3, 16), drawn(16), skip=skip, raises=False)
    failed = [f for f in report.findings if f.outcome == "fail"]
    assert {f.name for f in failed} == {"shapes"}
    assert all(f.leaf.startswith("args[1]") and "16→" in f.sample for f in failed)
    assert "of axis 0" in failed[0].text


def test_rules_that_refuse_other_sizes_are_not_accused():
    @jax.custom_vjp
    def total(x):
        return x.sum()

    total.defvjp(lambda x: (x.sum(), None), lambda _, g: (jnp.full(6, g),))
    report = gradcheck.check(total, drawn(6), skip=others_than("dot", "shapes"))
    assert [f.outcome for f in report.findings if f.name == "shapes"] == ["skipped"]


def _problem(f, *args):
    return state(f, args, None, None)


@pytest.mark.parametrize(
    ("f", "shapes", "groups"),
    [
        (lambda x, w: x @ w, [(4, 4), (4, 4)], [{(0, 0)}, {(0, 1), (1, 0)}, {(1, 1)}]),
        (lambda x, y: x * y, [(4,), (4,)], [{(0, 0), (1, 0)}]),
        (jnp.outer, [(4,), (4,)], [{(0, 0)}, {(1, 0)}]),
        (lambda x, w: x @ w, [(5, 3), (3, 2)], [{(0, 0)}, {(0, 1), (1, 0)}, {(1, 1)}]),
        (lambda x, i: x[i], [(6,), (2, 1)], [{(0, 0)}, {(1, 0)}]),
    ],
)
def test_axes_that_belong_together(f, shapes, groups):
    args = [jnp.ones(s) for s in shapes]
    if shapes[1] == (2, 1):
        args[1] = jnp.ones((2, 1), jnp.int32)
    found = dimensions(_problem(f, *args))
    assert sorted(map(sorted, found)) == sorted(map(sorted, groups))


def test_resized_keeps_signs_and_indices_within_bounds():
    x, ids = jnp.array([[1.0, -2.0], [3.0, -4.0], [5.0, -6.0]]), jnp.array([0, 2, 1, 2, 0])
    problem = _problem(lambda x, ids: x[ids], x, ids)
    groups = dimensions(problem)
    small = resized(problem, groups, [2, 1, 3], np.random.default_rng(0))
    assert [leaf.shape for leaf in small.leaves] == [(2, 1), (3,)]
    assert small.leaves[0].min() > 0 and small.leaves[1].max() < 2


# --- domains ------------------------------------------------------------------------------------


def _arguments(rng, n, d, dtype="float32"):
    return jnp.asarray(rng.normal(size=(n, d)), dtype), jnp.asarray(rng.normal(size=d), dtype)


def _no_tuple(rng) -> Any:
    return jnp.ones(3)


NOT_A_FUNCTION: Any = 3


def test_a_domain_draws_distinct_small_and_awkward_sizes():
    domain = Domain(_arguments, draws=6, n=range(1, 41), d=range(1, 41), dtype=("float32", "f4"))
    drawn = [domain.draw(i) for i in range(6)]
    assert all(c["n"] != c["d"] for c in drawn)
    assert 1 in (drawn[1]["n"], drawn[1]["d"])
    beside = {2**k + s for k in range(6) for s in (-1, 1)}
    assert drawn[2]["n"] in beside and drawn[2]["d"] in beside
    assert {c["dtype"] for c in drawn} == {"float32", "f4"}
    assert drawn == [domain.draw(i) for i in range(6)]
    assert domain.draw(0, seed=1) != drawn[0]


def test_a_failure_in_a_domain_is_made_small():
    domain = Domain(_arguments, draws=1, n=range(1, 20), d=range(8, 40))
    report = gradcheck.check(_scaled(8), samples=domain, level="quick", raises=False)
    assert report.outcome == "fail"
    assert "shrunk  fails at n=1, d=9; fails at d=9, passes at d=8" in str(report)


def test_right_rules_pass_in_a_domain():
    domain = Domain(_arguments, draws=2, n=range(1, 9), d=range(2, 9))
    report = gradcheck.check(twins.right("layer norm"), samples=domain, level="quick")
    samples = {f.sample.split(",")[0] for f in report.findings}
    assert len(samples) == 2 and all(s.startswith("n=") for s in samples)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Domain(NOT_A_FUNCTION), "make must be a function"),
        (lambda: Domain(_arguments, draws=0), "draws must be a whole number from 1, got 0"),
        (lambda: Domain(_arguments, n=()), "n must be a sequence of the values"),
        (lambda: Domain(_arguments, n="abc"), "n must be a sequence of the values"),
        (
            lambda: gradcheck.check(jnp.sin, samples=Domain(_no_tuple)),
            "make must return a tuple",
        ),
        (lambda: gradcheck.check(jnp.sin, samples=[]), "samples is empty"),
        (lambda: gradcheck.check(jnp.sin, jnp.ones(2), dtypes=["int8"]), "floating-point dtypes"),
        (lambda: gradcheck.check(jnp.sin, jnp.ones(2), dtypes=["half a"]), "got 'half a'"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(GradcheckError, match=words):
        make()


def test_hypothesis_draws_from_a_domain():
    hypothesis = pytest.importorskip("hypothesis")
    from jaxdl.gradcheck.hypothesis import arguments

    seen = []

    @hypothesis.settings(max_examples=20, database=None, deadline=None)
    @hypothesis.given(arguments(Domain(_arguments, n=range(1, 5), d=range(2, 6))))
    def right(args):
        seen.append(args[0].shape)
        assert args[0].shape[1] == args[1].shape[0]

    right()
    assert len(set(seen)) > 3 and all(1 <= n < 5 and 2 <= d < 6 for n, d in seen)


# --- made small ---------------------------------------------------------------------------------


def test_smallest_finds_the_border():
    calls = []

    def fails(choices):
        calls.append(choices)
        return choices["n"] > 8 and choices["d"] >= 1

    found, border = smallest(
        fails, {"n": 30, "d": 7}, {"n": range(1, 41), "d": range(1, 41)}, trials=10
    )
    assert found == {"n": 9, "d": 1} and border == "fails at n=9, passes at n=8"
    assert len(calls) <= 10


def test_smallest_keeps_to_its_trials():
    calls = []
    found, _ = smallest(
        lambda c: calls.append(c) or c["n"] > 700, {"n": 999}, {"n": range(1000)}, trials=3
    )
    assert len(calls) == 3 and found["n"] > 700


def test_a_failure_at_the_given_arguments_is_made_small():
    args = twins.arguments("dense")
    report = gradcheck.check(
        twins.wrong("dense", "a thousandth too large"), *args, level="quick", raises=False
    )
    (line,) = [line for line in str(report).splitlines() if "shrunk" in line]
    assert "args[0].shape[0] = 1" in line and "args[1] = [[1.]]" in line
    report = gradcheck.check(
        twins.wrong("dense", "zero"), *args, level="quick", raises=False,
        skip={"shrink": "not needed here"},
    )  # fmt: skip
    assert "shrunk" not in str(report)


# --- dtypes -------------------------------------------------------------------------------------


def _with_rule(derivative):
    f = jax.custom_vjp(lambda x: jnp.tanh(x) * x)
    f.defvjp(lambda x: (jnp.tanh(x) * x, x), lambda x, g: ((g * derivative(x)).astype(x.dtype),))
    return f


def test_dtypes_are_studied_beside_the_given_one():
    def right(x):
        return jnp.tanh(x) + x * (1 - jnp.tanh(x) ** 2)

    report = gradcheck.check(_with_rule(right), drawn(40), dtypes=["bfloat16"], level="quick")
    names = {f.name for f in report.findings if f.sample.startswith("as bfloat16")}
    assert {"contract", "precision", "finite"} <= names

    def coarse(x):  # wrong in bfloat16 alone, which float64 does not see
        y = jnp.tanh(x)
        y = 3 * y if x.dtype == jnp.bfloat16 else y
        return y + x * (1 - y**2)

    assert gradcheck.check(_with_rule(coarse), drawn(40), level="quick").outcome == "pass"
    report = gradcheck.check(
        _with_rule(coarse), drawn(40), dtypes=["bfloat16"], level="quick", raises=False
    )
    wrong = {(f.name, f.sample) for f in report.findings if f.outcome == "fail"}
    assert wrong == {("precision", "as bfloat16")}
