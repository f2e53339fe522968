"""Layer norm and RMS norm, over the last axis.

Shapes: x (..., m), scale γ (m,), shift β (m,), y (..., m); mean(·) is over the last axis.

    layer_norm   μ = mean(x)    r = 1/√(mean((x − μ)²) + ε)     x̂ = (x − μ)·r     y = γ·x̂ + β
                 dx̂ = γ·dy      dx = r·(dx̂ − mean(dx̂) − x̂·mean(dx̂·x̂))
    rms_norm     r = 1/√(mean(x²) + ε)                          x̂ = x·r           y = γ·x̂
                 dx̂ = γ·dy      dx = r·(dx̂ − x̂·mean(dx̂·x̂))
    both         dγ = Σ dy·x̂    dβ = Σ dy                       (Σ over examples and positions)

Statistics are computed in float32 or wider whatever the dtype of x.

References: Ba, Kiros & Hinton (2016, arXiv:1607.06450); Zhang & Sennrich (2019, arXiv:1910.07467).
"""

from functools import partial

import jax.numpy as jnp
from jax import lax

from jaxdl.core.factors import Diag, Sum
from jaxdl.core.layer import Layer, leaf
from jaxdl.numerics.checks import check_floating, check_params
from jaxdl.numerics.dtypes import wide


def _init(key, x, *, name, shift):
    check_floating(name, x)
    if not x.shape:
        raise ValueError(f"{name}: x must have a last axis to normalise, got a scalar; use x[None]")
    scale = {"scale": jnp.ones(x.shape[-1], x.dtype)}
    return scale | {"shift": jnp.zeros(x.shape[-1], x.dtype)} if shift else scale


def _mean(x):
    return jnp.mean(x, axis=-1, keepdims=True)


def _check(name, params, x):
    check_floating(name, x)
    check_params(name, params, scale=(None,), shift=params["scale"].shape)
    if x.shape[-1:] != params["scale"].shape:
        raise ValueError(
            f"{name}: x.shape[-1] must equal params['scale'].shape[0] "
            f"({params['scale'].shape[0]}), got x.shape == {x.shape}; check the layer before"
        )


def _scaled(normal, params, dtype):
    y = normal * params["scale"].astype(normal.dtype)
    if "shift" in params:
        y = y + params["shift"].astype(normal.dtype)
    return y.astype(dtype)


def _layer_norm_fwd(params, x, *, epsilon):
    _check("layer_norm", params, x)
    centred = x.astype(wide(x.dtype))
    centred = centred - _mean(centred)
    r = lax.rsqrt(_mean(centred * centred) + epsilon)
    normal = centred * r
    # x̂ serves dγ and dx; keeping x instead would mean computing it again
    residuals = {"normal": normal.astype(x.dtype), "r": r}
    return _scaled(normal, params, x.dtype), residuals


def _layer_norm_bwd(params, residuals, dy):
    normal, r, dnormal = _normal_parts(params, residuals, dy)
    dx = r * (dnormal - _mean(dnormal) - normal * _mean(dnormal * normal))
    return _factors(params, residuals, dy), dx.astype(dy.dtype)


def _rms_norm_fwd(params, x, *, epsilon):
    _check("rms_norm", params, x)
    x_wide = x.astype(wide(x.dtype))
    r = lax.rsqrt(_mean(x_wide * x_wide) + epsilon)
    normal = x_wide * r
    return _scaled(normal, params, x.dtype), {"normal": normal.astype(x.dtype), "r": r}


def _rms_norm_bwd(params, residuals, dy):
    normal, r, dnormal = _normal_parts(params, residuals, dy)
    dx = r * (dnormal - normal * _mean(dnormal * normal))
    return _factors(params, residuals, dy), dx.astype(dy.dtype)


def _normal_parts(params, residuals, dy):
    r = residuals["r"]
    dnormal = dy.astype(r.dtype) * params["scale"].astype(r.dtype)
    return residuals["normal"].astype(r.dtype), r, dnormal


def _factors(params, residuals, dy):
    factors = {"scale": Diag(residuals["normal"], dy)}
    return factors | {"shift": Sum(dy)} if "shift" in params else factors


def layer_norm(*, epsilon: float = 1e-5) -> Layer:
    """Normalise the last axis to mean 0 and variance 1, then scale and shift.

    Args:
      epsilon: added to the variance under the root; above 0.
    """
    return _norm("layer_norm", _layer_norm_fwd, _layer_norm_bwd, ("scale", "shift"), epsilon)


def rms_norm(*, epsilon: float = 1e-6) -> Layer:
    """Divide the last axis by its root mean square, then scale.

    Args:
      epsilon: added to the mean square under the root; above 0.
    """
    return _norm("rms_norm", _rms_norm_fwd, _rms_norm_bwd, ("scale",), epsilon)


def _norm(name, fwd, bwd, params, epsilon) -> Layer:
    if not epsilon > 0:
        raise ValueError(f"{name}: epsilon must be above 0, got {epsilon}; a usual one is 1e-5")
    init = partial(_init, name=name, shift="shift" in params)
    return leaf(name, init, partial(fwd, epsilon=epsilon), bwd, params=params)
