"""Convolution by Fourier transform, and as a dense matrix, against SciPy and the direct form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, signal

import jaxdl as jd
from jaxdl.spectral import SpectralOuter, _fast_length


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("padding", ["valid", "same", "full", ((0, 3), 1)])
@pytest.mark.parametrize(("rank", "size"), [(1, 4), (2, (3, 4)), (3, 2)])
def test_it_is_the_direct_convolution_in_all_its_parts(rank, size, padding, flip):
    if rank != 2 and not isinstance(padding, str):
        padding = 2
    settings = {"rank": rank, "padding": padding, "flip": flip}
    direct, fourier = jd.conv(3, size, **settings), jd.fft_conv(3, size, **settings)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *(7, 6, 5)[:rank], 2))
    params = direct.init(jax.random.key(0), x)
    y, residuals = direct.fwd(params, x)
    y_fourier, residuals_fourier = fourier.fwd(params, x)
    dy = rng.normal(size=y.shape)
    expected = (y, *direct.bwd(params, residuals, dy))
    got = (y_fourier, *fourier.bwd(params, residuals_fourier, dy))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("mode", ["valid", "same", "full"])
def test_scipy_says_the_same(mode, flip):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(9, 8)), rng.normal(size=(3, 5))
    layer = jd.fft_conv(1, w.shape, padding=mode, flip=flip, use_bias=False)
    y = layer.apply({"w": w[..., None, None]}, x[None, ..., None])[0, ..., 0]
    expected = (signal.convolve2d if flip else signal.correlate2d)(x, w, mode)
    np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-12)


def test_its_factor_is_a_convolution_to_reducers_and_formed_by_fourier():
    layer, x = jd.fft_conv(3, 3), jnp.ones((2, 5, 5, 2))
    params = layer.init(jax.random.key(0), x)
    y, residuals = layer.fwd(params, x)
    factors, _ = layer.bwd(params, residuals, y, reduce=jd.keep)
    assert isinstance(factors["w"], SpectralOuter) and isinstance(factors["w"], jd.ConvOuter)
    text = str(jax.make_jaxpr(lambda f: jd.contract(f, params["w"]))(factors["w"]))
    assert "fft" in text and "conv_general_dilated" not in text


def test_lengths_are_the_next_without_large_primes():
    assert [_fast_length(n) for n in (1, 7, 11, 13, 30, 97)] == [1, 8, 12, 15, 30, 100]


# --- the matrix ---------------------------------------------------------------------------------


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
    params = layer.init(jax.random.key(0), x)
    y, residuals = layer.fwd(params, x)
    dy = rng.normal(size=y.shape)
    grads, dx = layer.bwd(params, residuals, dy)

    def product(w):
        return x.reshape(2, -1) @ jd.conv_matrix(w, space, **settings)

    matrix = jd.conv_matrix(params["w"], space, **settings)
    np.testing.assert_allclose(product(params["w"]), y.reshape(2, -1), rtol=1e-12, atol=1e-12)
    back = dy.reshape(2, -1) @ matrix.T
    np.testing.assert_allclose(back, dx.reshape(2, -1), rtol=1e-12, atol=1e-12)
    dw = jax.grad(lambda w: jnp.vdot(product(w), dy.reshape(2, -1)))(params["w"])
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
