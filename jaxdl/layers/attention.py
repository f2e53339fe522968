"""Multi-head self-attention, causal or not.

Shapes: x (..., T, m); H heads of width h; w_qkv (m, 3Hh), b_qkv (3Hh,), w_out (Hh, m), b_out (m,);
q, k, v, o (..., T, H, h); scores s and probabilities p (..., H, T, T).

    q, k, v = split(x·w_qkv + b_qkv)
    s  = q·kᵀ/√h   (−∞ above the diagonal if causal)
    p  = softmax(s)
    o  = p·v
    y  = o·w_out + b_out

    do = dy·w_outᵀ                     dw_out = Σ o ⊗ dy       db_out = Σ dy
    dv = pᵀ·do
    ds = p(do·vᵀ − Σ do·o)             (Σ over h: equal to Σ dp·p over positions, and shorter)
    dq = ds·k/√h     dk = dsᵀ·q/√h
    dx = dqkv·w_qkvᵀ                   dw_qkv = Σ x ⊗ dqkv     db_qkv = Σ dqkv

Reference: Vaswani et al. (2017, arXiv:1706.03762), section 3.2.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core.factors import Outer, Sum
from jaxdl.core.layer import Layer, leaf
from jaxdl.numerics.checks import check_floating, check_params
from jaxdl.numerics.dtypes import wide


def _init(key, x, *, heads, head_features, w_init):
    check_floating("self_attention", x)
    if len(x.shape) < 2:
        raise ValueError(
            f"self_attention: x must have axes (..., positions, features), got shape {x.shape}; "
            "add the axis of positions"
        )
    m, inner = x.shape[-1], heads * _head_features(x, heads, head_features)
    qkv_key, out_key = jax.random.split(key)
    return {
        "w_qkv": w_init(qkv_key, (m, 3 * inner), x.dtype),
        "b_qkv": jnp.zeros(3 * inner, x.dtype),
        "w_out": w_init(out_key, (inner, m), x.dtype),
        "b_out": jnp.zeros(m, x.dtype),
    }


def _head_features(x, heads, head_features):
    if head_features is not None:
        return head_features
    if x.shape[-1] % heads:
        raise ValueError(
            f"self_attention: x.shape[-1] must be a multiple of heads ({heads}), got x.shape == "
            f"{x.shape}; change heads, or give head_features"
        )
    return x.shape[-1] // heads


def _fwd(params, x, *, heads, head_features, causal):
    check_floating("self_attention", x)
    if x.ndim < 2 or x.shape[-1] != params["w_qkv"].shape[0]:
        raise ValueError(
            f"self_attention: x must have shape (..., positions, {params['w_qkv'].shape[0]}), as "
            f"init has seen it, got x.shape == {x.shape}; check the layer before"
        )
    m, inner = x.shape[-1], heads * _head_features(x, heads, head_features)
    shapes = {"b_qkv": (3 * inner,), "w_out": (inner, m), "b_out": (m,)}
    check_params("self_attention", params, w_qkv=(None, 3 * inner), **shapes)
    qkv = x @ params["w_qkv"].astype(x.dtype) + params["b_qkv"].astype(x.dtype)
    q, k, v = _split_heads(qkv, heads)
    p = _probabilities(q, k, causal)
    o = jnp.einsum("...hts,...shd->...thd", p, v)
    o = o.reshape(*x.shape[:-1], -1)
    y = o @ params["w_out"].astype(x.dtype) + params["b_out"].astype(x.dtype)
    # p (H·T² an example) is kept: making it again costs a product, an exponential and a sum
    return y, {"x": x, "qkv": qkv, "p": p, "o": o}


def _split_heads(qkv: Array, heads: int) -> tuple[Array, Array, Array]:
    q, k, v = jnp.split(qkv, 3, axis=-1)
    split = (*qkv.shape[:-1], heads, qkv.shape[-1] // (3 * heads))
    return q.reshape(split) * split[-1] ** -0.5, k.reshape(split), v.reshape(split)


def _probabilities(q: Array, k: Array, causal: bool) -> Array:
    s = jnp.einsum("...thd,...shd->...hts", q, k)
    if causal:
        t = s.shape[-1]
        s = jnp.where(jnp.tril(jnp.ones((t, t), bool)), s, -jnp.inf)
    return jax.nn.softmax(s.astype(wide(s.dtype)), axis=-1).astype(s.dtype)


def _bwd(params, residuals, dy, *, heads):
    x, qkv, p, o = (residuals[name] for name in ("x", "qkv", "p", "o"))
    q, k, v = _split_heads(qkv, heads)
    do = dy @ params["w_out"].astype(dy.dtype).T
    do_heads, o_heads = do.reshape(v.shape), o.reshape(v.shape)

    # o = p·v
    dv = jnp.einsum("...hts,...thd->...shd", p, do_heads)
    dp = jnp.einsum("...thd,...shd->...hts", do_heads, v)
    # p = softmax(s)
    dot = jnp.sum(do_heads * o_heads, axis=-1, dtype=wide(p.dtype)).astype(p.dtype)
    ds = p * (dp - jnp.swapaxes(dot, -1, -2)[..., None])
    # s = q·kᵀ, with the 1/√h already in q
    dq = jnp.einsum("...hts,...shd->...thd", ds, k) * q.shape[-1] ** -0.5
    dk = jnp.einsum("...hts,...thd->...shd", ds, q)
    dqkv = jnp.concatenate([part.reshape(do.shape) for part in (dq, dk, dv)], axis=-1)

    factors = {
        "w_qkv": Outer(x, dqkv),
        "b_qkv": Sum(dqkv),
        "w_out": Outer(o, dy),
        "b_out": Sum(dy),
    }
    return factors, dqkv @ params["w_qkv"].astype(dy.dtype).T


def self_attention(
    heads: int,
    *,
    causal: bool = False,
    head_features: int | None = None,
    w_init: jax.nn.initializers.Initializer = jax.nn.initializers.lecun_normal(),
) -> Layer:
    """Multi-head self-attention with one fused projection: (..., T, m) to the same shape.

    Args:
      heads: number of heads, at least 1.
      causal: whether a position sees only itself and those before it.
      head_features: width of a head; by default m / heads.
      w_init: initial weights of both projections; biases start at 0.

    Raises:
      ValueError: m is not a multiple of heads and no `head_features` was given; shapes that
        init has not seen.
    """
    if heads < 1 or (head_features is not None and head_features < 1):
        raise ValueError(
            f"self_attention: heads and head_features must be at least 1, got {heads} and "
            f"{head_features}; a usual head has 64 features"
        )
    return leaf(
        "self_attention",
        partial(_init, heads=heads, head_features=head_features, w_init=w_init),
        partial(_fwd, heads=heads, head_features=head_features, causal=causal),
        partial(_bwd, heads=heads),
        params=("w_qkv", "b_qkv", "w_out", "b_out"),
        detail=f"{heads}, causal" if causal else str(heads),
    )
