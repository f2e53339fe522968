"""Checks that leaves make of their inputs and parameters when they are traced."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer


def is_inexact(x: Any) -> bool:
    """Whether `x` has a floating or complex dtype, so that a cotangent of it exists."""
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def check_array(what: str, x: Any) -> None:
    """Raise TypeError unless `x` is one array; lists and numbers are not taken for arrays."""
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise TypeError(
            f"{what} must be an array, got a {type(x).__name__}; use jnp.asarray, or select one "
            "array of a tree"
        )


def check_floating(name: str, x: Any) -> None:
    """Raise TypeError unless `x` is a real floating-point array."""
    check_array(f"{name}: x", x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{name}: x must be floating point, got {jnp.result_type(x)} of shape {jnp.shape(x)}; "
            "embed integer ids first, or cast pixels, e.g. x.astype(jnp.float32) / 255"
        )


def check_params(name: str, params: dict[str, Array], **shapes: tuple[int | None, ...]) -> None:
    """Raise ValueError unless every parameter named has its shape; None is any length.

    A parameter of another shape would often broadcast, and give a gradient of the wrong shape.
    """
    for entry, shape in shapes.items():
        if entry not in params:
            continue
        got = jnp.shape(params[entry])
        if len(got) != len(shape) or any(
            n not in (None, g) for n, g in zip(shape, got, strict=True)
        ):
            expected = str(shape).replace("None", "any")
            raise ValueError(
                f"{name}: params[{entry!r}] must have shape {expected}, got {got}; use the params "
                "that init of this same model returned"
            )


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
