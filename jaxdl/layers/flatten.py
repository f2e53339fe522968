"""Flatten: the axes behind the examples become one.

Shapes: x (N, ...), y (N, M) with M the product of the others.

    y  = x, read in row-major order
    dx = dy, in the shape of x
"""

from jaxdl.core.layer import Layer, leaf, no_params
from jaxdl.numerics.checks import check_floating
from jaxdl.numerics.pytree import Static


def _fwd(params, x):
    check_floating("flatten", x)
    if not x.shape:
        raise ValueError("flatten: x must have a first axis of examples, got a scalar; use x[None]")
    return x.reshape(len(x), -1), Static(tuple(x.shape[1:]))


def _bwd(params, shape, dy):
    return {}, dy.reshape(len(dy), *shape.value)


def flatten() -> Layer:
    """(N, ...) to (N, M): what stands between convolutions and a dense layer."""
    return leaf("flatten", no_params, _fwd, _bwd)
