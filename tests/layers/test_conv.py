"""Convolution: a worked example, norms, errors; against other libraries: test_parity_random."""

# Wrong arguments are given on purpose.
# pyright: reportArgumentType=false

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

import jaxdl as jd
from jaxdl.core import examples

KEY = jax.random.key(0)


def drawn(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def test_the_worked_example_of_correlation_and_convolution():
    x, w = np.array([[1.0, 2], [3, 4], [5, 6]]), np.array([[1.0, 2], [3, 4]])
    layer = jd.conv(1, 2, use_bias=False)
    y = layer.apply({"w": jnp.asarray(w)[..., None, None]}, jnp.asarray(x)[None, ..., None])
    np.testing.assert_allclose(y[0, ..., 0], [[30], [50]])
    np.testing.assert_allclose(y[0, ..., 0], signal.convolve2d(x, w[::-1, ::-1], "valid"))


def test_norms_of_examples_without_an_array_of_examples_times_parameters(monkeypatch):
    monkeypatch.setattr(examples, "BLOCK_ELEMENTS", 1)  # one at a time, as with large ones
    model = jd.serial(
        jd.conv(6, 5, padding="same"), jd.relu(), jd.average_pool(2),
        jd.conv(16, 5), jd.relu(), jd.average_pool(2), jd.flatten(), jd.dense(10),
    )  # fmt: skip
    loss, x = jd.softmax_cross_entropy(), np.asarray(drawn(0, 7, 28, 28, 1))
    labels, params = np.arange(7), jax.jit(model.init)(KEY, x)
    program = jax.jit(jd.value_and_grad(model, loss, reduce=jd.example_sq_norms))
    compiled = program.lower(params, x, labels).compile()
    norms = jd.total(compiled(params, x, labels)[1])

    @jax.jit
    def of_one(params, x, label):
        gradient = jax.grad(lambda p: loss(model.apply(p, x), label) / 7)(params)
        return sum(jnp.sum(g * g) for g in jax.tree.leaves(gradient))

    for i in range(7):
        square = of_one(params, x[i : i + 1], labels[i : i + 1])
        np.testing.assert_allclose(norms[i], square, rtol=1e-9)
    text = compiled.as_text()
    assert text is not None
    for shape in ("7,25,6", "7,5,5,1,6", "7,150,16", "7,5,5,6,16", "7,400,10"):
        assert f"f64[{shape}]" not in text


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
