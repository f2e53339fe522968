"""Losses with rules by hand."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp

from experiments.gradcheck_corpus.functions_draw import (
    from_inputs,
    integers,
    normal,
    of,
    positive,
)
from experiments.gradcheck_corpus.kinds import Function

# --- classes ------------------------------------------------------------------------------------


def _cross_entropy(logits, labels):
    log_p = jax.nn.log_softmax(logits, -1)
    return -jnp.take_along_axis(log_p, labels[:, None], 1).mean()


def _cross_entropy_bwd(g, logits, labels):
    p = jax.nn.softmax(logits, -1)
    p = p - jax.nn.one_hot(labels, logits.shape[-1], dtype=p.dtype)
    return g * p / logits.shape[0], None


def _ignoring(logits, labels):
    """Labels of −100 do not count."""
    kept = labels >= 0
    log_p = jax.nn.log_softmax(logits, -1)
    loss = -jnp.take_along_axis(log_p, jnp.where(kept, labels, 0)[:, None], 1)[:, 0]
    return jnp.where(kept, loss, 0).sum() / jnp.maximum(kept.sum(), 1).astype(logits.dtype)


def _ignoring_bwd(g, logits, labels):
    kept = labels >= 0
    p = jax.nn.softmax(logits, -1)
    p = p - jax.nn.one_hot(jnp.where(kept, labels, 0), p.shape[-1], dtype=p.dtype)
    n = jnp.maximum(kept.sum(), 1).astype(p.dtype)
    return jnp.where(kept[:, None], g * p / n, 0), None


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def smoothed(logits, labels, smoothing, z_weight):
    """Label smoothing, and a penalty on the square of the log-sum-exp."""
    lse = jax.nn.logsumexp(logits, -1)
    target = _smooth(logits, labels, smoothing)
    return (lse - (target * logits).sum(-1) + z_weight * lse**2).mean()


def _smooth(logits, labels, smoothing):
    k = logits.shape[-1]
    return jax.nn.one_hot(labels, k, dtype=logits.dtype) * (1 - smoothing) + smoothing / k


def _smoothed_bwd(smoothing, z_weight, kept, g):
    logits, labels = kept
    lse = jax.nn.logsumexp(logits, -1, keepdims=True)
    d = jnp.exp(logits - lse) * (1 + 2 * z_weight * lse) - _smooth(logits, labels, smoothing)
    return g * d / logits.shape[0], None


smoothed.defvjp(lambda x, t, s, z: (smoothed(x, t, s, z), (x, t)), _smoothed_bwd)


def _focal(logits, labels):
    """γ = 2, on the logits of the right class."""
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits, -1), labels[:, None], 1)[:, 0]
    return -((-jnp.expm1(log_p)) ** 2 * log_p).sum()


def _focal_bwd(g, logits, labels):
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits, -1), labels[:, None], 1)
    p, q = jnp.exp(log_p), -jnp.expm1(log_p)
    slope = 2 * q * p * log_p - q**2
    hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return g * slope * (hot - jax.nn.softmax(logits, -1)), None


def _binary(x, t, weight):
    loss = jnp.maximum(x, 0) - x * t + jnp.log1p(jnp.exp(-jnp.abs(x)))
    return (weight * loss).sum() / weight.sum()


def _binary_bwd(g, x, t, weight):
    total = weight.sum()
    loss = jnp.maximum(x, 0) - x * t + jnp.log1p(jnp.exp(-jnp.abs(x)))
    mean = (weight * loss).sum() / total
    dx = (1 - t) * jax.nn.sigmoid(x) - t * jax.nn.sigmoid(-x)
    return g * weight * dx / total, -g * weight * x / total, g * (loss - mean) / total


def _multi_hinge(scores, labels):
    """Σ over wrong classes of max(0, 1 + wrong − right)."""
    right = jnp.take_along_axis(scores, labels[:, None], 1)
    other = jnp.arange(scores.shape[-1]) != labels[:, None]
    return jnp.where(other, jnp.maximum(1 + scores - right, 0), 0).sum()


def _multi_hinge_bwd(g, scores, labels):
    right = jnp.take_along_axis(scores, labels[:, None], 1)
    other = jnp.arange(scores.shape[-1]) != labels[:, None]
    on = (other & (1 + scores - right > 0)).astype(scores.dtype)
    return g * jnp.where(other, on, -on.sum(-1, keepdims=True)), None


# --- regression ---------------------------------------------------------------------------------


def _huber(y, t):
    r = jnp.abs(y - t)
    return jnp.where(r <= 1, 0.5 * r * r, r - 0.5).mean()


def _huber_bwd(g, y, t):
    d = g * jnp.clip(y - t, -1, 1) / y.size
    return d, -d


def _log_cosh_bwd(g, y, t):
    d = g * jnp.tanh(y - t)
    return d, -d


def _log_cosh(y, t):
    r = jnp.abs(y - t)
    return (r + jnp.log1p(jnp.exp(-2 * r)) - math.log(2)).sum()


def _pinball(y, t, quantile):
    r = t - y
    return jnp.maximum(quantile * r, (quantile - 1) * r).sum()


def _pinball_bwd(g, y, t, quantile):
    r = t - y
    d = g * jnp.where(r >= 0, quantile, quantile - 1)
    return -d, d, jnp.sum(g * r)


def _gaussian(mean, log_scale, t):
    z = (t - mean) * jnp.exp(-log_scale)
    return (0.5 * z * z + log_scale + 0.5 * math.log(2 * math.pi)).sum()


def _gaussian_bwd(g, mean, log_scale, t):
    inverse = jnp.exp(-log_scale)
    z = (t - mean) * inverse
    return -g * z * inverse, g * (1 - z * z), g * z * inverse


def _poisson_bwd(g, log_rate, counts):
    return g * (jnp.exp(log_rate) - counts.astype(log_rate.dtype)), None


def _relative(y, t):
    """Mean |y − t| / (|t| + 1): the target is data, and gets no gradient on purpose."""
    return (jnp.abs(y - jax.lax.stop_gradient(t)) / (jnp.abs(jax.lax.stop_gradient(t)) + 1)).mean()


def _relative_bwd(g, y, t):
    return g * jnp.sign(y - t) / (jnp.abs(t) + 1) / y.size, jnp.zeros_like(t)


def _classes(rng, dtype):
    return normal(rng, dtype, 5, 4), integers(rng, 4, 5)


def _some_ignored(rng, dtype):
    return normal(rng, dtype, 6, 3), jnp.asarray([2, -100, 0, 1, -100, 2], jnp.int32)


LOSSES: tuple[Function, ...] = (
    Function("cross entropy", from_inputs(_cross_entropy, _cross_entropy_bwd), _classes),
    Function("cross entropy, some ignored", from_inputs(_ignoring, _ignoring_bwd), _some_ignored),
    Function("label smoothing and z loss", lambda x, t: smoothed(x, t, 0.1, 1e-2), _classes),
    Function("focal", from_inputs(_focal, _focal_bwd), _classes),
    Function(
        "weighted binary cross entropy",
        from_inputs(_binary, _binary_bwd),
        lambda rng, dtype: (
            normal(rng, dtype, 7),
            jnp.asarray(rng.uniform(0, 1, 7), dtype),
            positive(rng, dtype, 7),
        ),
    ),
    Function("hinge of classes", from_inputs(_multi_hinge, _multi_hinge_bwd), _classes),
    Function("huber", from_inputs(_huber, _huber_bwd), of((9,), (9,))),
    Function("log cosh loss", from_inputs(_log_cosh, _log_cosh_bwd), of((3, 4), (3, 4))),
    Function(
        "pinball",
        from_inputs(_pinball, _pinball_bwd),
        lambda rng, dtype: (normal(rng, dtype, 8), normal(rng, dtype, 8), jnp.asarray(0.3, dtype)),
    ),
    Function("gaussian likelihood", from_inputs(_gaussian, _gaussian_bwd), of((6,), (6,), (6,))),
    Function(
        "poisson likelihood",
        from_inputs(lambda r, n: jnp.exp(r) - n.astype(r.dtype) * r, _poisson_bwd),
        lambda rng, dtype: (normal(rng, dtype, 7), jnp.asarray(rng.poisson(3, 7), jnp.int32)),
    ),
    Function("relative error, target held", from_inputs(_relative, _relative_bwd), of((6,), (6,))),
)
