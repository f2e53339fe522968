"""Rules of normalisation: layer, root mean square, batch, group, weight, unit length."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from experiments.gradcheck_corpus.kinds import Mistake, Pair, ruled
from experiments.gradcheck_corpus.pairs_tools import kept, normals

_EPS = 1e-5


def _layer_norm(x, scale):
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + _EPS) * scale


def _layer_norm_fwd(x, scale):
    centred = x - x.mean(-1, keepdims=True)
    inverse = lax.rsqrt((centred**2).mean(-1, keepdims=True) + _EPS)
    return centred * inverse * scale, (centred * inverse, inverse, scale)


def _layer_norm_with(mean=True, hat=True, count=0, sigma=lambda s: s, dscale=lambda d, x: d):
    def bwd(kept, g):
        x, inverse, weight = kept
        d = g * weight
        inner = (d * x).sum(-1, keepdims=True) / (x.shape[-1] - count)
        dx = d - mean * d.mean(-1, keepdims=True) - hat * x * inner
        return sigma(inverse) * dx, dscale((g * x).sum(0), x)

    return ruled(_layer_norm, _layer_norm_fwd, bwd)


def _outside(inverse):
    """1/(√v + ε) from 1/√(v + ε)."""
    return 1 / (jnp.sqrt(jnp.maximum(inverse**-2 - _EPS, 0)) + _EPS)


LAYER_NORM = Pair(
    "layer norm", _layer_norm_with(), normals((8, 19), (19,)),
    {
        "without its mean": Mistake(_layer_norm_with(mean=False), diagnosis="mean over axis 1"),
        "without x̂": Mistake(_layer_norm_with(hat=False)),
        "n − 1": Mistake(_layer_norm_with(count=1)),
        "1/σ missing": Mistake(
            _layer_norm_with(sigma=lambda inverse: 1.0), source="optax#1308"
        ),
        "ε outside the root": Mistake(_layer_norm_with(sigma=_outside)),
        "tail of a block dropped": Mistake(
            _layer_norm_with(dscale=lambda d, x: d.at[16:].set(0)), "args[1]",
            r"\[16:19\] of axis 0.*exactly 0", "FlagGems#5392",
        ),
        "times the batch": Mistake(
            _layer_norm_with(dscale=lambda d, x: len(x) * d), "args[1]",
            "8 times the right gradient: axis 0",
        ),
    },
)  # fmt: skip


def _standardised(x, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + _EPS) + bias


def _standardised_with(subtract=True):
    """Keeps its output instead of x̂, which the next layer keeps as well: x̂ = y − bias."""

    def fwd(x, bias):
        return _standardised(x, bias), (_standardised(x, bias), _layer_norm_fwd(x, 1)[1][1], bias)

    def bwd(kept, g):
        y, inverse, bias = kept
        x = y - bias if subtract else y
        dx = g - g.mean(-1, keepdims=True) - x * (g * x).mean(-1, keepdims=True)
        return inverse * dx, g.sum(0)

    return ruled(_standardised, fwd, bwd)


STANDARDISED = Pair(
    "standardised rows, from the output", _standardised_with(), normals((6, 10), (10,)),
    {"bias left in x̂": Mistake(_standardised_with(subtract=False), "args[0]")},
)  # fmt: skip


def _rms_norm(x, scale):
    return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + _EPS) * scale


def _rms_norm_with(detached=False, power=2, hat=True, total=False):
    def bwd(x, scale, g):
        r = lax.rsqrt((x * x).mean(-1, keepdims=True) + _EPS)
        d = g * scale
        inner = (d * x).sum(-1, keepdims=True) if total else (d * x).mean(-1, keepdims=True)
        dx = r * (d - (not detached) * x * inner * r**power)
        return dx, (g * x * (r if hat else 1)).sum(0)

    return kept(_rms_norm, bwd)


RMS_NORM = Pair(
    "rms norm", _rms_norm_with(), normals((4, 12), (12,)),
    {
        "statistic detached": Mistake(_rms_norm_with(detached=True)),
        "one power of 1/r too few": Mistake(_rms_norm_with(power=1)),
        "sum for mean": Mistake(_rms_norm_with(total=True)),
        "scale's gradient from x": Mistake(_rms_norm_with(hat=False), "args[1]"),
    },
)  # fmt: skip


def _batch_norm(x, scale, bias):
    centred = x - x.mean(0)
    return centred * lax.rsqrt((centred**2).mean(0) + _EPS) * scale + bias


def _batch_norm_with(mean=True, hat=True, unbiased=0, axis=0, dbias=lambda g: g.sum(0)):
    def bwd(x, scale, bias, g):
        centred = x - x.mean(0)
        inverse = lax.rsqrt((centred**2).mean(0) + _EPS)
        hats, d = centred * inverse, g * scale
        inner = (d * hats).sum(axis, keepdims=True) / (len(x) - unbiased)
        dx = inverse * (d - mean * d.mean(0) - hat * hats * inner)
        return dx, (g * hats).sum(0), dbias(g)

    return kept(_batch_norm, bwd)


BATCH_NORM = Pair(
    "batch norm", _batch_norm_with(), normals((6, 6), (6,), (6,)),
    {
        "statistics detached": Mistake(_batch_norm_with(mean=False, hat=False)),
        "n − 1 in the backward alone": Mistake(_batch_norm_with(unbiased=1)),
        "wrong axis": Mistake(_batch_norm_with(axis=1)),
        "mean for sum": Mistake(
            _batch_norm_with(dbias=lambda g: g.mean(0)), "args[2]",
            r"0\.166666667 times the right gradient: 1/axis 0",
        ),
    },
)  # fmt: skip


def _grouped(x, groups):
    return x.reshape(*x.shape[:-1], groups, -1)


def _group_norm(x, scale):
    parts = _grouped(x, 2)
    centred = parts - parts.mean((1, 3), keepdims=True)
    inverse = lax.rsqrt((centred**2).mean((1, 3), keepdims=True) + _EPS)
    return (centred * inverse).reshape(x.shape) * scale


def _group_norm_with(groups=2, axes=(1, 3)):
    def bwd(x, scale, g):
        parts = _grouped(x, 2)
        centred = parts - parts.mean((1, 3), keepdims=True)
        inverse = lax.rsqrt((centred**2).mean((1, 3), keepdims=True) + _EPS)
        hats = (centred * inverse).reshape(x.shape)
        d, h = _grouped(g * scale, groups), _grouped(hats, groups)
        inner = d - d.mean(axes, keepdims=True) - h * (d * h).mean(axes, keepdims=True)
        dx = inverse * _grouped(inner.reshape(x.shape), 2)
        return dx.reshape(x.shape), (g * hats).sum((0, 1))

    return kept(_group_norm, bwd)


GROUP_NORM = Pair(
    "group norm", _group_norm_with(), normals((3, 5, 8), (8,)),
    {
        "all channels as one group": Mistake(_group_norm_with(groups=1)),
        "places left out of the mean": Mistake(_group_norm_with(axes=(3,))),
    },
)  # fmt: skip


def _weight_norm(v, gain):
    return gain * v / jnp.sqrt((v * v).sum(0))


def _weight_norm_with(project=True, gained=True, unit=True):
    def bwd(v, gain, g):
        size = jnp.sqrt((v * v).sum(0))
        hat = v / size
        dv = g - project * hat * (g * hat).sum(0)
        return (gain if gained else 1.0) * dv / size, (g * (hat if unit else v)).sum(0)

    return kept(_weight_norm, bwd)


WEIGHT_NORM = Pair(
    "weight norm", _weight_norm_with(), normals((7, 4), (4,)),
    {
        "not projected": Mistake(_weight_norm_with(project=False)),
        "gain forgotten": Mistake(_weight_norm_with(gained=False), diagnosis=r"args\[1\]"),
        "not of unit length": Mistake(_weight_norm_with(unit=False), "args[1]"),
    },
)  # fmt: skip


# --- lengths of vectors -------------------------------------------------------------------------


def _length(x):
    square = (x * x).sum(-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _length_with(floor):
    return kept(_length, lambda x, g: (g[:, None] * x / floor(_length(x))[:, None],))


LENGTH = Pair(
    "length of rows", _length_with(lambda r: jnp.where(r > 0, r, 1)), normals((12, 2)),
    {
        "NaN at the origin": Mistake(_length_with(lambda r: r), diagnosis="NaN", source="jax#3058"),
        "epsilon in the backward alone": Mistake(_length_with(lambda r: r + 1e-4)),
    },
)  # fmt: skip


def _unit(x):
    return x / (_length(x)[..., None] + 1e-3)


def _unit_with(eps=1e-3, project=True):
    def bwd(x, g):
        r = _length(x)[..., None]
        inner = (g * x).sum(-1, keepdims=True) / (jnp.where(r > 0, r, 1) * (r + eps))
        return ((g - project * x * inner) / (r + 1e-3),)

    return kept(_unit, bwd)


UNIT = Pair(
    "unit length with an epsilon", _unit_with(), normals((5, 3)),
    {
        "epsilon in one place alone": Mistake(_unit_with(eps=0.0)),
        "not projected": Mistake(_unit_with(project=False)),
    },
)  # fmt: skip


def _shortened(x):
    """Rows longer than 1 are scaled to 1."""
    r = _length(x)[:, None]
    return jnp.where(r > 1, x / jnp.maximum(r, 1), x)


def _shortened_with(long=lambda r: r > 1):
    def bwd(x, g):
        r = _length(x)[:, None]
        safe = jnp.where(r > 0, r, 1)
        across = (g - x * (g * x).sum(-1, keepdims=True) / safe**2) / safe
        return (jnp.where(long(r), across, g),)

    return kept(_shortened, bwd)


SHORTENED = Pair(
    "rows of bounded length", _shortened_with(), normals((6, 2)),
    {
        "branches swapped": Mistake(_shortened_with(lambda r: r <= 1), source="pytorch#59584"),
        "short rows by the long rows' branch": Mistake(
            _shortened_with(lambda r: r > 0), source="pytorch#59584"
        ),
    },
)  # fmt: skip

PAIRS = (
    LAYER_NORM, STANDARDISED, RMS_NORM, BATCH_NORM, GROUP_NORM, WEIGHT_NORM, LENGTH, UNIT,
    SHORTENED,
)  # fmt: skip
