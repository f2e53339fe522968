"""Primals without reverse mode (loops, kernels, callbacks), and loops that end too early."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import pallas as pl

from jaxdl import gradcheck
from jaxdl.gradcheck.oracles.probe import backward_of, way_left
from jaxdl.gradcheck.oracles.reference import by_columns
from jaxdl.gradcheck.report.report import Report
from tests.gradcheck.twins import drawn, others_than

FORWARD = "the primal without its rules, in forward mode"


@pytest.fixture(autouse=True)
def default_mode(x64_off):
    yield


def _ruled(f: Any, forward: Any, backward: Any) -> Any:
    ruled = jax.custom_vjp(f)
    ruled.defvjp(forward, backward)
    return ruled


def _checked(f: Any, *args: Any, only: tuple[str, ...] = ("dot", "stress")) -> Report:
    return gradcheck.check(f, *args, skip=others_than(*only), raises=False)


def _failed(report: Report) -> set[tuple[str, str]]:
    return {(f.name, f.sample) for f in report.findings if f.outcome == "fail"}


# --- forward mode -------------------------------------------------------------------------------


def test_by_columns_is_the_pullback():
    def f(x, w):
        return [jnp.tanh(x @ w), x.sum()]

    inputs = [drawn(3, 4), drawn(4, 2)]
    weights = [drawn(3, 2), jnp.float32(2)]
    columns, rows = by_columns(f)(inputs, weights), backward_of(f)(inputs, weights)
    for a, b in zip(columns, rows, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def _power(off: float) -> Any:
    """x³ by a loop whose length is not known beforehand; off for what is negative."""

    def f(x):
        def step(state):
            return state[0] * x, state[1] + 1

        return lax.while_loop(lambda state: state[1] < 3, step, (jnp.ones_like(x), 0))[0]

    def backward(x, g):
        return (g * 3 * x**2 * jnp.where(x < 0, off, 1),)

    return _ruled(f, lambda x: (f(x), x), backward)


def test_a_while_loop_is_compared_at_other_points_too():
    x = jnp.abs(drawn(5)) + 0.1
    right, wrong = _checked(_power(1), x), _checked(_power(0.5), x)
    assert right.oracle == FORWARD and right.outcome == "pass"
    assert ("stress", "other signs") in _failed(wrong)


def _rectified(tail: float) -> Any:
    def kernel(x_ref, y_ref):
        y_ref[...] = jnp.maximum(x_ref[...], 0)

    def f(x):
        out = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return pl.pallas_call(kernel, out_shape=out, interpret=True)(x)

    def backward(x, g):
        return (jnp.where(x > 0, g, 0) * jnp.where(x > 9, tail, 1),)

    return _ruled(f, lambda x: (f(x), x), backward)


def test_a_kernel_is_compared_at_other_points_too():
    right, wrong = _checked(_rectified(1), drawn(6)), _checked(_rectified(0.5), drawn(6))
    assert right.oracle == FORWARD and right.outcome == "pass"
    assert _failed(wrong) == {("stress", "times 30")}


def test_what_jax_refuses_of_a_loop_is_a_failure_of_the_contract():
    f = _power(1)
    f.defvjp(lambda x: (x**3, x), lambda x, g: (g[0] * x[0],))
    report = gradcheck.check(f, drawn(5), raises=False)
    assert [(f.name, f.outcome) for f in report.findings] == [("contract", "fail")]


def _bisected(slope: float, held: bool) -> Any:
    """z of z³ + z = c between two ends: what the loop ends on has no derivative of its own.

    Where the ends are held, JAX takes even the pullback of the loop: it is zero.
    """

    def f(c):
        def step(ends):
            middle = (ends[0] + ends[1]) / 2
            above = middle**3 + middle > c
            return jnp.where(above, ends[0], middle), jnp.where(above, middle, ends[1])

        width = 16 * jnp.finfo(c.dtype).eps
        ends = (-10 - 0 * c, 10 + 0 * c)
        ends = lax.stop_gradient(ends) if held else ends
        low, high = lax.while_loop(lambda e: jnp.any(e[1] - e[0] > width), step, ends)
        return (low + high) / 2

    return _ruled(f, lambda c: (f(c), f(c)), lambda z, g: (slope * g / (3 * z * z + 1),))


@pytest.mark.parametrize("held", [False, True])
def test_finite_differences_judge_where_a_loop_has_another_derivative(held):
    right, wrong = (_checked(_bisected(slope, held), drawn(4)) for slope in (1, 1.01))
    assert right.oracle == wrong.oracle == "finite differences"
    assert right.outcome == "pass" and "what they look for" in str(right)
    assert ("differences", "given") in _failed(wrong)


# --- callbacks ----------------------------------------------------------------------------------


def _on_the_host(factor: float, length: int = 99) -> Any:
    def f(x):
        out = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(np.arctan, out, x, vmap_method="broadcast_all")

    def backward(x, g):
        off = jnp.where((x < 0) | (jnp.arange(x.size) >= length), factor, 1)
        return (off * g / (1 + x * x),)

    return _ruled(f, lambda x: (f(x), x), backward)


def test_callbacks_are_held_against_differences_at_other_points_and_sizes():
    x = jnp.abs(drawn(5)) + 0.1
    checks = ("differences", "stress", "shapes")
    assert _checked(_on_the_host(1), x, only=checks).outcome == "pass"
    assert ("stress", "other signs") in _failed(_checked(_on_the_host(0.5), x, only=checks))
    tail = _checked(_on_the_host(0.5, length=5), x, only=("differences", "shapes"))
    assert ("shapes", "sizes 5→9") in _failed(tail)


# --- iterations ---------------------------------------------------------------------------------


def _equilibrium(steps: int, scale: float = 1) -> Any:
    """z = tanh(w·z + x) after some steps, and the gradient of the limit."""

    def f(w, x):
        return lax.fori_loop(0, steps, lambda _, z: jnp.tanh(w @ z + x), jnp.zeros_like(x))

    def backward(kept, g):
        w, x, z = kept
        slope = 1 - jnp.tanh(w @ z + x) ** 2
        u = slope * lax.fori_loop(0, steps, lambda _, u: g + w.T @ (slope * u), g)
        return jnp.outer(scale * u, z), scale * u

    return _ruled(f, lambda w, x: ((z := f(w, x)), (w, x, z)), backward)


def test_a_rule_for_the_limit_may_differ_by_what_is_left_of_the_way():
    args = 0.15 * drawn(5, 5), drawn(5)
    right = _checked(_equilibrium(15), *args, only=("dot", "stress", "second order"))
    assert right.outcome == "pass" and "before it has come to rest" in str(right)
    assert "skipped" in [f.outcome for f in right.findings if f.name == "second order"]
    assert _checked(_equilibrium(15, 1.01), *args, only=("dot",)).outcome == "fail"
    assert _checked(_equilibrium(3), *args, only=("dot",)).outcome == "fail"


def test_nothing_is_said_where_an_iteration_does_not_come_to_rest():
    """Thirty times larger weights make it swing, and the rule's sum diverge."""
    args = 0.15 * drawn(5, 5), drawn(5)
    report = _checked(_equilibrium(60), *args)
    assert report.outcome == "pass"
    skipped = {f.sample for f in report.findings if "do not come to rest" in f.text}
    assert "times 30" in skipped


