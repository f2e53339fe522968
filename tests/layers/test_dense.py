"""Dense: the affine map of NumPy, and PyTorch's own backward of it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl as jd
from tests.layers.compiled import both_ways

assert_close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("leading", [(), (5,), (2, 3)], ids=str)
@pytest.mark.parametrize("use_bias", [True, False], ids=["bias", "no_bias"])
def test_forward_is_the_affine_map(leading, use_bias):
    x, params = draw(*leading, 4), {"w": draw(4, 3, seed=1), "b": draw(3, seed=2)}
    expected = x @ params["w"] + params["b"] * use_bias
    if not use_bias:
        del params["b"]
    assert_close(jd.dense(3, use_bias=use_bias).apply(params, x), expected)


@pytest.mark.parametrize("leading", [(5,), (2, 3)], ids=str)
def test_backward_is_that_of_torch(torch, leading):
    x, w, b, dy = draw(*leading, 4), draw(4, 3, seed=1), draw(3, seed=2), draw(*leading, 3, seed=3)
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, w.T, b)]
    torch.nn.functional.linear(*tensors).backward(torch.tensor(dy))
    dx, dw, db = (t.grad.numpy() for t in tensors)

    _, gradient, got_dx = both_ways(jd.dense(3), {"w": w, "b": b}, x, dy)
    assert_close(got_dx, dx)
    assert_close(gradient["w"], dw.T)
    assert_close(gradient["b"], db)


def test_init_has_variance_one_over_inputs_and_no_bias():
    params = jd.dense(400).init(jax.random.key(0), jax.ShapeDtypeStruct((1, 300), jnp.float32))
    assert params["w"].shape == (300, 400) and params["w"].dtype == jnp.float32
    assert abs(np.var(params["w"]) * 300 - 1) < 0.02  # standard error √(2/120000) = 0.004
    assert not np.any(params["b"])


def test_given_initialisers_and_the_dtype_of_x_are_used():
    layer = jd.dense(3, w_init=jax.nn.initializers.ones, b_init=jax.nn.initializers.ones)
    params = layer.init(jax.random.key(0), jnp.zeros((2, 4), jnp.bfloat16))
    assert params["w"].dtype == params["b"].dtype == jnp.bfloat16
    assert np.all(params["w"] == 1) and np.all(params["b"] == 1)


def test_low_precision_input_computes_low_and_gives_gradients_like_the_parameters():
    x, dy = (np.ones(shape, jnp.bfloat16) for shape in ((2, 4), (2, 3)))
    params = {"w": np.ones((4, 3), np.float32), "b": np.ones(3, np.float32)}
    y, gradient, dx = both_ways(jd.dense(3), params, x, dy)
    assert y.dtype == dx.dtype == jnp.bfloat16
    assert gradient["w"].dtype == gradient["b"].dtype == jnp.float32


def test_errors():
    layer, key = jd.dense(3), jax.random.key(0)
    params = {"w": np.zeros((4, 3)), "b": np.zeros(3)}
    with pytest.raises(ValueError, match=r"dense: features must be at least 1, got 0; give the"):
        jd.dense(0)
    with pytest.raises(ValueError, match=r"dense: x must have a last axis.*got a scalar; use x\["):
        layer.init(key, np.zeros(()))
    with pytest.raises(
        ValueError,
        match=r"dense: x.shape\[-1\] must equal params\['w'\].shape\[0\] \(4\), got x.shape == "
        r"\(2, 5\); check the layer before",
    ):
        layer.apply(params, np.zeros((2, 5)))
    integers = r"dense: x must be floating point, got int32 of shape \(2, 4\); embed integer ids"
    with pytest.raises(TypeError, match=integers):
        layer.apply(params, np.zeros((2, 4), np.int32))
    with pytest.raises(TypeError, match=integers):
        layer.init(key, np.zeros((2, 4), np.int32))
