"""The forms that take the library's place on the CPU give what the library gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.core.factors import ConvOuter, FactorError, Outer
from jaxdl.core.reducers import example_sq_norms
from jaxdl.numerics import correlation
from jaxdl.numerics.correlation import columns, correlate, correlate_input, correlate_kernel
from jaxdl.numerics.window import place_window, window_slices

WINDOWS = [  # space, size, strides, padding, dilation
    ((9,), (4,), (1,), "same", (1,)),
    ((9,), (3,), (2,), "full", (2,)),
    ((7, 8), (3, 2), (1, 1), "valid", (1, 1)),
    ((7, 8), (3, 4), (1, 1), (0, (3, 1)), (1, 1)),
    ((7, 8), (1, 1), (1, 1), "valid", (1, 1)),
    ((6, 9), (2, 3), (2, 3), "same", (1, 2)),
    ((4, 5, 6), (2, 3, 2), (1, 1, 1), "full", (1, 1, 1)),
]


@pytest.fixture(params=[2**19, 700])
def block(request, monkeypatch):
    """Blocks that hold everything, and blocks of an image or two with a rest of zeros."""
    monkeypatch.setattr(correlation, "BLOCK_ELEMENTS", request.param)


def _problem(space, size, strides, padding, dilation, c=3, k=8, n=5):
    window = place_window("conv", space, size, strides, padding, dilation, 1)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(n, *space, c)))
    w = jnp.asarray(rng.normal(size=(*size, c, k)))
    return window, x, w, jnp.asarray(rng.normal(size=(n, *window.out(space), k)))


def _close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("case", WINDOWS)
@pytest.mark.usefixtures("block")
def test_kernel_gradient_by_patches(case):
    window, x, _, dy = _problem(*case)
    forms = correlation._kernel_by_library, correlation._kernel_by_patches, correlate_kernel
    expected, *others = jax.jit(lambda x, dy: [form(x, dy, window) for form in forms])(x, dy)
    for got in others:
        _close(got, expected)


@pytest.mark.parametrize("case", WINDOWS)
@pytest.mark.usefixtures("block")
def test_input_gradient_by_rows(case):
    window, x, w, dy = _problem(*case)
    space = x.shape[1:-1]
    forms = [correlation._input_by_library, correlate_input]
    if correlation._dense(window):
        forms.append(correlation._input_by_rows)
    expected, *others = jax.jit(lambda dy, w: [form(dy, w, window, space) for form in forms])(dy, w)
    for got in others:
        _close(got, expected)


def test_no_images():
    window, x, w, dy = _problem(*WINDOWS[2], n=0)
    assert correlate(x, w, window).shape == dy.shape
    assert correlate_input(dy, w, window, x.shape[1:-1]).shape == x.shape
    np.testing.assert_array_equal(correlate_kernel(x, dy, window), 0)


@pytest.mark.parametrize("case", WINDOWS)
def test_columns_are_the_patches(case):
    window, x, _, dy = _problem(*case)
    slices, got = jax.jit(
        lambda x: (jnp.stack(window_slices(x, window)), columns(jnp.moveaxis(x, -1, 0), window))
    )(x)
    # slices (places, N, *out, C)
    patches = np.moveaxis(slices, -1, 1).reshape(-1, dy.size // dy.shape[-1])
    np.testing.assert_array_equal(got, patches)


@pytest.mark.parametrize("blocks", [1, 2, 3, 5])
def test_blocks_hold_all_images_and_few_zeros(blocks):
    images = jnp.arange(1.0, 6.0)[:, None]
    got = correlation._blocks(images, 1, -(-5 // blocks))
    assert got.shape[0] == blocks
    assert int((got == 0).sum()) < blocks
    np.testing.assert_array_equal(got.reshape(-1)[:5], np.arange(1.0, 6.0))


def _convolutions(f, *args, platform):
    return str(jax.jit(f).trace(*args).lower(lowering_platforms=(platform,)).as_text()).count(
        "stablehlo.convolution"
    )


@pytest.mark.parametrize(("platform", "count"), [("cpu", 0), ("cuda", 1), ("tpu", 1)])
def test_the_gradient_of_few_channels_is_a_product_on_the_cpu_alone(platform, count):
    window, x, w, dy = _problem(*WINDOWS[2])

    def narrow(dy, w):
        return correlate_input(dy, w, window, x.shape[1:-1])

    assert _convolutions(narrow, dy, w, platform=platform) == count


@pytest.mark.parametrize(("c", "k"), [(8, 8), (3, 128)])
def test_many_channels_or_wide_patches_stay_with_the_library(c, k):
    window, x, w, dy = _problem(*WINDOWS[2], c=c, k=k)

    def wide(dy, w):
        return correlate_input(dy, w, window, x.shape[1:-1])

    assert _convolutions(wide, dy, w, platform="cpu") == 1


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("case", WINDOWS)
@pytest.mark.usefixtures("block")
def test_kronecker_factors_are_sums_over_patches(case, flip):
    window, x, _, dy = _problem(*case)
    patches, cotangents = jax.jit(lambda x, dy: ConvOuter(x, dy, window, flip).kronecker())(x, dy)
    slices = np.asarray(jax.jit(lambda x: jnp.stack(window_slices(x, window)))(x))
    # (places of the kernel, N, *out, C)
    rows = np.moveaxis(slices[::-1] if flip else slices, 0, -2).reshape(-1, patches.shape[0])
    _close(patches, rows.T @ rows)
    d = np.asarray(dy).reshape(-1, dy.shape[-1])
    _close(cotangents, d.T @ d)
    examples = rows.reshape(len(x), -1, rows.shape[-1])
    dense = jax.jit(lambda a, d: Outer(a, d).kronecker())(examples, dy)
    _close(dense[0], patches)
    _close(dense[1], cotangents)


def test_kronecker_factors_of_groups_are_refused():
    window = place_window("conv", (5,), (2,), (1,), "valid", (1,), 2)
    with pytest.raises(FactorError, match="kronecker: a convolution of 2 groups"):
        ConvOuter(jnp.ones((2, 5, 4)), jnp.ones((2, 4, 2)), window).kronecker()


def test_norms_of_no_examples():
    window, x, w, dy = _problem(*WINDOWS[2], n=0)
    factors = {"w": ConvOuter(x, dy, window)}
    assert example_sq_norms({"w": w}, factors)["w"].shape == (0,)
