"""Losses: pairs of functions, like layers without parameters.

    fwd(y, target, where=None) -> (value, residuals)        value: a scalar, float32 or wider
    bwd(residuals, dvalue=1)   -> dy                        shape and dtype of y

`where` weights the elements of the loss (bool or float, broadcast to their shape): 0 leaves an
element out, and a mean divides by the sum of the weights. With no weight at all the value and
the gradient are 0. The gradient is with respect to y alone: targets and weights are data.

With elements i, weights wᵢ and W = Σ wᵢ (or 1 for a sum):

    half_squared_error     ½ Σ w(y − t)²                    dy = w(y − t)
    mean_squared_error     Σ w(y − t)² / W                  dy = 2w(y − t)/W
    huber                  Σ w·(½r² or δ(|r| − ½δ)) / W     dy = w·clip(r, −δ, δ)/W,  r = y − t
    hinge                  Σ w·max(0, 1 − t·y) / W          dy = −w·t·[t·y < 1]/W,    t = ±1
    binary_cross_entropy   Σ w(t·ζ(−y) + (1 − t)·ζ(y)) / W  dy = w((1 − t)·σ(y) − t·σ(−y))/W
    softmax_cross_entropy  Σ w(log Σeʸ·Σt − Σ t·y) / W      dy = w(softmax(y)·Σt − t)/W
                           with ζ(y) = log(1 + eʸ): no digits are lost where σ(y) is near t
    kl_sparsity            Σⱼ ρ log(ρ/ρ̂ⱼ) + (1 − ρ) log((1 − ρ)/(1 − ρ̂ⱼ)),  ρ̂ⱼ = Σᵢ wᵢyᵢⱼ / W
                           dyᵢⱼ = ((1 − ρ)/(1 − ρ̂ⱼ) − ρ/ρ̂ⱼ)·wᵢ/W

References: Huber (1964), Ann. Math. Statist. 35, 73-101; Cortes & Vapnik (1995) for the hinge;
Szegedy et al. (2016, arXiv:1512.00567) section 7 for label smoothing; Ng (2011), CS294A lecture
notes, for the sparsity penalty.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxdl.core.identity import SameByParts
from jaxdl.numerics.checks import check_array, check_range, is_inexact
from jaxdl.numerics.dtypes import row_numbers, wide

Reduction = Literal["mean", "sum"]


@dataclass(frozen=True, eq=False)
class Loss(SameByParts):
    """A loss: ``fwd(y, target, where=None) -> (value, residuals)``, ``bwd(residuals, dvalue)``.

    `mixes` says that the gradient at one example depends on the others, beyond the divisor of a
    mean: no example has a loss of its own.
    """

    name: str
    fwd: Callable[..., tuple[Array, Any]]
    bwd: Callable[..., Array]
    mixes: bool = False

    def __call__(self, y: ArrayLike, target: Any = None, where: Any = None) -> Array:
        """The value alone; what `jax.grad` differentiates."""
        return self.fwd(y, target, where)[0]


def _weights(name: str, where: Any, shape: tuple[int, ...], dtype: Any, reduction: str) -> Array:
    """Weight of each element over the divisor: what a sum of elements is multiplied with."""
    if where is None:
        count = 1
        for size in shape:
            count *= size
        return jnp.full(shape, 1 / count if reduction == "mean" else 1, dtype)
    where = jnp.asarray(where)
    # All axes must be there: (N,) on (N, N) would weight the wrong one.
    axes = zip(where.shape, shape, strict=False)
    if len(where.shape) not in (0, len(shape)) or any(w not in (1, n) for w, n in axes):
        raise ValueError(
            f"{name}: where must have the axes of the loss's elements {shape}, some perhaps of "
            f"size 1, got shape {where.shape}; e.g. where[:, None] for one weight an example"
        )
    weights = jnp.broadcast_to(where.astype(dtype), shape)
    if reduction == "sum":
        return weights
    total = jnp.sum(weights)
    return weights / jnp.where(total == 0, 1, total)


def _outputs(name: str, y: Any) -> Array:
    """The model's outputs, checked."""
    check_array(f"{name}: y", y)
    if not is_inexact(y):
        raise TypeError(f"{name}: y must be floating point, got {jnp.result_type(y)}; cast it")
    if 0 in y.shape:
        raise ValueError(
            f"{name}: y must hold at least one element, got shape {y.shape}; skip an empty batch"
        )
    return jnp.asarray(y)


def _target(name: str, target: Any) -> Array:
    if target is None:
        raise TypeError(f"{name}: target must be an array, got None; give what y should be")
    return jnp.asarray(target)


def _leave_out(where: Any, weights: Array, array: Array) -> Array:
    """0 in place of what has no weight: an element left out may hold anything, NaN included."""
    return array if where is None else jnp.where(weights == 0, 0, array)


