"""What rules are held against: where they are found, and the parts of `check` one at a time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, Mesh, PartitionSpec

from jaxdl import gradcheck
from jaxdl.gradcheck import GradcheckError
from tests import twins
from tests.twins import drawn


@pytest.fixture(autouse=True)
def default_mode(x64_off):
    with jax.numpy_dtype_promotion("standard"):
        yield


# --- where rules are found ----------------------------------------------------------------------


def _sine(factor) -> Any:
    @jax.custom_gradient
    def sine(x):
        return jnp.sin(x), lambda g: (factor * g * jnp.cos(x),)

    return sine


def test_rules_of_custom_gradient_are_the_users():
    report = gradcheck.check(_sine(1.0), drawn(5), level="quick")
    assert report.oracle == "the primal without its rules" and len(report.rules) == 1
    assert gradcheck.check(_sine(1.01), drawn(5), level="quick", raises=False).outcome == "fail"


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_rules_inside_shard_map(factor):
    mesh = Mesh(np.array(jax.devices()[:1]), ("rows",), axis_types=(AxisType.Auto,))
    rows, everywhere = PartitionSpec("rows"), PartitionSpec()

    def f(x):
        return jax.shard_map(
            lambda a: lax.psum(_sine(factor)(a).sum(0), "rows"),
            mesh=mesh, in_specs=rows, out_specs=everywhere,
        )(x)  # fmt: skip

    report = gradcheck.check(f, drawn(4, 3), level="quick", raises=False)
    assert report.oracle == "the primal without its rules"
    assert report.outcome == ("pass" if factor == 1 else "fail")
    assert not gradcheck.rules(gradcheck.strip(f), drawn(4, 3))


def test_what_jax_refuses_is_a_failure_of_the_contract():
    off = twins.wrong("dense", "sum over the batch missing")
    report = gradcheck.check(off, *twins.arguments("dense"), raises=False)
    (finding,) = report.findings
    assert (finding.name, finding.outcome) == ("contract", "fail")
    assert "JAX refuses what the rule returns" in finding.text and "float32[4]" in finding.text


# --- without a rule -----------------------------------------------------------------------------


def test_entries_of_all_sizes():
    x = jnp.asarray(10.0 ** np.random.default_rng(0).uniform(-6, 6, 9), jnp.float32)
    assert gradcheck.check(lambda x: jnp.log(jnp.abs(x)), x, level="quick").power["args[0]"] < 1e-9


def test_an_argument_that_does_not_matter():
    assert gradcheck.check(lambda x, y: jnp.sin(x) + 0 * y.sum(), drawn(5), drawn(3)).outcome == (
        "pass"
    )


@pytest.mark.parametrize(("at_zero", "outcome"), [(0.0, "pass"), (1.5, "fail")])
def test_a_kink_at_which_the_reference_is_no_number(at_zero, outcome):
    @jax.custom_jvp
    def norm(x):
        return jnp.sqrt(jnp.sum(x * x, -1))

    @norm.defjvp
    def _(primals, tangents):
        (x,), (t,) = primals, tangents
        size = norm(x)
        slope = (x * t).sum(-1) / jnp.where(size == 0, 1, size)
        return size, jnp.where(size == 0, at_zero * t.sum(-1), slope)

    x = drawn(4, 3).at[2].set(0)
    assert gradcheck.check(norm, x, level="quick", raises=False).outcome == outcome


# --- the parts ----------------------------------------------------------------------------------


def _standardised(x, scale):
    return jax.nn.standardize(x, epsilon=1e-5) * scale


def test_dot_test():
    right, wrong = twins.right("layer norm"), twins.wrong("layer norm", "n − 1")
    args = twins.arguments("layer norm")
    found = gradcheck.dot_test(right, *args)
    assert found.agrees and found.tolerance < 1e-9
    assert found.by_rule == pytest.approx(found.by_reference, rel=1e-9)
    assert not gradcheck.dot_test(wrong, *args).agrees
    assert gradcheck.dot_test(right, *args, ref=_standardised).agrees
    assert not gradcheck.dot_test(right, *args, ref=lambda x, s: _standardised(x, 2 * s)).agrees
    assert gradcheck.dot_test(right, *args, seed=1) != found


def test_dot_test_refuses_what_has_no_float64():
    def f(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    with pytest.raises(GradcheckError, match="dot_test needs float64, which pure_callback"):
        gradcheck.dot_test(f, drawn(3))


def test_taylor_test():
    right, wrong = twins.right("layer norm"), twins.wrong("layer norm", "n − 1")
    args = twins.arguments("layer norm")
    assert gradcheck.taylor_test(right, *args).order == pytest.approx(2, abs=0.1)
    found = gradcheck.taylor_test(wrong, *args)
    assert found.order == pytest.approx(1, abs=0.1)
    assert len(found.steps) == len(found.remainders) and np.all(np.diff(found.steps) < 0)
    assert np.isnan(gradcheck.taylor_test(lambda x: 3 * x, drawn(4)).order)


def test_compare():
    right, wrong = twins.right("softmax"), twins.wrong("softmax", "diagonal")
    args = twins.arguments("softmax")
    assert gradcheck.compare(right, lambda x: jax.nn.softmax(x, -1), *args).outcome == "pass"
    report = gradcheck.compare(right, lambda x: 1.001 * jax.nn.softmax(x, -1), *args)
    assert report.outcome == "fail"
    assert [f.name for f in report.findings if f.outcome == "fail"] == ["value"]
    report = gradcheck.compare(wrong, right, *args)
    assert {f.name for f in report.findings if f.outcome == "fail"} == {"dot"}
