"""Rules of attention and what belongs to it: heads, positions, masks, the log of the sum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gradcheck_corpus.kinds import Mistake, Pair, normal
from experiments.gradcheck_corpus.pairs_tools import integers, kept, normals, of

_HIDDEN = -1e30


def _causal(n, shift=0):
    return np.tril(np.ones((n, n), bool), -shift)


def _attention(q, k, v):
    scores = jnp.where(_causal(len(q)), q @ k.T / q.shape[-1] ** 0.5, _HIDDEN)
    return jax.nn.softmax(scores, -1) @ v


def _attention_with(scale=None, shift=0, inner=True, masked=True, dk="ij,ik->jk", dv=lambda p: p.T):
    def bwd(q, k, v, g):
        visible, root = _causal(len(q)), q.shape[-1] ** -0.5
        p = jax.nn.softmax(jnp.where(visible, q @ k.T * root, _HIDDEN), -1)
        p = jnp.where(_causal(len(q), shift), p, 0)
        if not masked:
            p = jax.nn.softmax(q @ k.T * root, -1)
        dp = g @ v.T
        ds = p * (dp - inner * (dp * p).sum(-1, keepdims=True)) * (scale or root)
        return ds @ k, jnp.einsum(dk, ds, q), dv(p) @ g

    return kept(_attention, bwd)


ATTENTION = Pair(
    "causal attention", _attention_with(), normals((6, 4), (6, 4), (6, 4)),
    {
        "scale missing": Mistake(
            _attention_with(scale=1.0), "args", r"2 times the right gradient: √\(axis 1"
        ),
        "scale of another size": Mistake(
            _attention_with(scale=6**-0.5), "args", "times the right gradient"
        ),
        "mask off by one": Mistake(_attention_with(shift=1), "args"),
        "mask not in the backward": Mistake(_attention_with(masked=False), "args"),
        "softmax's inner product missing": Mistake(_attention_with(inner=False), "args"),
        "scores turned for the keys": Mistake(_attention_with(dk="ij,jk->ik"), "args[1]"),
        "weights not turned for the values": Mistake(_attention_with(dv=lambda p: p), "args[2]"),
    },
)  # fmt: skip


def _with_lse(q, k, v):
    """Attention, and the log of each row's sum, which merges blocks of keys."""
    s = q @ k.T
    return jax.nn.softmax(s, -1) @ v, jax.scipy.special.logsumexp(s, -1)


def _with_lse_with(second=1.0):
    def bwd(q, k, v, g):
        s, (do, dl) = q @ k.T, g
        p, dp = jax.nn.softmax(s, -1), do @ v.T
        ds = p * (dp - (dp * p).sum(-1, keepdims=True) + second * dl[:, None])
        return ds @ k, ds.T @ q, p.T @ do

    return kept(_with_lse, bwd)


LSE = Pair(
    "attention and its log sum", _with_lse_with(), normals((5, 3), (7, 3), (7, 4), scale=0.7),
    {
        "second output dropped": Mistake(
            _with_lse_with(second=0.0), "args", "output 1", "flash-attention#1817"
        ),
        "second output subtracted": Mistake(_with_lse_with(second=-1.0), "args", "output 1"),
    },
)  # fmt: skip

# --- heads --------------------------------------------------------------------------------------

_HEADS, _SHARED = 4, 2
_RIGHT_MAP = np.arange(_HEADS) // (_HEADS // _SHARED)
_WRONG_MAP = np.arange(_HEADS) % _SHARED


def _grouped(q, k, v):
    """q (heads, n, d), k and v (shared heads, n, d): two query heads use one of keys."""
    s = jnp.einsum("hid,hjd->hij", q, k[_RIGHT_MAP])
    return jax.nn.softmax(s, -1) @ v[_RIGHT_MAP]


def _grouped_with(keys=_RIGHT_MAP, add=True):
    def bwd(q, k, v, g):
        p = jax.nn.softmax(jnp.einsum("hid,hjd->hij", q, k[_RIGHT_MAP]), -1)
        dp = jnp.einsum("hid,hjd->hij", g, v[_RIGHT_MAP])
        ds = p * (dp - (dp * p).sum(-1, keepdims=True))
        dk, dv = (jnp.einsum("hij,hid->hjd", a, b) for a, b in ((ds, q), (p, g)))
        at = jnp.zeros_like(k).at[keys]
        dk = at.add(dk) if add else at.set(dk)
        return ds @ k[_RIGHT_MAP], dk, jnp.zeros_like(v).at[_RIGHT_MAP].add(dv)

    return kept(_grouped, bwd)


GROUPED = Pair(
    "grouped attention", _grouped_with(), normals((4, 5, 3), (2, 5, 3), (2, 5, 3), scale=0.8),
    {
        "wrong head map": Mistake(_grouped_with(keys=_WRONG_MAP), "args[1]"),
        "one query head of each group": Mistake(_grouped_with(add=False), "args[1]"),
    },
)  # fmt: skip

