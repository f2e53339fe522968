"""Activations: forwards against SciPy, backwards against PyTorch, and the edges of each."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import jaxdl as jd
from tests.layers.compiled import both_ways

assert_close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-14)


def numpy_gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def numpy_maxout(x):
    return x.reshape(*x.shape[:-1], -1, 3).max(axis=-1)


# layer, in NumPy and SciPy, in PyTorch given (torch.nn.functional, x)
CASES = {
    "identity": (jd.identity(), lambda x: x, lambda F, x: x * 1),
    "relu": (jd.relu(), lambda x: np.maximum(x, 0), lambda F, x: F.relu(x)),
    "leaky_relu": (
        jd.leaky_relu(0.2),
        lambda x: np.maximum(x, 0.2 * x),
        lambda F, x: F.leaky_relu(x, 0.2),
    ),
    "elu": (
        jd.elu(1.5),
        lambda x: np.where(x > 0, x, 1.5 * np.expm1(np.minimum(x, 0))),
        lambda F, x: F.elu(x, 1.5),
    ),
    "sigmoid": (jd.sigmoid(), special.expit, lambda F, x: x.sigmoid()),
    "tanh": (jd.tanh(), np.tanh, lambda F, x: x.tanh()),
    "softplus": (
        jd.softplus(),
        lambda x: np.logaddexp(0, x),
        lambda F, x: F.softplus(x, threshold=500),  # above its threshold PyTorch returns x
    ),
    "silu": (jd.silu(), lambda x: x * special.expit(x), lambda F, x: F.silu(x)),
    "gelu": (jd.gelu(), lambda x: x * special.ndtr(x), lambda F, x: F.gelu(x)),
    "gelu_tanh": (
        jd.gelu(approximate=True),
        numpy_gelu_tanh,
        lambda F, x: F.gelu(x, approximate="tanh"),
    ),
    "softmax": (
        jd.softmax(),
        lambda x: special.softmax(x, axis=-1),
        lambda F, x: F.softmax(x, dim=-1),
    ),
    "log_softmax": (
        jd.log_softmax(),
        lambda x: special.log_softmax(x, axis=-1),
        lambda F, x: F.log_softmax(x, dim=-1),
    ),
    "maxout": (
        jd.maxout(3),
        numpy_maxout,
        lambda F, x: x.unflatten(-1, (-1, 3)).max(dim=-1).values,
    ),
}
each = pytest.mark.parametrize(("layer", "reference", "in_torch"), CASES.values(), ids=CASES)


def vjp(layer, x, dy):
    y, reduced, dx = both_ways(layer, {}, x, dy)
    assert reduced == {}
    return y, dx


@each
def test_forward(layer, reference, in_torch):
    x = 3 * np.random.default_rng(0).normal(size=(2, 5, 6))
    assert_close(layer.apply({}, x), reference(x))


@each
def test_backward_is_that_of_torch(torch, layer, reference, in_torch):
    rng = np.random.default_rng(1)
    x = 3 * rng.normal(size=(4, 6))
    tensor = torch.tensor(x, requires_grad=True)
    y = in_torch(torch.nn.functional, tensor)
    dy = rng.normal(size=y.shape)
    y.backward(torch.tensor(dy))
    got_y, got_dx = vjp(layer, x, dy)
    assert_close(got_y, y.detach().numpy())
    assert_close(got_dx, tensor.grad.numpy())


@each
def test_extreme_inputs_in_float32_stay_finite_and_right(layer, reference, in_torch):
    row = np.array([-1e4, 1e4, -89, 89, -20, 20, -1e-30, 1e-30, 0, -1, 1, 0.5], np.float32)
    x = np.stack([row, row[::-1], np.full_like(row, 1e4), np.full_like(row, -1e4)])

    @jax.jit
    def program(x, x_wide):
        y, pullback = jax.vjp(lambda x: layer.apply({}, x), x)
        ones = jnp.ones(y.shape)
        by_hand = vjp(layer, x, ones.astype(x.dtype)), vjp(layer, x_wide, ones)
        return by_hand, *pullback(ones.astype(x.dtype))

    ((y, dx), (_, wide_dx)), by_autodiff = program(x, x.astype(np.float64))
    assert y.dtype == dx.dtype == jnp.float32
    np.testing.assert_allclose(y, reference(x.astype(np.float64)), rtol=2e-6, atol=1e-30)
    for got in (dx, by_autodiff):
        assert np.all(np.isfinite(got))
        np.testing.assert_allclose(got, wide_dx, rtol=1e-5, atol=1e-5)


def test_relu_has_gradient_0_at_0_on_both_paths():
    x = np.array([-1.0, -0.0, 0.0, 1e-300])
    for dx in (
        vjp(jd.relu(), x, np.ones(4))[1],
        jax.jit(jax.grad(lambda x: jd.relu().apply({}, x).sum()))(x),
    ):
        np.testing.assert_array_equal(dx, [0, 0, 0, 1])


def test_leaky_relu_and_elu_take_the_left_side_at_0():
    zero, one = np.zeros(1), np.ones(1)
    np.testing.assert_array_equal(vjp(jd.leaky_relu(0.2), zero, one)[1], 0.2)
    np.testing.assert_array_equal(vjp(jd.elu(1.5), zero, one)[1], 1.5)


@pytest.mark.parametrize("slope", [0, 1])
def test_leaky_relu_at_the_ends_of_its_range(slope):
    x = np.array([-2.0, 3.0])
    y, dx = vjp(jd.leaky_relu(slope), x, np.ones(2))
    np.testing.assert_array_equal(y, [-2 * slope, 3])
    np.testing.assert_array_equal(dx, [slope, 1])


def test_of_tied_maxima_the_first_takes_the_gradient():
    y, dx = vjp(jd.maxout(3), np.array([[1.0, 1, 0, 2, 5, 5]]), np.array([[10.0, 20]]))
    np.testing.assert_array_equal(y, [[1, 5]])
    np.testing.assert_array_equal(dx, [[10, 0, 0, 0, 20, 0]])


def test_gelu_keeps_the_digits_of_the_lower_tail():
    x = np.array([-30.0, -20, -10, -5])
    np.testing.assert_allclose(jd.gelu().apply({}, x), x * special.ndtr(x), rtol=1e-11, atol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jd.leaky_relu(-0.1), r"leaky_relu: slope must be in \[0, 1\], got -0.1; a usual"),
        (lambda: jd.leaky_relu(1.1), r"leaky_relu: slope must be in \[0, 1\], got 1.1; a usual"),
        (lambda: jd.elu(0.0), r"elu: alpha must be above 0, got 0.0; the usual one is 1.0"),
        (lambda: jd.maxout(0), r"maxout: pieces must be at least 1, got 0; a usual number is 2"),
        (
            lambda: jd.maxout(4).apply({}, jnp.zeros((2, 6))),
            r"maxout: x.shape\[-1\] must be a multiple of pieces \(4\), got x.shape == \(2, 6\); "
            "make the layer before 4 × as wide",
        ),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@each
def test_integer_input_is_refused_by_name(layer, reference, in_torch):
    message = rf"{layer.name}: x must be floating point, got int32 of shape \(2, 6\); .*x.astype"
    with pytest.raises(TypeError, match=message):
        layer.apply({}, jnp.zeros((2, 6), jnp.int32))
