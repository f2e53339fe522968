"""Convolution as a dense matrix, against SciPy and the direct form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

import jaxdl as jd
from tests.layers.compiled import both_ways


def test_in_one_dimension_it_is_the_toeplitz_matrix_of_scipy():
    w = np.array([1.0, 2.0, 3.0])
    matrix = jd.conv_matrix(jnp.asarray(w)[:, None, None], (5,), padding="full", flip=True)
    column, row = np.r_[w, np.zeros(4)], np.r_[1.0, np.zeros(4)]
    np.testing.assert_array_equal(matrix.T, linalg.toeplitz(column, row))


@pytest.mark.parametrize(
    ("space", "size", "settings"),
    [
        ((6,), (3,), {"strides": 2, "padding": 1}),
        ((5, 6), (2, 3), {"padding": "same", "dilation": (2, 1), "groups": 2}),
        ((3, 4, 3), (2, 2, 1), {"flip": True}),
    ],
)
def test_its_product_is_the_convolution_and_its_transpose_the_backward(space, size, settings):
    rng = np.random.default_rng(0)
    layer = jd.conv(4, size, rank=len(space), use_bias=False, **settings)
    x = rng.normal(size=(2, *space, 4))
    shape = jax.eval_shape(layer.init, jax.random.key(0), x)["w"].shape
    params = {"w": rng.normal(size=shape)}
    dy = rng.normal(size=jax.eval_shape(layer.apply, params, x).shape)
    y, grads, dx = both_ways(layer, params, x, dy)

    def product(w):
        return x.reshape(2, -1) @ jd.conv_matrix(w, space, **settings)

    @jax.jit
    def dense(w):
        matrix = jd.conv_matrix(w, space, **settings)
        return matrix, product(w), jax.grad(lambda w: jnp.vdot(product(w), dy.reshape(2, -1)))(w)

    matrix, by_matrix, dw = jax.device_get(dense(params["w"]))
    np.testing.assert_allclose(by_matrix, y.reshape(2, -1), rtol=1e-12, atol=1e-12)
    back = dy.reshape(2, -1) @ matrix.T
    np.testing.assert_allclose(back, dx.reshape(2, -1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dw, grads["w"], rtol=1e-11, atol=1e-12)
    assert len(np.unique(matrix)) <= params["w"].size + 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jd.conv_matrix(jnp.ones((3, 1, 1)), (5, 5)), r"w must have 4 axes .* \(3, 1, 1\)"),
        (lambda: jd.conv_matrix(jnp.ones((7, 1, 1)), (5,)), "must fit into the padded input"),
        (lambda: jd.conv_matrix(jnp.ones((3, 1, 3)), (5,), groups=2), "multiple of groups"),
        (lambda: jd.fft_conv(3, 0), "size must be a positive whole number"),
        (
            lambda: jd.fft_conv(3, 7).apply(
                {"w": jnp.ones((7, 7, 1, 3)), "b": jnp.ones(3)}, jnp.ones((1, 5, 5, 1))
            ),
            "must fit",
        ),
    ],
)
def test_what_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()