# --- positions ----------------------------------------------------------------------------------


def _rotation(n, d, dtype):
    angles = np.arange(n)[:, None] * 10.0 ** (-2 * np.arange(d // 2) / d)
    return jnp.asarray(np.cos(angles), dtype), jnp.asarray(np.sin(angles), dtype)


def _rotated(x, turn=1.0, pairs="halves"):
    cos, sin = _rotation(x.shape[0], x.shape[1], x.dtype)
    if pairs == "halves":
        a, b = jnp.split(x, 2, -1)
    else:
        a, b = x[:, ::2], x[:, 1::2]
    return jnp.concatenate([a * cos - turn * b * sin, b * cos + turn * a * sin], -1)


ROTARY = Pair(
    "rotary positions", of(_rotated, lambda x, g: _rotated(g, -1.0)), normals((6, 8)),
    {
        "rotated the wrong way": Mistake(of(_rotated, lambda x, g: _rotated(g))),
        "even and odd for halves": Mistake(
            of(_rotated, lambda x, g: _rotated(g, -1.0, "even and odd"))
        ),
    },
)  # fmt: skip


def _pooled(x, lengths):
    """Attention pooling of rows (b, n, d) of which the first `lengths` count."""
    seen = jnp.arange(x.shape[1]) < lengths[:, None]
    p = jax.nn.softmax(jnp.where(seen, x.mean(-1), _HIDDEN), -1)
    return jnp.einsum("bn,bnd->bd", jnp.where(seen, p, 0), x)


def _pooled_with(padded=False, through=True):
    def bwd(x, lengths, g):
        seen = jnp.arange(x.shape[1]) < lengths[:, None]
        p = jnp.where(seen, jax.nn.softmax(jnp.where(seen, x.mean(-1), _HIDDEN), -1), 0)
        dp = jnp.einsum("bd,bnd->bn", g, x)
        ds = p * (dp - (dp * p).sum(-1, keepdims=True)) / x.shape[-1]
        spread = jax.nn.softmax(x.mean(-1), -1) if padded else p
        return spread[..., None] * g[:, None] + through * ds[..., None], None

    return kept(_pooled, bwd)


POOLED = Pair(
    "attention pooling of padded rows", _pooled_with(),
    lambda rng, dtype: (normal(rng, dtype, 3, 6, 4), 1 + integers(rng, 6, 3)),
    {
        "padding gets a gradient": Mistake(_pooled_with(padded=True)),
        "scores detached": Mistake(_pooled_with(through=False)),
    },
)  # fmt: skip


def _distance(s, bias, sign=1):
    """Of each row and column, none beyond the ends of the bias."""
    rows, columns = (np.arange(n) for n in s.shape[-2:])
    return np.clip(sign * (rows[:, None] - columns) + len(bias) // 2, 0, len(bias) - 1)


def _capped(s, bias):
    """Scores with a soft cap, and a bias of every relative distance."""
    return 5 * jnp.tanh(s / 5) + bias[_distance(s, bias)]


def _capped_with(slope=True, distance=1, heads=lambda g: g.sum(0)):
    def bwd(s, bias, g):
        ds = g * (1 - jnp.tanh(s / 5) ** 2) if slope else g
        return ds, jnp.zeros_like(bias).at[_distance(s, bias, distance)].add(heads(g))

    return kept(_capped, bwd)


CAPPED = Pair(
    "capped scores with a relative bias", _capped_with(), normals((3, 5, 5), (9,)),
    {
        "cap forgotten": Mistake(_capped_with(slope=False), "args[0]"),
        "distance the other way": Mistake(
            _capped_with(distance=-1), "args[1]", "turned round along axis 0"
        ),
        "first head alone": Mistake(_capped_with(heads=lambda g: g[0]), "args[1]"),
    },
)  # fmt: skip


def _linear_attention(q, k, v):
    """Row i: qᵢ (Σⱼ≤ᵢ kⱼ vⱼᵀ)."""
    return jnp.where(_causal(len(q)), q @ k.T, 0) @ v


def _linear_attention_with(causal=True):
    def bwd(q, k, v, g):
        seen = _causal(len(q))
        a, da = jnp.where(seen, q @ k.T, 0), jnp.where(seen, g @ v.T, 0)
        # the sums for keys and values run from the last row to the first
        back = da.T if causal else jnp.where(seen, (g @ v.T).T, 0)
        return da @ k, back @ q, a.T @ g

    return kept(_linear_attention, bwd)


LINEAR_ATTENTION = Pair(
    "linear attention", _linear_attention_with(), normals((6, 3), (6, 3), (6, 2)),
    {"sum from the wrong end": Mistake(_linear_attention_with(causal=False), "args[1]")},
)  # fmt: skip

PAIRS = (ATTENTION, LSE, GROUPED, ROTARY, POOLED, CAPPED, LINEAR_ATTENTION)
