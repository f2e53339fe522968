"""Activations: elementwise, over the last axis (softmax), and over groups of it (maxout).

Shapes: x (..., m); y the same, but (..., m / pieces) for maxout.

    relu         y = max(x, 0)                        dx = dy·[y > 0]
    leaky_relu   y = x, or s·x where x ≤ 0            dx = dy, or s·dy
    elu          y = x, or α(eˣ − 1) where x ≤ 0      dx = dy, or dy·αeˣ
    sigmoid      y = 1/(1 + e⁻ˣ)                      dx = dy·y(1 − y)
    tanh         y = tanh x                           dx = dy·(1 − y²)
    softplus     y = log(1 + eˣ)                      dx = dy·σ(x)
    silu         y = x·σ(x)                           dx = dy·σ(x)(1 + x(1 − σ(x)))
    gelu         y = x·Φ(x)                           dx = dy·(Φ(x) + x·φ(x))
    gelu, tanh   y = x(1 + t)/2,  t = tanh u          dx = dy·((1 + t) + x(1 − t²)u′)/2
                 u = c(x + 0.044715x³), c = √(2/π)    u′ = c(1 + 3·0.044715x²)
    softmax      y = eˣ / Σeˣ                         dx = y(dy − Σ dy·y)
    log_softmax  y = x − log Σeˣ                      dx = dy − eʸ Σ dy
    maxout       yⱼ = maxₚ x₍ⱼ,ₚ₎                     dx₍ⱼ,ₚ₎ = dyⱼ·[p is the first maximum]

At a kink the backward takes the side that gives less: relu has gradient 0 at 0, and of tied
maxima the first takes it all.

What is kept: y wherever the derivative can be had from it as well as autodiff has it, since the
next layer keeps the same array as its input and the two become one; x otherwise.

References: Glorot, Bordes & Bengio (2011) relu; Maas et al. (2013) leaky relu; Clevert et al.
(2016, arXiv:1511.07289) elu; Hendrycks & Gimpel (2016, arXiv:1606.08415) gelu; Elfwing et al.
(2018, arXiv:1702.03118) silu; Goodfellow et al. (2013, arXiv:1302.4389) maxout.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxdl.core.layer import Layer, leaf, no_params
from jaxdl.numerics.checks import check_floating
from jaxdl.numerics.dtypes import wide

_SQRT_2_OVER_PI = 0.7978845608028654
_SQRT_HALF = 0.7071067811865476
_INV_SQRT_2PI = 0.3989422804014327
_CUBIC = 0.044715


def _relu_fwd(x):
    # jnp.maximum(x, 0.) would have gradient 0.5 at 0; x > 0 would hide a NaN
    y = jnp.where(x <= 0, 0, x)
    return y, y


def _relu_bwd(y, dy):
    return jnp.where(y <= 0, 0, dy)


def _leaky_relu_fwd(x, *, slope):
    y = jnp.where(x > 0, x, slope * x)
    return y, y  # slope ≥ 0, so y > 0 exactly where x > 0


def _leaky_relu_bwd(y, dy, *, slope):
    return jnp.where(y > 0, dy, slope * dy)


def _elu_fwd(x, *, alpha):
    # the where inside keeps exp from overflowing in the branch not taken
    y = jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0, x)))
    return y, x  # y + α cancels: of the slopes far below 0 nothing would be left


def _elu_bwd(x, dy, *, alpha):
    return jnp.where(x > 0, dy, dy * (alpha * jnp.exp(jnp.where(x > 0, 0, x))))


def _sigmoid_fwd(x):
    y = jax.nn.sigmoid(x)
    return y, y


def _sigmoid_bwd(y, dy):
    return dy * y * (1 - y)


def _tanh_fwd(x):
    y = jnp.tanh(x)
    return y, y


def _tanh_bwd(y, dy):
    return dy * (1 - y * y)


def _softplus_fwd(x):
    return jax.nn.softplus(x), x


def _softplus_bwd(x, dy):
    return dy * jax.nn.sigmoid(x)


def _silu_fwd(x):
    return x * jax.nn.sigmoid(x), x


def _silu_bwd(x, dy):
    s = jax.nn.sigmoid(x)
    return dy * s * (1 + x * (1 - s))


def _normal_cdf(x):
    return lax.erfc(-x * _SQRT_HALF) / 2  # erfc keeps the digits of the lower tail


def _gelu_fwd(x):
    return x * _normal_cdf(x), x


def _gelu_bwd(x, dy):
    return dy * (_normal_cdf(x) + x * _INV_SQRT_2PI * jnp.exp(-x * x / 2))


def _gelu_tanh_fwd(x):
    t = jnp.tanh(_SQRT_2_OVER_PI * x * (1 + _CUBIC * x * x))
    return x * (1 + t) / 2, x


def _gelu_tanh_bwd(x, dy):
    t = jnp.tanh(_SQRT_2_OVER_PI * x * (1 + _CUBIC * x * x))
    du = _SQRT_2_OVER_PI * (1 + 3 * _CUBIC * x * x)
    return dy * ((1 + t) + x * (1 - t * t) * du) / 2


def _softmax_fwd(x):
    y = jax.nn.softmax(x, axis=-1)
    return y, y


def _softmax_bwd(y, dy):
    dot = jnp.sum(dy * y, axis=-1, keepdims=True, dtype=wide(y.dtype))
    return y * (dy - dot.astype(y.dtype))


def _log_softmax_fwd(x):
    y = jax.nn.log_softmax(x, axis=-1)
    return y, y


def _log_softmax_bwd(y, dy):
    total = jnp.sum(dy, axis=-1, keepdims=True, dtype=wide(y.dtype))
    return dy - jnp.exp(y) * total.astype(y.dtype)


def _maxout_fwd(x, *, pieces):
    if x.shape[-1] % pieces:
        raise ValueError(
            f"maxout: x.shape[-1] must be a multiple of pieces ({pieces}), got x.shape == "
            f"{x.shape}; make the layer before {pieces} × as wide as the output"
        )
    groups = x.reshape(*x.shape[:-1], -1, pieces)
    winner = jnp.argmax(groups, axis=-1)  # of equals the first
    y = jnp.take_along_axis(groups, winner[..., None], axis=-1)[..., 0]
    return y, winner  # integers, one for each output


def _maxout_bwd(winner, dy, *, pieces):
    chosen = winner[..., None] == jnp.arange(pieces)
    dx = jnp.where(chosen, dy[..., None], 0)
    return dx.reshape(*dy.shape[:-1], -1)


def _identity_fwd(x):
    return x, None


def _identity_bwd(residuals, dy):
    return dy


def _activation(
    name: str,
    fwd: Callable[[Array], tuple[Array, Any]],
    bwd: Callable[[Any, Array], Array],
    detail: str = "",
) -> Layer:
    """A leaf of a pair of functions that know nothing of parameters."""

    def checked_fwd(params, x):
        check_floating(name, x)
        return fwd(x)

    def factored_bwd(params, residuals, dy):
        return {}, bwd(residuals, dy)

    return leaf(name, no_params, checked_fwd, factored_bwd, detail=detail)


def relu() -> Layer:
    """max(x, 0), elementwise; gradient 0 at 0."""
    return _activation("relu", _relu_fwd, _relu_bwd)


def leaky_relu(slope: float = 0.01) -> Layer:
    """x where x > 0, slope·x elsewhere; `slope` in [0, 1]."""
    if not 0 <= slope <= 1:
        raise ValueError(f"leaky_relu: slope must be in [0, 1], got {slope}; a usual one is 0.01")
    fwd, bwd = (
        partial(_leaky_relu_fwd, slope=float(slope)),
        partial(_leaky_relu_bwd, slope=float(slope)),
    )
    return _activation("leaky_relu", fwd, bwd, f"slope={slope}")


def elu(alpha: float = 1.0) -> Layer:
    """x where x > 0, alpha·(eˣ − 1) elsewhere; `alpha` > 0."""
    if not alpha > 0:
        raise ValueError(f"elu: alpha must be above 0, got {alpha}; the usual one is 1.0")
    fwd, bwd = partial(_elu_fwd, alpha=float(alpha)), partial(_elu_bwd, alpha=float(alpha))
    return _activation("elu", fwd, bwd, f"alpha={alpha}")


def sigmoid() -> Layer:
    """1 / (1 + e⁻ˣ), elementwise."""
    return _activation("sigmoid", _sigmoid_fwd, _sigmoid_bwd)


def tanh() -> Layer:
    """Hyperbolic tangent, elementwise."""
    return _activation("tanh", _tanh_fwd, _tanh_bwd)


def softplus() -> Layer:
    """log(1 + eˣ), elementwise."""
    return _activation("softplus", _softplus_fwd, _softplus_bwd)


def silu() -> Layer:
    """x·sigmoid(x), elementwise; also called swish."""
    return _activation("silu", _silu_fwd, _silu_bwd)


def gelu(approximate: bool = False) -> Layer:
    """x·Φ(x) with the normal distribution function Φ; `approximate` takes the tanh form."""
    if approximate:
        return _activation("gelu", _gelu_tanh_fwd, _gelu_tanh_bwd, "tanh")
    return _activation("gelu", _gelu_fwd, _gelu_bwd)


def softmax() -> Layer:
    """eˣ / Σ eˣ over the last axis. For training, use the fused `softmax_cross_entropy`."""
    return _activation("softmax", _softmax_fwd, _softmax_bwd)


def log_softmax() -> Layer:
    """log softmax over the last axis."""
    return _activation("log_softmax", _log_softmax_fwd, _log_softmax_bwd)


def maxout(pieces: int) -> Layer:
    """The maximum of each group of `pieces` neighbours: (..., m) to (..., m / pieces).

    Raises:
      ValueError: `pieces` below 1, or not a divisor of the last axis.
    """
    if pieces < 1:
        raise ValueError(f"maxout: pieces must be at least 1, got {pieces}; a usual number is 2")
    fwd, bwd = partial(_maxout_fwd, pieces=pieces), partial(_maxout_bwd, pieces=pieces)
    return _activation("maxout", fwd, bwd, str(pieces))


def identity() -> Layer:
    """y = x; the cotangent passes unchanged."""
    return _activation("identity", _identity_fwd, _identity_bwd)
