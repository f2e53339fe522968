"""Dense (fully connected) layer.

Shapes: x (..., m), w (m, k), b (k,), y (..., k).

    y  = x·w + b
    dx = dy·wᵀ        dw = Σ x ⊗ dy        db = Σ dy          (Σ over examples and positions)

Reference: Rumelhart, Hinton & Williams (1986), Nature 323, 533-536.
"""

from functools import partial

import jax

from jaxdl.core.factors import Outer, Sum
from jaxdl.core.layer import Layer, leaf
from jaxdl.numerics.checks import check_floating, check_params


def _init(key, x, *, features, use_bias, w_init, b_init):
    check_floating("dense", x)
    if not x.shape:
        raise ValueError("dense: x must have a last axis of features, got a scalar; use x[None]")
    w_key, b_key = jax.random.split(key)
    params = {"w": w_init(w_key, (x.shape[-1], features), x.dtype)}
    return params | {"b": b_init(b_key, (features,), x.dtype)} if use_bias else params


def _fwd(params, x, *, features):
    check_floating("dense", x)
    check_params("dense", params, w=(None, features), b=(features,))
    w = params["w"]
    if x.shape[-1:] != w.shape[:1]:
        raise ValueError(
            f"dense: x.shape[-1] must equal params['w'].shape[0] ({w.shape[0]}), got x.shape == "
            f"{x.shape}; check the layer before, or run init again for inputs of this shape"
        )
    y = x @ w.astype(x.dtype)
    if "b" in params:
        y = y + params["b"].astype(x.dtype)
    return y, x  # x: one factor of dw; the layer before keeps the same array as its output


def _bwd(params, x, dy):
    factors = {"w": Outer(x, dy)}
    if "b" in params:
        factors |= {"b": Sum(dy)}
    return factors, dy @ params["w"].astype(dy.dtype).T


def dense(
    features: int,
    *,
    use_bias: bool = True,
    w_init: jax.nn.initializers.Initializer = jax.nn.initializers.lecun_normal(),
    b_init: jax.nn.initializers.Initializer = jax.nn.initializers.zeros,
) -> Layer:
    """A dense layer: (..., m) floating point to (..., features), computed in the dtype of x.

    Args:
      features: width of the output, at least 1.
      use_bias: whether to add a bias.
      w_init, b_init: initial weights, from `jax.nn.initializers`; the default variance is 1/m.

    Raises:
      ValueError: `features` below 1; an input whose last axis is not the one init has seen.
      TypeError: an integer input.
    """
    if features < 1:
        raise ValueError(f"dense: features must be at least 1, got {features}; give the width")
    init = partial(_init, features=features, use_bias=use_bias, w_init=w_init, b_init=b_init)
    fwd, names = partial(_fwd, features=features), ("w", "b") if use_bias else ("w",)
    return leaf("dense", init, fwd, _bwd, params=names, detail=str(features))
