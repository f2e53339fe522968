"""Dropout: how much is dropped, how the rest is scaled, and one mask in both directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl as jd

N = 100_000


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_fraction_and_scale(rate):
    y = np.asarray(jd.dropout(rate).apply({}, jnp.full(N, 3.0), jax.random.key(0)))
    kept = y != 0
    five_sigma = 5 * np.sqrt(rate * (1 - rate) / N)
    assert abs(kept.mean() - (1 - rate)) < five_sigma
    np.testing.assert_allclose(y[kept], 3 / (1 - rate), rtol=1e-15)
    assert abs(y.mean() - 3) < 3 * five_sigma / (1 - rate)


def test_backward_uses_the_mask_of_the_forward():
    layer = jd.dropout(0.4)
    y, residuals = layer.fwd({}, jnp.ones((50, 8)), jax.random.key(1))
    reduced, dx = layer.bwd({}, residuals, jnp.full((50, 8), 2.0))
    assert reduced == {}
    np.testing.assert_array_equal(dx, 2 * y)  # of ones, y is mask / p itself
    autodiff = jax.grad(lambda x: 2 * layer.apply({}, x, jax.random.key(1)).sum())(
        jnp.ones((50, 8))
    )
    np.testing.assert_array_equal(dx, autodiff)


def test_the_key_decides_and_other_keys_decide_otherwise():
    layer, x = jd.dropout(0.5), jnp.ones(1000)
    first, again, other = (layer.apply({}, x, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert 0.4 < np.mean(first != other) < 0.6


@pytest.mark.parametrize(
    ("rate", "key"), [(0.5, None), (0.0, jax.random.key(0))], ids=["no_key", "rate_0"]
)
def test_identity_without_a_key_and_without_a_rate(rate, key):
    layer, x = jd.dropout(rate), jnp.arange(6.0)
    y, residuals = layer.fwd({}, x, key)
    assert residuals is None
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(layer.bwd({}, residuals, x)[1], x)


def test_containers_give_every_layer_a_key_of_its_own():
    x, key = jnp.ones(1000), jax.random.key(0)
    drop = jd.dropout(0.5)
    for model in (jd.branch(drop, drop, join="concat"), jd.branch(drop, drop)):
        y = np.asarray(model.apply({}, x, key))
        first, second = (y[:1000] != 0, y[1000:] != 0) if y.size == 2000 else (y == 2, y == 4)
        assert np.any(first & ~second)
    survivors = np.mean(jd.serial(drop, drop).apply({}, x, key) != 0)
    assert 0.15 < survivors < 0.35
    survivors = np.mean(jd.repeat(drop, 3).apply({}, x, key) != 0)
    assert 0.06 < survivors < 0.2


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan")])
def test_errors(rate):
    message = rf"dropout: rate is the fraction dropped and must be in \[0, 1\), got {rate}; to keep"
    with pytest.raises(ValueError, match=message):
        jd.dropout(rate)


def test_integer_input_is_refused():
    with pytest.raises(TypeError, match=r"dropout: x must be floating point, got int32"):
        jd.dropout(0.5).apply({}, jnp.ones(3, jnp.int32))
