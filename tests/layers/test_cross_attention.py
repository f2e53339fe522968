"""Cross-attention against PyTorch, its memory's cotangent too; what attention reads, by name."""

from functools import partial

import jax
import numpy as np
import pytest

import jaxdl as jd
from jaxdl import With
from tests.layers.compiled import both_ways

assert_close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-11)
N, T, S, M, MEMORY, HEADS = 3, 4, 5, 6, 7, 2
LENGTHS = np.array([5, 2, 3], np.int32)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def parameters(layer, x):
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    return {name: draw(*shapes[name].shape, seed=i) for i, name in enumerate(sorted(shapes))}


def test_outputs_and_all_cotangents_are_those_of_pytorch(torch):
    layer = jd.cross_attention(HEADS, reads=("memory_lengths",))
    x, memory, dy = draw(N, T, M), draw(N, S, MEMORY, seed=7), draw(N, T, M, seed=8)
    given = With(x, {"memory": memory, "memory_lengths": LENGTHS})
    params = parameters(layer, given)
    y, grads, dx = both_ways(layer, params, given, dy)

    module = torch.nn.MultiheadAttention(M, HEADS, kdim=MEMORY, vdim=MEMORY, batch_first=True)
    module = module.double()
    w_k, w_v = np.split(params["w_kv"], 2, axis=1)
    b = np.concatenate([params["b_q"], params["b_kv"]])
    for name, value in {
        "q_proj_weight": params["w_q"].T, "k_proj_weight": w_k.T, "v_proj_weight": w_v.T,
        "in_proj_bias": b,
    }.items():  # fmt: skip
        getattr(module, name).data = torch.tensor(np.ascontiguousarray(value))
    module.out_proj.weight.data = torch.tensor(np.ascontiguousarray(params["w_out"].T))
    module.out_proj.bias.data = torch.tensor(params["b_out"])
    x_t, memory_t = (torch.tensor(a, requires_grad=True) for a in (x, memory))
    padding = torch.tensor(np.arange(S) >= LENGTHS[:, None])
    y_t, _ = module(x_t, memory_t, memory_t, key_padding_mask=padding)
    (y_t * torch.tensor(dy)).sum().backward()
    assert_close(y, y_t.detach())
    assert_close(dx.x, x_t.grad)
    assert_close(dx.side["memory"], memory_t.grad)
    assert dx.side["memory_lengths"] is None
    theirs = {
        "w_q": module.q_proj_weight.grad.T,
        "w_kv": torch.cat([module.k_proj_weight.grad.T, module.v_proj_weight.grad.T], dim=1),
        "b_q": module.in_proj_bias.grad[:M],
        "b_kv": module.in_proj_bias.grad[M:],
        "w_out": module.out_proj.weight.grad.T,
        "b_out": module.out_proj.bias.grad,
    }
    for name, grad in grads.items():
        assert_close(grad, theirs[name], err_msg=name)


def test_a_memory_that_many_layers_read_is_kept_once():
    model = jd.repeat(jd.skip(jd.cross_attention(HEADS)), 4)
    x, memory = draw(N, T, M), draw(N, S, MEMORY, seed=7)
    given = With(x, {"memory": memory})
    params = model.init(jax.random.key(0), given)
    _, residuals = model.fwd(params, given)
    found = [a.shape for a in jax.tree.leaves(residuals) if a.shape[-1:] == (MEMORY,)]
    assert found == [memory.shape]


def test_grouped_heads_are_heads_of_which_some_are_equal():
    grouped, full = (
        jd.self_attention(4, kv_heads=2, head_features=3),
        jd.self_attention(4, head_features=3),
    )
    x = draw(N, T, M)
    params = parameters(grouped, x)
    q, k, v = np.split(params["w_qkv"], [12, 18], axis=1)
    b_q, b_k, b_v = np.split(params["b_qkv"], [12, 18])

    def twice(a):
        return np.repeat(a.reshape(*a.shape[:-1], 2, 3), 2, axis=-2).reshape(*a.shape[:-1], 12)

    same = params | {
        "w_qkv": np.concatenate([q, twice(k), twice(v)], axis=1),
        "b_qkv": np.concatenate([b_q, twice(b_k), twice(b_v)]),
    }
    assert_close(jax.jit(grouped.apply)(params, x), jax.jit(full.apply)(same, x))


