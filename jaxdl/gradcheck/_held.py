"""Other values for the arguments that are held: integers and booleans, within what they promise.

Rules go wrong where an index comes twice, where a group is empty, where nothing or everything is
masked, and drawn arguments seldom show it. What the given values have in common is taken for a
promise that f relies on, and kept: that they are a permutation, that they are sorted, that rows
have no value twice, that they add up to the length of an axis. No value is used that is not given
but 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck import _strip
from jaxdl.gradcheck._problem import Problem


def held_points(problem: Problem, rng: np.random.Generator) -> Iterator[tuple[str, Problem]]:
    """The same floating-point arguments beside other integers and booleans: by name."""
    integers = [i for i, leaf in enumerate(problem.leaves) if _is(leaf, jnp.signedinteger)]
    booleans = [i for i, leaf in enumerate(problem.leaves) if _is(leaf, jnp.bool_)]
    unique = _promises_unique(problem) if integers else False
    for sample, draw in (("duplicates", _duplicates), ("edges", _edges)):
        moved = {i: draw(np.asarray(problem.leaves[i]), rng) for i in integers}
        for i in integers:
            moved[i] = _kept(np.asarray(problem.leaves[i]), moved[i], problem, unique, rng)
        yield from _changed(problem, f"{sample} among the integers", moved)
    for value in (True, False):
        moved = {i: np.full(np.shape(problem.leaves[i]), value) for i in booleans}
        yield from _changed(problem, f"all booleans {value}", moved)


def _changed(
    problem: Problem, sample: str, moved: dict[int, np.ndarray]
) -> Iterator[tuple[str, Problem]]:
    moved = {i: v for i, v in moved.items() if not np.array_equal(v, problem.leaves[i])}
    if moved:
        leaves = list(problem.leaves)
        for i, values in moved.items():
            leaves[i] = jnp.asarray(values, leaves[i].dtype)
        yield sample, replace(problem, leaves=leaves)


def _is(leaf: Any, kind: Any) -> bool:
    """Arrays of a kind; of whole numbers those with several entries, since one may be a size."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended) or isinstance(leaf, np.generic):
        return False
    return jnp.issubdtype(dtype, kind) and leaf.ndim > 0 and leaf.size > 1


def _duplicates(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of the entries are others of the same array."""
    return np.where(rng.random(x.shape) < 0.5, rng.choice(x.ravel(), x.shape), x)


def _edges(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The largest entry and the smallest alone, or 0, at which indices begin."""
    return np.where(rng.random(x.shape) < 0.5, min(x.min(), 0), x.max())


def _kept(
    x: np.ndarray, drawn: np.ndarray, problem: Problem, unique: bool, rng: np.random.Generator
) -> np.ndarray:
    """What was drawn in place of x, with the promises that x seems to keep."""
    rows = np.sort(x, axis=-1)
    distinct = bool(np.all(np.diff(rows) > 0)) and x.shape[-1] > 1
    permutation = distinct and bool(np.all(rows == np.arange(x.shape[-1])))
    if permutation or unique or (distinct and x.ndim > 1):
        return rng.permuted(x, axis=-1)
    if x.ndim == 1 and x.min() >= 0 and int(x.sum()) in _lengths(problem):
        return _one_group_empty(x, rng)
    if np.all(np.diff(x) >= 0):  # as of segments, or where rows begin and end
        drawn = np.sort(drawn, axis=-1)
        drawn[..., 0], drawn[..., -1] = x[..., 0], x[..., -1]
    return drawn


def _lengths(problem: Problem) -> set[int]:
    return {n for leaf in problem.leaves for n in np.shape(leaf)}


def _one_group_empty(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sizes of groups with the same sum."""
    empty, other = rng.permutation(len(x))[:2]
    found = x.copy()
    found[other] += found[empty]
    found[empty] = 0
    return found


def _promises_unique(problem: Problem) -> bool:
    """Whether f tells JAX that no index comes twice."""
    jaxpr = jax.make_jaxpr(problem.outputs)(*problem.inputs)
    return any(eqn.params.get("unique_indices") for eqn in _strip.equations(jaxpr))
