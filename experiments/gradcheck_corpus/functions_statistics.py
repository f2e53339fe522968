"""Means, statistics and comparisons of rows with rules by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from experiments.gradcheck_corpus.functions_draw import (
    between,
    from_inputs,
    normal,
    of,
    positive,
    ruled,
)
from experiments.gradcheck_corpus.kinds import Function


def _weighted_mean_bwd(g, x, w):
    total = w.sum()
    mean = (w @ x) / total
    return w[:, None] * g / total, ((x - mean) @ g) / total


def _masked_mean(x, mask):
    n = jnp.maximum(mask.sum(-1), 1).astype(x.dtype)
    return jnp.where(mask, x, 0).sum(-1) / n


def _masked_mean_bwd(kept, g):
    mask, n = kept
    return jnp.where(mask, (g / n)[..., None], 0), None


def _masked_mean_fwd(x, mask):
    return _masked_mean(x, mask), (mask, jnp.maximum(mask.sum(-1), 1).astype(x.dtype))


def _geometric(x):
    return jnp.exp(jnp.log(x).mean(-1))


def _geometric_bwd(g, x):
    return ((g * _geometric(x))[..., None] / (x.shape[-1] * x),)


def _harmonic_bwd(g, x):
    h = x.shape[-1] / (1 / x).sum(-1, keepdims=True)
    return (g[..., None] * h**2 / (x.shape[-1] * x**2),)


def _median_bwd(g, x):
    order = jnp.argsort(x, -1)
    middle = order[..., x.shape[-1] // 2, None] == jnp.arange(x.shape[-1])
    return (jnp.where(middle, g[..., None], 0),)


def _distances(x, y):
    return jnp.sum((x[:, None] - y[None]) ** 2, -1)


def _distances_bwd(g, x, y):
    dx = 2 * (g.sum(1)[:, None] * x - g @ y)
    return dx, 2 * (g.sum(0)[:, None] * y - g.T @ x)


def _covariance(x):
    c = x - x.mean(0)
    return c.T @ c / x.shape[0]


def _covariance_bwd(g, x):
    return ((x - x.mean(0)) @ (g + g.T) / x.shape[0],)


def _cosine(a, b):
    return jnp.sum(a * b, -1) / jnp.sqrt(jnp.sum(a * a, -1) * jnp.sum(b * b, -1))


def _cosine_bwd(g, a, b):
    aa, bb = jnp.sum(a * a, -1, keepdims=True), jnp.sum(b * b, -1, keepdims=True)
    c, root = _cosine(a, b)[..., None], jnp.sqrt(aa * bb)
    g = g[..., None]
    return g * (b / root - c * a / aa), g * (a / root - c * b / bb)


def _correlation(x, y):
    x, y = x - x.mean(), y - y.mean()
    return x @ y / jnp.sqrt((x @ x) * (y @ y))


def _correlation_bwd(g, x, y):
    x, y = x - x.mean(), y - y.mean()
    r, root = _correlation(x, y), jnp.sqrt((x @ x) * (y @ y))
    return g * (y / root - r * x / (x @ x)), g * (x / root - r * y / (y @ y))


def _moments(x):
    m = x.mean(-1)
    return m, ((x - m[..., None]) ** 2).mean(-1)


def _moments_bwd(g, x):
    g_mean, g_var = g
    centred = x - x.mean(-1, keepdims=True)
    return ((g_mean[..., None] + 2 * centred * g_var[..., None]) / x.shape[-1],)


def _entropy(x):
    p = jax.nn.log_softmax(x, -1)
    return -(jnp.exp(p) * p).sum(-1)


def _entropy_bwd(g, x):
    log_p = jax.nn.log_softmax(x, -1)
    p = jnp.exp(log_p)
    return (-g[..., None] * p * (log_p - (p * log_p).sum(-1, keepdims=True)),)


def _sparsemax(x):
    """The nearest point of the simplex (Martins & Astudillo 2016)."""
    z = -jnp.sort(-x)
    k = jnp.arange(1, x.shape[0] + 1)
    size = jnp.sum(1 + k * z > jnp.cumsum(z))
    threshold = (jnp.where(k <= size, z, 0).sum() - 1) / size.astype(x.dtype)
    return jnp.maximum(x - threshold, 0)


def _sparsemax_fwd(x):
    y = _sparsemax(x)
    return y, y > 0


def _sparsemax_bwd(support, g):
    mean = jnp.where(support, g, 0).sum() / support.sum().astype(g.dtype)
    return (jnp.where(support, g - mean, 0),)


STATISTICS: tuple[Function, ...] = (
    Function(
        "weighted mean",
        from_inputs(lambda x, w: (w @ x) / w.sum(), _weighted_mean_bwd),
        lambda rng, dtype: (normal(rng, dtype, 6, 3), positive(rng, dtype, 6)),
    ),
    Function(
        "masked mean",
        ruled(_masked_mean, _masked_mean_fwd, _masked_mean_bwd),
        lambda rng, dtype: (
            normal(rng, dtype, 4, 6),
            jnp.asarray(rng.random((4, 6)) < 0.6).at[2].set(False),
        ),
    ),
    Function("geometric mean", from_inputs(_geometric, _geometric_bwd), between(0.3, 4, (3, 5))),
    Function(
        "harmonic mean",
        from_inputs(lambda x: x.shape[-1] / (1 / x).sum(-1), _harmonic_bwd),
        between(0.3, 4, (2, 7)),
    ),
    Function(
        "median",
        from_inputs(lambda x: jnp.sort(x, -1)[..., x.shape[-1] // 2], _median_bwd),
        of((3, 7)),
    ),
    Function("squared distances", from_inputs(_distances, _distances_bwd), of((5, 3), (4, 3))),
    Function("covariance", from_inputs(_covariance, _covariance_bwd), of((8, 3))),
    Function("cosine similarity", from_inputs(_cosine, _cosine_bwd), of((4, 6), (4, 6))),
    Function("correlation", from_inputs(_correlation, _correlation_bwd), of((9,), (9,), shift=2)),
    Function("mean and variance", from_inputs(_moments, _moments_bwd), of((3, 10))),
    Function("entropy of softmax", from_inputs(_entropy, _entropy_bwd), of((4, 5), scale=2)),
    Function("sparsemax", ruled(_sparsemax, _sparsemax_fwd, _sparsemax_bwd), of((9,))),
)
