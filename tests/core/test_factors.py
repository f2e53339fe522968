"""Factors: every kind forms the gradient it stands for, by the sum written out in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.core.factors import (
    Factor,
    FactorError,
    Formed,
    Many,
    Outer,
    Scatter,
    Stacked,
    Sum,
    Zero,
    contract,
    stack_factors,
)

assert_close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


A, D, IDS = draw(2, 3, 4), draw(2, 3, 5, seed=1), jnp.array([[0, 6, 6], [-1, 7, 3]])
W, TABLE = jnp.zeros((4, 5)), jnp.zeros((7, 5))


def by_hand(a, d):
    """Σₙₜ aₙₜ ⊗ dₙₜ, one term at a time."""
    rows = zip(np.reshape(a, (-1, a.shape[-1])), np.reshape(d, (-1, d.shape[-1])), strict=True)
    return sum(np.outer(x, y) for x, y in rows)


def scattered(ids, d):
    table = np.zeros(TABLE.shape)
    for row, value in zip(np.ravel(ids), np.reshape(d, (-1, 5)), strict=True):
        if 0 <= row < 7:
            table[row] += value
    return table


GRADIENTS = {
    "outer": (Outer(A, D), W, by_hand(A, D)),
    "outer_without_positions": (Outer(A[:, 0], D[:, 0]), W, by_hand(A[:, 0], D[:, 0])),
    "sum": (Sum(D), W[0], np.sum(D, axis=(0, 1))),
    "sum_of_matrices": (Sum(D), jnp.zeros((3, 5)), np.sum(D, axis=0)),
    "scatter": (Scatter(IDS, D), TABLE, scattered(IDS, D)),
    "many": (Many((Outer(A, D), Formed(W + 2))), W, by_hand(A, D) + 2),
    "formed": (Formed(W + 1), W, np.ones((4, 5))),
    "zero": (Zero(2), W, np.zeros((4, 5))),
}
each = pytest.mark.parametrize(
    ("factor", "param", "gradient"), GRADIENTS.values(), ids=GRADIENTS.keys()
)


@each
def test_contract_forms_the_gradient(factor, param, gradient):
    got = contract(factor, param)
    assert got.shape == param.shape and got.dtype == param.dtype
    assert_close(got, gradient)


@each
def test_contract_gives_the_dtype_of_the_parameter(factor, param, gradient):
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16) if a.dtype == jnp.float64 else a, factor)
    assert contract(low, param.astype(jnp.float32)).dtype == jnp.float32
    assert contract(low, param.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("factor", "param"),
    [
        (Outer(jnp.ones((4096, 1)), jnp.ones((4096, 1))), jnp.zeros((1, 1))),
        (Sum(jnp.ones((4096, 1))), jnp.zeros(1)),
        (Scatter(jnp.zeros(4096, jnp.int32), jnp.ones((4096, 1))), jnp.zeros((2, 1))),
        (Formed(jnp.ones((4096, 1))).join_time().transpose, None),
    ],
    ids=["outer", "sum", "scatter", "formed_over_time"],
)
def test_sums_of_bfloat16_are_accumulated_wide(factor, param):
    """4096 ones: a running sum in bfloat16 stops at 256."""
    if param is None:
        got = Formed(jnp.ones((4096, 1), jnp.bfloat16)).join_time().g
    else:
        low = jax.tree.map(lambda a: a if a.dtype == jnp.int32 else a.astype(jnp.bfloat16), factor)
        got = contract(low, param.astype(jnp.bfloat16))
    assert np.ravel(got)[0] == 4096


@each
def test_stacked_forms_one_gradient_per_layer_at_any_depth(factor, param, gradient):
    def stack(tree, *sizes):
        for size in sizes:
            tree = jax.tree.map(lambda a, n=size: jnp.stack([a * (i + 1) for i in range(n)]), tree)
        return tree

    if isinstance(factor, Scatter):  # ids must not be scaled
        factors = Scatter(jnp.stack([IDS] * 3), stack(D, 3))
        power = 1
    else:
        factors, power = stack(factor, 3), len({"a", "d"} & set(vars(factor))) or 1
    if isinstance(factor, Many):
        factors, power = stack(Many((Formed(factor.form(param)),)), 3), 1
    params = jnp.stack([param] * 3)
    scale = np.array([1.0, 2, 3]) ** power
    expected = scale.reshape(-1, *[1] * param.ndim) * gradient
    assert_close(contract(Stacked(factors), params), expected)

    twice = Stacked(Stacked(jax.tree.map(lambda a: jnp.stack([a] * 2), factors)))
    assert_close(contract(twice, jnp.stack([params] * 2)), np.stack([expected] * 2))


@pytest.mark.parametrize(
    "factor",
    [
        Outer(A, D),
        Many((Outer(A, D), Outer(D[..., :4], A[..., [0, 1, 2, 3, 0]]))),
        Formed(W + D[0, 0]),
    ],
    ids=["outer", "many", "formed"],
)
def test_transpose_is_the_factor_of_the_transposed_parameter(factor):
    assert_close(contract(factor.transpose(), W.T), contract(factor, W).T)
    stacked = Stacked(jax.tree.map(lambda a: jnp.stack([a, a + 1]), factor))
    params = jnp.stack([W, W])
    assert_close(
        contract(stacked.transpose(), params.swapaxes(1, 2)),
        contract(stacked, params).swapaxes(1, 2),
    )


def test_a_frozen_parameter_is_frozen_transposed():
    assert Zero(3).transpose() == Zero(3)
    assert Stacked(Zero(3)).transpose() == Stacked(Zero(3))


JOINABLE = {
    "outer": (lambda t: Outer(A + t, D), W),
    "sum": (lambda t: Sum(D * t), W[0]),
    "scatter": (lambda t: Scatter(IDS, D * t), TABLE),
    "many": (lambda t: Many((Outer(A + t, D), Formed(W + t))), W),
    "formed": (lambda t: Formed(W + t), W),
    "zero": (lambda t: Zero(2), W),
}


@pytest.mark.parametrize(("step", "param"), JOINABLE.values(), ids=JOINABLE)
def test_joined_time_forms_the_sum_over_steps(step, param):
    steps = [step(t) for t in range(4)]
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *steps)
    expected = sum(contract(factor, param) for factor in steps)
    assert_close(contract(stacked.join_time(), param), expected)

    layers = jax.tree.map(lambda *arrays: jnp.stack(arrays, axis=1), *[stacked, stacked])
    joined = Stacked(layers).join_time()  # time, then layers
    params = jnp.stack([param, param])
    assert_close(contract(joined, params), np.stack([expected] * 2))


@pytest.mark.parametrize(
    "factor",
    [Outer(A, D), Sum(D), Scatter(IDS, D), Zero(2), Many((Zero(2), Zero(2)))],
    ids=lambda factor: type(factor).__name__,
)
def test_examples_are_counted_on_the_first_axis(factor):
    assert factor.examples == 2
    assert Zero.like(factor) == Zero(2)
    stacked = jax.tree.map(lambda a: jnp.stack([a] * 3), factor)
    assert Stacked(stacked).examples == 2
    assert Zero.like(Stacked(stacked)) == Zero(2)


def test_where_there_are_no_examples_that_is_known():
    assert Zero.like(Formed(W)) == Zero.like(Zero(None)) == Zero.like(Many((Formed(W),)))
    assert Zero.like(Formed(W)).count is None
    with pytest.raises(FactorError, match=r"an already formed gradient \(Formed\) has no examples"):
        Formed(W).examples  # noqa: B018
    with pytest.raises(
        FactorError, match="a frozen parameter of a layer with formed gradients has no examples"
    ):
        Zero(None).examples  # noqa: B018


def test_stack_factors_marks_factors_and_nothing_else():
    tree = stack_factors(({"w": Outer(A, D)}, {"tap": D}, {}))
    assert isinstance(tree[0]["w"], Stacked) and tree[1]["tap"] is D and tree[2] == {}


def test_factors_pass_through_transformations():
    for factor, param, gradient in GRADIENTS.values():
        got = jax.jit(contract)(factor, param)
        assert_close(got, gradient)
        assert isinstance(jax.tree.map(lambda a: a, factor), type(factor))


def test_errors():
    with pytest.raises(
        ValueError,
        match=r"contract: Outer forms a gradient of shape \(4, 5\), the parameter has shape "
        r"\(5, 4\); check the factor returned by bwd",
    ):
        contract(Outer(A, D), W.T)
    with pytest.raises(TypeError, match="contract: Factor does not stand for a gradient"):
        contract(Factor(), W)
    for factor in (Sum(D), Scatter(IDS, D)):
        with pytest.raises(
            TypeError,
            match=f"tied: {type(factor).__name__} has no transpose; only the weight of a matrix "
            "product can be tied to a transpose: make it the one that is tied, or leave out .T",
        ):
            factor.transpose()
