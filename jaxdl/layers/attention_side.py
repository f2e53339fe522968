"""What attention reads of the side input, checked by name."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxdl.core.padding import lengths_of
from jaxdl.layers.attention_core import Side
from jaxdl.numerics.checks import check_array

READS = {
    "self_attention": ("lengths", "segments", "mask", "bias"),
    "cross_attention": ("memory", "memory_lengths", "mask", "bias"),
}


def check_reads(name: str, reads: tuple[str, ...]) -> None:
    """Raise ValueError unless the layer knows what it is to read."""
    unknown = sorted(set(reads) - set(READS[name]))
    if unknown:
        raise ValueError(
            f"{name}: reads must be among {list(READS[name])}, got {unknown}; the side input may "
            "have further entries for other layers"
        )


def side_of(
    name: str, reads: tuple[str, ...], heads: int, side: Any, x: Array, memory: Array
) -> Side:
    """The parts of the side input that are read.

    Args:
      heads: how many heads of queries there are.
      x, memory: the sequences of the queries and of the keys.

    Raises:
      ValueError: an entry that is missing, or of another shape.
      TypeError: one of another dtype.
    """
    if not reads:
        return Side()
    if side is not None and not isinstance(side, dict) and reads == ("lengths",):
        side = {"lengths": side}
    missing = [entry for entry in reads if not isinstance(side, dict) or entry not in side]
    if missing:
        raise ValueError(
            f"{name}: the side input must be a dict with the entries {list(reads)}, got one "
            f"without {missing}; give With(x, {{{missing[0]!r}: ...}})"
        )
    found: dict[str, Any] = {}
    assert isinstance(side, dict)
    if "lengths" in reads:
        found["lengths"] = lengths_of(name, side["lengths"], x)
    if "memory_lengths" in reads:
        found["lengths"] = lengths_of(name, side["memory_lengths"], memory)
    if "segments" in reads:
        segments = _segments(name, side["segments"], x)
        found["segments"] = (segments, segments)
    pairs = (len(x), heads, x.shape[-2], memory.shape[-2])
    for entry, kind in (("mask", np.bool_), ("bias", np.floating)):
        if entry in reads:
            found[entry] = _of_pairs(name, entry, side[entry], kind, pairs)
    return Side(**found)


def _segments(name: str, segments: Any, x: Array) -> Array:
    check_array(f"{name}: segments", segments)
    if segments.shape != x.shape[:2] or not jnp.issubdtype(segments.dtype, jnp.integer):
        raise ValueError(
            f"{name}: segments must be integers of shape {x.shape[:2]}, one for each position, got "
            f"{segments.dtype} of shape {segments.shape}"
        )
    return jnp.asarray(segments)


def _of_pairs(name: str, entry: str, array: Any, kind: Any, pairs: tuple[int, ...]) -> Array:
    """What belongs to pairs of positions, broadcast to (N, heads, T, S)."""
    check_array(f"{name}: {entry}", array)
    if not jnp.issubdtype(array.dtype, kind):
        what = "boolean, true where a query may see a key" if kind is np.bool_ else "floating point"
        raise TypeError(f"{name}: the {entry} must be {what}, got {array.dtype}")
    shape = (1,) * (4 - array.ndim) + array.shape
    if len(shape) > 4 or any(got not in (1, size) for got, size in zip(shape, pairs, strict=True)):
        raise ValueError(
            f"{name}: the {entry} must broadcast to (examples, heads, queries, keys), "
            f"{pairs}, got shape {array.shape}; add axes of length 1 where "
            "it is the same for all"
        )
    return jnp.asarray(array)
