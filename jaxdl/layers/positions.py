"""Where a token stands: learned positions, sinusoidal ones, rotary ones.

Shapes: x (N, T, m), table (L, m) with T ≤ L; rotary: q (N, T, H, h).

    learned      y = x + tableₜ                    dtable = Σₙ dy, rows 0 … T−1
    sinusoidal   y = x + [sin(t·ωᵢ), cos(t·ωᵢ)]    dx = dy            ωᵢ = base^(−2i/m)
    rotary       (a, b) → (a·cos − b·sin, a·sin + b·cos), of angle t·ωᵢ, a and b being the halves
                 of a head                         d(a, b): the same, turned back (−sin)

References: Vaswani et al. (2017, arXiv:1706.03762), section 3.5; Gehring et al. (2017,
arXiv:1705.03122); rotary, Su et al. (2021, arXiv:2104.09864), halves as in GPT-NeoX.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core.factors import Scatter
from jaxdl.core.layer import Layer, leaf, no_params
from jaxdl.numerics.checks import check_floating, check_params
from jaxdl.numerics.dtypes import wide


def _check_sequence(name, x):
    check_floating(name, x)
    if len(x.shape) < 2:
        raise ValueError(
            f"{name}: x must have axes (..., positions, features), got shape {x.shape}; add the "
            "axis of positions"
        )


def _learned_init(key, x, *, most, init):
    _check_sequence("learned_positions", x)
    return {"table": init(key, (most, x.shape[-1]), x.dtype)}


def _learned_fwd(params, x, *, most):
    _check_sequence("learned_positions", x)
    check_params("learned_positions", params, table=(most, x.shape[-1]))
    if x.shape[-2] > most:
        raise ValueError(
            f"learned_positions: there are positions for {most} tokens, got x.shape == {x.shape}; "
            "give more of them, or shorter windows"
        )
    table = params["table"][: x.shape[-2]].astype(x.dtype)
    return x + table, None


def _learned_bwd(params, residuals, dy):
    t = jnp.arange(dy.shape[-2], dtype=jnp.int32)
    ids = jnp.broadcast_to(t, dy.shape[:-1])
    return {"table": Scatter(ids, dy)}, dy


def learned_positions(
    most: int,
    *,
    init: jax.nn.initializers.Initializer = jax.nn.initializers.normal(0.02),
) -> Layer:
    """Add a learned vector to each position: (..., T, m) to the same, T being at most `most`.

    Raises:
      ValueError: `most` below 1; a longer sequence.
    """
    if most < 1:
        raise ValueError(f"learned_positions: most must be at least 1, got {most}")
    return leaf(
        "learned_positions",
        partial(_learned_init, most=most, init=init),
        partial(_learned_fwd, most=most),
        _learned_bwd,
        params=("table",),
        detail=str(most),
    )


def angles(steps: int, features: int, base: float, dtype) -> Array:
    """t·ωᵢ: (T, features / 2), in float32 or wider."""
    rates = base ** (-jnp.arange(0, features, 2, dtype=wide(dtype)) / features)
    return jnp.arange(steps, dtype=wide(dtype))[:, None] * rates


def _sinusoidal_fwd(params, x, *, base):
    _check_sequence("sinusoidal_positions", x)
    if x.shape[-1] % 2:
        raise ValueError(
            f"sinusoidal_positions: x must have an even number of features, got x.shape == "
            f"{x.shape}; each pair is a sine and a cosine"
        )
    a = angles(x.shape[-2], x.shape[-1], base, x.dtype)
    return x + jnp.concatenate([jnp.sin(a), jnp.cos(a)], axis=-1).astype(x.dtype), None


def _sinusoidal_bwd(params, residuals, dy):
    return {}, dy


def sinusoidal_positions(*, base: float = 10_000.0) -> Layer:
    """Add sines and cosines of many wavelengths: (..., T, m) to the same, m even.

    The first half of the features are sines, the second cosines.
    """
    if not base > 0:
        raise ValueError(f"sinusoidal_positions: base must be above 0, got {base}")
    fwd = partial(_sinusoidal_fwd, base=base)
    return leaf("sinusoidal_positions", no_params, fwd, _sinusoidal_bwd)


def rotate(q: Array, base: float, *, back: bool = False) -> Array:
    """Each head turned by its position: (N, T, H, h) to the same; `back` undoes it, and is the
    backward pass."""
    a = angles(q.shape[1], q.shape[-1], base, q.dtype)[:, None, :]
    cos, sin = jnp.cos(a), jnp.sin(a)
    sin = -sin if back else sin
    first, second = jnp.split(q.astype(sin.dtype), 2, axis=-1)
    turned = (first * cos - second * sin, first * sin + second * cos)
    return jnp.concatenate(turned, axis=-1).astype(q.dtype)
