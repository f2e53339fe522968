"""Every layer, as a function with a rule, before `jaxdl.gradcheck`."""

import jax
import jax.numpy as jnp
import pytest

from jaxdl import as_function, gradcheck
from tests.cases import CASES, case_id, draw

RULED = [case for case in CASES if not case.tapped]  # a tap is no gradient: as_function refuses
STANDARD = ("layer_norm", "conv-same", "max_pool-overlap", "adaptive_pool-max", "frozen-repeat",
            "softmax", "embedding", "scan_time")  # fmt: skip


def checked(case, level):
    sample = draw(case, jnp.float32)
    f = as_function(case.layer)
    return gradcheck.check(
        lambda params, x: f(params, x, sample.key), sample.params, sample.x, level=level
    )


@pytest.fixture(autouse=True)
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("case", RULED, ids=case_id)
def test_quick(case):
    report = checked(case, "quick")
    assert report.rules == ["function"] and report.oracle == "the primal without its rules"
    if not case.held:  # a frozen parameter has no gradient in which an error could be seen
        assert all(seen < 1e-11 for seen in report.power.values())


@pytest.mark.parametrize("case", [c for c in RULED if case_id(c) in STANDARD], ids=case_id)
def test_standard(case):
    checked(case, "standard")


def test_the_names_exist():
    assert {case_id(case) for case in RULED} >= set(STANDARD)
