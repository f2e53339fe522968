"""Normalisation layers with rules by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from experiments.gradcheck_corpus.functions_draw import from_inputs, normal, of, positive, ruled
from experiments.gradcheck_corpus.kinds import Function

_EPS = 1e-5


def _layer_norm(x, scale, shift):
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + _EPS) * scale + shift


def _layer_norm_fwd(x, scale, shift):
    centred = x - x.mean(-1, keepdims=True)
    inverse = lax.rsqrt((centred**2).mean(-1, keepdims=True) + _EPS)
    return centred * inverse * scale + shift, (centred * inverse, inverse, scale)


def _layer_norm_bwd(kept, g):
    hat, inverse, scale = kept
    d = g * scale
    d = d - d.mean(-1, keepdims=True) - hat * (d * hat).mean(-1, keepdims=True)
    axes = tuple(range(g.ndim - 1))
    return inverse * d, (g * hat).sum(axes), g.sum(axes)


@jax.custom_vjp
def wide_layer_norm(x, scale):
    """Statistics in float32 whatever the dtype of x, as kernels do it; as wide as x if wider."""
    return _wide_layer_norm_fwd(x, scale)[0]


def _wide_layer_norm_fwd(x, scale):
    wide = jnp.promote_types(x.dtype, jnp.float32)
    centred = x.astype(wide) - x.astype(wide).mean(-1, keepdims=True)
    inverse = lax.rsqrt((centred**2).mean(-1, keepdims=True) + _EPS)
    y = centred * inverse * scale.astype(wide)
    return y.astype(x.dtype), (x, inverse, scale)


def _wide_layer_norm_bwd(kept, g):
    x, inverse, scale = kept
    wide = inverse.dtype
    hat = (x.astype(wide) - x.astype(wide).mean(-1, keepdims=True)) * inverse
    g = g.astype(wide)
    d = g * scale.astype(wide)
    d = d - d.mean(-1, keepdims=True) - hat * (d * hat).mean(-1, keepdims=True)
    return (inverse * d).astype(x.dtype), (g * hat).sum(0).astype(scale.dtype)


wide_layer_norm.defvjp(_wide_layer_norm_fwd, _wide_layer_norm_bwd)


@jax.custom_vjp
def rms_norm(x, scale):
    """In float32 in the middle, always: written for half precision."""
    return _rms_norm_fwd(x, scale)[0]


def _rms_norm_fwd(x, scale):
    wide = x.astype(jnp.float32)
    inverse = lax.rsqrt((wide * wide).mean(-1, keepdims=True) + 1e-6)
    return (wide * inverse * scale.astype(jnp.float32)).astype(x.dtype), (x, inverse, scale)


def _rms_norm_bwd(kept, g):
    x, inverse, scale = kept
    hat, g = x.astype(jnp.float32) * inverse, g.astype(jnp.float32)
    d = g * scale.astype(jnp.float32)
    dx = inverse * (d - hat * (d * hat).mean(-1, keepdims=True))
    return dx.astype(x.dtype), (g * hat).sum(0).astype(scale.dtype)


rms_norm.defvjp(_rms_norm_fwd, _rms_norm_bwd)


def _batch_norm(x, scale, shift):
    """Over all axes but the last; also the statistics, for the running averages."""
    axes = tuple(range(x.ndim - 1))
    mean, var = x.mean(axes), x.var(axes)
    return (x - mean) * lax.rsqrt(var + _EPS) * scale + shift, mean, var


def _batch_norm_fwd(x, scale, shift):
    y, mean, var = _batch_norm(x, scale, shift)
    return (y, mean, var), (x, scale, mean, lax.rsqrt(var + _EPS))


def _batch_norm_bwd(kept, g):
    x, scale, mean, inverse = kept
    g_y, g_mean, g_var = g
    axes = tuple(range(x.ndim - 1))
    n = x.size // x.shape[-1]
    centred = x - mean
    hat, d = centred * inverse, g_y * scale
    dx = inverse * (d - d.mean(axes) - hat * (d * hat).mean(axes))
    dx = dx + g_mean / n + 2 * centred * g_var / n
    return dx, (g_y * hat).sum(axes), g_y.sum(axes)


def _frozen_norm_bwd(g, x, mean, var, scale):
    """Batch norm at evaluation: the statistics are arguments."""
    inverse = lax.rsqrt(var + _EPS)
    d = (g * (x - mean)).sum(0)
    return (g * scale * inverse, -(g * scale * inverse).sum(0), -0.5 * d * scale * inverse**3,
            d * inverse)  # fmt: skip


def _groups(x):
    return x.reshape(x.shape[0], -1, 3, x.shape[-1] // 3)


def _group_norm(x, scale):
    """(N, places, C) in three groups of channels."""
    z = _groups(x)
    z = z - z.mean((1, 3), keepdims=True)
    z = z * lax.rsqrt((z * z).mean((1, 3), keepdims=True) + _EPS)
    return z.reshape(x.shape) * scale


def _group_norm_bwd(g, x, scale):
    z = _groups(x)
    z = z - z.mean((1, 3), keepdims=True)
    inverse = lax.rsqrt((z * z).mean((1, 3), keepdims=True) + _EPS)
    hat, d = z * inverse, _groups(g * scale)
    dx = inverse * (d - d.mean((1, 3), keepdims=True) - hat * (d * hat).mean((1, 3), keepdims=True))
    return dx.reshape(x.shape), (g * hat.reshape(x.shape)).sum((0, 1))


def _instance_norm_bwd(g, x):
    z = x - x.mean((1, 2), keepdims=True)
    inverse = lax.rsqrt((z * z).mean((1, 2), keepdims=True) + _EPS)
    hat = z * inverse
    return (
        inverse * (g - g.mean((1, 2), keepdims=True) - hat * (g * hat).mean((1, 2), keepdims=True)),
    )


def _instance_norm(x):
    z = x - x.mean((1, 2), keepdims=True)
    return z * lax.rsqrt((z * z).mean((1, 2), keepdims=True) + _EPS)


def _weight_norm(v, length):
    return length * v / jnp.sqrt((v * v).sum(0))


def _weight_norm_bwd(g, v, length):
    size = jnp.sqrt((v * v).sum(0))
    unit = v / size
    along = (g * unit).sum(0)
    return length / size * (g - along * unit), along


def _unit(x):
    return x / jnp.sqrt((x * x).sum(-1, keepdims=True) + 1e-8)


def _unit_bwd(g, x):
    inverse = lax.rsqrt((x * x).sum(-1, keepdims=True) + 1e-8)
    y = x * inverse
    return ((g - y * (g * y).sum(-1, keepdims=True)) * inverse,)


def _standardise(x, mask):
    """By the statistics of what is not masked; 0 where it is."""
    m = mask.astype(x.dtype)
    n = m.sum(-1, keepdims=True)
    z = (x - (x * m).sum(-1, keepdims=True) / n) * m
    return z * lax.rsqrt((z * z).sum(-1, keepdims=True) / n + _EPS)


def _standardise_bwd(g, x, mask):
    m = mask.astype(x.dtype)
    n = m.sum(-1, keepdims=True)
    z = (x - (x * m).sum(-1, keepdims=True) / n) * m
    inverse = lax.rsqrt((z * z).sum(-1, keepdims=True) / n + _EPS)
    hat, g = z * inverse, g * m
    d = g - g.sum(-1, keepdims=True) / n - hat * (g * hat).sum(-1, keepdims=True) / n
    return inverse * d * m, None


def _unit_range(x):
    low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
    return (x - low) / (high - low)


def _unit_range_bwd(g, x):
    places = jnp.arange(x.shape[-1])
    bottom = x.argmin(-1, keepdims=True) == places
    top = x.argmax(-1, keepdims=True) == places
    y = _unit_range(x)
    width = x.max(-1, keepdims=True) - x.min(-1, keepdims=True)
    d_low = -(g * (1 - y)).sum(-1, keepdims=True)
    d_high = -(g * y).sum(-1, keepdims=True)
    return ((g + jnp.where(bottom, d_low, 0) + jnp.where(top, d_high, 0)) / width,)


def _add_norm(x, residual, scale):
    """Two results: the sum goes on to the next block."""
    s = x + residual
    return s * lax.rsqrt((s * s).mean(-1, keepdims=True) + _EPS) * scale, s


def _add_norm_bwd(g, x, residual, scale):
    g_y, g_s = g
    s = x + residual
    inverse = lax.rsqrt((s * s).mean(-1, keepdims=True) + _EPS)
    hat, d = s * inverse, g_y * scale
    ds = inverse * (d - hat * (d * hat).mean(-1, keepdims=True)) + g_s
    return ds, ds, (g_y * hat).sum(0)


def _response(x):
    """Across three neighbouring channels (Krizhevsky et al. 2012)."""
    s = jnp.pad(x * x, ((0, 0), (1, 1)))
    s = s[:, :-2] + s[:, 1:-1] + s[:, 2:]
    return x * (2 + 0.5 * s) ** -0.75


def _response_bwd(g, x):
    s = jnp.pad(x * x, ((0, 0), (1, 1)))
    base = 2 + 0.5 * (s[:, :-2] + s[:, 1:-1] + s[:, 2:])
    d = jnp.pad(-0.75 * g * x * base**-1.75, ((0, 0), (1, 1)))
    return (g * base**-0.75 + x * (d[:, :-2] + d[:, 1:-1] + d[:, 2:]),)


def _two_scales(rng, dtype):
    """Entries of very different sizes from row to row."""
    sizes = jnp.asarray([[1e-3], [1.0], [50.0]], dtype)
    return normal(rng, dtype, 3, 6) * sizes, positive(rng, dtype, 6)


_RULED_LAYER_NORM = ruled(_layer_norm, _layer_norm_fwd, _layer_norm_bwd)

NORMS: tuple[Function, ...] = (
    Function("layer norm", _RULED_LAYER_NORM, of((4, 7), (7,), (7,))),
    Function("layer norm of 4 axes", _RULED_LAYER_NORM, of((2, 3, 1, 5), (5,), (5,))),
    Function("layer norm in float32", wide_layer_norm, of((3, 8), (8,), shift=0.5)),
    Function("rms norm through float32", rms_norm, of((4, 6), (6,))),
    Function(
        "batch norm with statistics",
        ruled(_batch_norm, _batch_norm_fwd, _batch_norm_bwd),
        of((5, 2, 3), (3,), (3,)),
    ),
    Function(
        "batch norm at evaluation",
        from_inputs(lambda x, m, v, s: (x - m) * lax.rsqrt(v + _EPS) * s, _frozen_norm_bwd),
        lambda rng, dtype: (
            normal(rng, dtype, 6, 4),
            normal(rng, dtype, 4),
            positive(rng, dtype, 4),
            normal(rng, dtype, 4),
        ),
    ),
    Function("group norm", from_inputs(_group_norm, _group_norm_bwd), of((2, 4, 6), (6,))),
    Function("instance norm", from_inputs(_instance_norm, _instance_norm_bwd), of((2, 4, 3, 2))),
    Function("weight norm", from_inputs(_weight_norm, _weight_norm_bwd), of((5, 3), (3,))),
    Function("unit vectors", from_inputs(_unit, _unit_bwd), of((4, 3))),
    Function(
        "masked standardisation",
        from_inputs(_standardise, _standardise_bwd),
        lambda rng, dtype: (
            normal(rng, dtype, 3, 8),
            jnp.asarray(rng.random((3, 8)) < 0.6).at[:, :2].set(True),
        ),
    ),
    Function("to the unit range", from_inputs(_unit_range, _unit_range_bwd), of((3, 6))),
    Function("add and norm", from_inputs(_add_norm, _add_norm_bwd), of((4, 5), (4, 5), (5,))),
    Function("local response norm", from_inputs(_response, _response_bwd), of((3, 7), scale=2)),
    Function(
        "layer norm of rows of all sizes",
        lambda x, s: _RULED_LAYER_NORM(x, s, jnp.zeros_like(s)),
        _two_scales,
    ),
)
