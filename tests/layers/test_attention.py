"""Self-attention: against Flax with the same weights, backward against PyTorch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import jaxdl as jd
from tests.layers.compiled import both_ways

assert_close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
either = pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
HEADS, WIDTH, M = 3, 4, 6  # width of a head other than M / HEADS


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def parameters():
    inner = HEADS * WIDTH
    shapes = {"w_qkv": (M, 3 * inner), "b_qkv": (3 * inner,), "w_out": (inner, M), "b_out": (M,)}
    return {name: draw(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}


@either
def test_forward_is_that_of_flax(causal):
    params, x = parameters(), draw(2, 5, M, seed=9)
    kernels = np.split(params["w_qkv"], 3, axis=1)
    biases = np.split(params["b_qkv"], 3)
    flax_params = {
        name: {"kernel": w.reshape(M, HEADS, WIDTH), "bias": b.reshape(HEADS, WIDTH)}
        for name, w, b in zip(("query", "key", "value"), kernels, biases, strict=True)
    }
    out = {"kernel": params["w_out"].reshape(HEADS, WIDTH, M), "bias": params["b_out"]}
    module = linen.MultiHeadDotProductAttention(
        HEADS, qkv_features=HEADS * WIDTH, dtype=jnp.float64, force_fp32_for_softmax=False
    )
    mask = linen.make_causal_mask(jnp.ones((2, 5))) if causal else None
    with jax.numpy_dtype_promotion("standard"):
        expected = jax.jit(module.apply)({"params": flax_params | {"out": out}}, x, mask=mask)
    layer = jd.self_attention(HEADS, causal=causal, head_features=WIDTH)
    assert_close(layer.apply(params, x), np.asarray(expected))


@either
def test_backward_is_that_of_torch(torch, causal):
    params, x, dy = parameters(), draw(2, 5, M, seed=9), draw(2, 5, M, seed=10)
    t = {k: torch.tensor(v, requires_grad=True) for k, v in (params | {"x": x}).items()}
    qkv = (t["x"] @ t["w_qkv"] + t["b_qkv"]).unflatten(-1, (3, HEADS, WIDTH))
    q, k, v = (qkv[:, :, i].transpose(1, 2) for i in range(3))
    o = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    y = o.transpose(1, 2).flatten(2) @ t["w_out"] + t["b_out"]
    y.backward(torch.tensor(dy))

    layer = jd.self_attention(HEADS, causal=causal, head_features=WIDTH)
    got_y, gradient, dx = both_ways(layer, params, x, dy)
    assert_close(got_y, y.detach().numpy())
    for name, got in (gradient | {"x": dx}).items():
        assert_close(got, t[name].grad.numpy(), err_msg=name)


def test_a_causal_position_sees_and_hears_nothing_of_the_future():
    layer, params = jd.self_attention(HEADS, causal=True, head_features=WIDTH), parameters()
    x = draw(1, 5, M)
    later = x.copy()
    later[:, 3:] += 1
    dy = np.zeros((1, 5, M))
    dy[:, 2] = 1
    before, _, dx = both_ways(layer, params, x, dy)
    after = both_ways(layer, params, later, dy)[0]
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert np.all(before[:, 3:] != after[:, 3:])
    assert not np.any(dx[:, 3:]) and np.all(dx[:, :3] != 0)


def test_any_number_of_leading_axes():
    layer, params, x = jd.self_attention(HEADS, head_features=WIDTH), parameters(), draw(2, 3, 5, M)
    y, alone = jax.jit(lambda x: (layer.apply(params, x), layer.apply(params, x[1, 2])))(x)
    assert_close(y[1, 2], alone)


def test_init_divides_the_width_among_the_heads():
    x = jax.ShapeDtypeStruct((2, 5, 8), jnp.float32)
    params = jax.jit(lambda key: jd.self_attention(4).init(key, x))(jax.random.key(0))
    params = jax.device_get(params)
    shapes = {name: p.shape for name, p in params.items()}
    assert shapes == {"w_qkv": (8, 24), "b_qkv": (24,), "w_out": (8, 8), "b_out": (8,)}
    assert not np.any(params["b_qkv"]) and not np.any(params["b_out"])
    assert not np.any(params["w_qkv"][:, :8] == params["w_out"])


def test_large_scores_stay_finite():
    layer = jd.self_attention(1)
    params = {
        "w_qkv": np.full((2, 6), 100, np.float32),
        "b_qkv": np.zeros(6, np.float32),
        "w_out": np.ones((2, 2), np.float32),
        "b_out": np.zeros(2, np.float32),
    }
    x = np.array([[[100, 3], [-100, 5], [7, -100]]], np.float32)
    results = both_ways(layer, params, x, np.ones_like(x))
    assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves(results))


def test_errors():
    key = jax.random.key(0)
    for heads, width in ((0, None), (2, 0)):
        with pytest.raises(
            ValueError,
            match=f"self_attention: heads and head_features must be at least 1, got {heads} and "
            f"{width}; a usual head has 64",
        ):
            jd.self_attention(heads, head_features=width)
    with pytest.raises(
        ValueError,
        match=r"self_attention: x must have axes \(..., positions, features\), got shape \(8,\); "
        "add the axis of positions",
    ):
        jd.self_attention(2).init(key, np.zeros(8))
    with pytest.raises(
        ValueError,
        match=r"self_attention: x.shape\[-1\] must be a multiple of heads \(3\), got x.shape == "
        r"\(5, 8\); change heads, or give head_features",
    ):
        jd.self_attention(3).init(key, np.zeros((5, 8)))
    params = jax.eval_shape(jd.self_attention(2).init, key, np.zeros((5, 8)))
    for shape in ((8,), (5, 7)):
        with pytest.raises(
            ValueError,
            match=r"self_attention: x must have shape \(..., positions, 8\), as init has seen it, "
            rf"got x.shape == \({', ?'.join(map(str, shape))},?\); check the layer before",
        ):
            jd.self_attention(2).apply(params, np.zeros(shape))
    with pytest.raises(
        ValueError,
        match=r"self_attention: params\['w_qkv'\] must have shape \(any, 36\), got \(8, 24\); "
        "use the params that init of this same model",
    ):
        jd.self_attention(3, head_features=4).apply(params, np.zeros((5, 8)))
    for call in (jd.self_attention(2).init, jd.self_attention(2).apply):
        with pytest.raises(TypeError, match="self_attention: x must be floating point, got int32"):
            call(key if call.__name__ == "leaf_init" else params, np.zeros((5, 8), np.int32))
