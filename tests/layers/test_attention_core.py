"""Attention of queries to keys: against `jax.nn.dot_product_attention`, whole and in blocks."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.layers import attention_core
from jaxdl.layers.attention_core import Settings, Side, attend, attend_back

assert_close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-11)
as_in_float32 = partial(np.testing.assert_allclose, rtol=5e-6, atol=2e-6)
"""The softmax of `jax.nn.dot_product_attention` is in float32, whatever the inputs are."""
N, T, HEADS, KV, H = 2, 7, 4, 2, 3
LENGTHS = jnp.array([7, 3], jnp.int32)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


Q, K, V = draw(N, T, HEADS, H), draw(N, T, KV, H, seed=1), draw(N, T, KV, H, seed=2)
DO, BIAS = draw(N, T, HEADS, H, seed=3), draw(1, HEADS, T, T, seed=4)
MASK = jnp.asarray(np.random.default_rng(5).random((N, 1, T, T)) < 0.7).at[..., 0].set(True)


@pytest.fixture(params=["whole", "blocks"])
def way(request, monkeypatch):
    """Blocks of three queries: the last one is smaller."""
    if request.param == "blocks":
        monkeypatch.setattr(attention_core, "WHOLE", 0)
        monkeypatch.setattr(attention_core, "BLOCK", 3)
    return request.param


ORACLE = {
    "full": ({}, {}, {}),
    "causal": ({"causal": True}, {}, {"is_causal": True}),
    "bias": ({}, {"bias": BIAS}, {"bias": BIAS}),
    "mask": ({"causal": True}, {"mask": MASK}, {"is_causal": True, "mask": MASK}),
    "lengths": ({}, {"lengths": LENGTHS}, {"key_value_seq_lengths": LENGTHS}),
    "window": ({"window": 3}, {}, {"local_window_size": 2}),
    "causal window": (
        {"causal": True, "window": 3}, {}, {"is_causal": True, "local_window_size": (2, 0)}
    ),
}  # fmt: skip


def forward_and_back(settings, side, key=None):
    """o and all cotangents, by hand and by autodiff of the forward."""

    @jax.jit
    def run(q, k, v, do):
        o, kept = attend(q, k, v, settings, side, key)
        by_hand = attend_back(q, k, v, o, kept, do, settings, side, key)

        def loss(q, k, v, bias):
            beside = side if bias is None else Side(**{**vars(side), "bias": bias})
            return jnp.sum(attend(q, k, v, settings, beside, key)[0] * do)

        wrt = (0, 1, 2) if side.bias is None else (0, 1, 2, 3)
        return o, by_hand, jax.grad(loss, wrt)(q, k, v, side.bias)

    return run(Q, K, V, DO)


@pytest.mark.parametrize("name", ORACLE)
def test_outputs_and_cotangents_are_those_of_jax(name, way):
    settings, side, theirs = ORACLE[name]
    o, by_hand, by_autodiff = forward_and_back(Settings(**settings), Side(**side))

    def oracle(q, k, v, **more):
        with jax.numpy_dtype_promotion("standard"):
            return jax.nn.dot_product_attention(q, k, v, **(theirs | more))

    expected, pull = jax.vjp(oracle, Q, K, V)
    as_in_float32(o, expected)
    for theirs_, hand in zip(pull(DO), by_hand, strict=False):
        as_in_float32(hand, theirs_)
    for ours, hand in zip(by_autodiff, by_hand, strict=False):
        assert_close(hand, ours)
    if "bias" in side:
        biased = jax.grad(
            lambda b: jnp.sum(oracle(Q, K, V, bias=b) * DO)
        )(BIAS)  # fmt: skip
        as_in_float32(by_hand[3], biased)


SEGMENTS = jnp.array([[0, 0, 0, 1, 1, 1, 1], [5, 5, 5, 5, 5, 2, 2]], jnp.int32)


def test_packed_sequences_are_the_sequences_alone(way):
    side = Side(segments=(SEGMENTS, SEGMENTS))
    o, by_hand, by_autodiff = forward_and_back(Settings(causal=True), side)
    for ours, hand in zip(by_autodiff, by_hand, strict=False):
        assert_close(hand, ours)
    for n, cut in ((0, 3), (1, 5)):
        for part in (slice(0, cut), slice(cut, T)):
            q, k, v = (x[n : n + 1, part] for x in (Q, K, V))
            alone, _ = attend(q, k, v, Settings(causal=True), Side())
            assert_close(o[n : n + 1, part], alone)


def test_a_soft_cap_bends_the_scores(way):
    settings = Settings(soft_cap=0.6, causal=True)
    o, by_hand, by_autodiff = forward_and_back(settings, Side(bias=BIAS))
    for ours, hand in zip(by_autodiff, by_hand, strict=True):
        assert_close(hand, ours)
    k, v = (jnp.repeat(x, HEADS // KV, axis=2) for x in (K, V))
    s = 0.6 * jnp.tanh(jnp.einsum("nthd,nshd->nhts", Q, k) * H**-0.5 / 0.6) + BIAS
    p = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((T, T), bool)), s, -jnp.inf))
    assert_close(o, jnp.einsum("nhts,nshd->nthd", p, v))


def test_a_query_that_sees_nothing_gives_nothing_and_no_nan(way):
    mask = MASK.at[:, :, 2].set(False)
    settings, side = Settings(soft_cap=2.0), Side(mask=mask, bias=BIAS)
    o, by_hand, by_autodiff = forward_and_back(settings, side)
    assert not np.any(o[:, 2]) and np.any(o[:, 1])
    assert not np.any(by_hand[0][:, 2]) and not np.any(by_hand[3][:, :, 2])
    for ours, hand in zip(by_autodiff, by_hand, strict=True):
        assert np.isfinite(hand).all()
        assert_close(hand, ours)


def test_dropout_has_one_mask_for_both_passes(way):
    settings, key = Settings(dropout=0.5), jax.random.key(0)
    o, by_hand, by_autodiff = forward_and_back(settings, Side(), key)
    for ours, hand in zip(by_autodiff, by_hand, strict=False):
        assert_close(hand, ours)
    keys = jax.random.split(key, 4000)
    mean = jax.jit(lambda: jnp.mean(jax.vmap(
        lambda k: attend(Q, K, V, settings, Side(), k)[0])(keys), axis=0))()  # fmt: skip
    plain = attend(Q, K, V, Settings(), Side())[0]
    assert np.abs(mean - plain).max() < 0.1 and np.abs(o - plain).max() > 0.1
    np.testing.assert_array_equal(attend(Q, K, V, settings, Side())[0], plain)  # in evaluation


# --- memory -------------------------------------------------------------------------------------

LONG = 1536


def compiled(f, t):
    shapes = [jax.ShapeDtypeStruct((1, t, heads, 8), jnp.float32) for heads in (2, 2, 2, 2)]
    return jax.jit(f).lower(*shapes).compile()


def both(q, k, v, do):
    settings = Settings(causal=True)
    o, kept = attend(q, k, v, settings, Side())
    return o, attend_back(q, k, v, o, kept, do, settings, Side())


def tangents(q, k, v, dq):
    def run(q):
        return attend(q, k, v, Settings(causal=True), Side())[0]

    return jax.jvp(run, (q,), (dq,))


@pytest.mark.parametrize("f", [both, tangents])
def test_over_many_positions_no_array_of_all_pairs_exists(f):
    program: Any = compiled(f, LONG)
    assert f"{LONG},{LONG}]" not in str(program.as_text())
    twice: Any = compiled(f, 2 * LONG)
    few, many = (p.memory_analysis().temp_size_in_bytes for p in (program, twice))
    assert many < 2.5 * few  # linear in the positions, with a block of scores
    assert many < 4 * 2 * (2 * LONG) ** 2 / 4  # bytes: a quarter of the scores of all pairs


def test_few_positions_are_held_whole():
    assert "lse" not in attend(Q, K, V, Settings(), Side())[1]
