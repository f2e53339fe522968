"""Objectives of distributions, pairs and policies with rules by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from experiments.gradcheck_corpus.functions_draw import (
    from_inputs,
    normal,
    of,
)
from experiments.gradcheck_corpus.kinds import Function

# --- distributions, pairs, policies -------------------------------------------------------------


def _kl(p_logits, q_logits):
    log_p, log_q = jax.nn.log_softmax(p_logits, -1), jax.nn.log_softmax(q_logits, -1)
    return (jnp.exp(log_p) * (log_p - log_q)).sum()


def _kl_bwd(g, p_logits, q_logits):
    log_p, log_q = jax.nn.log_softmax(p_logits, -1), jax.nn.log_softmax(q_logits, -1)
    p, r = jnp.exp(log_p), log_p - log_q
    return g * p * (r - (p * r).sum(-1, keepdims=True)), g * (jnp.exp(log_q) - p)


def _contrastive(a, b):
    """Each row of a belongs to the same row of b; both directions."""
    s = a @ b.T / 0.5
    return -(jnp.trace(jax.nn.log_softmax(s, 1)) + jnp.trace(jax.nn.log_softmax(s, 0))) / 2


def _contrastive_bwd(g, a, b):
    s = a @ b.T / 0.5
    ds = (jax.nn.softmax(s, 1) + jax.nn.softmax(s, 0)) / 2 - jnp.eye(s.shape[0], dtype=s.dtype)
    return g * ds @ b / 0.5, g * ds.T @ a / 0.5


def _triplet(a, p, n):
    d = ((a - p) ** 2).sum(-1) - ((a - n) ** 2).sum(-1)
    return jnp.maximum(d + 1, 0).sum()


def _triplet_bwd(g, a, p, n):
    d = ((a - p) ** 2).sum(-1, keepdims=True) - ((a - n) ** 2).sum(-1, keepdims=True)
    on = jnp.where(d + 1 > 0, 2 * g, 0)
    return on * (n - p), -on * (a - p), on * (a - n)


def _dice(x, t):
    """Soft Dice of σ(x) with a boolean mask."""
    p, m = jax.nn.sigmoid(x), t.astype(x.dtype)
    return 1 - (2 * (p * m).sum() + 1) / (p.sum() + m.sum() + 1)


def _dice_bwd(g, x, t):
    p, m = jax.nn.sigmoid(x), t.astype(x.dtype)
    top, bottom = 2 * (p * m).sum() + 1, p.sum() + m.sum() + 1
    return g * (top / bottom - 2 * m) / bottom * p * (1 - p), None


def _preference_bwd(g, chosen, rejected, reference):
    """−log σ(β(chosen − rejected − reference)) with β = 0.3."""
    d = -0.3 * g * jax.nn.sigmoid(-0.3 * (chosen - rejected - reference))
    return d, -d, -d


def _clipped_policy(log_p, old, advantage):
    """The surrogate of Schulman et al. (2017) with ε = 0.2."""
    ratio = jnp.exp(log_p - old)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage).mean()


def _clipped_policy_bwd(g, log_p, old, advantage):
    ratio = jnp.exp(log_p - old)
    clipped = jnp.clip(ratio, 0.8, 1.2)
    free = ratio * advantage <= clipped * advantage
    d = -g * jnp.where(free, ratio * advantage, 0) / log_p.size
    return d, -d, -g * jnp.where(free, ratio, clipped) / log_p.size


def _mixture(logits, means, x):
    """−log density of a mixture of unit normals."""
    e = jax.nn.log_softmax(logits) - 0.5 * (x[:, None] - means) ** 2
    return -jax.nn.logsumexp(e, -1).sum()


def _mixture_bwd(g, logits, means, x):
    e = jax.nn.log_softmax(logits) - 0.5 * (x[:, None] - means) ** 2
    r = jax.nn.softmax(e, -1)
    pull = r * (x[:, None] - means)
    d_logits = x.shape[0] * jax.nn.softmax(logits) - r.sum(0)
    return g * d_logits, -g * pull.sum(0), g * pull.sum(1)


def _preference(chosen, rejected, reference):
    return jax.nn.softplus(-0.3 * (chosen - rejected - reference))


OBJECTIVES: tuple[Function, ...] = (
    Function("divergence of logits", from_inputs(_kl, _kl_bwd), of((3, 5), (3, 5))),
    Function("contrastive", from_inputs(_contrastive, _contrastive_bwd), of((4, 3), (4, 3))),
    Function("triplet", from_inputs(_triplet, _triplet_bwd), of((4, 3), (4, 3), (4, 3))),
    Function(
        "dice",
        from_inputs(_dice, _dice_bwd),
        lambda rng, dtype: (normal(rng, dtype, 3, 5), jnp.asarray(rng.random((3, 5)) < 0.4)),
    ),
    Function("preference", from_inputs(_preference, _preference_bwd), of((6,), (6,), (6,))),
    Function(
        "clipped policy",
        from_inputs(_clipped_policy, _clipped_policy_bwd),
        of((9,), (9,), (9,), scale=0.5),
    ),
    Function("mixture likelihood", from_inputs(_mixture, _mixture_bwd), of((3,), (3,), (6,))),
)
