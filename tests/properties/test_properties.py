"""The hand-written backward is the derivative: what holds for every line of `cases.py`.

A property is a function `check_...(case)` that raises AssertionError. It runs over every case, and
over a layer with a bug planted in it, where it must raise.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import dense, repeat, scan_time, serial, tanh
from jaxdl.core.factors import Outer, Sum
from jaxdl.core.layer import leaf
from jaxdl.numerics.checks import is_inexact
from tests.cases import (
    CASES,
    LEAVES,
    N,
    assert_same,
    case_id,
    compiled_autodiff,
    compiled_manual,
    cotangents,
    draw,
    hidden,
    normal,
    planted,
    rnn_cell,
    wrong_dense,
)
from tests.long import sampled

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)
most_cases = pytest.mark.parametrize("case", sampled(CASES, LEAVES, case_id))


# --- manual = autodiff --------------------------------------------------------------------------


def check_manual_is_autodiff(case, dtype, tolerance):
    sample = draw(case, dtype)
    assert_same(cotangents(case, sample), compiled_autodiff(case.layer)(*sample), tolerance)


@every_case
def test_manual_is_autodiff_float64(case):
    check_manual_is_autodiff(case, jnp.float64, 1e-10)


@most_cases
def test_manual_is_autodiff_float32(case):
    check_manual_is_autodiff(case, jnp.float32, 1e-5)


WRONG_GRADIENTS = {
    "scaled": lambda params, x, dy, factors, dx: (factors | {"w": Outer(x, 1.0001 * dy)}, dx),
    "transposed": lambda params, x, dy, factors, dx: (
        factors | {"w": factors["w"].transpose()},
        dx,
    ),
    "example_dropped": lambda params, x, dy, factors, dx: (
        factors | {"b": Sum(dy.at[-1].set(0))},
        dx,
    ),
    "mean_for_sum": lambda params, x, dy, factors, dx: (factors | {"b": Sum(dy / N)}, dx),
    "dx_without_weights": lambda params, x, dy, factors, dx: (factors, dy),
}


@pytest.mark.parametrize("bug", WRONG_GRADIENTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float64, 1e-10), (jnp.float32, 1e-5)])
def test_manual_is_autodiff_catches(bug, dtype, tolerance):
    # Square, so that a transposed gradient has the right shape.
    case = planted(wrong_dense(WRONG_GRADIENTS[bug], features=6))
    with pytest.raises(AssertionError):
        check_manual_is_autodiff(case, dtype, tolerance)


# --- linear in dy -------------------------------------------------------------------------------


def check_linear(case):
    sample = draw(case)
    other = draw(case, seed=1).dy

    def backward(dy):
        return compiled_manual(case.layer)(*sample._replace(dy=dy))

    got, got_other = backward(sample.dy), backward(other)
    both = backward(jax.tree.map(jnp.add, sample.dy, other))
    chex.assert_trees_all_close(both, jax.tree.map(jnp.add, got, got_other), rtol=1e-12, atol=1e-12)
    for factor in (2.0, -0.25):  # exact: only exponents and signs change
        scaled = backward(jax.tree.map(lambda d: factor * d, sample.dy))  # noqa: B023
        chex.assert_trees_all_equal(scaled, jax.tree.map(lambda g: factor * g, got))  # noqa: B023
    zero = backward(jax.tree.map(jnp.zeros_like, sample.dy))
    chex.assert_trees_all_equal(zero, jax.tree.map(jnp.zeros_like, got))


@every_case
def test_linear_in_dy(case):
    check_linear(case)


NOT_LINEAR = {
    "clipped": lambda params, x, dy, factors, dx: (factors, jnp.clip(dx, -0.1, 0.1)),
    "weight_decay": lambda params, x, dy, factors, dx: (
        factors | {"b": Sum(dy + 0.01 * params["b"])},
        dx,
    ),
    "dy_ignored": lambda params, x, dy, factors, dx: (factors | {"b": Sum(jnp.ones_like(dy))}, dx),
}


@pytest.mark.parametrize("bug", NOT_LINEAR)
def test_linear_in_dy_catches(bug):
    with pytest.raises(AssertionError):
        check_linear(planted(wrong_dense(NOT_LINEAR[bug])))


# --- examples that mix --------------------------------------------------------------------------


def check_mixing(case):
    """Another first example changes nothing at the others, unless the layer says that it mixes."""
    sample, other = draw(case), draw(case, seed=1)

    def exchanged(array, new):
        return array.at[0].set(new[0]) if array.ndim and len(array) == N else array

    params, x, dy, key = sample
    new_x, new_dy = (
        jax.tree.map(exchanged, old, new) for old, new in ((x, other.x), (dy, other.dy))
    )
    if is_inexact(jax.tree.leaves(x)[0]):
        # y₀ depends on x₁ if dx₁ depends on dy₀; a loss mixes if dy₁ depends on y₀
        run = compiled_manual(case.layer)
        pairs = run(params, x, dy, key)[1], run(params, new_x, new_dy, key)[1]
    else:
        pairs = tuple(case.layer.apply(params, inputs, key) for inputs in (x, new_x))
    old, new = (jax.tree.leaves(jax.tree.map(lambda a: a[1:], tree)) for tree in pairs)
    same = all(np.allclose(a, b, rtol=1e-12, atol=1e-13) for a, b in zip(old, new, strict=True))
    assert same is not case.layer.mixes, (
        f"{case.name}: mixes={case.layer.mixes}, but the others "
        f"{'do not change' if same else 'change'} with the first example"
    )


@every_case
def test_mixing_is_said(case):
    check_mixing(case)


def centred(mixes):
    """x less the mean over the batch."""

    def centre(a):
        return a - jnp.mean(a, axis=0)

    return leaf(
        "centred", lambda key, x: {}, lambda params, x: (centre(x), None),
        lambda params, residuals, dy: ({}, centre(dy)), mixes=mixes,
    )  # fmt: skip


def test_mixing_catches_a_layer_that_forgot_to_say_so():
    check_mixing(planted(serial(dense(3), centred(True))))
    with pytest.raises(AssertionError, match="mixes=False, but the others change"):
        check_mixing(planted(serial(dense(3), centred(False))))


# --- residuals hold no parameters ---------------------------------------------------------------


def check_residuals(case):
    """No residual is a parameter, nor has its numbers in another order or many times over."""
    params, x, _, key = draw(case)
    _, residuals = case.layer.fwd(params, x, key)
    for parameter in jax.tree.leaves(params):
        # what a scan gives to its body is one layer of the stack
        for numbers in (parameter, parameter[0]) if parameter.ndim > 1 else (parameter,):
            numbers = np.sort(np.ravel(numbers))
            if numbers.size == 1:
                continue
            for residual in jax.tree.leaves(residuals):
                assert residual is not parameter, f"{case.name}: a residual is a parameter"
                if not is_inexact(residual) or residual.size % numbers.size:
                    continue
                pieces = np.sort(np.reshape(residual, (-1, numbers.size)), axis=1)
                held = (pieces == numbers).all(axis=1).any()
                assert not held, (
                    f"{case.name}: a residual of shape {residual.shape} holds a parameter of "
                    f"shape {parameter.shape}"
                )


@every_case
def test_residuals_hold_no_parameter(case):
    check_residuals(case)


def hoarder(features):
    """A dense layer that keeps its weight, transposed, for the backward."""
    right = dense(features)

    def fwd(params, x):
        return right.apply(params, x), {"x": x, "back": params["w"].T}

    def bwd(params, residuals, dy):
        factors = {"w": Outer(residuals["x"], dy), "b": Sum(dy)}
        return factors, dy @ residuals["back"]

    return leaf("hoarder", right.init, fwd, bwd, params=("w", "b"))


def hoarding_cell(features):
    """A recurrent cell that hands its bias to the backward."""
    right = rnn_cell(features)

    def fwd(params, x):
        y, residuals = right.fwd(params, x)
        return y, residuals | {"bias": params["b"]}

    def bwd(params, residuals, dy):
        return right.bwd(params, residuals, dy, lambda params, factors, slots: factors)

    return leaf("hoarding_cell", right.init, fwd, bwd, params=("w", "b"))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(planted(serial(hoarder(5), tanh())), id="alone"),
        pytest.param(planted(repeat(hoarder(6), 3)), id="repeat"),
        pytest.param(
            planted(scan_time(hoarding_cell(3), hidden(3)), normal(N, 5, 6)), id="scan_time"
        ),
    ],
)
def test_residuals_catch_a_kept_parameter(case):
    check_manual_is_autodiff(case, jnp.float64, 1e-10)  # nothing else is wrong with it
    with pytest.raises(AssertionError, match="holds a parameter"):
        check_residuals(case)