def test_arguments_at_which_f_is_not_finite_are_told():
    root = _ruled(jnp.sqrt, lambda x: (jnp.sqrt(x), x), lambda x, g: (0 * x,))
    report = _checked(root, -jnp.abs(drawn(3)) - 1, only=("dot",))
    assert report.outcome != "pass" and "f is not finite at the given arguments" in str(report)


def test_a_recurrence_is_no_iteration():
    """Its loop carries all there is, but the next step is far from the last."""

    def f(a, x):
        def step(i, h):
            return a * h + x[i]

        return lax.fori_loop(0, 6, step, jnp.zeros(()))

    def backward(kept, g):
        (a, x), i = kept, jnp.arange(6)
        slope = sum((float(j) * a ** max(j - 1, 0) * x[5 - j] for j in range(6)), jnp.zeros(()))
        return 1.001 * g * slope, g * a ** (5 - i).astype(a.dtype)

    wrong = _ruled(f, lambda a, x: (f(a, x), (a, x)), backward)
    report = _checked(wrong, jnp.float32(0.7), drawn(6), only=("dot",))
    assert _failed(report) == {("dot", "given")}


@pytest.mark.parametrize(
    ("steps", "left"),
    [((0, 0), 0.0), ((1e-15, 1e-14), 0.0), ((1e-5, 5e-6), 32e-5), ((1e-5, 2e-5), np.inf),
     ((1e-2, 1e-3), np.inf), ((np.nan, np.nan), np.inf)],
)  # fmt: skip
def test_the_way_that_is_left(steps, left):
    here = np.ones(3)
    one = here + steps[0]
    found = way_left(here, one, one + steps[1], 1e-16)
    assert found == pytest.approx(left, rel=1e-6)