_SIGNS = "-1 or 1", lambda t: np.abs(t) == 1
_SHARES = "in [0, 1]", lambda t: (t >= 0) & (t <= 1)


def _check_targets(name: str, target: Array, counts: Array, targets: Any) -> None:
    """Raise ValueError for a target that cannot be, where values are known (outside jit)."""
    if targets is None or isinstance(target, Tracer) or isinstance(counts, Tracer):
        return
    expected, possible = targets
    known = np.asarray(target)[np.asarray(counts) != 0]
    wrong = known[~possible(known)]
    if wrong.size:
        raise ValueError(
            f"{name}: targets must be {expected}, got {wrong[0]} ({wrong.size} of {known.size} are "
            "not); convert the labels first"
        )


def _elementwise_fwd(
    y, target, where=None, *, name, element, slope, reduction, scale=1.0, targets=None
):
    """Σ weight·element(y, t). The derivative is kept: one array, and no second evaluation."""
    y, target = _outputs(name, y), _target(name, target)
    if y.shape != target.shape:
        raise ValueError(
            f"{name}: target must have the shape of y, {y.shape}, got {target.shape}; reshape one "
            "(a missing or extra axis of size 1 would broadcast to a wrong loss)"
        )
    dtype = wide(y.dtype)
    weights = _weights(name, where, y.shape, dtype, reduction) * scale
    _check_targets(name, target, weights, targets)
    y_wide, target = (_leave_out(where, weights, a.astype(dtype)) for a in (y, target))
    value = jnp.sum(weights * element(y_wide, target))
    return value, (weights * slope(y_wide, target)).astype(y.dtype)


def _elementwise_bwd(dy, dvalue=1.0):
    return dy * jnp.asarray(dvalue).astype(dy.dtype)


def _elementwise(name, element, slope, reduction, scale=1.0, targets=None) -> Loss:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"{name}: reduction must be 'mean' or 'sum', got {reduction!r}; pick one")
    fwd = partial(
        _elementwise_fwd,
        name=name, element=element, slope=slope, reduction=reduction, scale=scale, targets=targets,
    )  # fmt: skip
    return Loss(name, fwd, _elementwise_bwd)


def half_squared_error() -> Loss:
    """½ Σ (y − t)² over everything: the error of the textbooks, with dy = y − t."""
    return _elementwise(
        "half_squared_error", lambda y, t: (y - t) ** 2, lambda y, t: 2 * (y - t), "sum", 0.5
    )


def mean_squared_error() -> Loss:
    """The mean of (y − t)² over every element."""
    return _elementwise(
        "mean_squared_error", lambda y, t: (y - t) ** 2, lambda y, t: 2 * (y - t), "mean"
    )


def huber(delta: float = 1.0, *, reduction: Reduction = "mean") -> Loss:
    """Quadratic for errors up to `delta` (> 0), linear beyond."""
    if not delta > 0:
        raise ValueError(f"huber: delta must be above 0, got {delta}; the usual one is 1.0")

    def element(y, t):
        r = jnp.abs(y - t)
        return jnp.where(r <= delta, r * r / 2, delta * (r - delta / 2))

    return _elementwise("huber", element, lambda y, t: jnp.clip(y - t, -delta, delta), reduction)


def hinge(*, reduction: Reduction = "mean") -> Loss:
    """max(0, 1 − t·y) for targets t of −1 and 1; gradient 0 at the kink."""

    def element(y, t):
        return jnp.where(t * y >= 1, 0, 1 - t * y)  # a NaN is not hidden

    def slope(y, t):
        return jnp.where(t * y >= 1, 0, -t)

    return _elementwise("hinge", element, slope, reduction, targets=_SIGNS)


def binary_cross_entropy(*, reduction: Reduction = "mean") -> Loss:
    """Cross-entropy of sigmoid(y) against targets in [0, 1]; y are logits."""
    return _elementwise(
        "binary_cross_entropy",
        lambda y, t: t * jax.nn.softplus(-y) + (1 - t) * jax.nn.softplus(y),
        lambda y, t: (1 - t) * jax.nn.sigmoid(y) - t * jax.nn.sigmoid(-y),
        reduction,
        targets=_SHARES,
    )


