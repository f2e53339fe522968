"""Locally connected layers: convolution when all kernels are one, loops when they are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl as jd
from tests.layers.compiled import both_ways

SETTINGS = {"strides": (1, 2), "padding": 1, "dilation": (2, 1)}


def test_with_one_kernel_everywhere_it_is_the_convolution():
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(2, 7, 6, 3)), rng.normal(size=(2, 5, 3, 4))
    shared, local = jd.conv(4, (3, 3), **SETTINGS), jd.locally_connected(4, (3, 3), **SETTINGS)
    w, b = rng.normal(size=(3, 3, 3, 4)), rng.normal(size=4)
    params = {
        "w": np.broadcast_to(w.reshape(-1, 4), (15, 27, 4)),
        "b": np.broadcast_to(b, (5, 3, 4)),
    }
    y, grads, dx = jax.device_get(both_ways(local, params, x, dy))
    y_shared, grads_shared, dx_shared = both_ways(shared, {"w": w, "b": b}, x, dy)
    np.testing.assert_allclose(y, y_shared, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dx, dx_shared, rtol=1e-12, atol=1e-12)
    # a shared weight's gradient is the sum over the places where it is used
    dw = grads["w"].sum(axis=0).reshape(w.shape)
    np.testing.assert_allclose(dw, grads_shared["w"], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(grads["b"].sum(axis=(0, 1)), grads_shared["b"], rtol=1e-12)


def test_every_place_has_a_kernel_of_its_own():
    layer = jd.locally_connected(2, 3, rank=1, use_bias=False)
    x = np.random.default_rng(0).normal(size=(4, 8, 3))
    params = jax.device_get(jax.jit(layer.init)(jax.random.key(0), x))
    assert params["w"].shape == (6, 9, 2)
    y = jax.device_get(jax.jit(layer.apply)(params, x))
    for p in range(6):
        expected = x[:, p : p + 3].reshape(4, 9) @ params["w"][p]
        np.testing.assert_allclose(y[:, p], expected, rtol=1e-12)
    assert abs(float(params["w"].var()) * 9 - 1) < 0.5  # a unit has 9 inputs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda layer, params, x: layer.apply(params, x[:, :5]), r"params\['w'\] must have shape"),
        (lambda layer, params, x: layer.apply(params, x[..., 0]), "x must have 4 axes"),
        (lambda layer, params, x: layer.init(jax.random.key(0), x[:, :2]), "must fit into"),
        (lambda layer, params, x: jd.locally_connected(2, 3, strides=0), "strides must be"),
    ],
)
def test_what_cannot_be(make, message):
    layer, x = jd.locally_connected(2, 3), jnp.ones((1, 6, 6, 2))
    with pytest.raises(ValueError, match=message):
        make(layer, jax.eval_shape(layer.init, jax.random.key(0), x), x)
