"""Multi-head self-attention.

Shapes: x (..., T, m); H heads of width h, K of them for keys and values; w_qkv (m, (H+2K)h),
b_qkv ((H+2K)h,), w_out (Hh, m), b_out (m,).

    q, k, v = split(x·w_qkv + b_qkv)        q, k turned by their positions if `rotary`
    o = attention of q to k and v           (jaxdl.layers.attention_core)
    y = o·w_out + b_out

    do = dy·w_outᵀ                     dw_out = Σ o ⊗ dy       db_out = Σ dy
    dq, dk, dv: of attention           dq, dk turned back
    dx = dqkv·w_qkvᵀ                   dw_qkv = Σ x ⊗ dqkv     db_qkv = Σ dqkv

Reference: Vaswani et al. (2017, arXiv:1706.03762), section 3.2.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core.factors import Outer, Sum
from jaxdl.core.layer import Layer, leaf
from jaxdl.core.side import With, split_side
from jaxdl.layers.attention_core import Settings, attend, attend_back
from jaxdl.layers.attention_heads import (
    Heads,
    affine,
    check_sequence,
    checked,
    said_of,
    side_cotangent,
    split_heads,
)
from jaxdl.layers.attention_side import side_of
from jaxdl.layers.positions import rotate
from jaxdl.numerics.checks import check_floating, check_params


def _init(key, x, *, s: Heads, w_init):
    x = split_side(x)[0]
    check_sequence(s.name, "x", x)
    h, m = s.width(x), x.shape[-1]
    inner, all_heads = s.heads * h, (s.heads + 2 * s.kv_heads) * h
    qkv_key, out_key = jax.random.split(key)
    return {
        "w_qkv": w_init(qkv_key, (m, all_heads), x.dtype),
        "b_qkv": jnp.zeros(all_heads, x.dtype),
        "w_out": w_init(out_key, (inner, m), x.dtype),
        "b_out": jnp.zeros(m, x.dtype),
    }


def _fwd(params, x, key=None, *, s: Heads):
    x, side = split_side(x)
    check_floating(s.name, x)
    if x.ndim < 2 or x.shape[-1] != params["w_qkv"].shape[0]:
        raise ValueError(
            f"{s.name}: x must have shape (..., positions, {params['w_qkv'].shape[0]}), as "
            f"init has seen it, got x.shape == {x.shape}; check the layer before"
        )
    h, m = s.width(x), x.shape[-1]
    inner, all_heads = s.heads * h, (s.heads + 2 * s.kv_heads) * h
    shapes = {"b_qkv": (all_heads,), "w_out": (inner, m), "b_out": (m,)}
    check_params(s.name, params, w_qkv=(None, all_heads), **shapes)
    qkv = affine(x, params, "w_qkv", "b_qkv")
    q, k, v = _heads(qkv, s, h)
    o, kept = attend(q, k, v, s.core, side_of(s.name, s.reads, s.heads, side, x, x), key)
    o = o.reshape(*x.shape[:-1], inner)
    kept = kept if key is None else kept | {"key": key}
    return affine(o, params, "w_out", "b_out"), {"x": x, "qkv": qkv, "o": o, **kept}


def _heads(qkv: Array, s: Heads, h: int) -> tuple[Array, Array, Array]:
    q, k, v = split_heads(qkv, (s.heads, s.kv_heads, s.kv_heads), h)
    if s.rotary is not None:
        q, k = rotate(q, s.rotary), rotate(k, s.rotary)
    return q, k, v


def _bwd(params, residuals, dy, *, s: Heads):
    kept, side = split_side(residuals)
    x, qkv, o = kept["x"], kept["qkv"], kept["o"]
    q, k, v = _heads(qkv, s, s.width(x))
    do = dy @ params["w_out"].astype(dy.dtype).T
    dq, dk, dv, dbias = attend_back(
        q, k, v, o.reshape(q.shape), kept, do.reshape(q.shape), s.core,
        side_of(s.name, s.reads, s.heads, side, x, x), kept.get("key"),
    )  # fmt: skip
    if s.rotary is not None:
        dq, dk = rotate(dq, s.rotary, back=True), rotate(dk, s.rotary, back=True)
    rows = (*x.shape[:-1], -1)
    dqkv = jnp.concatenate([part.reshape(rows) for part in (dq, dk, dv)], axis=-1)
    factors = {
        "w_qkv": Outer(x, dqkv),
        "b_qkv": Sum(dqkv),
        "w_out": Outer(o, dy),
        "b_out": Sum(dy),
    }
    dx = dqkv @ params["w_qkv"].astype(dy.dtype).T
    return factors, With(dx, side_cotangent(side, dbias)) if s.reads else dx


def self_attention(
    heads: int,
    *,
    causal: bool = False,
    window: int | None = None,
    kv_heads: int | None = None,
    head_features: int | None = None,
    rotary: float | None = None,
    soft_cap: float | None = None,
    dropout: float = 0.0,
    reads: Sequence[str] = (),
    w_init: jax.nn.initializers.Initializer = jax.nn.initializers.lecun_normal(),
) -> Layer:
    """Multi-head self-attention with one fused projection: (..., T, m) to the same shape.

    Over many positions the backward pass goes through blocks of queries and holds no array of
    T × T. A query that may see nothing has the output of no value, `b_out`, and no cotangent.

    Args:
      heads: number of heads, at least 1.
      causal: whether a position sees only itself and those before it.
      window: a position sees only those less than so many places away.
      kv_heads: how many heads of keys and values there are, shared by groups of the others; by
        default `heads`.
      head_features: width of a head; by default m / heads.
      rotary: the base of rotary positions, usually 10,000; None for none.
      soft_cap: scores are bent to be at most so large, c·tanh(s/c).
      dropout: the rate at which probabilities are dropped in training.
      reads: what is read of the side input, a dict: "lengths" (N,), how many positions are real;
        "segments" (N, T) integers, those of one sequence being equal, where several are packed;
        "mask", boolean, and "bias", floating point, both broadcast to (N, heads, T, T).
      w_init: initial weights of both projections; biases start at 0.

    Raises:
      ValueError: m is not a multiple of heads and no `head_features` was given; settings out of
        range; shapes that init has not seen.
    """
    s = checked(
        Heads(
            "self_attention", heads, heads if kv_heads is None else kv_heads, head_features,
            rotary, Settings(causal, window, soft_cap, float(dropout)), tuple(reads),
        )
    )  # fmt: skip
    return leaf(
        "self_attention",
        partial(_init, s=s, w_init=w_init),
        partial(_fwd, s=s),
        partial(_bwd, s=s),
        params=("w_qkv", "b_qkv", "w_out", "b_out"),
        keyed=dropout > 0,
        side=bool(s.reads),
        detail=said_of(s),
    )
