"""Side inputs: values that many layers read and none changes.

Encoder output, masks, lengths, rotary tables: as a part of x such a value would be carried through
every layer, and stored once for each. So x may be ``With(x, side)``. Containers apply their layers
to `.x` and hand `.side` to those that take one (`leaf(..., side=True)`). The same type carries what
belongs together on the way back:

    y, With(residuals, side) = fwd(params, With(x, side))
    reduced, With(dx, dside) = bwd(params, With(residuals, side), dy)

The output is without the side. The outermost container alone keeps it, and gives it to every `bwd`
again, as the parameters are given again. `dside` is the sum over all layers that read it, None at
integers and masks.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.numerics.checks import is_inexact
from jaxdl.numerics.dtypes import wide


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class With:
    """An input with a side input; or residuals with it; or the cotangents of both.

    Attributes:
      x: what is passed from layer to layer: any pytree.
      side: what every layer may read: any pytree, of arrays of any dtype.
    """

    x: Any
    side: Any


def split_side(value: Any) -> tuple[Any, Any]:
    """(x, side) of a `With`; (value, None) of anything else."""
    return (value.x, value.side) if isinstance(value, With) else (value, None)


def join_side(value: Any, side: Any) -> Any:
    """``With(value, side)``; the value alone if there is no side."""
    return value if side is None else With(value, side)


def add_cotangents(parts: Sequence[Any]) -> Any:
    """The sum of the cotangents of one value; None if every part is None (integers)."""
    parts = [part for part in parts if part is not None]
    if not parts:
        return None
    first, *rest = parts
    for part in rest:
        first = jax.tree.map(operator.add, first, part)
    return first


def zero_cotangent(side: Any) -> Any:
    """Where a sum of cotangents of a side input begins: float32 or wider, None at integers."""
    return jax.tree.map(
        lambda a: jnp.zeros_like(a, dtype=wide(a.dtype)) if is_inexact(a) else None, side
    )


def add_to_side(total: Any, part: Any) -> Any:
    """`total` of `zero_cotangent`, with the cotangent of one more reader."""
    if total is None or part is None:
        return total
    return jax.tree.map(lambda t, p: t + p.astype(t.dtype), total, part)


def add_sides(parts: Sequence[Any]) -> Any:
    """The sum of the cotangents of several readers, in float32 or wider; None if none has read."""
    parts = [part for part in parts if part is not None]
    if not parts:
        return None
    total = jax.tree.map(lambda p: p.astype(wide(p.dtype)), parts[0])
    for part in parts[1:]:
        total = add_to_side(total, part)
    return total


def like_side(dside: Any, side: Any) -> Any:
    """The sum in the dtype of the side input; zeros for None, where nothing has read it."""
    dside = zero_cotangent(side) if dside is None else dside
    return jax.tree.map(lambda a, d: None if d is None else d.astype(a.dtype), side, dside)
