"""The same function at other sizes: which axes belong together, and arguments for other lengths."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck._case import Case, kept_sorted
from jaxdl.gradcheck._draw import direction
from jaxdl.gradcheck._elsewhere import elsewhere, judge
from jaxdl.gradcheck._held import is_one_in_a_row, one_in_a_row, promises, resized_integers
from jaxdl.gradcheck._probe import to_numpy
from jaxdl.gradcheck._problem import Problem
from jaxdl.gradcheck._report import Finding

Axis = tuple[int, int]
"""A leaf of the arguments and one of its axes."""
_MOST_ENTRIES = 2**18  # of all arguments together: beyond, lengths stay close to the given ones
_MOST_COLUMNS = 2**8  # the same where the derivative is taken entry by entry
_MOST_AXES = 6  # of one length: so many are told apart
_MOST_ONES = 3  # lengths that are set to 1, one at a time


def dimensions(problem: Problem) -> list[list[Axis]]:
    """The axes that must have the same length, found by tracing the function.

    Axes of different lengths are different dimensions; among those of one length, as few as
    possible that can be made longer together are one.
    """
    by_length: dict[int, list[Axis]] = {}
    for leaf, x in enumerate(problem.leaves):
        if _is_resizable(x):
            for axis, length in enumerate(x.shape):
                if length > 1:
                    by_length.setdefault(length, []).append((leaf, axis))
    return [group for axes in by_length.values() for group in _split(problem, axes)]


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


def _traces(problem: Problem, group: Sequence[Axis]) -> bool:
    """Whether f takes arguments in which these axes alone are longer by one."""
    shapes = {leaf: list(problem.leaves[leaf].shape) for leaf, _ in group}
    for leaf, axis in group:
        shapes[leaf][axis] += 1
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


def _other_lengths(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Lengths beside powers of two, pairwise distinct; and a few set to 1.

    One above a power is odd; below it the length is even where the given one is odd, so that every
    axis has both parities. Axes of one length become 1 together: if f needs them equal and does
    not say so, broadcasting would hide it.
    """
    for above in (True, False):
        found: list[int] = []
        for n in lengths:
            power = max(4, 1 << (n - 1).bit_length())
            side = 1 if above else -1 - n % 2
            while (m := power + side) in (*found, *lengths, 1):
                power *= 2
            found.append(m)
        yield found
    for length in list(dict.fromkeys(lengths))[:_MOST_ONES]:
        yield [1 if n == length else n for n in lengths]


def _entries(problem: Problem) -> int:
    return sum(int(np.size(leaf)) for leaf in problem.leaves if _is_resizable(leaf))


def shapes(case: Case) -> Iterator[Finding]:
    """The check 'dot', or 'differences', for arguments of other sizes, where f takes them.

    Axes of one length may belong together though f takes them apart, as an array and indices into
    it do: where only such sizes fail, a note is all.
    """
    groups = dimensions(case.problem)
    lengths = [length_of(case.problem, group) for group in groups]
    tried = False
    for number, others in enumerate(_other_lengths(lengths) if groups else ()):
        found = list(_at_lengths(case, groups, lengths, others, number))
        first = {n: m for n, m in reversed(list(zip(lengths, others, strict=True)))}
        tied = [first[n] for n in lengths]
        failed = any(f.outcome == "fail" for f in found)
        if tied != others and (failed or not found):
            together = list(_at_lengths(case, groups, lengths, tied, number))
            if failed and any(f.outcome == "pass" for f in together):
                case.notes.append(
                    f"axes of equal length that become {_told(lengths, others)}: f takes them, but "
                    "its gradient is that of equal lengths alone; let f refuse others"
                )
            if not failed or any(f.outcome == "pass" for f in together):
                found = together
        tried = tried or bool(found)
        yield from found
    if not tried:
        why = "f takes no other sizes" if groups else "no axis is longer than 1"
        yield Finding("shapes", "skipped", text=why)


def _at_lengths(
    case: Case,
    groups: Sequence[Sequence[Axis]],
    lengths: Sequence[int],
    others: Sequence[int],
    number: int,
) -> Iterator[Finding]:
    """Nothing where f, its rule or what it is held against refuses these lengths.

    A rule that raises an error where f does not is none the worse for it: f may take more than it
    means to, as a convolution takes a kernel that is longer than its input.
    """
    problem = case.problem
    most = max(_MOST_COLUMNS if case.forward_mode else _MOST_ENTRIES, _entries(problem))
    if np.prod([n / o for n, o in zip(others, lengths, strict=True)]) * _entries(problem) > most:
        others = [n + 1 if m > n else m for n, m in zip(lengths, others, strict=True)]
    try:
        moved = resized(problem, groups, others, case.rng(24, number))
        again = case.again(moved)
        with _quiet_callbacks():
            y = again.probe.value(*again.at(moved.inputs))
        if case.reference:
            jax.eval_shape(again.probe.truth, again.at(moved.inputs), y)
    except Exception:
        return
    if not all(np.all(np.isfinite(a)) for a in to_numpy(y)):
        return
    try:
        jax.eval_shape(again.probe.rule, again.at(moved.inputs), y)
    except Exception:
        told = _told(lengths, others)
        case.notes.append(f"for sizes {told} the rule raises an error, and f does not")
        return
    for finding in judge(again, f"sizes {_told(lengths, others)}"):
        yield elsewhere(case, finding, "shapes", held=True)


@contextmanager
def _quiet_callbacks() -> Iterator[None]:
    """Without JAX's report of a callback that raises: it may refuse the sizes."""
    log = logging.getLogger("jax._src.callback")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _told(lengths: Sequence[int], others: Sequence[int]) -> str:
    return ", ".join(f"{n}→{m}" for n, m in zip(lengths, others, strict=True) if n != m)
