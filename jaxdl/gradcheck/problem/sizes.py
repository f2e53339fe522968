"""Which axes belong together, and arguments of other lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck.problem.directions import direction
from jaxdl.gradcheck.problem.integers import (
    is_one_in_a_row,
    one_in_a_row,
    promises,
    resized_integers,
)
from jaxdl.gradcheck.problem.points import kept_sorted
from jaxdl.gradcheck.problem.problem import Problem

Axis = tuple[int, int]
"""A leaf of the arguments and one of its axes."""
_MOST_AXES = 6  # of one length: so many are told apart
_MOST_SINGLE = 3  # axes of length 1 that grow, one at a time


def dimensions(problem: Problem) -> list[list[Axis]]:
    """The axes that must have the same length, found by tracing the function.

    Axes of different lengths are different dimensions; among those of one length, as few as
    possible that can be made longer together are one.
    """
    by_length: dict[int, list[Axis]] = {}
    for axis, length in _axes(problem):
        if length > 1:
            by_length.setdefault(length, []).append(axis)
    return [group for axes in by_length.values() for group in _split(problem, axes)]


def _axes(problem: Problem) -> Iterator[tuple[Axis, int]]:
    for leaf, x in enumerate(problem.leaves):
        if _is_resizable(x):
            yield from (((leaf, axis), length) for axis, length in enumerate(x.shape))


def single_axes(problem: Problem) -> tuple[int, list[list[Axis]]]:
    """A length, and the axes of length 1 that f takes so long, as few together as can be."""
    axes = list(_axes(problem))
    ones, lengths = [axis for axis, n in axes if n == 1], {n for _, n in axes}
    longer = next(n for n in range(3, 2 * len(lengths) + 5, 2) if n not in lengths)
    if len(ones) > _MOST_AXES:
        return longer, []
    found = [group for group in _split(problem, ones) if _traces(problem, group, longer - 1)]
    return longer, found[:_MOST_SINGLE]


def _is_resizable(leaf: Any) -> bool:
    """Arrays, but not keys, whose words are unsigned integers."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended):
        return False
    return not jnp.issubdtype(dtype, jnp.unsignedinteger)


def _is_whole(leaf: Any) -> bool:
    """A single integer, of any kind."""
    if isinstance(leaf, int):
        return not isinstance(leaf, bool)
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended):
        return False
    return jnp.issubdtype(dtype, jnp.integer) and np.ndim(leaf) == 0


def _split(problem: Problem, axes: list[Axis]) -> Iterator[list[Axis]]:
    while len(axes) > 1:
        first, rest = axes[0], axes[1:]
        smaller = ([first, *more] for n in range(len(rest)) for more in combinations(rest, n))
        group = axes
        if len(axes) <= _MOST_AXES:
            group = next((g for g in smaller if _traces(problem, g)), axes)
        yield group
        axes = [axis for axis in axes if axis not in group]
    if axes:
        yield axes


def _traces(problem: Problem, group: Sequence[Axis], by: int = 1) -> bool:
    """Whether f takes arguments in which these axes alone are longer by that much."""
    shapes = {leaf: list(problem.leaves[leaf].shape) for leaf, _ in group}
    for leaf, axis in group:
        shapes[leaf][axis] += by
    leaves = list(problem.leaves)
    for leaf, shape in shapes.items():
        leaves[leaf] = jnp.ones(shape, leaves[leaf].dtype)
    longer = replace(problem, leaves=leaves)
    try:
        jax.eval_shape(longer.outputs, *longer.inputs)
    except Exception:
        return False
    return True


def length_of(problem: Problem, dimension: Sequence[Axis]) -> int:
    """Of the axes of a dimension."""
    leaf, axis = dimension[0]
    return problem.leaves[leaf].shape[axis]


def resized(
    problem: Problem,
    groups: Sequence[Sequence[Axis]],
    lengths: Sequence[int],
    rng: np.random.Generator,
) -> Problem:
    """Arguments of other lengths: the given ones cut off or repeated, with other entries.

    Signs and orders of magnitude stay, and so does the order of what is sorted. Integers that may
    be indices stay within every axis that they may index, and keep what they promise.

    Raises:
      ValueError: integers cannot keep their promise at these lengths, or stay within them.
    """
    promised = promises(problem)
    old = [length_of(problem, group) for group in groups]
    for name, leaf in zip(problem.names, problem.leaves, strict=True):
        if _is_whole(leaf) and any(m <= leaf < n for n, m in zip(old, lengths, strict=True)):
            raise ValueError(f"{name} may be an index, and would not lie within the shorter axis")
    of_axis: dict[Axis, int] = {}
    for group, length in zip(groups, lengths, strict=True):
        of_axis |= {axis: length for axis in group}
    leaves = list(problem.leaves)
    for leaf in {leaf for leaf, _ in of_axis}:
        x = np.asarray(leaves[leaf])
        new: list[Any] = [of_axis.get((leaf, axis), n) for axis, n in enumerate(x.shape)]
        chosen = [np.arange(m) % n for m, n in zip(new, x.shape, strict=True)]
        values = x[np.ix_(*chosen)]
        if leaf in problem.wrt:
            varied = np.asarray(values, np.float64) * (1 + direction(rng, values.shape) / 4)
            leaves[leaf] = jnp.asarray(kept_sorted(x, varied), x.dtype)
            continue
        if is_one_in_a_row(x):
            leaves[leaf] = jnp.asarray(one_in_a_row(values, rng), leaves[leaf].dtype)
            continue
        if leaf in promised:
            top = int(x.max()) + 1
            bound = min((n for o, n in zip(old, lengths, strict=True) if o >= top), default=top)
            new_of = {o: n for o, n in zip(old, lengths, strict=True) if old.count(o) == 1}
            values = resized_integers(
                values, promised[leaf], bound, new_of, int(x.sum()), top - 1, rng
            )
        leaves[leaf] = jnp.asarray(values, leaves[leaf].dtype)
    return replace(problem, leaves=leaves)


def entries(problem: Problem) -> int:
    """Of all arrays whose axes can have other lengths."""
    return sum(int(np.size(leaf)) for leaf in problem.leaves if _is_resizable(leaf))
