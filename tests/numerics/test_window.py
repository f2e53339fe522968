"""Windows, and which form of the three products each platform runs."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl as jd
from jaxdl.numerics import correlation
from jaxdl.numerics.correlation import correlate, correlate_kernel
from jaxdl.numerics.window import add_slices, place_window, window_slices


def drawn(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("channels", [2, 8])
def test_the_way_each_platform_takes(platform, channels):
    window = place_window("test", (8, 8), (3, 3), (1, 1), "valid", (1, 1))
    x, w, dy = (jnp.ones(s, jnp.float32) for s in ((4, 8, 8, channels), (3, 3, channels, 3),
                                                   (4, 6, 6, 3)))  # fmt: skip

    def lowered(f, *arrays):
        text = jax.jit(f).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
        names = ("convolution", "dot_general", "while")
        return tuple(f"stablehlo.{name}" in text for name in names)

    library, strips, patches = (True, False, False), (False, True, False), (False, True, True)
    few, on_cpu = channels == 2, platform == "cpu"
    forward = lowered(lambda x, w: correlate(x, w, window), x, w)
    assert forward == (strips if on_cpu and few else library)
    kernel = lowered(lambda x, dy: correlate_kernel(x, dy, window), x, dy)
    assert kernel == ((strips if few else patches) if on_cpu else library)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize(
    ("channels", "settings", "ordinary", "exchanged"),
    [
        pytest.param(2, {}, 0, 0, id="few channels"),
        pytest.param(8, {}, 2, 0, id="many"),
        pytest.param(2, {"strides": 2}, 2, 0, id="strides"),
        pytest.param(2, {"dilation": 2}, 2, 0, id="dilation"),
        pytest.param(8, {"groups": 4}, 2, 1, id="groups"),
    ],
)
@pytest.mark.parametrize("make", [jd.conv, jd.conv_transpose], ids=["conv", "transpose"])
def test_convolutions_left_to_xla(make, channels, settings, ordinary, exchanged, platform):
    """On the CPU none sums over examples with the channels in their place, but for groups.

    Elsewhere a layer and its backward are three convolutions: for y, for dx, and that for dw.
    """
    layer = make(channels, 3, **settings)
    x = jnp.ones((4, 9, 8, channels), jnp.float32)

    def forward_and_backward(params, x):
        y, residuals = layer.fwd(params, x)
        return y, layer.bwd(params, residuals, y)

    params = jax.eval_shape(lambda: layer.init(jax.random.key(0), x))
    traced = jax.jit(forward_and_backward).trace(params, x)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    inputs = re.findall(r"dim_numbers = \[([^]]*)\]x", text)
    assert len(inputs) == text.count("stablehlo.convolution")
    counts = inputs.count("b, 0, 1, f"), inputs.count("f, 0, 1, b")
    assert counts == ((ordinary, exchanged) if platform == "cpu" else (2, 1))
    assert sum(counts) == len(inputs)


@pytest.mark.parametrize("size", [1, 2, 5, 7])
@pytest.mark.parametrize("space", [(9,), (8, 10), (3, 4, 9)])
def test_strips_are_the_convolution_of_the_library(space, size):
    window = place_window("test", space, (*(2, 3)[: len(space) - 1], size), (1,) * len(space),
                          "same", (1,) * len(space))  # fmt: skip
    x, w = drawn(2, *space, 3), drawn(*window.size, 3, 4)
    dy = drawn(2, *space, 4)
    close = partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12)

    @jax.jit
    def both(x, w, dy):
        y = [form(x, w, window) for form in (correlation._by_strips, correlation._by_library)]
        forms = correlation._kernel_by_strips, correlation._kernel_by_library
        return y, [form(x, dy, window) for form in forms]

    for strips, library in both(x, w, dy):
        close(strips, library)


def test_slices_and_their_transpose():
    """⟨slices(x), s⟩ = ⟨x, add(s)⟩."""
    window = place_window("test", (7, 5), (3, 2), (2, 1), ((1, 2), 0), (2, 1))
    x = drawn(2, 7, 5, 3)
    slices = window_slices(x, window)
    others = [part * (i + 1) + 1 for i, part in enumerate(slices)]
    left = sum(jnp.vdot(a, b) for a, b in zip(slices, others, strict=True))
    np.testing.assert_allclose(left, jnp.vdot(x, add_slices(others, window, (7, 5))), rtol=1e-12)
