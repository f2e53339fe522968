"""Builders of models: what they build, and what they refuse."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl as jd
from jaxdl.models import ACTIVATIONS, mlp, transformer_block, transformer_stack

KEY = jax.random.key(0)
assert_close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def names(layer):
    """The leaves of a model in order."""
    return [name for child in layer.children for name in names(child)] or [layer.label]


def test_mlp_layers():
    assert names(mlp([10])) == ["dense(10)"]
    assert names(mlp([32, 16, 10], activation=jd.tanh)) == [
        "dense(32)", "tanh", "dense(16)", "tanh", "dense(10)"
    ]  # fmt: skip
    assert names(mlp([8, 2], dropout_rate=0.2)) == ["dense(8)", "relu", "dropout(0.2)", "dense(2)"]


def test_mlp_is_the_product_and_activation_of_numpy():
    model, x = mlp([6, 3]), draw(5, 4)
    params = model.init(KEY, x)
    h = np.maximum(x @ params["dense"]["w"], 0)
    assert_close(model.apply(params, x), h @ params["dense_1"]["w"])


def test_mlp_starts_with_variance_two_over_inputs_or_as_told():
    x = jax.ShapeDtypeStruct((1, 500), jnp.float32)
    w = mlp([400, 2]).init(KEY, x)["dense"]["w"]
    assert abs(np.var(w) * 500 / 2 - 1) < 0.02
    params = mlp([4, 2], w_init=jax.nn.initializers.ones).init(KEY, x)
    assert np.all(params["dense"]["w"] == 1) and np.all(params["dense_1"]["w"] == 1)


def test_every_named_activation_is_its_own():
    for name, make in ACTIVATIONS.items():
        assert make().name == name
        assert names(mlp([3, 2], activation=make))[1].startswith(name)


def test_transformer_block_layers():
    norm, gelu = "layer_norm", "gelu(tanh)"
    assert names(transformer_block(8, 2)) == [
        norm, "self_attention(2, causal)", norm, "dense(32)", gelu, "dense(8)"
    ]  # fmt: skip
    full = transformer_block(8, 4, hidden=10, causal=False, dropout_rate=0.1)
    drop = "dropout(0.1)"
    assert names(full) == [
        norm, "self_attention(4)", drop, norm, "dense(10)", gelu, "dense(8)", drop
    ]  # fmt: skip


def test_transformer_block_is_pre_norm_with_two_skips():
    model, x = transformer_block(8, 2, hidden=10), draw(2, 5, 8)
    params = model.init(KEY, x)
    norm1, attention, norm2 = (params[k] for k in ("attention_norm", "attention", "mlp_norm"))
    up, down = params["mlp"]["dense"], params["mlp"]["dense_1"]
    h = x + jd.self_attention(2, causal=True).apply(attention, jd.layer_norm().apply(norm1, x))
    inner = jax.nn.gelu(jd.layer_norm().apply(norm2, h) @ up["w"] + up["b"], approximate=True)
    assert_close(model.apply(params, x), h + inner @ down["w"] + down["b"])


def test_transformer_stack_is_its_blocks_one_after_the_other():
    model, block, x = transformer_stack(3, 8, 2), transformer_block(8, 2), draw(2, 5, 8)
    params = model.init(KEY, x)
    y = x
    for i in range(3):
        y = block.apply(jax.tree.map(lambda p, i=i: p[i], params), y)
    assert_close(model.apply(params, x), y)
    assert repr(transformer_stack(3, 8, 2, causal=False)).startswith("repeat(3)\n└─ skips")


def test_dropout_acts_in_training_only():
    model, x = transformer_stack(2, 8, 2, dropout_rate=0.5), draw(2, 5, 8)
    params = model.init(KEY, x)
    plain = transformer_stack(2, 8, 2)
    np.testing.assert_array_equal(model.apply(params, x), plain.apply(params, x))
    assert np.any(model.apply(params, x, KEY) != model.apply(params, x))


def test_errors():
    with pytest.raises(
        ValueError,
        match=r"mlp: widths must name at least the output width, got none; e.g. \[32, 10\]",
    ):
        mlp([])
    with pytest.raises(ValueError, match=r"attention: x.shape\[-1\] must be a multiple of head"):
        transformer_block(8, 3).init(KEY, jnp.zeros((2, 5, 8)))
    model = transformer_stack(2, 8, 2)
    with pytest.raises(
        ValueError, match=r"skips: an arm must keep the shape and dtype of x, .* 6\], got"
    ):
        model.init(KEY, jnp.zeros((2, 5, 6)))
    params = model.init(KEY, jnp.zeros((2, 5, 8)))
    with pytest.raises(ValueError, match=r"attention_norm: x.shape\[-1\] must equal .*\(8\), got"):
        model.apply(params, jnp.zeros((2, 5, 6)))
