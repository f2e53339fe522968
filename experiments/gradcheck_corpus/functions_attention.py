"""Attention in its variants with rules by hand."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.gradcheck_corpus.functions_draw import from_inputs, normal, of
from experiments.gradcheck_corpus.kinds import Function

_OUT = -1e9


def _softmax_bwd(p, dp):
    return p * (dp - (dp * p).sum(-1, keepdims=True))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def attention(q, k, v, causal):
    """(..., T, D); keys are kept, the weights are computed again on the way back."""
    return _weights(q, k, causal) @ v


def _weights(q, k, causal):
    scores = q @ jnp.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1])
    if causal:
        visible = np.tril(np.ones(scores.shape[-2:], bool))
        scores = jnp.where(visible, scores, _OUT)
    return jax.nn.softmax(scores, -1)


def _attention_bwd(causal, kept, g):
    q, k, v = kept
    p = _weights(q, k, causal)
    ds = _softmax_bwd(p, g @ jnp.swapaxes(v, -1, -2)) / math.sqrt(q.shape[-1])
    return ds @ k, jnp.swapaxes(ds, -1, -2) @ q, jnp.swapaxes(p, -1, -2) @ g


attention.defvjp(lambda q, k, v, causal: (attention(q, k, v, causal), (q, k, v)), _attention_bwd)


@jax.custom_vjp
def biased_attention(q, k, v, bias, visible):
    """A bias shared by the heads, and a mask of keys that are padding."""
    return _biased_weights(q, k, bias, visible) @ v


def _biased_weights(q, k, bias, visible):
    scores = jnp.einsum("htd,hsd->hts", q, k) / math.sqrt(q.shape[-1]) + bias
    return jax.nn.softmax(jnp.where(visible, scores, _OUT), -1)


def _biased_bwd(kept, g):
    q, k, v, bias, visible = kept
    p = _biased_weights(q, k, bias, visible)
    ds = _softmax_bwd(p, jnp.einsum("htd,hsd->hts", g, v))
    ds = jnp.where(visible, ds, 0)  # where nothing is visible p is no 0 that would do it
    scale = 1 / math.sqrt(q.shape[-1])
    dq, dk = jnp.einsum("hts,hsd->htd", ds, k) * scale, jnp.einsum("hts,htd->hsd", ds, q) * scale
    return dq, dk, jnp.einsum("hts,htd->hsd", p, g), ds.sum(0), None


biased_attention.defvjp(lambda *args: (biased_attention(*args), args), _biased_bwd)


def _grouped(q, k, v):
    """Four heads of queries over two of keys: head h looks at keys h // 2."""
    k, v = jnp.repeat(k, 2, 0), jnp.repeat(v, 2, 0)
    p = jax.nn.softmax(jnp.einsum("htd,hsd->hts", q, k) / math.sqrt(q.shape[-1]), -1)
    return p, k, v


def _grouped_bwd(g, q, k, v):
    p, keys, values = _grouped(q, k, v)
    ds = _softmax_bwd(p, jnp.einsum("htd,hsd->hts", g, values)) / math.sqrt(q.shape[-1])
    dk = jnp.einsum("hts,htd->hsd", ds, q).reshape(2, 2, *k.shape[1:]).sum(1)
    dv = jnp.einsum("hts,htd->hsd", p, g).reshape(2, 2, *v.shape[1:]).sum(1)
    return jnp.einsum("hts,hsd->htd", ds, keys), dk, dv


# --- in blocks of keys, with the running maximum and sum ----------------------------------------

_BLOCK = 4


@jax.custom_vjp
def flash(q, k, v):
    """One query block against keys in blocks; the log-sum-exp is kept, not the weights."""
    return _flash_fwd(q, k, v)[0]


def _blocks(k):
    pad = -k.shape[0] % _BLOCK
    return jnp.pad(k, ((0, pad), (0, 0))).reshape(-1, _BLOCK, k.shape[1])


def _valid(n):
    places = np.arange(n + -n % _BLOCK).reshape(-1, _BLOCK)
    return jnp.asarray(places < n)


def _flash_fwd(q, k, v):
    scale = 1 / math.sqrt(q.shape[1])

    def step(carry, block):
        top, total, acc = carry
        kb, vb, valid = block
        s = jnp.where(valid, q @ kb.T * scale, -jnp.inf)
        new = jnp.maximum(top, s.max(-1))
        p, shrink = jnp.exp(s - new[:, None]), jnp.exp(top - new)
        return (new, total * shrink + p.sum(-1), acc * shrink[:, None] + p @ vb), None

    rows = jnp.zeros_like(q[:, 0])
    start = rows - jnp.inf, rows, jnp.zeros((q.shape[0], v.shape[1]), v.dtype)
    (top, total, acc), _ = lax.scan(step, start, (_blocks(k), _blocks(v), _valid(k.shape[0])))
    y = acc / total[:, None]
    return y, (q, k, v, y, top + jnp.log(total))


def _flash_bwd(kept, g):
    q, k, v, y, lse = kept
    scale = 1 / math.sqrt(q.shape[1])
    delta = (g * y).sum(-1, keepdims=True)

    def step(dq, block):
        kb, vb, valid = block
        p = jnp.where(valid, jnp.exp(q @ kb.T * scale - lse[:, None]), 0)
        ds = p * (g @ vb.T - delta) * scale
        return dq + ds @ kb, (ds.T @ q, p.T @ g)

    dq, (dk, dv) = lax.scan(step, jnp.zeros_like(q), (_blocks(k), _blocks(v), _valid(k.shape[0])))
    n = k.shape[0]
    return dq, dk.reshape(-1, k.shape[1])[:n], dv.reshape(-1, v.shape[1])[:n]


