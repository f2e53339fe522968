"""Reductions, scans along an axis and statistics with rules by hand."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from experiments.gradcheck_corpus.functions_draw import (
    distinct,
    from_inputs,
    normal,
    of,
    positive,
    ruled,
)
from experiments.gradcheck_corpus.kinds import Function

# --- along the last axis ------------------------------------------------------------------------


def _logsumexp(x):
    m = lax.stop_gradient(x.max(-1, keepdims=True))
    return jnp.log(jnp.exp(x - m).sum(-1)) + m[..., 0]


def _softmax(x):
    e = jnp.exp(x - lax.stop_gradient(x.max(-1, keepdims=True)))
    return e / e.sum(-1, keepdims=True)


def _softmax_bwd(y, g):
    return (y * (g - (g * y).sum(-1, keepdims=True)),)


def _softmax_fwd(x):
    y = _softmax(x)
    return y, y


def _log_softmax(x):
    x = x - lax.stop_gradient(x.max(-1, keepdims=True))
    return x - jnp.log(jnp.exp(x).sum(-1, keepdims=True))


def _log_softmax_fwd(x):
    y = _log_softmax(x)
    return y, y


def _tempered_bwd(kept, g):
    """softmax(x / t) of logits and a temperature."""
    x, t, y = kept
    d = y * (g - (g * y).sum(-1, keepdims=True))
    return d / t, -jnp.sum(d * x) / t**2


def _tempered_fwd(x, t):
    y = _softmax(x / t)
    return y, (x, t, y)


def _var_bwd(g, x):
    return (2 * (x - x.mean(-1, keepdims=True)) * g[..., None] / x.shape[-1],)


def _sample_var(x):
    return jnp.sum((x - x.mean(0)) ** 2, 0) / (x.shape[0] - 1)


def _std(x):
    return jnp.sqrt(jnp.mean((x - x.mean(-1, keepdims=True)) ** 2, -1) + 1e-6)


def _std_fwd(x):
    y = _std(x)
    return y, (x, y)


def _std_bwd(kept, g):
    x, y = kept
    return ((x - x.mean(-1, keepdims=True)) * (g / (y * x.shape[-1]))[..., None],)


def _norm(x):
    """0 with gradient 0 where all entries are 0."""
    s = jnp.sum(x * x, -1)
    return jnp.where(s == 0, 0, jnp.sqrt(jnp.where(s == 0, 1, s)))


def _norm_fwd(x):
    y = _norm(x)
    return y, (x, y)


def _norm_bwd(kept, g):
    x, y = kept
    return (x * jnp.where(y == 0, 0, g / jnp.where(y == 0, 1, y))[..., None],)


def _p_norm(x):
    return jnp.sum(jnp.abs(x) ** 3, -1) ** (1 / 3)


def _p_norm_fwd(x):
    y = _p_norm(x)
    return y, (x, y)


def _first_max_bwd(g, x):
    at = jnp.argmax(x, -1, keepdims=True) == jnp.arange(x.shape[-1])
    return (jnp.where(at, g[..., None], 0),)


def _shared_min_bwd(g, x):
    """Ties share the gradient evenly."""
    at = x == x.min(-1, keepdims=True)
    return (jnp.where(at, (g / at.sum(-1).astype(g.dtype))[..., None], 0),)


def _span_bwd(g, x):
    top = jnp.argmax(x, 0) == jnp.arange(x.shape[0])[:, None]
    bottom = jnp.argmin(x, 0) == jnp.arange(x.shape[0])[:, None]
    return (jnp.where(top, g, 0) - jnp.where(bottom, g, 0),)


def _others(x):
    """For each entry the product of all others: nothing is divided."""
    one = jnp.ones_like(x[..., :1])
    left = jnp.concatenate([one, jnp.cumprod(x, -1)[..., :-1]], -1)
    right = jnp.concatenate([jnp.cumprod(x[..., ::-1], -1)[..., -2::-1], one], -1)
    return left * right


def _cumprod_bwd(g, x):
    """Σ over later outputs of the product without this entry, by a scan from the back.

    With Rᵢ = gᵢ + xᵢ₊₁·Rᵢ₊₁ the gradient is Rᵢ times the product of what comes before.
    """
    before = jnp.concatenate([jnp.ones_like(x[:1]), jnp.cumprod(x)[:-1]])
    after = jnp.concatenate([x[1:], jnp.zeros_like(x[:1])])
    _, r = lax.scan(lambda r, ga: ((s := ga[0] + ga[1] * r), s), jnp.zeros_like(x[0]), (g, after),
                    reverse=True)  # fmt: skip
    return (before * r,)


def _cummax_bwd(g, x):
    """Each output gives to the place where its maximum was first reached."""
    n = x.shape[0]
    best = lax.cummax(x)
    is_new = jnp.concatenate([jnp.ones((1,), bool), x[1:] > best[:-1]])
    place = lax.cummax(jnp.where(is_new, jnp.arange(n), 0))
    return (jnp.zeros_like(x).at[place].add(g),)


def _logcumsumexp_bwd(kept, g):
    x, y = kept
    n = x.shape[0]
    later = jnp.arange(n)[:, None] >= jnp.arange(n)
    weights = jnp.exp(jnp.where(later, x[None, :] - y[:, None], -jnp.inf))
    return (g @ weights,)


def _logcumsumexp_fwd(x):
    y = lax.cumlogsumexp(x)
    return y, (x, y)


REDUCTIONS: tuple[Function, ...] = (
    Function(
        "logsumexp",
        from_inputs(_logsumexp, lambda g, x: (g[..., None] * _softmax(x),)),
        of((4, 6), scale=5),
    ),
    Function("softmax", ruled(_softmax, _softmax_fwd, _softmax_bwd), of((3, 7))),
    Function(
        "log softmax",
        ruled(
            _log_softmax,
            _log_softmax_fwd,
            lambda y, g: (g - jnp.exp(y) * g.sum(-1, keepdims=True),),
        ),
        of((2, 3, 5)),
    ),
    Function(
        "softmax with temperature",
        ruled(lambda x, t: _softmax(x / t), _tempered_fwd, _tempered_bwd),
        lambda rng, dtype: (normal(rng, dtype, 5, 4), positive(rng, dtype)),
    ),
    Function(
        "sum of squares",
        from_inputs(lambda x: jnp.sum(x * x), lambda g, x: (2 * g * x,)),
        of((3, 4, 2)),
    ),
    Function(
        "mean",
        from_inputs(
            lambda x: x.mean(1),
            lambda g, x: (jnp.broadcast_to((g / x.shape[1])[:, None], x.shape),),
        ),
        of((3, 5, 2)),
    ),
    Function("variance", from_inputs(lambda x: x.var(-1), _var_bwd), of((4, 9), shift=3)),
    Function(
        "sample variance",
        from_inputs(_sample_var, lambda g, x: (2 * (x - x.mean(0)) * g / (x.shape[0] - 1),)),
        of((7, 3)),
    ),
    Function("standard deviation", ruled(_std, _std_fwd, _std_bwd), of((3, 8))),
    Function("l2 norm", ruled(_norm, _norm_fwd, _norm_bwd), of((5, 4))),
    Function(
        "l1 norm",
        from_inputs(lambda x: jnp.abs(x).sum(-1), lambda g, x: (g[..., None] * jnp.sign(x),)),
        of((4, 5)),
    ),
    Function(
        "l3 norm",
        ruled(
            _p_norm,
            _p_norm_fwd,
            lambda kept, g: ((g / kept[1] ** 2)[..., None] * kept[0] * jnp.abs(kept[0]),),
        ),
        of((3, 6)),
    ),
    Function("max, first of ties", from_inputs(lambda x: x.max(-1), _first_max_bwd), of((4, 7))),
    Function("min, shared by ties", from_inputs(lambda x: x.min(-1), _shared_min_bwd), of((3, 5))),
    Function("max less min", from_inputs(lambda x: x.max(0) - x.min(0), _span_bwd), of((6, 3))),
    Function(
        "product",
        from_inputs(lambda x: x.prod(-1), lambda g, x: (g[..., None] * _others(x),)),
        of((3, 5)),
    ),
    Function(
        "product with a zero",
        from_inputs(lambda x: x.prod(-1), lambda g, x: (g[..., None] * _others(x),)),
        lambda rng, dtype: (normal(rng, dtype, 2, 6).at[0, 3].set(0),),
    ),
    Function(
        "cumsum",
        from_inputs(lambda x: jnp.cumsum(x, 1), lambda g, x: (jnp.cumsum(g[:, ::-1], 1)[:, ::-1],)),
        of((2, 9)),
    ),
    Function("cumprod", from_inputs(lambda x: jnp.cumprod(x), _cumprod_bwd), of((8,))),
    Function(
        "cummax",
        from_inputs(lambda x: lax.cummax(x), _cummax_bwd),
        lambda rng, dtype: (distinct(rng, dtype, 11),),
    ),
    Function(
        "log cumsum exp",
        ruled(lambda x: lax.cumlogsumexp(x), _logcumsumexp_fwd, _logcumsumexp_bwd),
        of((7,), scale=3),
    ),
)
