"""Multi-head attention of one sequence to another, which comes as a side input.

Shapes: x (N, T, m), memory (N, S, n); H heads of width h, K of them for keys and values;
w_q (m, Hh), w_kv (n, 2Kh), w_out (Hh, m).

    q = x·w_q + b_q        k, v = split(memory·w_kv + b_kv)
    o = attention of q to k and v           (jaxdl.layers.attention_core)
    y = o·w_out + b_out

    do = dy·w_outᵀ          dq, dk, dv: of attention
    dx = dq·w_qᵀ            dmemory = dkv·w_kvᵀ
    dw_q = Σ x ⊗ dq         dw_kv = Σ memory ⊗ dkv      dw_out = Σ o ⊗ dy

Reference: Vaswani et al. (2017, arXiv:1706.03762), section 3.2.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.core.factors import Outer, Sum
from jaxdl.core.layer import Layer, leaf
from jaxdl.core.side import With
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
from jaxdl.numerics.checks import check_floating, check_params


def _init(key, x, *, s: Heads, w_init):
    memory = _memory_of(s.name, x.side)
    x = x.x
    check_sequence(s.name, "x", x)
    check_sequence(s.name, "the memory", memory)
    h, m = s.width(x), x.shape[-1]
    inner, both = s.heads * h, 2 * s.kv_heads * h
    q_key, kv_key, out_key = jax.random.split(key, 3)
    return {
        "w_q": w_init(q_key, (m, inner), x.dtype),
        "b_q": jnp.zeros(inner, x.dtype),
        "w_kv": w_init(kv_key, (memory.shape[-1], both), x.dtype),
        "b_kv": jnp.zeros(both, x.dtype),
        "w_out": w_init(out_key, (inner, m), x.dtype),
        "b_out": jnp.zeros(m, x.dtype),
    }


def _memory_of(name: str, side: Any) -> Any:
    if not isinstance(side, dict) or "memory" not in side:
        got = f"entries {sorted(side)}" if isinstance(side, dict) else f"a {type(side).__name__}"
        raise ValueError(
            f"{name}: the side input must be a dict with the entry 'memory', the sequence that is "
            f"attended to, got {got}; give With(x, {{'memory': ...}})"
        )
    return side["memory"]


def _fwd(params, x, key=None, *, s: Heads):
    x, side = x.x, x.side
    memory = _memory_of(s.name, side)
    check_floating(s.name, x)
    h, m, n = s.width(x), x.shape[-1], memory.shape[-1]
    inner, both = s.heads * h, 2 * s.kv_heads * h
    if x.ndim != 3 or memory.ndim != 3 or len(x) != len(memory):
        raise ValueError(
            f"{s.name}: x and the memory must have axes (examples, positions, features), as many "
            f"examples both, got shapes {x.shape} and {memory.shape}"
        )
    shapes = {"b_q": (inner,), "b_kv": (both,), "w_out": (inner, m), "b_out": (m,)}
    check_params(s.name, params, w_q=(m, inner), w_kv=(n, both), **shapes)
    q, kv = affine(x, params, "w_q", "b_q"), affine(memory, params, "w_kv", "b_kv")
    (q_heads,), (k, v) = split_heads(q, (s.heads,), h), split_heads(kv, (s.kv_heads,) * 2, h)
    o, kept = attend(q_heads, k, v, s.core, side_of(s.name, s.reads, s.heads, side, x, memory), key)
    o = o.reshape(*x.shape[:-1], inner)
    kept = kept if key is None else kept | {"key": key}
    return affine(o, params, "w_out", "b_out"), {"x": x, "q": q, "kv": kv, "o": o, **kept}


def _bwd(params, residuals, dy, *, s: Heads):
    kept, side = residuals.x, residuals.side
    x, o, memory = kept["x"], kept["o"], side["memory"]
    h = s.width(x)
    (q,), (k, v) = (
        split_heads(kept["q"], (s.heads,), h),
        split_heads(kept["kv"], (s.kv_heads,) * 2, h),
    )
    do = dy @ params["w_out"].astype(dy.dtype).T
    dq, dk, dv, dbias = attend_back(
        q, k, v, o.reshape(q.shape), kept, do.reshape(q.shape), s.core,
        side_of(s.name, s.reads, s.heads, side, x, memory), kept.get("key"),
    )  # fmt: skip
    dq = dq.reshape(kept["q"].shape)
    dkv = jnp.concatenate([part.reshape(*memory.shape[:2], -1) for part in (dk, dv)], axis=-1)
    factors = {
        "w_q": Outer(x, dq),
        "b_q": Sum(dq),
        "w_kv": Outer(memory, dkv),
        "b_kv": Sum(dkv),
        "w_out": Outer(o, dy),
        "b_out": Sum(dy),
    }
    dmemory = (dkv @ params["w_kv"].astype(dkv.dtype).T).astype(memory.dtype)
    dx = dq @ params["w_q"].astype(dy.dtype).T
    return factors, With(dx, side_cotangent(side, dbias, memory=dmemory))


def cross_attention(
    heads: int,
    *,
    kv_heads: int | None = None,
    head_features: int | None = None,
    soft_cap: float | None = None,
    dropout: float = 0.0,
    reads: Sequence[str] = (),
    w_init: jax.nn.initializers.Initializer = jax.nn.initializers.lecun_normal(),
) -> Layer:
    """Multi-head attention of x to another sequence: (N, T, m) to the same shape.

    x comes as ``With(x, {"memory": memory, ...})``, memory (N, S, n). It is kept once, whatever
    many layers read it, and has its cotangent beside that of x.

    Args:
      heads, kv_heads, head_features, soft_cap, dropout, w_init: as in `self_attention`.
      reads: what else is read of the side input: "memory_lengths" (N,), how many positions of the
        memory are real; "mask" and "bias", broadcast to (N, heads, T, S).

    Raises:
      ValueError: as `self_attention`; a side input without a memory.
    """
    s = checked(
        Heads(
            "cross_attention", heads, heads if kv_heads is None else kv_heads, head_features,
            None, Settings(soft_cap=soft_cap, dropout=float(dropout)), ("memory", *reads),
        )
    )  # fmt: skip
    return leaf(
        "cross_attention",
        partial(_init, s=s, w_init=w_init),
        partial(_fwd, s=s),
        partial(_bwd, s=s),
        params=("w_q", "b_q", "w_kv", "b_kv", "w_out", "b_out"),
        keyed=dropout > 0,
        side=True,
        detail=said_of(s),
    )
