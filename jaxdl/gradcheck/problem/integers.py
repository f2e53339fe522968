"""Other values for the arguments that are held: integers and booleans, within what they promise.

Rules go wrong where an index comes twice, where a group is empty, where nothing or everything is
masked, and drawn arguments seldom show it. What the given integers have in common is taken for a
promise that f relies on, and kept: that they are a permutation, that rows have no value twice or
hold a single 1, that they are sizes of groups which fill an axis, or tell where those begin, that
they are sorted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck.problem.problem import Problem
from jaxdl.numerics.jaxprs import equations

_DRAWS = 16  # of sizes, until all are small enough to be indices
Promise = Literal[
    "permutation", "distinct", "one in a row", "pointers", "sizes", "sorted", "none"
]  # fmt: skip


def held_points(problem: Problem, rng: np.random.Generator) -> Iterator[tuple[str, Problem]]:
    """The same floating-point arguments beside other integers and booleans: by name.

    Integers are duplicates of given ones, or the largest alone with the smallest or 0, at which
    indices begin, or all the smallest, by which padding is marked; permutations are others, and a
    group becomes empty. Booleans are all the same.
    """
    promised, lengths = promises(problem), _lengths(problem)
    leaves = {i: _signed(np.asarray(problem.leaves[i])) for i in promised}
    for sample, draw in (("duplicates", _duplicates), ("edges", _edges)):
        moved = {
            i: _moved(x, draw(x, rng), promised[i], lengths, rng)
            for i, x in leaves.items()
            if x.dtype != bool or promised[i] != "none"
        }
        yield from _changed(problem, f"{sample} among the integers", moved)
    lowest = {i: np.full_like(x, x.min()) for i, x in leaves.items() if promised[i] == "none"}
    yield from _changed(
        problem, "the smallest among the integers",
        {i: values for i, values in lowest.items() if values.dtype != bool},
    )  # fmt: skip
    for value in (True, False):
        moved = {
            i: np.full(x.shape, value)
            for i, x in leaves.items()
            if x.dtype == bool and promised[i] == "none"
        }
        yield from _changed(problem, f"all booleans {value}", moved)


def _changed(
    problem: Problem, sample: str, moved: Mapping[int, np.ndarray]
) -> Iterator[tuple[str, Problem]]:
    leaves = list(problem.leaves)
    for i, values in moved.items():
        leaves[i] = jnp.asarray(values, leaves[i].dtype)
    if any(not np.array_equal(values, problem.leaves[i]) for i, values in moved.items()):
        yield sample, replace(problem, leaves=leaves)


def _holds(leaf: Any) -> bool:
    """Whether it is an array of integers or booleans with several entries.

    A single one may be a size, or a place in time; whole words are those of keys.
    """
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended) or isinstance(leaf, np.generic):
        return False
    if dtype in (jnp.uint32, jnp.uint64) or leaf.ndim == 0 or leaf.size < 2:
        return False
    return jnp.issubdtype(dtype, jnp.integer) or dtype == jnp.bool_


def _signed(x: np.ndarray) -> np.ndarray:
    """Integers whose differences do not wrap around."""
    return x if x.dtype == bool else x.astype(np.int64)


def _duplicates(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.where(rng.random(x.shape) < 0.5, rng.choice(x.ravel(), x.shape), x)


def _edges(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.where(rng.random(x.shape) < 0.5, min(x.min(), 0), x.max())


def _moved(
    x: np.ndarray, drawn: np.ndarray, promise: Promise, lengths: set[int], rng: np.random.Generator
) -> np.ndarray:
    """What was drawn in place of x, with its promise."""
    if promise in ("permutation", "distinct", "one in a row"):
        return rng.permuted(x, axis=-1)
    if promise == "sizes":
        bound = min(n for n in lengths | {int(x.sum()) + 1} if n > x.max())
        pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j and x[i]]
        pairs = [(i, j) for i, j in pairs if x[i] + x[j] < bound]  # it may yet be an index
        found = x.copy()
        if pairs:
            empty, other = pairs[rng.integers(len(pairs))]
            found[other] += found[empty]
            found[empty] = 0
        return found
    if promise in ("sorted", "pointers"):
        drawn = np.sort(np.clip(drawn, x[..., :1], x[..., -1:]), axis=-1)
        drawn[..., 0], drawn[..., -1] = x[..., 0], x[..., -1]
    return drawn


# --- promises -----------------------------------------------------------------------------------


def promises(problem: Problem) -> dict[int, Promise]:
    """What the integers and booleans among the leaves seem to promise."""
    held = {i: _signed(np.asarray(x)) for i, x in enumerate(problem.leaves) if _holds(x)}
    if not held:
        return {}
    unique, lengths = _writes_once(problem), _lengths(problem)
    return {i: _promise(x, unique, lengths) for i, x in held.items()}


def is_one_in_a_row(x: np.ndarray) -> bool:
    """Whether every row is 0 but for a single 1, as labels may be given."""
    several = x.ndim > 1 and x.shape[-1] > 1
    return several and bool(np.all((x == 0) | (x == 1)) and np.all(x.sum(axis=-1) == 1))


def one_in_a_row(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Such rows of that shape and dtype."""
    ones = np.zeros(values.shape, values.dtype)
    ones[..., 0] = 1
    return rng.permuted(ones, axis=-1)


