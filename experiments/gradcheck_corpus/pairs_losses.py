"""Rules of softmax, losses and distances."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from experiments.gradcheck_corpus.kinds import Mistake, Pair, normal
from experiments.gradcheck_corpus.pairs_tools import integers, kept, normals, of, uniforms


def _softmax(x):
    return jax.nn.softmax(x, -1)


SOFTMAX = Pair(
    "softmax",
    of(_softmax, lambda x, g: (y := _softmax(x)) * (g - (g * y).sum(-1, keepdims=True))),
    normals((3, 7)),
    {
        "diagonal": Mistake(of(_softmax, lambda x, g: (y := _softmax(x)) * (1 - y) * g)),
        "sum over all rows": Mistake(
            of(_softmax, lambda x, g: (y := _softmax(x)) * (g - (g * y).sum()))
        ),
        "cotangent not weighted": Mistake(
            of(_softmax, lambda x, g: _softmax(x) * (g - g.sum(-1, keepdims=True)))
        ),
        "cotangent's mean": Mistake(
            of(_softmax, lambda x, g: (y := _softmax(x)) * (g - (g * y).mean(-1, keepdims=True)))
        ),
    },
)  # fmt: skip


def _log_softmax(x):
    return jax.nn.log_softmax(x / 0.7, -1)


def _log_softmax_with(t=0.7, inner=0.7, total=lambda g: g.sum(-1, keepdims=True)):
    return of(_log_softmax, lambda x, g: (g - _softmax(x / inner) * total(g)) / t)


LOG_SOFTMAX = Pair(
    "log softmax with a temperature", _log_softmax_with(), normals((4, 5)),
    {
        "temperature forgotten outside": Mistake(
            _log_softmax_with(t=1.0), diagnosis=r"0\.7 times the right gradient"
        ),
        "temperature forgotten inside": Mistake(_log_softmax_with(inner=1.0)),
        "as if the cotangent summed to 1": Mistake(
            _log_softmax_with(total=lambda g: 1.0),
            diagnosis="not a linear function of the cotangent|cotangent of zeros must give zeros",
        ),
    },
)  # fmt: skip

_logsumexp = jax.scipy.special.logsumexp
LOGSUMEXP = Pair(
    "logsumexp", of(lambda x: _logsumexp(x, -1), lambda x, g: _softmax(x) * g[:, None]),
    normals((4, 7), scale=3.0),
    {
        "maximum not subtracted": Mistake(
            of(lambda x: _logsumexp(x, -1),
               lambda x, g: jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True) * g[:, None]),
            diagnosis="NaN",
        ),
        "normalised over the rows": Mistake(
            of(lambda x: _logsumexp(x, -1), lambda x, g: jax.nn.softmax(x, 0) * g[:, None])
        ),
    },
)  # fmt: skip

# --- cross entropy ------------------------------------------------------------------------------

_SMOOTH, _IGNORED = 0.1, 0


def _targets(labels, classes, smooth=_SMOOTH):
    return (1 - smooth) * jax.nn.one_hot(labels, classes) + smooth / classes


def _cross_entropy(x, labels):
    """The mean over rows whose label is not 0; labels are smoothed."""
    losses = -(_targets(labels, x.shape[-1]).astype(x.dtype) * jax.nn.log_softmax(x)).sum(-1)
    valid = labels != _IGNORED
    return jnp.where(valid, losses, 0).sum() / jnp.maximum(valid.sum(), 1)


def _cross_entropy_with(smooth=_SMOOTH, ignore=True, count=lambda v: v.sum(), shift=0, term=True):
    def bwd(x, labels, g):
        valid = labels != _IGNORED
        targets = _targets(labels + shift, x.shape[-1], smooth).astype(x.dtype)
        dx = _softmax(x) - targets if term else -targets
        dx = jnp.where(valid[:, None], dx, 0) if ignore else dx
        return g * dx / jnp.maximum(count(valid), 1).astype(x.dtype), None

    return kept(_cross_entropy, bwd)


def _logits_and_labels(rng, dtype):
    return normal(rng, dtype, 9, 5), integers(rng, 5, 9)


CROSS_ENTROPY = Pair(
    "cross entropy", _cross_entropy_with(), _logits_and_labels,
    {
        "smoothing forgotten": Mistake(_cross_entropy_with(smooth=0.0)),
        "ignored label not honoured": Mistake(_cross_entropy_with(ignore=False)),
        "mean over all rows": Mistake(
            _cross_entropy_with(count=lambda v: jnp.asarray(v.size)),
            diagnosis="times the right gradient",
        ),
        "sum, not mean": Mistake(
            _cross_entropy_with(count=lambda v: jnp.asarray(1)),
            diagnosis="times the right gradient",
        ),
        "labels shifted": Mistake(_cross_entropy_with(shift=1)),
        "normaliser forgotten": Mistake(_cross_entropy_with(term=False)),
    },
)  # fmt: skip


def _with_z(x, labels):
    """Cross entropy of each row, and the log of its normaliser squared."""
    z = _logsumexp(x, -1)
    return z - jnp.take_along_axis(x, labels[:, None], -1)[:, 0], z * z


def _with_z_with(second=1.0, inner=2.0):
    def bwd(x, labels, g):
        a, b = g
        z, p = _logsumexp(x, -1), _softmax(x)
        hot = jax.nn.one_hot(labels, x.shape[-1], dtype=x.dtype)
        return (p - hot) * a[:, None] + second * inner * p * (b * z)[:, None], None

    return kept(_with_z, bwd)


Z_LOSS = Pair(
    "cross entropy and z-loss", _with_z_with(), _logits_and_labels,
    {
        "second output dropped": Mistake(
            _with_z_with(second=0.0), diagnosis="output 1", source="flash-attention#1817"
        ),
        "second output by half": Mistake(
            _with_z_with(inner=1.0), diagnosis=r"0\.5 times the right gradient"
        ),
    },
)  # fmt: skip

TWO_OUTPUTS = Pair(
    "sine and cosine",
    kept(lambda x: (jnp.sin(x), jnp.cos(x)),
         lambda x, g: (g[0] * jnp.cos(x) - g[1] * jnp.sin(x),)),
    normals((9,)),
    {
        "second output dropped": Mistake(
            kept(lambda x: (jnp.sin(x), jnp.cos(x)), lambda x, g: (g[0] * jnp.cos(x),)),
            diagnosis="output 1", source="flash-attention#1817",
        ),
        "second output's sign": Mistake(
            kept(lambda x: (jnp.sin(x), jnp.cos(x)),
                 lambda x, g: (g[0] * jnp.cos(x) + g[1] * jnp.sin(x),)),
            diagnosis="the sign",
        ),
    },
)  # fmt: skip


def _binary(x, y):
    """Binary cross entropy of logits; positives count three times."""
    return -(3 * y * jax.nn.log_sigmoid(x) + (1 - y) * jax.nn.log_sigmoid(-x))


def _binary_with(weight=3.0, dy=lambda x: -(3 * jax.nn.log_sigmoid(x) - jax.nn.log_sigmoid(-x))):
    def bwd(x, y, g):
        p = jax.nn.sigmoid(x)
        return g * ((1 - y) * p - weight * y * (1 - p)), g * dy(x)

    return kept(_binary, bwd)


BINARY = Pair(
    "binary cross entropy", _binary_with(),
    lambda rng, dtype: (normal(rng, dtype, 14), jnp.asarray(rng.integers(0, 2, 14), dtype)),
    {
        "weight of positives forgotten": Mistake(_binary_with(weight=1.0), "args[0]"),
        "targets get nothing": Mistake(
            _binary_with(dy=lambda x: 0 * x), "args[1]", "zero: the rule gives nothing"
        ),
    },
)  # fmt: skip


def _focal(x):
    p = jax.nn.sigmoid(x)
    return -((1 - p) ** 2) * jax.nn.log_sigmoid(x)


def _focal_slope(x, g, modulated=True):
    p = jax.nn.sigmoid(x)
    return g * (modulated * 2 * (1 - p) ** 2 * p * jax.nn.log_sigmoid(x) - (1 - p) ** 3)


FOCAL = Pair(
    "focal loss", of(_focal, _focal_slope), normals((13,)),
    {"factor detached": Mistake(of(_focal, lambda x, g: _focal_slope(x, g, False)))},
)  # fmt: skip


def _divergence(p, q):
    return (p * (jnp.log(p) - jnp.log(q))).sum(-1)


def _divergence_with(one=1.0, dq=lambda p, q: -p / q):
    return kept(_divergence, lambda p, q, g: (
        g[:, None] * (jnp.log(p) - jnp.log(q) + one), g[:, None] * dq(p, q)))  # fmt: skip


DIVERGENCE = Pair(
    "Kullback–Leibler divergence", _divergence_with(),
    uniforms((4, 6), (4, 6), low=0.1, high=0.9),
    {
        "its +1 forgotten": Mistake(_divergence_with(one=0.0), "args[0]"),
        "target detached": Mistake(
            _divergence_with(dq=lambda p, q: 0 * q), "args[1]", "zero: the rule gives nothing"
        ),
        "log ratio for ratio": Mistake(
            _divergence_with(dq=lambda p, q: jnp.log(q) - jnp.log(p)), "args[1]"
        ),
    },
)  # fmt: skip


def _cosine(x, y):
    return (x * y).sum(-1) / jnp.sqrt((x * x).sum(-1) * (y * y).sum(-1))


def _cosine_with(project=True, swap=False):
    def half(x, y, g):
        a, b = jnp.sqrt((x * x).sum(-1)), jnp.sqrt((y * y).sum(-1))
        c = (x * y).sum(-1) / (a * b)
        return (g / a)[:, None] * (y / b[:, None] - project * x * (c / a)[:, None])

    return kept(_cosine, lambda x, y, g: (half(x, y, g), half(*((x, y) if swap else (y, x)), g)))


COSINE = Pair(
    "cosine similarity", _cosine_with(), normals((5, 8), (5, 8)),
    {
        "not projected": Mistake(_cosine_with(project=False), "args"),
        "the same for both": Mistake(
            _cosine_with(swap=True), "args[1]", r"the gradient of args\[0\]"
        ),
    },
)  # fmt: skip


def _masked_error(x, y, mask):
    return jnp.where(mask, (x - y) ** 2, 0).sum() / mask.sum()


def _masked_error_with(mean=lambda m: m.sum(), hidden=False, factor=2.0):
    def bwd(x, y, mask, g):
        d = factor * g * (x - y) / mean(mask).astype(x.dtype)
        d = d if hidden else jnp.where(mask, d, 0)
        return d, -d, None

    return kept(_masked_error, bwd)


MASKED_ERROR = Pair(
    "masked squared error", _masked_error_with(),
    lambda rng, dtype: (normal(rng, dtype, 6, 4), normal(rng, dtype, 6, 4),
                        jnp.asarray(rng.random((6, 4)) < 0.7)),
    {
        "mask not in the backward": Mistake(_masked_error_with(hidden=True), "args"),
        "mean over all entries": Mistake(
            _masked_error_with(mean=lambda m: jnp.asarray(m.size)), "args",
            "times the right gradient",
        ),
        "2 forgotten": Mistake(
            _masked_error_with(factor=1.0), "args", r"0\.5 times the right gradient: 1/2"
        ),
    },
)  # fmt: skip

PAIRS = (
    SOFTMAX, LOG_SOFTMAX, LOGSUMEXP, CROSS_ENTROPY, Z_LOSS, TWO_OUTPUTS, BINARY, FOCAL, DIVERGENCE,
    COSINE, MASKED_ERROR,
)  # fmt: skip
