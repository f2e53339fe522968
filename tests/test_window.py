"""Windows: the two ways to a kernel's gradient, and which of them each platform runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import correlation
from jaxdl.correlation import correlate_kernel
from jaxdl.window import add_slices, place_window, window_slices


def drawn(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape))


@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize("block", [1, 2**20])
def test_both_ways_to_the_gradient_of_a_kernel(monkeypatch, n, block):
    monkeypatch.setattr(correlation, "_BLOCK_ELEMENTS", block * 200)
    window = place_window("test", (7, 6), (3, 2), (2, 1), "same", (1, 2))
    x, dy = drawn(n, 7, 6, 3), drawn(n, *window.out((7, 6)), 4)
    by_patches = correlation._kernel_by_patches(x, dy, window)
    np.testing.assert_allclose(
        by_patches, correlation._kernel_by_library(x, dy, window), rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize(
    ("platform", "by_library"), [("cpu", False), ("cuda", True), ("tpu", True)]
)
def test_the_way_each_platform_takes(platform, by_library):
    window = place_window("test", (8, 8), (3, 3), (1, 1), "valid", (1, 1))
    traced = jax.jit(lambda x, dy: correlate_kernel(x, dy, window)).trace(
        jnp.ones((4, 8, 8, 2), jnp.float32), jnp.ones((4, 6, 6, 3), jnp.float32)
    )
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.convolution" in text) == by_library
    assert ("stablehlo.while" in text) == (not by_library)


def test_slices_and_their_transpose():
    """⟨slices(x), s⟩ = ⟨x, add(s)⟩."""
    window = place_window("test", (7, 5), (3, 2), (2, 1), ((1, 2), 0), (2, 1))
    x = drawn(2, 7, 5, 3)
    slices = window_slices(x, window)
    others = [part * (i + 1) + 1 for i, part in enumerate(slices)]
    left = sum(jnp.vdot(a, b) for a, b in zip(slices, others, strict=True))
    np.testing.assert_allclose(left, jnp.vdot(x, add_slices(others, window, (7, 5))), rtol=1e-12)
