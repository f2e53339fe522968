"""Dense: the affine map of NumPy, and PyTorch's own backward of it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl as jd

assert_close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


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

    layer, params = jd.dense(3), {"w": jnp.asarray(w), "b": jnp.asarray(b)}
    gradient, got_dx = layer.bwd(params, layer.fwd(params, x)[1], jnp.asarray(dy))
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
    layer, x = jd.dense(3), jnp.ones((2, 4), jnp.bfloat16)
    params = layer.init(jax.random.key(0), jnp.ones((2, 4), jnp.float32))
    y, residuals = layer.fwd(params, x)
    gradient, dx = layer.bwd(params, residuals, y)
    assert y.dtype == dx.dtype == jnp.bfloat16
    assert gradient["w"].dtype == gradient["b"].dtype == jnp.float32


def test_errors():
    layer, key = jd.dense(3), jax.random.key(0)
    params = layer.init(key, jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"dense: features must be at least 1, got 0; give the"):
        jd.dense(0)
    with pytest.raises(ValueError, match=r"dense: x must have a last axis.*got a scalar; use x\["):
        layer.init(key, jnp.zeros(()))
    with pytest.raises(
        ValueError,
        match=r"dense: x.shape\[-1\] must equal params\['w'\].shape\[0\] \(4\), got x.shape == "
        r"\(2, 5\); check the layer before",
    ):
        layer.apply(params, jnp.zeros((2, 5)))
    integers = r"dense: x must be floating point, got int32 of shape \(2, 4\); embed integer ids"
    with pytest.raises(TypeError, match=integers):
        layer.apply(params, jnp.zeros((2, 4), jnp.int32))
    with pytest.raises(TypeError, match=integers):
        layer.init(key, jnp.zeros((2, 4), jnp.int32))