flash.defvjp(_flash_fwd, _flash_bwd)


# --- other kinds --------------------------------------------------------------------------------


def _feature(x):
    return jax.nn.elu(x) + 1


def _linear_attention(q, k, v):
    a, b = _feature(q), _feature(k)
    return a @ (b.T @ v) / (a @ b.sum(0))[:, None]


def _linear_attention_bwd(g, q, k, v):
    a, b = _feature(q), _feature(k)
    state, total = b.T @ v, b.sum(0)
    z = (a @ total)[:, None]
    y = a @ state / z
    h, r = g / z, (g * y).sum(-1) / z[:, 0]
    da = h @ state.T - r[:, None] * total
    db = v @ (a.T @ h).T - (a.T @ r)
    slope = lambda x: jnp.where(x > 0, 1, jnp.exp(jnp.minimum(x, 0)))  # noqa: E731
    return da * slope(q), db * slope(k), b @ (a.T @ h)


def _capped(q, k, v):
    """Scores through 5·tanh(s/5), as some models have it."""
    s = 5 * jnp.tanh(q @ k.T / math.sqrt(q.shape[-1]) / 5)
    return jax.nn.softmax(s, -1) @ v


def _capped_bwd(g, q, k, v):
    scale = 1 / math.sqrt(q.shape[-1])
    t = jnp.tanh(q @ k.T * scale / 5)
    p = jax.nn.softmax(5 * t, -1)
    ds = _softmax_bwd(p, g @ v.T) * (1 - t * t) * scale
    return ds @ k, ds.T @ q, p.T @ g


def _sigmoid_attention(q, k, v):
    s = q @ k.T / math.sqrt(q.shape[-1]) - math.log(k.shape[0])
    return jax.nn.sigmoid(s) @ v


def _sigmoid_attention_bwd(g, q, k, v):
    scale = 1 / math.sqrt(q.shape[-1])
    p = jax.nn.sigmoid(q @ k.T * scale - math.log(k.shape[0]))
    ds = p * (1 - p) * (g @ v.T) * scale
    return ds @ k, ds.T @ q, p.T @ g


def _band(n):
    d = np.arange(n)[:, None] - np.arange(n)
    return (d >= 0) & (d < 3), d


def _windowed(q, k, v):
    """The last three keys, with a slope over the distance (Press et al. 2022)."""
    visible, distance = _band(q.shape[0])
    s = q @ k.T / math.sqrt(q.shape[-1]) - 0.25 * jnp.asarray(distance, q.dtype)
    return jax.nn.softmax(jnp.where(visible, s, -jnp.inf), -1)


def _windowed_bwd(g, q, k, v):
    p = _windowed(q, k, v)
    ds = _softmax_bwd(p, g @ v.T) / math.sqrt(q.shape[-1])
    return ds @ k, ds.T @ q, p.T @ g


def _turns(x, sign):
    """Rotary embedding: pairs of features turned by an angle that grows with the place."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[-2])[:, None] * 100.0 ** -(np.arange(half) / half)
    c, s = jnp.asarray(np.cos(angles), x.dtype), sign * jnp.asarray(np.sin(angles), x.dtype)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * c - b * s, a * s + b * c], -1)


def _heads(rng, dtype):
    q, k, v = (normal(rng, dtype, *s) for s in ((2, 3, 4), (2, 5, 4), (2, 5, 4)))
    visible = jnp.asarray(rng.random((2, 1, 5)) < 0.7).at[..., 0].set(True)
    return q, k, v, normal(rng, dtype, 3, 5), visible


ATTENTION: tuple[Function, ...] = (
    Function("attention", lambda q, k, v: attention(q, k, v, False), of((3, 4), (5, 4), (5, 2))),
    Function(
        "causal attention", lambda q, k, v: attention(q, k, v, True), of((5, 3), (5, 3), (5, 3))
    ),
    Function(
        "attention of 4 axes",
        lambda q, k, v: attention(q, k, v, True),
        of((2, 3, 4, 2), (2, 3, 4, 2), (2, 3, 4, 2)),
    ),
    Function("attention with bias and padding", biased_attention, _heads),
    Function(
        "grouped heads",
        from_inputs(lambda q, k, v: (a := _grouped(q, k, v))[0] @ a[2], _grouped_bwd),
        of((4, 3, 2), (2, 5, 2), (2, 5, 2)),
    ),
    Function("attention by blocks", flash, of((3, 4), (10, 4), (10, 5))),
    Function("attention by blocks, large scores", flash, of((2, 4), (9, 4), (9, 3), scale=6)),
    Function(
        "linear attention",
        from_inputs(_linear_attention, _linear_attention_bwd),
        of((4, 3), (6, 3), (6, 2)),
    ),
    Function(
        "capped scores", from_inputs(_capped, _capped_bwd), of((3, 4), (5, 4), (5, 2), scale=2)
    ),
    Function(
        "sigmoid attention",
        from_inputs(_sigmoid_attention, _sigmoid_attention_bwd),
        of((4, 3), (5, 3), (5, 2)),
    ),
    Function(
        "sliding window",
        from_inputs(lambda q, k, v: _windowed(q, k, v) @ v, _windowed_bwd),
        of((7, 3), (7, 3), (7, 2)),
    ),
    Function(
        "rotary embedding",
        from_inputs(lambda x: _turns(x, 1), lambda g, x: (_turns(g, -1),)),
        of((2, 5, 6)),
    ),
)
