"""What shows at other sizes than the given ones, at zeros of whole slices, and nowhere else."""

import jax
import jax.numpy as jnp
import pytest

from jaxdl import gradcheck
from jaxdl.gradcheck.checks import growth
from jaxdl.gradcheck.problem.problem import state
from tests.gradcheck.twins import drawn, others_than, ruled

ONLY = {"stress", "shapes", "extremes"}


@pytest.fixture(autouse=True)
def default_mode(x64_off):
    with jax.numpy_dtype_promotion("standard"):
        yield


def failed(f, *args):
    """Samples at which the checks of other arguments fail; none doubts, none fails at these."""
    skip = others_than("contract", "dot", *ONLY)
    report = gradcheck.check(f, *args, raises=False, skip=skip)
    assert {x.name for x in report.findings if x.outcome == "fail"} <= ONLY, str(report)
    assert not [x for x in report.findings if x.outcome == "inconclusive"], str(report)
    return {x.sample for x in report.findings if x.outcome == "fail"}


# --- sizes --------------------------------------------------------------------------------------


def _heads(averaged):
    def bwd(kept, g):
        x, w, _ = kept
        db = (g.mean(0) if averaged else g.sum(0)).sum(0)
        return jnp.einsum("btj,ij->bti", g, w), jnp.einsum("bti,btj->ij", x, g), db

    return ruled(lambda x, w, b: jnp.einsum("bti,ij->btj", x, w) + b, bwd)


def test_a_batch_of_one_grows():
    args = drawn(1, 4, 3), drawn(3, 2), drawn(2)
    assert failed(_heads(averaged=False), *args) == set()
    assert failed(_heads(averaged=True), *args) == {"sizes 1→5 of axis 0 of args[0]"}


def test_axes_of_length_one_that_are_broadcast():
    """Longer, they would be other arguments: the rule returns the shapes of these alone."""
    f = ruled(
        lambda x, scale: x * scale,
        lambda kept, g: (g * kept[1], (g * kept[0]).sum(0, keepdims=True)),
    )
    assert failed(f, drawn(4, 3), drawn(1, 3)) == set()
    assert failed(f, drawn(1, 3), drawn(1, 3)) == set()


def _scaled_axes(swapped, columns):
    """The size of the image on each axis belongs to the coordinate of that axis."""

    def bwd(kept, g):
        image = kept[0]
        h, w = image.shape
        sides = jnp.stack([g * w, g * h] if swapped else [g * h, g * w], 1)
        return g.sum() / image.size * jnp.ones_like(image), sides

    def f(image, at):
        if columns and at.shape[1] != 2:
            raise ValueError("two coordinates")
        return at[:, 0] * image.shape[0] + at[:, 1] * image.shape[1] + image.mean()

    return ruled(f, bwd)


@pytest.mark.parametrize("columns", [False, True], ids=["the rule refuses", "f refuses"])
def test_one_size_at_a_time_where_all_at_once_are_refused(columns):
    args = drawn(4, 4), drawn(6, 2)
    assert failed(_scaled_axes(False, columns), *args) == set()
    axes = [f"sizes 4→{m} of axis {a} of args[0]" for a, m in ((0, 5), (1, 9))]
    assert failed(_scaled_axes(True, columns), *args) == set(axes)


def test_rows_as_many_as_coordinates():
    """Three of each: all lengths of 3 change together, and f knows three coordinates only."""

    def f(points):
        x, y, z = points.T
        return x * y + z

    def bwd(mean):
        def pullback(kept, g):
            x, y, _ = kept[0].T
            back = jnp.stack([g * y, g * x, g], 1)
            return (back * (3 / back.shape[0] if mean else 1),)

        return pullback

    assert failed(ruled(f, bwd(False)), drawn(3, 3)) == set()
    assert "sizes 3→5 of axis 0 of args[0]" in failed(ruled(f, bwd(True)), drawn(3, 3))


def test_a_gradient_that_vanishes_at_some_size():
    """With one class the probability is 1, and what is left of 1 − 0.9 − 0.1 is no gradient."""

    def f(logits, labels):
        target = 0.9 * jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
        target = target + 0.1 / logits.shape[1]
        return -(target * jax.nn.log_softmax(logits, 1)).sum(1)

    def bwd(kept, g):
        logits, labels = kept
        n = logits.shape[1]
        target = 0.9 * jax.nn.one_hot(labels, n, dtype=logits.dtype) + 0.1 / n
        return g[:, None] * (jax.nn.softmax(logits, 1) - target), None

    assert failed(ruled(f, bwd), drawn(4, 7), jnp.array([0, 3, 6, 3])) == set()


def test_rules_that_refuse_sizes_are_told_once():
    pairs = ruled(lambda x: 2 * x, lambda kept, g: ((2 * g.reshape(-1, 2)).reshape(-1),))
    notes = gradcheck.check(pairs, drawn(8), skip=others_than("dot", "shapes")).notes
    assert [n for n in notes if "the rule raises an error" in n] == [
        "for sizes 8→9, and 2 more such the rule raises an error, and f does not"
    ]


