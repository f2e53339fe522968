"""Where results live on a mesh."""

from typing import Any

import jax
from jax import Array, lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def explicit_sharding(array: Array) -> Any:
    """The sharding of `array` if its mesh has Explicit axes, else None.

    Under Explicit axes a product that contracts two sharded axes does not guess where its
    result lives and must be told; under Auto axes and without a mesh there is nothing to tell.
    """
    sharding = jax.typeof(array).sharding
    return sharding if AxisType.Explicit in sharding.mesh.axis_types else None


def row_sharding(table: Array, ids: Array) -> Any:
    """Under Explicit mesh axes: the rows lie where the ids lie, their features as in the table."""
    sharding = explicit_sharding(ids)
    if sharding is None:
        return None
    spec = (*sharding.spec, *(None,) * (ids.ndim - len(sharding.spec)))
    features = jax.typeof(table).sharding.spec[1:2] or (None,)
    return NamedSharding(sharding.mesh, PartitionSpec(*spec, *features))


def varying_axes(*arrays: Array) -> frozenset[str]:
    """The axes of a `jax.shard_map` with check_vma over which some of the arrays differ."""
    manual = (getattr(jax.typeof(x), "manual_axis_type", None) for x in arrays)
    return frozenset().union(*(getattr(m, "varying", ()) for m in manual))


def as_varying(x: Array, axes: frozenset[str]) -> Array:
    """x as an array that may differ over these axes: what is made of it is each device's own."""
    missing = tuple(sorted(axes - varying_axes(x)))
    return lax.pcast(x, missing, to="varying") if missing else x
