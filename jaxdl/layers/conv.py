"""Convolution in one, two and three dimensions, and its transpose.

Shapes: x (N, *space, C), w (*size, C/groups, K), b (K,), y (N, *out, K). With stride s, dilation δ,
padding lo before the first place, and sums over the places q of the kernel and its channels c:

    y[n, p, k]   = Σ x[n, s·p + δ·q − lo, c]·w[q, c, k] + b[k]
    dx[n, i, c]  = Σ dy[n, p, k]·w[q, c, k]               over p, q with s·p + δ·q − lo = i, and k
    dw[q, c, k]  = Σ x[n, s·p + δ·q − lo, c]·dy[n, p, k]  over n, p: a weight's gradient is the sum
    db[k]        = Σ dy[n, p, k]                          over the places where it is used

This is cross-correlation, as in every deep-learning library. `flip=True` turns the kernel round in
every axis and gives the convolution of mathematics, y[p] = Σ x[p − q]·w[q]. `conv_transpose` is
the map from dy to dx above as a forward; its own backward is `correlate`.

References: LeCun et al. (1989), Neural Computation 1, 541-551; Goodfellow, Bengio & Courville
(2016), chapter 9; Dumoulin & Visin (2016, arXiv:1603.07285) for the arithmetic of shapes.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core.factors import ConvOuter, Sum
from jaxdl.core.layer import Layer, leaf
from jaxdl.numerics.checks import check_params
from jaxdl.numerics.correlation import correlate, correlate_input
from jaxdl.numerics.pytree import Static
from jaxdl.numerics.window import (
    Padding,
    Window,
    check_groups,
    check_images,
    check_kernel,
    place_window,
    turn_kernel,
)


def _add_bias(y: Array, params: dict[str, Array]) -> Array:
    return y + params["b"].astype(y.dtype) if "b" in params else y


def _init(key, x, *, name, features, size, groups, use_bias, w_init, transposed):
    check_images(name, x, len(size))
    check_groups(name, "the channels of x", x.shape[-1], groups)
    # The transpose is stored as the kernel of the convolution it is the transpose of.
    channels = (features, x.shape[-1]) if transposed else (x.shape[-1], features)
    shape = (*size, channels[0] // groups, channels[1])
    w = w_init(key, shape, x.dtype)
    return {"w": w} | ({"b": jnp.zeros(features, x.dtype)} if use_bias else {})


def _fwd(params, x, *, features, size, strides, padding, dilation, groups, flip):
    check_params("conv", params, w=(*size, None, features), b=(features,))
    check_images("conv", x, len(size), params["w"].shape[-2] * groups)
    window = place_window("conv", x.shape[1:-1], size, strides, padding, dilation, groups)
    w = turn_kernel(params["w"].astype(x.dtype), flip)
    y = _add_bias(correlate(x, w, window), params)
    return y, {"x": x, "window": Static(window)}  # x: half of dw


def _bwd(params, residuals, dy, *, flip):
    x, window = residuals["x"], residuals["window"].value
    w = turn_kernel(params["w"].astype(dy.dtype), flip)
    factors = {"w": ConvOuter(x, dy, window, flip)}
    if "b" in params:
        factors |= {"b": Sum(dy)}
    return factors, correlate_input(dy, w, window, x.shape[1:-1])


def conv(
    features: int,
    size: int | Sequence[int],
    *,
    rank: int = 2,
    strides: int | Sequence[int] = 1,
    padding: Padding = "valid",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    flip: bool = False,
    use_bias: bool = True,
    w_init: jax.nn.initializers.Initializer = jax.nn.initializers.lecun_normal(),
) -> Layer:
    """Convolution: (N, *space, C) floating point to (N, *out, features), channels last.

    Args:
      features: channels of the output.
      size: of the kernel; one number for all axes, or one for each.
      rank: axes of space, 1, 2 or 3.
      strides: step between neighbouring places.
      padding: 'valid' (none), 'same' (⌈n/stride⌉ places), 'full' (every overlap), a number of
        zeros on either side, or a number or a pair (before, after) for each axis.
      dilation: distance between neighbouring places of the kernel.
      groups: the channels fall into this many groups that do not mix; as many as there are
        channels makes a depthwise convolution.
      flip: turn the kernel round: true convolution, not cross-correlation.
      use_bias: whether to add one number to each output channel.
      w_init: initial kernel; the default variance is 1/(inputs of a unit).

    Raises:
      ValueError: sizes, strides or groups that cannot be; a kernel larger than the padded input.
      TypeError: an integer input.
    """
    init = partial(_init, use_bias=use_bias, w_init=w_init, transposed=False)
    fwd, bwd = partial(_fwd, flip=flip), partial(_bwd, flip=flip)
    settings = features, size, rank, strides, padding, dilation, groups
    return _leaf("conv", init, fwd, bwd, *settings, use_bias)


def _leaf(
    name, init, fwd, bwd, features, size, rank, strides, padding, dilation, groups, use_bias
) -> Layer:
    """A leaf whose init and forward have the settings that both constructors take."""
    size, strides, dilation = check_kernel(
        name, features, size, rank, strides, padding, dilation, groups
    )
    init = partial(init, name=name, features=features, size=size, groups=groups)
    fwd = partial(fwd, features=features, size=size, strides=strides, padding=padding)
    fwd = partial(fwd, dilation=dilation, groups=groups)
    names = ("w", "b") if use_bias else ("w",)
    detail = f"{features}, {'×'.join(map(str, size))}"
    return leaf(name, init, fwd, bwd, params=names, detail=detail)


def _transpose_fwd(params, x, *, features, size, strides, padding, dilation, groups):
    check_params("conv_transpose", params, w=(*size, features // groups, None), b=(features,))
    check_images("conv_transpose", x, len(size), params["w"].shape[-1])
    window, space = _transpose_window(x.shape[1:-1], size, strides, padding, dilation, groups)
    y = _add_bias(correlate_input(x, params["w"].astype(x.dtype), window, space), params)
    return y, {"x": x, "window": Static(window)}


def _transpose_bwd(params, residuals, dy):
    x, window = residuals["x"], residuals["window"].value
    # The roles of x and dy are exchanged: y = dx of the convolution, dy is its input.
    factors = {"w": ConvOuter(dy, x, window, False)}
    if "b" in params:
        factors |= {"b": Sum(dy)}
    return factors, correlate(dy, params["w"].astype(dy.dtype), window)


def _transpose_window(
    space: Sequence[int],
    size: tuple[int, ...],
    strides: tuple[int, ...],
    padding: Padding,
    dilation: tuple[int, ...],
    groups: int,
) -> tuple[Window, tuple[int, ...]]:
    """The window of the convolution that maps the output back, and the size of the output."""
    extent = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    if padding == "same":
        out = [n * s for n, s in zip(space, strides, strict=True)]
        cut = [max(e - s, 0) for e, s in zip(extent, strides, strict=True)]
        pairs = [(c // 2, c - c // 2) for c in cut]
        window = place_window("conv_transpose", out, size, strides, pairs, dilation, groups)
        return window, tuple(out)
    probe = place_window("conv_transpose", extent, size, strides, padding, dilation, groups)
    out = [
        (n - 1) * s + e - lo - hi
        for n, s, e, (lo, hi) in zip(space, strides, extent, probe.padding, strict=True)
    ]
    if min(out) < 1:
        raise ValueError(
            f"conv_transpose: the output must have at least one place, got size {tuple(out)} from "
            f"an input of size {tuple(space)}; use less padding"
        )
    return probe, tuple(out)


def conv_transpose(
    features: int,
    size: int | Sequence[int],
    *,
    rank: int = 2,
    strides: int | Sequence[int] = 1,
    padding: Padding = "valid",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    use_bias: bool = True,
    w_init: jax.nn.initializers.Initializer = jax.nn.initializers.lecun_normal(
        in_axis=-1, out_axis=-2
    ),
) -> Layer:
    """Transposed convolution: (N, *space, C) to (N, *out, features), channels last.

    The map that takes the cotangent of `conv`'s output to that of its input, for the same size,
    strides, padding and dilation. The output has (n − 1)·stride + extent − padding places along an
    axis, with 'valid'; n·stride with 'same'. The kernel is kept as that of the convolution:
    (*size, features/groups, C).

    Args and errors are those of `conv`.
    """
    init = partial(_init, use_bias=use_bias, w_init=w_init, transposed=True)
    settings = features, size, rank, strides, padding, dilation, groups
    return _leaf("conv_transpose", init, _transpose_fwd, _transpose_bwd, *settings, use_bias)
