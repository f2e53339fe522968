"""What precision a computation has, and how far its result moves when the inputs are rounded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.numerics.jaxprs import equations


def eps(dtype: Any) -> float:
    """Spacing of numbers at 1."""
    return float(jnp.finfo(dtype).eps)


def working_eps(jaxpr: Any) -> float:
    """The coarsest precision in which anything is computed on the way."""
    worst = eps(jnp.float64)
    for eqn in equations(jaxpr):
        for variable in eqn.outvars:
            dtype = getattr(variable.aval, "dtype", None)
            if dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended):
                continue
            if jnp.issubdtype(dtype, jnp.floating):
                worst = max(worst, eps(dtype))
    return worst


def jittered(rng: np.random.Generator, arrays: Sequence[Any], size: float) -> list[Any]:
    """Every entry times 1 ± `size`: what rounding might have done. Zeros stay zero."""
    return [
        jnp.asarray(np.asarray(a) * (1 + size * rng.choice([-1.0, 1.0], np.shape(a))), a.dtype)
        for a in arrays
    ]