def test_equal_axes_are_told_wherever_they_are():
    notes = gradcheck.check(jnp.sin, drawn(4, 4, 2), level="quick").notes
    assert any("axes of equal length 4" in note for note in notes)
    assert not any("equal" in n for n in gradcheck.check(jnp.sin, drawn(1, 1), level="quick").notes)


# --- values -------------------------------------------------------------------------------------


def _norm(safe, axis):
    @jax.custom_jvp
    def f(x):
        square = (x * x).sum(axis)
        return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)

    @f.defjvp
    def tangent(primals, tangents):
        (x,), (dx,) = primals, tangents
        y = f(x)
        return y, (x * dx).sum(axis) / (jnp.where(y > 0, y, 1) if safe else y)

    return f


@pytest.mark.parametrize("shape, axis", [((4, 3), 1), ((4, 3), 0), ((5,), 0), ((2, 3, 4), 1)])
def test_a_slice_of_zeros(shape, axis):
    assert failed(_norm(True, axis), drawn(*shape)) == set()
    assert "zero slices" in failed(_norm(False, axis), drawn(*shape))


def test_all_labels_ignored():
    def rule(guarded):
        def f(x, labels):
            seen = (labels >= 0).astype(x.dtype)
            return (jnp.sin(x) * seen).sum() / jnp.maximum(seen.sum(), 1)

        def bwd(kept, g):
            x, labels = kept
            seen = (labels >= 0).astype(x.dtype)
            count = jnp.maximum(seen.sum(), 1) if guarded else seen.sum()
            return g * jnp.cos(x) * seen / count, None

        return ruled(f, bwd)

    args = drawn(6), jnp.array([2, -1, 0, 1, -1, 2])
    assert failed(rule(True), *args) == set()
    assert failed(rule(False), *args) >= {"the smallest among the integers"}


def test_a_factor_for_large_arguments_is_not_what_cancels():
    f = ruled(
        lambda x: jnp.where(x > 20, x, jnp.log1p(jnp.exp(jnp.minimum(x, 20)))),
        lambda kept, g: (g * jnp.where(kept[0] > 20, 2, jax.nn.sigmoid(kept[0])),),
    )
    skip = others_than("dot", "extremes")
    report = gradcheck.check(f, jnp.abs(drawn(6)) + 0.5, skip=skip, raises=False)
    texts = [x.text for x in report.findings if x.name == "extremes" and x.outcome == "fail"]
    assert texts and all("they are the same in float64" in t and "cancels" not in t for t in texts)


def test_a_function_that_is_no_number_anywhere_is_not_passed():
    """All points are outside its domain: that is no sign that it does not feel its argument."""
    f = ruled(lambda x: jnp.sin(x) * jnp.nan, lambda kept, g: (g * jnp.nan,))
    skip = others_than("dot", "second order")
    report = gradcheck.check(f, drawn(4), skip=skip, raises=False)
    assert [x.outcome for x in report.findings if x.name == "second order"][:1] == ["skipped"]
    assert [x.outcome for x in report.findings if x.name == "power"] == ["inconclusive"]
    assert report.outcome == "inconclusive"


def test_a_kernel_grows_by_both_of_its_axes():
    problem = state(lambda w: w @ w, (drawn(4, 4),), None, None)
    assert growth._entries(problem, [(0, 0), (0, 1)], 8) == 64


# --- what the rule closes over, and what it holds back --------------------------------------------


def _closing(x, scale):
    inner = ruled(lambda x: x * scale, lambda kept, g: (g * scale,))
    return inner(x)


def test_a_rule_that_closes_over_an_array():
    report = gradcheck.check(_closing, drawn(4, 3), drawn(3), raises=False)
    (finding,) = report.findings
    assert (finding.name, finding.outcome, finding.leaf) == ("contract", "fail", "args[1]")
    assert "closes over args[1]" in finding.text


def test_a_rule_that_closes_over_a_number():
    with pytest.raises(gradcheck.GradcheckError, match=r"closes over args\[1\].* name the others"):
        gradcheck.check(_closing, drawn(4), 0.5)
    assert gradcheck.check(_closing, drawn(4), 0.5, wrt=["args[0]"]).outcome == "pass"


def test_a_stop_gradient_of_jax_is_no_excuse():
    def wrong(held):
        def f(x):
            return jax.nn.softmax(x, 1) + (jax.lax.stop_gradient(x) if held else 0)

        return ruled(f, lambda kept, g: (g * jax.nn.softmax(kept[0], 1),))

    for held in (False, True):
        notes = gradcheck.check(wrong(held), drawn(3, 4), level="quick", raises=False).notes
        assert any("stop_gradient" in note for note in notes) == held
