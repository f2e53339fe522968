"""The dense matrix that a convolution is: mostly zeros, the rest a few numbers over and over.

For y = conv(x) without bias there is one matrix M with ``x.reshape(N, -1) @ M`` equal to
``y.reshape(N, -1)``; its entry for the input (place i, channel c) and the output (place p,
channel k) is

    M[(i, c), (p, k)] = w[q, c, k]  where s·p + δ·q − lo = i, and 0 where no q fits

so that Mᵀ is the backward pass and the gradient of w[q, c, k] is the sum of M's gradient over the
entries where it stands. In one dimension with stride 1, M is a Toeplitz matrix; in two it is
doubly block Toeplitz (Goodfellow, Bengio & Courville 2016, section 9.1).
"""

import itertools
from collections.abc import Sequence
from math import prod

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxdl.numerics.window import (
    Padding,
    check_groups,
    check_padding,
    check_rank,
    per_axis,
    place_window,
    turn_kernel,
)


def conv_matrix(
    w: Array,
    space: Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "valid",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    flip: bool = False,
) -> Array:
    """The matrix (prod(space)·C, prod(out)·K) of a convolution with kernel w (*size, C/groups, K).

    Differentiable in `w`. The settings are those of `conv`; its size is the product of input and
    output, so it is for looking at and for tests.

    Raises:
      ValueError: a kernel that has not one axis for each of `space` and two for channels, or that
        does not fit; settings that cannot be.
    """
    rank = len(space)
    check_rank("conv_matrix", rank)
    if jnp.ndim(w) != rank + 2:
        raise ValueError(
            f"conv_matrix: w must have {rank + 2} axes (size along each of the {rank} axes of "
            f"space {tuple(space)}, channels in, channels out), got shape {jnp.shape(w)}; give "
            "the kernel of a conv of that rank"
        )
    *size, c, k = w.shape
    check_groups("conv_matrix", "the channels out", k, groups)
    check_padding("conv_matrix", padding, rank)
    window = place_window(
        "conv_matrix",
        space,
        tuple(size),
        per_axis("conv_matrix", "strides", strides, rank),
        padding,
        per_axis("conv_matrix", "dilation", dilation, rank),
        groups,
    )
    w = turn_kernel(w, flip)
    # one kernel of all channels: those of other groups have weight 0
    whole = jnp.zeros((prod(size), groups, c, groups, k // groups), w.dtype)
    grouped = w.reshape(prod(size), c, groups, k // groups)
    for group in range(groups):
        whole = whole.at[:, group, :, group].set(grouped[:, :, group])
    whole = whole.reshape(prod(size), groups * c, k)

    out = window.out(space)
    places = np.stack(np.unravel_index(np.arange(prod(out)), out), axis=-1)
    matrix = jnp.zeros((prod(space), prod(out), groups * c, k), w.dtype)
    for number, q in enumerate(itertools.product(*map(range, size))):
        before = [lo for lo, _ in window.padding]
        under = places * window.strides + np.multiply(q, window.dilation) - before
        inside = np.flatnonzero(((under >= 0) & (under < space)).all(axis=-1))
        rows = np.ravel_multi_index(tuple(under[inside].T), tuple(space))
        matrix = matrix.at[rows, inside].set(whole[number])
    return matrix.swapaxes(1, 2).reshape(prod(space) * groups * c, prod(out) * k)
