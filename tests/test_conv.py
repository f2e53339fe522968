"""Convolution: against SciPy, PyTorch and jax.grad over random settings, and its errors."""

# Wrong arguments are given on purpose.
# pyright: reportArgumentType=false

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

import jaxdl as jd

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
PADDINGS = ("valid", "same", "full", 1)
GRID = list(itertools.product((1, 2, 3), (1, 2), (1, 2), (1, 2), PADDINGS, (False, True)))


def drawn(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def run(layer, x, seed):
    params = layer.init(KEY, x)
    y, residuals = layer.fwd(params, x)
    dy = drawn(seed, *y.shape)
    return params, y, dy, *layer.bwd(params, residuals, dy)


@pytest.mark.parametrize("make", [jd.conv, jd.conv_transpose], ids=["conv", "transpose"])
@pytest.mark.parametrize("part", range(4))
def test_both_paths_agree_over_all_settings(make, part):
    """rank × stride × dilation × groups × padding × flip, a part of them in every test."""
    for i, (rank, strides, dilation, groups, padding, flip) in list(enumerate(GRID))[part::12]:
        if make is jd.conv_transpose and (flip or padding == "full"):
            continue
        turned = {"flip": flip} if make is jd.conv else {}
        layer = make(
            4, (3, 2, 2)[:rank], rank=rank, strides=strides, dilation=dilation, groups=groups,
            padding=padding, **turned,
        )  # fmt: skip
        x = drawn(i, 3, *(7, 6, 5)[:rank], 2)
        params, _, dy, gradient, dx = run(layer, x, i)
        expected = jax.vjp(layer.apply, params, x)[1](dy)
        chex.assert_trees_all_close((gradient, dx), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("i", range(12))
def test_convolution_is_that_of_pytorch(i):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    rng = np.random.default_rng(i)
    rank, groups = 1 + i % 3, int(rng.integers(1, 3))
    size = tuple(map(int, rng.integers(1, 4, rank)))
    strides, dilation = (tuple(map(int, rng.integers(1, 3, rank))) for _ in range(2))
    padding = tuple(map(int, rng.integers(0, 2, rank)))
    settings = {"stride": strides, "padding": padding, "dilation": dilation, "groups": groups}
    first = (0, rank + 1, *range(1, rank + 1))
    for make, name in ((jd.conv, f"conv{rank}d"), (jd.conv_transpose, f"conv_transpose{rank}d")):
        layer = make(
            4, size, rank=rank, strides=strides, padding=padding, dilation=dilation, groups=groups
        )
        x = drawn(i, 2, *(8, 7, 6)[:rank], 2)
        params, y, dy, gradient, dx = run(layer, x, i)
        tx = torch.tensor(np.transpose(x, first), requires_grad=True)
        # kernels: (K, C/groups, *size) for both, since ours is that of the convolution
        tw = torch.tensor(
            np.transpose(params["w"], (rank + 1, rank, *range(rank))), requires_grad=True
        )
        tb = torch.tensor(np.asarray(params["b"]), requires_grad=True)
        ty = getattr(functional, name)(tx, tw, tb, **settings)
        ty.backward(torch.tensor(np.transpose(dy, first)))
        close = np.testing.assert_allclose
        close(np.transpose(y, first), ty.detach(), rtol=1e-10, atol=1e-11)
        close(np.transpose(dx, first), tx.grad, rtol=1e-10, atol=1e-11)
        close(gradient["b"], tb.grad, rtol=1e-10, atol=1e-11)
        dw = np.transpose(tw.grad.numpy(), (*range(2, rank + 2), 1, 0))
        close(gradient["w"], dw, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("padding", ["valid", "full"])
@pytest.mark.parametrize("flip", [False, True])
def test_one_channel_is_that_of_scipy(padding, flip):
    x, w = RNG.normal(size=(7, 6)), RNG.normal(size=(3, 2))
    there = signal.convolve2d if flip else signal.correlate2d
    layer = jd.conv(1, (3, 2), padding=padding, flip=flip, use_bias=False)
    y = layer.apply({"w": jnp.asarray(w)[..., None, None]}, jnp.asarray(x)[None, ..., None])
    np.testing.assert_allclose(y[0, ..., 0], there(x, w, padding), rtol=1e-12)


def test_the_worked_example_of_correlation_and_convolution():
    x, w = np.array([[1.0, 2], [3, 4], [5, 6]]), np.array([[1.0, 2], [3, 4]])
    layer = jd.conv(1, 2, use_bias=False)
    y = layer.apply({"w": jnp.asarray(w)[..., None, None]}, jnp.asarray(x)[None, ..., None])
    np.testing.assert_allclose(y[0, ..., 0], [[30], [50]])
    np.testing.assert_allclose(y[0, ..., 0], signal.convolve2d(x, w[::-1, ::-1], "valid"))


def test_norms_of_examples_without_an_array_of_examples_times_parameters():
    model = jd.serial(
        jd.conv(6, 5, padding="same"), jd.relu(), jd.average_pool(2),
        jd.conv(16, 5), jd.relu(), jd.average_pool(2), jd.flatten(), jd.dense(10),
    )  # fmt: skip
    loss, x = jd.softmax_cross_entropy(), drawn(0, 7, 28, 28, 1)
    labels, params = jnp.arange(7), model.init(KEY, x)
    program = jax.jit(jd.value_and_grad(model, loss, reduce=jd.example_sq_norms))
    norms = jd.total(program(params, x, labels)[1])
    for i in range(7):
        one = jax.grad(lambda p, i=i: loss(model.apply(p, x[i : i + 1]), labels[i : i + 1]) / 7)
        squares = jax.tree.map(lambda g: jnp.sum(g * g), one(params))
        np.testing.assert_allclose(norms[i], sum(jax.tree.leaves(squares)), rtol=1e-9)
    text = program.lower(params, x, labels).compile().as_text()
    assert text is not None and "f64[7,400,16]" not in text and "f64[7,5,5,6,16]" not in text


X = np.ones((2, 8, 8, 4), np.float32)


@pytest.mark.parametrize(
    ("make", "x", "text"),
    [
        (lambda: jd.conv(4, 9), X, r"must fit into the padded input .* extent \(9, 9\) .*\(8, 8\)"),
        (lambda: jd.conv(4, 3, groups=3), X, r"features must be a multiple of groups \(3\), got 4"),
        (
            lambda: jd.conv(6, 3, groups=3),
            X,
            r"channels of x must be a multiple of groups \(3\), g",
        ),
        (lambda: jd.conv(4, 3, strides=0), X, "strides must be a positive whole number, .* got 0"),
        (lambda: jd.conv(4, (3, -1)), X, r"size must be a positive whole number, .* got \(3, -1\)"),
        (lambda: jd.conv(4, 3, dilation=(1,)), X, r"dilation must be .* or 2 of them, got \(1,\)"),
        (lambda: jd.conv(4, 3, rank=4), X, "conv: rank must be 1, 2 or 3, got 4; images have rank"),
        (lambda: jd.conv(0, 3), X, "features and groups must be at least 1, got 0 and 1"),
        (
            lambda: jd.conv(4, 3, padding="valdi"),
            X,
            "padding must be 'valid', .* got 'valdi'; e.g.",
        ),
        (lambda: jd.conv(4, 3, padding=-1), X, "none negative, got -1"),
        (
            lambda: jd.conv(4, 3, rank=1),
            X,
            r"x must have 3 axes .* got shape \(2, 8, 8, 4\); resha",
        ),
        (
            lambda: jd.conv_transpose(4, 1, padding=4),
            X[:, :8],
            "output must have at least one place",
        ),
    ],
)
def test_what_cannot_be(make, x, text):
    with pytest.raises(ValueError, match=text):
        layer = make()
        layer.apply(layer.init(KEY, x), x)


def test_integer_images_and_other_channels():
    layer = jd.conv(4, 3)
    with pytest.raises(TypeError, match=r"conv: x must be floating point, got uint8 .* / 255"):
        layer.init(KEY, X.astype(np.uint8))
    with pytest.raises(
        ValueError, match="conv: x must have 4 channels, as init has seen it, got x"
    ):
        layer.apply(layer.init(KEY, X), X[..., :3])
