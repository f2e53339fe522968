"""Sequences of many lengths in one batch: padded steps behind the real ones.

Shapes: x (N, T, ...), lengths (N,) integers from 1 to T, given as the side input: ``With(x,
lengths)``, or ``With(x, {"lengths": lengths, ...})``.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl.numerics.checks import check_array
from jaxdl.numerics.pytree import describe
from jaxdl.numerics.sharding import explicit_sharding


def lengths_of(name: str, side: Any, x: Any) -> Array:
    """How many steps of each example of x are real: (N,) int32.

    Raises:
      ValueError: no lengths in the side input, not one for each example, or out of 1 ... T.
      TypeError: lengths that are no integers.
    """
    lengths = side
    if isinstance(lengths, dict):
        if "lengths" not in lengths:
            raise ValueError(
                f"{name}: the side input must have the entry 'lengths', got {sorted(lengths)}; "
                "give With(x, {'lengths': ...})"
            )
        lengths = lengths["lengths"]
    check_array(f"{name}: lengths", lengths)
    if lengths.ndim != 1 or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(
            f"{name}: lengths must be one integer for each example, got {describe(lengths)}"
        )
    n, steps = x.shape[:2]
    if lengths.shape != (n,):
        raise ValueError(
            f"{name}: there must be a length for each of the {n} examples, got {len(lengths)} of "
            "them"
        )
    if not isinstance(lengths, Tracer):  # traced values cannot be read
        known = np.asarray(lengths)
        if known.size and (known.min() < 1 or known.max() > steps):
            raise ValueError(
                f"{name}: lengths must be in 1 ... {steps}, the steps of x, got values from "
                f"{known.min()} to {known.max()}; leave empty sequences out, or make x longer"
            )
    return jnp.asarray(lengths, jnp.int32)


def real_steps(steps: int, lengths: Array | None) -> Array | None:
    """Which steps are real: (T, N); None: all are."""
    return None if lengths is None else jnp.arange(steps, dtype=jnp.int32)[:, None] < lengths


def choose(here: Array | None, these: Any, those: Any) -> Any:
    """`these` where a step is real, `those` where it is padding: trees of arrays that begin with
    the axes of `here`; None: all are real."""
    if here is None:
        return these

    def one(x: Array, y: Array) -> Array:
        return jnp.where(jnp.expand_dims(here, tuple(range(here.ndim, x.ndim))), x, y)

    return jax.tree.map(one, these, those)


def cuts(steps: int, truncate: int | None) -> Array | None:
    """The steps before which the gradient ends, (T,): those of a new chunk; None: it never does."""
    if truncate is None:
        return None
    t = jnp.arange(steps, dtype=jnp.int32)
    return (t > 0) & (t % truncate == 0)


def check_truncate(name: str, truncate: int | None) -> None:
    """Raise ValueError unless it is None or at least one step."""
    if truncate is not None and truncate < 1:
        raise ValueError(
            f"{name}: truncate must be at least 1 step, got {truncate}; None goes back to the "
            "first step"
        )


def turned(x: Array, lengths: Array | None) -> Array:
    """The steps (axis 1) in the opposite order, padding staying behind."""
    if lengths is None:
        return jnp.flip(x, axis=1)
    t = jnp.arange(x.shape[1], dtype=jnp.int32)
    order = jnp.where(t < lengths[:, None], lengths[:, None] - 1 - t, t)
    return jnp.take_along_axis(x, jnp.expand_dims(order, tuple(range(2, x.ndim))), axis=1)


def zeros_beside(struct: jax.ShapeDtypeStruct, beside: Array) -> Array:
    """Zeros of that shape; under Explicit mesh axes their examples lie where those of x lie."""
    sharding = explicit_sharding(beside)
    if sharding is not None:
        sharding = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:1]))
    return jnp.zeros(struct.shape, struct.dtype, device=sharding)
