"""Dtypes to accumulate in, where results live on a mesh, and row numbers that are in range."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.sharding import AxisType
from jax.typing import DTypeLike


def wide(dtype: DTypeLike) -> Any:
    """The dtype to accumulate sums of `dtype` in: float32, or wider if `dtype` is."""
    return jnp.float32 if jnp.dtype(dtype).itemsize < 4 else jnp.dtype(dtype)


def explicit_sharding(array: Array) -> Any:
    """The sharding of `array` if its mesh has Explicit axes, else None.

    Under Explicit axes a product that contracts two sharded axes does not guess where its
    result lives and must be told; under Auto axes and without a mesh there is nothing to tell.
    """
    sharding = jax.typeof(array).sharding
    return sharding if AxisType.Explicit in sharding.mesh.axis_types else None


def row_numbers(ids: Array) -> Array:
    """`ids` in 32 bits or more: compared with 300 rows, bytes would overflow."""
    ids = jnp.asarray(ids)
    return ids.astype(jnp.int32) if ids.dtype.itemsize < 4 else ids


def check_range(what: str, ids: Array, size: int) -> None:
    """Raise ValueError if any of `ids` is outside 0 ... size − 1; traced values cannot be read."""
    if isinstance(ids, Tracer):
        return
    known = np.asarray(ids)  # by NumPy: under jit, jnp would trace what it does to a constant
    if known.size and (known.min() < 0 or known.max() >= size):
        raise ValueError(
            f"{what} must be in 0 ... {size - 1}, got values from {known.min()} to {known.max()}; "
            "check how they were made"
        )