def test_rotary_attention_does_not_change_when_all_positions_move():
    layer, x = jd.self_attention(2, head_features=4, causal=True, rotary=100.0), draw(1, T, M)
    params = parameters(layer, x)
    behind = np.concatenate([draw(1, 2, M, seed=3), x], axis=1)
    side = {"segments": np.array([[0, 0, 1, 1, 1, 1]], np.int32)}
    packed = jd.self_attention(
        2, head_features=4, causal=True, rotary=100.0, reads=("segments",)
    )  # fmt: skip
    y = jax.jit(packed.apply)(params, With(behind, side))
    assert_close(y[:, 2:], jax.jit(layer.apply)(params, x))


# --- bad input ----------------------------------------------------------------------------------

SETTINGS = {
    "self_attention: kv_heads must divide heads \\(4\\), got 3": lambda: jd.self_attention(
        4, kv_heads=3
    ),
    "self_attention: window must be at least 1 position": lambda: jd.self_attention(2, window=0),
    "self_attention: soft_cap must be above 0, got 0": lambda: jd.self_attention(2, soft_cap=0.0),
    "self_attention: dropout is the fraction": lambda: jd.self_attention(2, dropout=1.0),
    "self_attention: rotary is a base": lambda: jd.self_attention(2, rotary=0.0),
    "self_attention: reads must be among": lambda: jd.self_attention(2, reads=("memory",)),
    "cross_attention: reads must be among": lambda: jd.cross_attention(2, reads=("lengths",)),
}


@pytest.mark.parametrize(("message", "make"), SETTINGS.items())
def test_settings_out_of_range(message, make):
    with pytest.raises(ValueError, match=message):
        make()


def read(entry, value):
    return jd.self_attention(2, reads=(entry,)), With(draw(N, T, M), {entry: value})


def across(**side):
    return jd.cross_attention(2), With(draw(N, T, M), side)


BAD = {
    "no entry": (
        (jd.self_attention(2, reads=("mask",)), With(draw(N, T, M), {"lengths": LENGTHS})),
        "the side input must be a dict with the entries ['mask'], got one without ['mask']",
    ),
    "long": (read("lengths", LENGTHS), "lengths must be in 1 ... 4, the steps of x"),
    "mask of numbers": (read("mask", np.ones((T, T))), "the mask must be boolean"),
    "mask of other heads": (
        read("mask", np.ones((1, 3, T, T), bool)), "(3, 2, 4, 4), got shape (1, 3, 4, 4)"
    ),
    "bias of integers": (read("bias", np.ones((T, T), int)), "the bias must be floating point"),
    "bias of other keys": (read("bias", np.ones((T, 5))), "the bias must broadcast to (examples"),
    "segments of floats": (read("segments", np.ones((N, T))), "segments must be integers of shape"),
    "odd heads turned": (
        (jd.self_attention(2, rotary=10.0), draw(N, T, M)), "a head must have an even number"
    ),
    "no memory": (across(lengths=LENGTHS), "must be a dict with the entry 'memory'"),
    "memory of other examples": (
        across(memory=draw(2, S, MEMORY)), "both, got shapes (3, 4, 6) and (2, 5, 7)"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(given, message):
    layer, x = given
    try:
        params = jax.eval_shape(layer.init, jax.random.key(0), x)
    except ValueError as error:
        assert message in str(error)
        return
    params = {name: np.zeros(p.shape, p.dtype) for name, p in params.items()}
    with pytest.raises((ValueError, TypeError)) as error:
        layer.apply(params, x)
    assert message in str(error.value) and str(error.value).startswith(layer.name)
