"""Small pytree tools: static values in a tree, each array in it once, its shapes and dtypes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Static:
    """A hashable value that travels in a pytree without being an array."""

    value: Any = field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Packed:
    """A pytree whose leaves are kept once each: leaf i is ``(*beside, *arrays)[index[i]]``."""

    arrays: tuple[Any, ...]
    index: Static
    structure: Static


def pack_unique(tree: Any, beside: Sequence[Any] = ()) -> Packed:
    """Keep every array of `tree` once, however often the same object stands in it.

    A scan stacks each output it is given, the same array twice if it is given twice. Arrays that
    are among those `beside`, which the scan is given, need not be stacked at all: `unpack_unique`
    takes them from there.
    """
    leaves, structure = jax.tree.flatten(tree)
    every, place = list(beside), {}
    for i, array in reversed(list(enumerate(beside))):
        place[id(array)] = i
    for leaf in leaves:
        if id(leaf) not in place:
            place[id(leaf)] = len(every)
            every.append(leaf)
    index = tuple(place[id(leaf)] for leaf in leaves)
    return Packed(tuple(every[len(beside) :]), Static(index), Static(structure))


def unpack_unique(packed: Packed, beside: Sequence[Any] = ()) -> Any:
    """The pytree that `pack_unique` was given; `beside` is as it was there, or stacked."""
    every = (*beside, *packed.arrays)
    return jax.tree.unflatten(packed.structure.value, [every[i] for i in packed.index.value])


def struct(tree: Any) -> Any:
    """The shapes and dtypes of a pytree of arrays, comparable with ==."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.result_type(a)), tree)


def as_jax(tree: Any) -> Any:
    """NumPy arrays as JAX arrays, in a dtype that is enabled; everything else as it is."""
    return jax.tree.map(lambda a: jnp.asarray(a) if isinstance(a, np.ndarray) else a, tree)


def describe(tree: Any) -> str:
    """Shapes and dtypes in one line, for messages: ``float32[8, 64]``."""
    if jax.tree_util.all_leaves([tree]):
        return f"{tree.dtype}{list(tree.shape)}"
    return str(jax.tree.map(describe, tree))