def _softmax_fwd(y, target, where=None, *, smoothing, reduction):
    name = "softmax_cross_entropy"
    y, target = _outputs(name, y), _target(name, target)
    if not y.shape:
        raise ValueError(f"{name}: y must have a last axis of classes, got a scalar; use y[None]")
    dtype, classes = wide(y.dtype), y.shape[-1]
    weights = _weights(name, where, y.shape[:-1], dtype, reduction)
    if jnp.issubdtype(target.dtype, jnp.integer):
        if target.shape != y.shape[:-1]:
            raise ValueError(
                f"{name}: integer labels must have the shape of y without its last axis, "
                f"{y.shape[:-1]}, got {target.shape}; soft labels must be floating point"
            )
        target = row_numbers(target)
        check_range(f"{name}: labels", _leave_out(where, weights, target), classes)
        # Under jit a label cannot be looked at: an impossible one makes value and gradient NaN,
        # where JAX would take the last class for -1 and lose the label in the gradient.
        possible = (target >= 0) & (target < classes)
        weights = jnp.where(possible | (weights == 0), weights, jnp.nan)
        target = (target[..., None] == jnp.arange(classes, dtype=target.dtype)).astype(dtype)
    else:
        if y.shape != target.shape:
            raise ValueError(
                f"{name}: soft labels must have the shape of y, {y.shape}, got {target.dtype} "
                f"labels of shape {target.shape}; labels that count classes must be integers"
            )
        target = _leave_out(where, weights[..., None], target.astype(dtype))
    target = (1 - smoothing) * target + smoothing / classes
    y_wide = _leave_out(where, weights[..., None], y.astype(dtype))
    # The loss does not change when all logits of a row do: from 0 down, no digits are lost.
    y_wide = y_wide - lax.stop_gradient(jnp.max(y_wide, axis=-1, keepdims=True))
    log_sum = jnp.log(jnp.sum(jnp.exp(y_wide), axis=-1))
    mass = jnp.sum(target, axis=-1)
    scores = jnp.where(target == 0, 0, target * y_wide)  # 0 · −∞ of a masked logit is 0
    value = jnp.sum(weights * (log_sum * mass - jnp.sum(scores, axis=-1)))
    dy = weights[..., None] * (jnp.exp(y_wide - log_sum[..., None]) * mass[..., None] - target)
    return value, dy.astype(y.dtype)  # dy itself: one array, nothing to compute again


def softmax_cross_entropy(*, label_smoothing: float = 0.0, reduction: Reduction = "mean") -> Loss:
    """Cross-entropy of softmax(y) over the last axis, fused; y (..., classes) are logits.

    Targets are integer labels (...) or soft labels (..., classes), which need not sum to 1.
    A label outside 0 ... classes − 1 is an error outside jit and makes the loss NaN under jit.

    Args:
      label_smoothing: share of each target spread evenly over the classes, in [0, 1).
      reduction: "mean" over the elements (by weight), or "sum".
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(
            f"softmax_cross_entropy: label_smoothing must be in [0, 1), got {label_smoothing}; a "
            "usual one is 0.1"
        )
    if reduction not in ("mean", "sum"):
        raise ValueError(
            f"softmax_cross_entropy: reduction must be 'mean' or 'sum', got {reduction!r}; pick one"
        )
    fwd = partial(_softmax_fwd, smoothing=float(label_smoothing), reduction=reduction)
    return Loss("softmax_cross_entropy", fwd, _elementwise_bwd)


def _kl_fwd(y, target=None, where=None, *, rho):
    if target is not None:
        raise ValueError("kl_sparsity: target must be None, got one; the target is rho")
    y = _outputs("kl_sparsity", y)
    if not y.shape:
        raise ValueError("kl_sparsity: y must have a last axis of units, got a scalar; use y[None]")
    dtype = wide(y.dtype)
    weights = _weights("kl_sparsity", where, y.shape[:-1], dtype, "mean")[..., None]
    y_wide = _leave_out(where, weights, y.astype(dtype))
    mean = jnp.sum(weights * y_wide, axis=tuple(range(y.ndim - 1)))
    mean = jnp.where(jnp.sum(weights) == 0, rho, mean)  # nothing weighs: no penalty
    value = jnp.sum(rho * jnp.log(rho / mean) + (1 - rho) * jnp.log((1 - rho) / (1 - mean)))
    # the zeros put the cotangent where y lies on a mesh: all else here is the same everywhere
    dy = weights * ((1 - rho) / (1 - mean) - rho / mean) + jnp.zeros_like(y_wide)
    return value, dy.astype(y.dtype)


def kl_sparsity(rho: float = 0.05) -> Loss:
    """Σⱼ KL(ρ ‖ mean activation of unit j), for activations y (..., units) in (0, 1).

    A penalty on hidden units, without a target: ``loss(y)``. It mixes the examples of a batch.
    """
    if not 0 < rho < 1:
        raise ValueError(f"kl_sparsity: rho must be in (0, 1), got {rho}; a usual one is 0.05")
    return Loss("kl_sparsity", partial(_kl_fwd, rho=rho), _elementwise_bwd, mixes=True)
