"""Convolution by Fourier transform against SciPy and the direct form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

import jaxdl as jd
from jaxdl.layers.spectral import SpectralOuter, _fast_length
from tests.layers.compiled import both_ways


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
    shapes = jax.eval_shape(direct.init, jax.random.key(0), x)
    params = jax.tree.map(lambda a: rng.normal(size=a.shape), shapes)
    dy = rng.normal(size=jax.eval_shape(direct.apply, params, x).shape)

    @jax.jit
    def both(*given):
        return [both_ways(layer, *given) for layer in (fourier, direct)]

    got, expected = both(params, x, dy)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("mode", ["valid", "same", "full"])
def test_scipy_says_the_same(mode, flip):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(9, 8)), rng.normal(size=(3, 5))
    layer = jd.fft_conv(1, w.shape, padding=mode, flip=flip, use_bias=False)
    y = jax.jit(layer.apply)({"w": w[..., None, None]}, x[None, ..., None])[0, ..., 0]
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
