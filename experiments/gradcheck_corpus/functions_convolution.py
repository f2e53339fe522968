"""Small convolutions, pooling and image operators with rules by hand."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.gradcheck_corpus.functions_draw import distinct, from_inputs, of, ruled
from experiments.gradcheck_corpus.kinds import Function

_IMAGES = ("NHWC", "HWIO", "NHWC")


def _conv1d(x, w):
    """(T, C) with (K, C, D): valid."""
    k = w.shape[0]
    return sum(x[i : x.shape[0] - k + 1 + i] @ w[i] for i in range(k))


def _conv1d_bwd(g, x, w):
    k, n = w.shape[0], g.shape[0]
    dx = sum(jnp.pad(g @ w[i].T, ((i, k - 1 - i), (0, 0))) for i in range(k))
    return dx, jnp.stack([x[i : i + n].T @ g for i in range(k)])


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv2d(x, w, stride, dilation):
    """Padding of the same size as the filter reaches; any stride and dilation."""
    return _conv2d(x, w, stride, dilation)


def _conv2d(x, w, stride, dilation):
    pads = [(dilation * (k // 2),) * 2 for k in w.shape[:2]]
    return lax.conv_general_dilated(
        x, w, (stride, stride), pads, rhs_dilation=(dilation, dilation), dimension_numbers=_IMAGES
    )


def _conv2d_bwd(stride, dilation, kept, g):
    x, w = kept
    dx, dw = jnp.zeros_like(x), []
    pads = [dilation * (k // 2) for k in w.shape[:2]]
    padded = jnp.pad(x, ((0, 0), (pads[0],) * 2, (pads[1],) * 2, (0, 0)))
    dx = jnp.zeros_like(padded)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            rows = slice(i * dilation, i * dilation + stride * (g.shape[1] - 1) + 1, stride)
            columns = slice(j * dilation, j * dilation + stride * (g.shape[2] - 1) + 1, stride)
            dx = dx.at[:, rows, columns].add(g @ w[i, j].T)
            dw.append(jnp.einsum("nhwc,nhwd->cd", padded[:, rows, columns], g))
    dx = dx[:, pads[0] : pads[0] + x.shape[1], pads[1] : pads[1] + x.shape[2]]
    return dx, jnp.stack(dw).reshape(w.shape)


conv2d.defvjp(lambda x, w, s, d: (_conv2d(x, w, s, d), (x, w)), _conv2d_bwd)


def _depthwise(x, w):
    """(H, W, C) with one 2 × 3 filter for each channel."""
    h, v = x.shape[0] - 1, x.shape[1] - 2
    return sum(x[i : i + h, j : j + v] * w[i, j] for i in range(2) for j in range(3))


def _depthwise_bwd(g, x, w):
    h, v, _ = g.shape
    dx = sum(jnp.pad(g * w[i, j], ((i, 1 - i), (j, 2 - j), (0, 0)))
             for i in range(2) for j in range(3))  # fmt: skip
    dw = [[(x[i : i + h, j : j + v] * g).sum((0, 1)) for j in range(3)] for i in range(2)]
    return dx, jnp.stack([jnp.stack(row) for row in dw])


def _transposed(x, w):
    """(T, C) with (3, C, D) and stride 2: every input writes three outputs."""
    y = jnp.zeros((2 * x.shape[0] + 1, w.shape[2]), x.dtype)
    return sum((y.at[i : i + 2 * x.shape[0] : 2].set(x @ w[i]) for i in range(3)), start=y)


def _transposed_bwd(g, x, w):
    n = 2 * x.shape[0]
    dx = sum(g[i : i + n : 2] @ w[i].T for i in range(3))
    return dx, jnp.stack([x.T @ g[i : i + n : 2] for i in range(3)])


def _causal(x, w):
    """Dilated by 2, over what is past."""
    padded = jnp.pad(x, ((4, 0),))
    return sum(w[i] * padded[2 * i : 2 * i + x.shape[0]] for i in range(3))


def _causal_bwd(g, x, w):
    n = x.shape[0]
    padded, later = jnp.pad(x, ((4, 0),)), jnp.pad(g, ((0, 4),))
    dx = sum(w[i] * later[4 - 2 * i : 4 - 2 * i + n] for i in range(3))
    return dx, jnp.stack([g @ padded[2 * i : 2 * i + n] for i in range(3)])


# --- pooling ------------------------------------------------------------------------------------


def _patches(x):
    """2 × 2, side by side: (h, w, 4, C)."""
    h, w, c = x.shape[0] // 2, x.shape[1] // 2, x.shape[2]
    return x.reshape(h, 2, w, 2, c).transpose(0, 2, 1, 3, 4).reshape(h, w, 4, c)


def _unpatched(p):
    h, w, _, c = p.shape
    return p.reshape(h, w, 2, 2, c).transpose(0, 2, 1, 3, 4).reshape(2 * h, 2 * w, c)


def _max_pool_fwd(x):
    p = _patches(x)
    return p.max(2), jnp.argmax(p, 2)


def _max_pool_bwd(place, g):
    at = place[:, :, None] == jnp.arange(4)[:, None]
    return (_unpatched(jnp.where(at, g[:, :, None], 0)),)


def _overlapping(x):
    """Windows of 3 with a stride of 2 along the first axis."""
    n = (x.shape[0] - 3) // 2 + 1
    return jnp.stack([x[i : i + 2 * n - 1 : 2] for i in range(3)])


def _overlapping_bwd(g, x):
    places = 2 * jnp.arange(g.shape[0])[:, None] + jnp.argmax(_overlapping(x), 0)
    return (jnp.zeros_like(x).at[places, jnp.arange(x.shape[1])].add(g),)


def _average_bwd(g, x):
    return (_unpatched(jnp.broadcast_to(g[:, :, None] / 4, (*g.shape[:2], 4, g.shape[2]))),)


def _l2_pool(x):
    return jnp.sqrt((_patches(x) ** 2).sum(2) + 1e-6)


def _l2_pool_bwd(g, x):
    return (_unpatched(_patches(x) * (g / _l2_pool(x))[:, :, None]),)


# --- operators on images ------------------------------------------------------------------------


def _upsample_bwd(g, x):
    return (g.reshape(x.shape[0], 2, x.shape[1], 2).sum((1, 3)),)


def _laplacian(u):
    """Five points, periodic: its own transpose."""
    return sum(jnp.roll(u, s, a) for s in (1, -1) for a in (0, 1)) - 4 * u


def _variation(u):
    """Smoothed total variation."""
    dy, dx = u[1:, :-1] - u[:-1, :-1], u[:-1, 1:] - u[:-1, :-1]
    return jnp.sum(jnp.sqrt(dx * dx + dy * dy + 1e-3))


def _variation_bwd(g, u):
    dy, dx = u[1:, :-1] - u[:-1, :-1], u[:-1, 1:] - u[:-1, :-1]
    r = g / jnp.sqrt(dx * dx + dy * dy + 1e-3)
    d = jnp.zeros_like(u).at[1:, :-1].add(r * dy).at[:-1, 1:].add(r * dx)
    return (d.at[:-1, :-1].add(-r * (dx + dy)),)


_KERNEL = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16


def _blur(x, kernel=_KERNEL):
    """A binomial filter along both axes, zeros outside."""
    for axis in (0, 1):
        pads = [(2, 2) if a == axis else (0, 0) for a in (0, 1)]
        padded, n = jnp.pad(x, pads), x.shape[axis]
        pieces = [lax.slice_in_dim(padded, i, i + n, axis=axis) for i in range(len(kernel))]
        x = sum((float(k) * z for k, z in zip(kernel, pieces, strict=True)), jnp.zeros_like(x))
    return x


def _erosion_bwd(g, x, w):
    """min over a window of x + w."""
    shifted = jnp.stack([x[i : i + g.shape[0]] + w[i] for i in range(3)])
    at = (jnp.argmin(shifted, 0) == jnp.arange(3)[:, None]) * g
    dx = sum(jnp.pad(at[i], (i, 2 - i)) for i in range(3))
    return dx, at.sum(1)


def _erosion(x, w):
    n = x.shape[0] - 2
    return jnp.min(jnp.stack([x[i : i + n] + w[i] for i in range(3)]), 0)


CONVOLUTION: tuple[Function, ...] = (
    Function("conv of a sequence", from_inputs(_conv1d, _conv1d_bwd), of((7, 2), (3, 2, 4))),
    Function("conv of images", lambda x, w: conv2d(x, w, 1, 1), of((2, 4, 5, 3), (3, 3, 3, 2))),
    Function("conv, stride 2", lambda x, w: conv2d(x, w, 2, 1), of((1, 5, 6, 2), (3, 3, 2, 2))),
    Function("conv, dilation 2", lambda x, w: conv2d(x, w, 1, 2), of((1, 6, 5, 2), (3, 3, 2, 3))),
    Function("depthwise conv", from_inputs(_depthwise, _depthwise_bwd), of((4, 5, 2), (2, 3, 2))),
    Function("transposed conv", from_inputs(_transposed, _transposed_bwd), of((4, 2), (3, 2, 3))),
    Function("causal dilated conv", from_inputs(_causal, _causal_bwd), of((9,), (3,))),
    Function(
        "max pooling",
        ruled(lambda x: _patches(x).max(2), _max_pool_fwd, _max_pool_bwd),
        of((4, 6, 2)),
    ),
    Function(
        "overlapping max pooling",
        from_inputs(lambda x: _overlapping(x).max(0), _overlapping_bwd),
        lambda rng, dtype: (distinct(rng, dtype, 9, 2),),
    ),
    Function(
        "average pooling", from_inputs(lambda x: _patches(x).mean(2), _average_bwd), of((4, 2, 3))
    ),
    Function("l2 pooling", from_inputs(_l2_pool, _l2_pool_bwd), of((2, 6, 3))),
    Function(
        "upsampling", from_inputs(lambda x: x.repeat(2, 0).repeat(2, 1), _upsample_bwd), of((3, 4))
    ),
    Function("laplacian", from_inputs(_laplacian, lambda g, u: (_laplacian(g),)), of((5, 6))),
    Function("total variation", from_inputs(_variation, _variation_bwd), of((4, 6))),
    Function(
        "blur",
        ruled(lambda x: _blur(x), lambda x: (_blur(x), None), lambda _, g: (_blur(g),)),
        of((6, 7)),
    ),
    Function("erosion", from_inputs(_erosion, _erosion_bwd), of((10,), (3,))),
)
