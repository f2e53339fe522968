"""Moving, slicing, padding and sampling with rules by hand."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.gradcheck_corpus.functions_draw import (
    from_inputs,
    normal,
    of,
)
from experiments.gradcheck_corpus.kinds import Function


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def roll(x, shift):
    return jnp.roll(x, shift, axis=0)


roll.defvjp(
    lambda x, shift: (roll(x, shift), None), lambda shift, _, g: (jnp.roll(g, -shift, axis=0),)
)


def _edge_bwd(g, x):
    n = x.shape[-1]
    d = g[..., 2 : 2 + n]
    return (d.at[..., 0].add(g[..., :2].sum(-1)).at[..., -1].add(g[..., 2 + n :].sum(-1)),)


def _mirrored(x):
    """With fewer rows the mirror image is mirrored again, which the rule does not know."""
    if x.shape[0] < 3:
        raise ValueError(f"pad by reflection: x must have at least 3 rows, got {x.shape}")
    return jnp.pad(x, ((2, 2), (0, 0)), mode="reflect")


def _mirrored_bwd(g, x):
    n = x.shape[0]
    d = g[2 : 2 + n]
    return (d.at[jnp.array([2, 1])].add(g[:2]).at[jnp.array([n - 2, n - 3])].add(g[2 + n :]),)


def _slice_bwd(g, x, start):
    return lax.dynamic_update_slice_in_dim(jnp.zeros_like(x), g, start, 0), None


def _write(x, piece, start):
    return lax.dynamic_update_slice(x, piece, (start,))


def _write_bwd(g, x, piece, start):
    dx = lax.dynamic_update_slice(g, jnp.zeros_like(piece), (start,))
    return dx, lax.dynamic_slice(g, (start,), piece.shape), None


def _windows(x):
    """Overlapping windows of 4 with a stride of 2."""
    starts = np.arange(0, x.shape[0] - 3, 2)
    return x[starts[:, None] + np.arange(4)]


def _windows_bwd(g, x):
    starts = np.arange(0, x.shape[0] - 3, 2)
    return (jnp.zeros_like(x).at[starts[:, None] + np.arange(4)].add(g),)


def _bracket(x, knots):
    i = jnp.clip(jnp.searchsorted(knots, x, side="right") - 1, 0, knots.shape[0] - 2)
    x = jnp.clip(x, knots[0], knots[-1])
    return i, (x - knots[i]) / (knots[i + 1] - knots[i])


def _interpolate(x, knots, values):
    """Linear between the knots, constant beyond."""
    i, t = _bracket(x, knots)
    return values[i] + t * (values[i + 1] - values[i])


def _interpolate_bwd(g, x, knots, values):
    i, t = _bracket(x, knots)
    slope = (values[i + 1] - values[i]) / (knots[i + 1] - knots[i])
    inside = (x > knots[0]) & (x < knots[-1])
    d_values = jnp.zeros_like(values).at[i].add(g * (1 - t)).at[i + 1].add(g * t)
    move = jnp.where(inside, -g * slope, 0)
    d_knots = jnp.zeros_like(knots).at[i].add(move * (1 - t)).at[i + 1].add(move * t)
    return jnp.where(inside, g * slope, 0), d_knots, d_values


def _sample_image(image, points):
    """Bilinear, coordinates clipped to the image."""
    h, w = image.shape
    y, x = jnp.clip(points[:, 0], 0, h - 1), jnp.clip(points[:, 1], 0, w - 1)
    i = jnp.clip(jnp.floor(y).astype(jnp.int32), 0, h - 2)
    j = jnp.clip(jnp.floor(x).astype(jnp.int32), 0, w - 2)
    return i, j, y - i.astype(y.dtype), x - j.astype(x.dtype)


def _bilinear(image, points):
    i, j, u, v = _sample_image(image, points)
    top = image[i, j] * (1 - v) + image[i, j + 1] * v
    bottom = image[i + 1, j] * (1 - v) + image[i + 1, j + 1] * v
    return top * (1 - u) + bottom * u


def _bilinear_bwd(g, image, points):
    i, j, u, v = _sample_image(image, points)
    d = jnp.zeros_like(image).at[i, j].add(g * (1 - u) * (1 - v)).at[i, j + 1].add(g * (1 - u) * v)
    d = d.at[i + 1, j].add(g * u * (1 - v)).at[i + 1, j + 1].add(g * u * v)
    dy = (image[i + 1, j] - image[i, j]) * (1 - v) + (image[i + 1, j + 1] - image[i, j + 1]) * v
    dx = (image[i, j + 1] - image[i, j]) * (1 - u) + (image[i + 1, j + 1] - image[i + 1, j]) * u
    limits = jnp.array([image.shape[0] - 1, image.shape[1] - 1], points.dtype)
    inside = (points > 0) & (points < limits)
    return d, jnp.where(inside, g[:, None] * jnp.stack([dy, dx], -1), 0)


def _shuffle(x):
    """Channels to space by 2 × 2."""
    h, w, c = x.shape
    return x.reshape(h, w, 2, 2, c // 4).transpose(0, 2, 1, 3, 4).reshape(2 * h, 2 * w, c // 4)


def _shuffle_bwd(g, x):
    h, w, c = x.shape
    return (g.reshape(h, 2, w, 2, c // 4).transpose(0, 2, 1, 3, 4).reshape(h, w, c),)


_ORDER = np.array([3, 0, 4, 1, 2])


def _image_and_points(rng, dtype):
    return normal(rng, dtype, 4, 5), jnp.asarray(rng.uniform(-0.7, 4.3, (6, 2)), dtype)


def _curve(rng, dtype):
    knots = jnp.asarray(np.cumsum(rng.integers(2, 6, 6)) / 4 - 2, dtype)
    return jnp.asarray(rng.uniform(-2, 4, 7), dtype), knots, normal(rng, dtype, 6)


MOVING: tuple[Function, ...] = (
    Function("roll", lambda x: roll(x, 2), of((5, 3))),
    Function("flip", from_inputs(lambda x: x[::-1], lambda g, x: (g[::-1],)), of((4, 3))),
    Function(
        "pad with edges",
        from_inputs(lambda x: jnp.pad(x, ((0, 0), (2, 2)), mode="edge"), _edge_bwd),
        of((2, 5)),
    ),
    Function("pad by reflection", from_inputs(_mirrored, _mirrored_bwd), of((6, 2))),
    Function(
        "dynamic slice",
        from_inputs(lambda x, i: lax.dynamic_slice_in_dim(x, i, 3), _slice_bwd),
        lambda rng, dtype: (normal(rng, dtype, 7, 4), jnp.int32(6)),
    ),
    Function(
        "dynamic update slice",
        from_inputs(_write, _write_bwd),
        lambda rng, dtype: (normal(rng, dtype, 9), normal(rng, dtype, 4), jnp.int32(2)),
    ),
    Function("overlapping windows", from_inputs(_windows, _windows_bwd), of((12,))),
    Function("linear interpolation", from_inputs(_interpolate, _interpolate_bwd), _curve),
    Function("bilinear sampling", from_inputs(_bilinear, _bilinear_bwd), _image_and_points),
    Function("pixel shuffle", from_inputs(_shuffle, _shuffle_bwd), of((3, 2, 8))),
    Function(
        "permutation",
        from_inputs(lambda x: x[:, _ORDER], lambda g, x: (g[:, np.argsort(_ORDER)],)),
        of((3, 5)),
        ("float32", "bfloat16"),
        "JAX gives an index of NumPy the dtype of the mode in which it met it first",
    ),
    Function(
        "lower triangle",
        from_inputs(lambda x: jnp.tril(x), lambda g, x: (jnp.tril(g),)),
        of((4, 5)),
    ),
)
