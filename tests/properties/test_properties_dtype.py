"""What comes back: trees, shapes and dtypes of the cotangents, and their error in bfloat16."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import dense, layer_norm
from jaxdl.core.factors import Sum
from jaxdl.core.layer import leaf
from jaxdl.core.reducers import grads, keep
from jaxdl.numerics.checks import is_inexact
from tests.cases import (
    CASES,
    N,
    autodiff,
    case_id,
    cast,
    compiled_autodiff,
    cotangents,
    draw,
    in_float64,
    planted,
    uniform,
    without_taps,
    wrong_dense,
)

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)


# --- structure, shape, dtype --------------------------------------------------------------------


def check_contract(case, params_dtype, x_dtype):
    """dparams is like params, dx like x, None for integers; nothing is weakly typed."""
    sample = draw(case, x_dtype)
    params, x = cast(sample.params, params_dtype), sample.x

    def both(params, x, key):
        y, residuals = case.layer.fwd(params, x, key)
        reduced, dx = case.layer.bwd(params, residuals, y)  # y: a cotangent of the right shape
        return y, without_taps(reduced, params) if case.tapped else reduced, dx

    y, dparams, dx = jax.eval_shape(both, params, x, sample.key)
    want = params, jax.tree.map(lambda a: a if is_inexact(a) else None, x)
    chex.assert_trees_all_equal_structs((dparams, dx), want)
    chex.assert_trees_all_equal_shapes_and_dtypes((dparams, dx), want)
    weak = [s for s in jax.tree.leaves((y, dparams, dx)) if s.weak_type]
    assert not weak, f"{case.name}: weakly typed {weak}"


@every_case
@pytest.mark.parametrize(
    ("params_dtype", "x_dtype"),
    [
        pytest.param(jnp.float64, jnp.float64, id="float64"),
        pytest.param(jnp.float32, jnp.float32, id="float32"),
        pytest.param(jnp.bfloat16, jnp.bfloat16, id="bfloat16"),
        pytest.param(jnp.float32, jnp.bfloat16, id="mixed"),
    ],
)
def test_contract(case, params_dtype, x_dtype):
    check_contract(case, params_dtype, x_dtype)


WRONG_CONTRACTS = {
    "shape_of_dx": lambda params, x, dy, factors, dx: (factors, dx[:1]),
    "dtype_of_dx": lambda params, x, dy, factors, dx: (factors, dx.astype(jnp.float64)),
    "no_dx": lambda params, x, dy, factors, dx: (factors, None),
    "weak_dx": lambda params, x, dy, factors, dx: (factors, jnp.broadcast_to(1.0, dx.shape)),
}


@pytest.mark.parametrize("bug", WRONG_CONTRACTS)
def test_contract_catches(bug):
    # In float64 mode a weakly typed constant is float64, so that only its weakness is wrong there.
    dtype = jnp.float64 if bug == "weak_dx" else jnp.float32
    with pytest.raises(AssertionError, match="weakly typed" if bug == "weak_dx" else None):
        check_contract(planted(wrong_dense(WRONG_CONTRACTS[bug])), dtype, dtype)


def test_contract_catches_a_gradient_in_the_dtype_of_x():
    """What `contract` prevents: a container that forms the gradients itself, and does not cast."""

    def narrow(params, factors, slots):
        return {name: f.form(params[name]).astype(jnp.bfloat16) for name, f in factors.items()}

    right = dense(3)

    def bwd(params, residuals, dy, reduce=grads, slots=None):
        return right.bwd(params, residuals, dy, narrow)

    check_contract(planted(right), jnp.float32, jnp.bfloat16)
    with pytest.raises(AssertionError):
        check_contract(planted(replace(right, bwd=bwd)), jnp.float32, jnp.bfloat16)


# --- bfloat16 within √n roundings ---------------------------------------------------------------

ROUNDING = 2.0**-8
"""Largest relative error of one rounding to bfloat16, which has 8 bits of precision."""


def count_operations(jaxpr):
    """Operations in a jaxpr, one for each array made; the body of a loop as often as it runs."""
    count = 0
    for eqn in jaxpr.eqns:
        inside = [getattr(v, "jaxpr", v) for v in eqn.params.values()]
        bodies = [body for body in inside if hasattr(body, "eqns")]
        runs = eqn.params.get("length", 1)
        count += sum(runs * count_operations(body) for body in bodies) if bodies else 1
    return count


def check_bfloat16(case):
    """‖error‖ ≤ 2⁻⁸·√n·‖gradient‖ for n operations, each rounding on its own.

    The truth is autodiff in float64 at the same rounded parameters, input and cotangent; n is
    the number of operations of autodiff in bfloat16, so that a rule buys no room by doing more.
    """
    sample = draw(case, jnp.bfloat16)
    truth = compiled_autodiff(case.layer)(*in_float64(sample))
    n = count_operations(jax.make_jaxpr(autodiff(case.layer.apply))(*sample).jaxpr)
    bound = ROUNDING * n**0.5
    for got, want in zip(*map(jax.tree.leaves, (cotangents(case, sample), truth)), strict=True):
        got, want = np.asarray(got, np.float64), np.asarray(want)
        error, size = np.linalg.norm(got - want), np.linalg.norm(want)
        assert error <= bound * size, (
            f"{case.name}: relative error {error / size:.2g} of a gradient of shape {got.shape} in "
            f"bfloat16; {n} roundings allow {bound:.2g}"
        )


@every_case
def test_bfloat16(case):
    check_bfloat16(case)


def test_bfloat16_catches_statistics_in_bfloat16():
    # mean(x²) − mean(x)² in the dtype of x; harmless in float64
    right = layer_norm()

    def fwd(params, x):
        mean = jnp.mean(x, axis=-1, keepdims=True)
        r = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) - mean * mean + 1e-5)
        normal = (x - mean) * r
        return normal * params["scale"] + params["shift"], {"normal": normal, "r": r}

    def bwd(params, residuals, dy):
        return right.bwd(params, residuals, dy, keep)

    def around_eight(rng):
        return 8 + rng.standard_normal((N, 6))

    wrong = leaf("wrong_layer_norm", right.init, fwd, bwd, params=("scale", "shift"))
    check_bfloat16(planted(right, around_eight))
    with pytest.raises(AssertionError, match="roundings allow"):
        check_bfloat16(planted(wrong, around_eight))


def test_bfloat16_catches_a_sum_in_bfloat16():
    """A bias gradient over 4,096 examples, added up one by one."""

    def one_by_one(params, x, dy, factors, dx):
        total, _ = jax.lax.scan(lambda sum, d: (sum + d, None), jnp.zeros_like(dy[0]), dy)
        return factors | {"b": Sum(jnp.broadcast_to(total / len(dy), dy.shape))}, dx

    many = uniform(4096, 2)
    check_bfloat16(planted(dense(3), many))
    with pytest.raises(AssertionError, match="roundings allow"):
        check_bfloat16(planted(wrong_dense(one_by_one), many))
