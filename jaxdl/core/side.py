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
    """The cotangent of a side input that nothing has read: zeros, None at integers."""
    return jax.tree.map(lambda a: jnp.zeros_like(a) if is_inexact(a) else None, side)
