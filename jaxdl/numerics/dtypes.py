"""The dtype to accumulate in, and row numbers in one that can hold them."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike


def wide(dtype: DTypeLike) -> Any:
    """The dtype to accumulate sums of `dtype` in: float32, or wider if `dtype` is."""
    return jnp.float32 if jnp.dtype(dtype).itemsize < 4 else jnp.dtype(dtype)


def in_common(x: Array, y: Array) -> tuple[Array, Array]:
    """Both in one dtype; if they differ, float32 or wider, also where JAX refuses to mix."""
    if x.dtype == y.dtype:
        return x, y
    dtype = max(wide(x.dtype), wide(y.dtype), key=lambda dtype: jnp.dtype(dtype).itemsize)
    return x.astype(dtype), y.astype(dtype)


def row_numbers(ids: Array) -> Array:
    """`ids` in 32 bits or more: compared with 300 rows, bytes would overflow."""
    ids = jnp.asarray(ids)
    return ids.astype(jnp.int32) if ids.dtype.itemsize < 4 else ids
