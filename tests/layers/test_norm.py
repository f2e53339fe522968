"""Layer norm and RMS norm: against Flax and NumPy, backwards against PyTorch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import jaxdl as jd
from tests.layers.compiled import both_ways

assert_close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
NORMS = {"layer_norm": (jd.layer_norm, linen.LayerNorm), "rms_norm": (jd.rms_norm, linen.RMSNorm)}
each = pytest.mark.parametrize("name", NORMS)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def parameters(name, m):
    params = {"scale": draw(m, seed=1), "shift": draw(m, seed=2)}
    return params if name == "layer_norm" else {"scale": params["scale"]}


def by_numpy(name, params, x, epsilon):
    centred = x - x.mean(-1, keepdims=True) if name == "layer_norm" else x
    normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return normal * params["scale"] + params.get("shift", 0)


@each
@pytest.mark.parametrize("epsilon", [1e-6, 0.1])
def test_forward_is_that_of_flax_and_numpy(name, epsilon):
    ours, theirs = NORMS[name]
    x, params = 3 + 2 * draw(2, 3, 7), parameters(name, 7)
    y = jax.jit(ours(epsilon=epsilon).apply)(params, x)
    module = theirs(epsilon=epsilon, dtype=jnp.float64, use_fast_variance=False)
    flax_names = {"scale": params["scale"]} | ({"bias": params["shift"]} if len(params) > 1 else {})
    with jax.numpy_dtype_promotion("standard"):
        assert_close(y, jax.jit(module.apply)({"params": flax_names}, x))
    assert_close(y, by_numpy(name, params, x, epsilon))


@each
def test_backward_is_that_of_torch(torch, name):
    x, params, dy = draw(2, 3, 7), parameters(name, 7), draw(2, 3, 7, seed=3)
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, *params.values())]
    function = getattr(torch.nn.functional, name)
    function(tensors[0], (7,), *tensors[1:], eps=1e-3).backward(torch.tensor(dy))

    _, gradient, dx = both_ways(NORMS[name][0](epsilon=1e-3), params, x, dy)
    assert_close(dx, tensors[0].grad.numpy())
    for entry, tensor in zip(params, tensors[1:], strict=True):
        assert_close(gradient[entry], tensor.grad.numpy())


@each
def test_init_changes_nothing_but_the_scale_of_the_input(name):
    params = NORMS[name][0]().init(jax.random.key(0), jnp.zeros((2, 5), jnp.float32))
    assert set(params) == set(parameters(name, 5))
    assert np.all(params["scale"] == 1) and not np.any(params.get("shift", 0))
    assert {p.dtype for p in params.values()} == {np.dtype("float32")}


def test_a_large_offset_does_not_cancel_the_variance():
    x = draw(4, 64).astype(np.float32) + np.float32(4096)  # E[x²] − μ² would lose every digit
    params = {"scale": np.ones(64, np.float32), "shift": np.zeros(64, np.float32)}
    y = jax.jit(jd.layer_norm().apply)(params, x)
    expected = by_numpy("layer_norm", params, x.astype(np.float64), 1e-5)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-3)


@each
def test_statistics_of_bfloat16_are_taken_in_float32(name):
    x = draw(2, 4096).astype(jnp.bfloat16)
    layer = NORMS[name][0]()
    y, residuals = jax.jit(lambda x: layer.fwd(layer.init(jax.random.key(0), x), x))(x)
    assert residuals["r"].dtype == jnp.float32 and y.dtype == jnp.bfloat16
    centred = np.asarray(x, np.float64)
    if name == "layer_norm":
        centred = centred - centred.mean(-1, keepdims=True)
    expected = 1 / np.sqrt((centred**2).mean(-1, keepdims=True))
    np.testing.assert_allclose(residuals["r"], expected, rtol=1e-4)


@each
def test_a_constant_row_is_finite_forwards_and_backwards(name):
    layer, x = NORMS[name][0](), np.zeros((2, 5), np.float32)
    params = layer.init(jax.random.key(0), x)
    y, gradient, dx = both_ways(layer, params, x, np.ones_like(x))
    assert not np.any(y) and np.all(np.isfinite(dx)) and np.all(np.isfinite(gradient["scale"]))


@each
def test_errors(name):
    make = NORMS[name][0]
    with pytest.raises(ValueError, match=rf"{name}: epsilon must be above 0, got 0; a usual one"):
        make(epsilon=0)
    with pytest.raises(ValueError, match=rf"{name}: x must have a last axis.*scalar; use x\[None"):
        make().init(jax.random.key(0), jnp.zeros(()))
    params = make().init(jax.random.key(0), jnp.zeros((2, 4)))
    with pytest.raises(
        ValueError,
        match=rf"{name}: x.shape\[-1\] must equal params\['scale'\].shape\[0\] \(4\), got "
        r"x.shape == \(2, 5\); check the layer before",
    ):
        make().apply(params, jnp.zeros((2, 5)))
    with pytest.raises(TypeError, match=rf"{name}: x must be floating point, got int32"):
        make().apply(params, jnp.zeros((2, 4), jnp.int32))
    with pytest.raises(TypeError, match=rf"{name}: x must be floating point, got int32"):
        make().init(jax.random.key(0), jnp.zeros((2, 4), jnp.int32))
