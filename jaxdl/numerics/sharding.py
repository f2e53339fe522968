"""Where results live on a mesh."""

from typing import Any

import jax
from jax import Array
from jax.sharding import AxisType


def explicit_sharding(array: Array) -> Any:
    """The sharding of `array` if its mesh has Explicit axes, else None.

    Under Explicit axes a product that contracts two sharded axes does not guess where its
    result lives and must be told; under Auto axes and without a mesh there is nothing to tell.
    """
    sharding = jax.typeof(array).sharding
    return sharding if AxisType.Explicit in sharding.mesh.axis_types else None
