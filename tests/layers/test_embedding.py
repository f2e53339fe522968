"""Embedding: rows of a table, and what happens to ids that name no row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import jaxdl as jd

TABLE = np.random.default_rng(0).normal(size=(5, 3))
LAYER = jd.embedding(5, 3)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_forward_is_that_of_flax(dtype):
    ids = np.array([[0, 4, 2], [1, 1, 4]], dtype)
    module = linen.Embed(5, 3, param_dtype=jnp.float64)
    with jax.numpy_dtype_promotion("standard"):
        expected = module.apply({"params": {"embedding": TABLE}}, ids)
    np.testing.assert_array_equal(LAYER.apply({"table": jnp.asarray(TABLE)}, ids), expected)


def test_backward_is_that_of_torch_and_duplicates_accumulate(torch):
    ids = np.array([[0, 4, 4], [1, 4, 0]])
    dy = np.random.default_rng(1).normal(size=(2, 3, 3))
    table = torch.tensor(TABLE, requires_grad=True)
    torch.nn.functional.embedding(torch.tensor(ids), table).backward(torch.tensor(dy))
    gradient, dx = LAYER.bwd({"table": jnp.asarray(TABLE)}, jnp.asarray(ids), jnp.asarray(dy))
    assert dx is None
    np.testing.assert_allclose(gradient["table"], table.grad.numpy(), rtol=1e-14)
    np.testing.assert_allclose(gradient["table"][4], dy[0, 1] + dy[0, 2] + dy[1, 1], rtol=1e-14)


def test_under_jit_ids_out_of_range_read_nan_and_their_cotangents_go_nowhere():
    params, ids = {"table": jnp.asarray(TABLE)}, jnp.array([[-1, 0], [5, 4]])

    @jax.jit
    def both(ids):
        y, residuals = LAYER.fwd(params, ids)
        return y, LAYER.bwd(params, residuals, jnp.ones_like(y))[0]["table"]

    y, gradient = both(ids)
    assert np.all(np.isnan(y[:, 0]))  # −1 is not the last row, 5 not clamped to it
    np.testing.assert_array_equal(y[:, 1], TABLE[[0, 4]])
    np.testing.assert_array_equal(gradient, np.array([1, 0, 0, 0, 1])[:, None] * np.ones(3))
    autodiff = jax.jit(jax.grad(lambda p, ids: LAYER.apply(p, ids).sum()))(params, ids)
    np.testing.assert_array_equal(autodiff["table"], gradient)


@pytest.mark.parametrize(("ids", "low", "high"), [([-1, 2], -1, 2), ([0, 5], 0, 5)])
def test_outside_jit_ids_out_of_range_are_an_error(ids, low, high):
    message = rf"embedding: ids must be in 0 ... 4, got values from {low} to {high}; check how"
    with pytest.raises(ValueError, match=message):
        LAYER.apply({"table": jnp.asarray(TABLE)}, jnp.array(ids))


def test_no_ids_give_no_rows():
    assert LAYER.apply({"table": TABLE}, jnp.zeros((0, 2), jnp.int32)).shape == (0, 2, 3)


def test_init():
    ids = jax.ShapeDtypeStruct((2,), jnp.int32)
    table = jd.embedding(500, 300, dtype=jnp.float64).init(jax.random.key(0), ids)["table"]
    assert table.shape == (500, 300) and table.dtype == jnp.float64
    assert abs(np.std(table) - 0.02) < 2e-4
    assert LAYER.init(jax.random.key(0), ids)["table"].dtype == jnp.float32
    ones = jd.embedding(2, 3, init=jax.nn.initializers.ones).init(jax.random.key(0), ids)
    assert np.all(ones["table"] == 1)


def test_errors():
    with pytest.raises(
        TypeError,
        match=r"embedding: ids must be integers, got float32 of shape \(2,\); use ids.astype",
    ):
        LAYER.apply({"table": TABLE}, jnp.zeros(2, jnp.float32))
    with pytest.raises(
        TypeError, match=r"embedding: ids must be an array, got a list; use jnp\.asarray"
    ):
        LAYER.apply({"table": TABLE}, [0, 1])
    for rows, features in ((0, 3), (5, 0)):
        with pytest.raises(
            ValueError,
            match=f"embedding: rows and features must be at least 1, got {rows} and {features}; "
            "give the vocabulary size",
        ):
            jd.embedding(rows, features)