def _lengths(problem: Problem) -> set[int]:
    return {n for leaf in problem.leaves for n in np.shape(leaf)}


def _promise(x: np.ndarray, unique: bool, lengths: set[int]) -> Promise:
    if is_one_in_a_row(x):
        return "one in a row"
    if x.dtype == bool:
        return "none"
    rows = np.sort(x, axis=-1)
    ascending = bool(np.all(np.diff(x) >= 0))
    last = int(x.flat[-1])
    if x.ndim == 1 and ascending and x[0] == 0 and last in lengths and x.size <= last + 1:
        return "pointers"  # to more groups than there are rows: rather ids of few groups
    if x.shape[-1] > 1 and np.all(np.diff(rows) > 0):
        if np.all(rows == np.arange(x.shape[-1])):
            return "permutation"
        if unique or x.ndim > 1:
            return "distinct"
    total = int(x.sum())
    if x.ndim == 1 and x.min() >= 0 and total in lengths and total > x.size:
        return "sizes"  # more than one each: ids of few groups have a small sum by chance
    return "sorted" if ascending else "none"


def _writes_once(problem: Problem) -> bool:
    """Whether f says that no index comes twice, or overwrites, where nobody says which one wins."""
    jaxpr = jax.make_jaxpr(problem.outputs)(*problem.inputs)
    return any(
        eqn.params.get("unique_indices") or eqn.primitive.name == "scatter"
        for eqn in equations(jaxpr)
    )


def resized_integers(
    values: np.ndarray,
    promise: Promise,
    bound: int,
    lengths: Mapping[int, int],
    total: int,
    top: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Integers of another shape, with the promise of the old ones.

    Args:
      values: the old ones, cut off or repeated.
      promise: of the old ones.
      bound: they may index an axis of this length.
      lengths: old lengths of axes, and the new ones; without those that several axes have.
      total: the sum of the old ones.
      top: the largest of them.
      rng: of random numbers.

    Raises:
      ValueError: there are none.
    """
    if promise in ("permutation", "distinct"):
        length = values.shape[-1]
        if length > bound:
            raise ValueError(f"there are no {length} distinct indices below {bound}")
        top = length if promise == "permutation" else bound
        each = np.broadcast_to(np.arange(top), (*values.shape[:-1], top))
        return rng.permuted(each, axis=-1)[..., :length]
    if promise == "sizes":
        for _ in range(_DRAWS):
            drawn = rng.multinomial(_new(total, lengths), np.full(values.size, 1 / values.size))
            if drawn.max() < bound:
                return drawn
        raise ValueError(f"there are no {values.size} sizes below {bound}")
    if promise == "one in a row":
        return one_in_a_row(values, rng)
    if promise == "pointers":
        last = _new(top, lengths)
        if last >= bound > top:  # they may yet be indices
            raise ValueError(f"pointers up to {last} are no indices below {bound}")
        inside = np.sort(rng.integers(0, last + 1, values.size - 2))
        return np.concatenate([[0], inside, [last]])[: values.size]
    if values.dtype == bool:
        return values
    values = values % bound
    return np.sort(values, axis=-1) if promise == "sorted" else values


def _new(length: int, lengths: Mapping[int, int]) -> int:
    if length not in lengths:
        raise ValueError(f"several axes have the length {length}")
    return lengths[length]
