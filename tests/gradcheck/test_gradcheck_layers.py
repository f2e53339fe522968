"""Every layer keeps its contract, before `jaxdl.gradcheck`; and layers with a bug do not.

A few every day; all with ``-m corpus``, some of them at the level 'full', to save time. All there:
``pytest -p jaxdl.gradcheck.pytest_plugin --gradcheck-level full`` with the path of this file.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxdl import dense, gradcheck, repeat, serial, tanh, tap
from jaxdl.core.factors import Outer, Sum
from jaxdl.core.layer import leaf
from jaxdl.core.reducers import grads, keep, none
from tests.cases import CASES, case_id, draw, normal, planted, wrong_dense
from tests.long import sampled

FULL = ("dense", "relu", "layer_norm", "dropout", "embedding", "self_attention", "conv-same",
        "max_pool-overlap", "repeat", "scan_time", "tied", "frozen", "mlp")  # fmt: skip
DAILY = ("dense", "embedding", "repeat")
RULED = [case for case in CASES if not case.tapped]  # a tap is no gradient


@pytest.fixture(autouse=True)
def alone():
    """NumPy's ways with dtypes; and compiled programs, a few hundred for each layer, let go."""
    with jax.numpy_dtype_promotion("standard"):
        yield
    jax.clear_caches()


def checked(case, level: Any = "full", **settings):
    sample = draw(case, jnp.float32)
    return gradcheck.check_layer(
        case.layer, sample.x, sample.params, key=sample.key, level=level, **settings
    )


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64")
@pytest.mark.parametrize("case", sampled(RULED, DAILY, case_id))
def test_layers(case, request):
    level = "full" if case_id(case) in FULL else "standard"
    report = checked(case, request.config.getoption("--gradcheck-level", level))
    assert report.rules == ["function"] and report.oracle == "the primal without its rules"
    if not case.held:  # a frozen parameter has no gradient in which an error could be seen
        # nor has a side input that no layer reads
        power = {
            k: v for k, v in report.power.items() if case.name != "serial-unread" or "side" not in k
        }
        assert all(seen < 1e-11 for seen in power.values())
    norms = {f.outcome for f in report.findings if f.name == "example_sq_norms"}
    assert norms == {"skipped"} or not case.formed


# --- layers with a bug --------------------------------------------------------------------------


def failed(layer, x=None, **settings):
    case = planted(layer) if x is None else planted(layer, x)
    report = checked(case, "quick", raises=False, **settings)
    return {f.name for f in report.findings if f.outcome == "fail"}


def with_bwd(layer, bwd):
    return replace(layer, bwd=bwd)


def deaf(layer):
    """A container that forms the gradients whatever reducer it is given."""
    return with_bwd(
        layer, lambda params, residuals, dy, reduce=grads, slots=None: layer.bwd(
            params, residuals, dy)
    )  # fmt: skip


def test_a_container_that_does_not_pass_the_reducer_on():
    assert failed(serial(deaf(dense(5)), tanh())) >= {"keep", "none", "slots", "combine"}


def test_factors_that_are_kept_of_another_layer():
    right = serial(dense(6), dense(6))

    def bwd(params, residuals, dy, reduce=grads, slots=None):
        found, dx = right.bwd(params, residuals, dy, reduce, slots)
        swapped = dict(zip(found, reversed(found.values()), strict=True))
        return swapped if reduce is keep else found, dx

    assert failed(with_bwd(right, bwd)) == {"keep"}


def test_slots_that_are_mixed_up():
    right = serial(dense(6), dense(6))

    def bwd(params, residuals, dy, reduce=grads, slots=None):
        swapped = slots and dict(zip(slots, reversed(slots.values()), strict=True))
        return right.bwd(params, residuals, dy, reduce, swapped)

    assert failed(with_bwd(right, bwd)) == {"slots"}


def test_a_stack_that_uses_the_first_slot_for_all_layers():
    right = repeat(dense(6), 3)

    def bwd(params, residuals, dy, reduce=grads, slots=None):
        first = jax.tree.map(lambda s: jnp.broadcast_to(s[:1], s.shape), slots)
        return right.bwd(params, residuals, dy, reduce, first)

    assert failed(with_bwd(right, bwd)) == {"slots"}


def test_gradients_that_are_formed_and_returned_for_none():
    right = dense(5)

    def bwd(params, residuals, dy, reduce=grads, slots=None):
        return right.bwd(params, residuals, dy, grads if reduce is none else reduce, slots)

    assert failed(with_bwd(right, bwd)) == {"none"}


def test_factors_that_only_sum_to_the_gradient():
    def averaged(params, x, dy, factors, dx):
        return factors | {"b": Sum(jnp.broadcast_to(dy.mean(axis=0), dy.shape))}, dx

    assert failed(wrong_dense(averaged)) == {"example_sq_norms"}


def test_a_negative_norm_of_a_factor():
    right = dense(5)

    def bwd(params, residuals, dy, reduce=grads, slots=None):
        found, dx = right.bwd(params, residuals, dy, reduce, slots)
        if reduce in (grads, none, keep) or slots is not None:
            return found, dx
        return jax.tree.map(lambda a: a * jnp.nan if a.ndim == 0 else a, found), dx

    assert failed(with_bwd(right, bwd)) == {"trace"}


def test_a_residual_that_is_a_parameter():
    right = dense(5)

    def fwd(params, x):
        return x @ params["w"] + params["b"], {"x": x, "back": params["w"].T}

    def bwd(params, residuals, dy):
        return {"w": Outer(residuals["x"], dy), "b": Sum(dy)}, dy @ residuals["back"]

    hoarder = leaf("hoarder", right.init, fwd, bwd, params=("w", "b"))
    assert failed(hoarder) == {"residuals"}
    assert failed(repeat(leaf("hoarder", dense(6).init, fwd, bwd, params=("w", "b")), 3)) >= {
        "residuals"
    }


def test_a_wrong_gradient_in_a_layer():
    def dropped(params, x, dy, factors, dx):
        return factors | {"b": Sum(dy.at[-1].set(0))}, dx

    assert "dot" in failed(wrong_dense(dropped))


@jax.custom_jvp
def deceptive_square(x):
    return x * x


@deceptive_square.defjvp
def _deceptive_square_jvp(primals, tangents):
    (x,), (t,) = primals, tangents
    return x * x, 2.000001 * x * t


def test_a_wrong_derivative_that_autodiff_repeats():
    both_wrong = leaf(
        "square",
        lambda key, x: {},
        lambda params, x: (deceptive_square(x), x),
        lambda params, x, dy: ({}, 2.000001 * x * dy),
    )
    assert "dot" in failed(both_wrong)


def test_parameters_are_drawn_if_none_are_given():
    report = gradcheck.check_layer(dense(3), jnp.ones((4, 2)), level="quick")
    assert report.function == "dense" and len(report.power) == 3


def test_reducers_can_be_skipped_with_a_reason():
    right = dense(5)

    def bwd(params, residuals, dy, reduce=grads, slots=None):
        return right.bwd(params, residuals, dy, grads if reduce is none else reduce, slots)

    case = planted(with_bwd(right, bwd), normal(4, 6))
    report = checked(case, "quick", skip={"none": "formed on purpose"})
    assert [f.text for f in report.findings if f.name == "none"] == ["formed on purpose"]


def test_a_tap_is_refused():
    with pytest.raises(ValueError, match="must not contain a tap"):
        gradcheck.check_layer(serial(dense(3), tap()), jnp.ones((4, 2)))


def test_the_names_exist():
    assert {case_id(case) for case in RULED} >= set(FULL) >= set(DAILY)
