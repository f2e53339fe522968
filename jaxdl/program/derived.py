"""From the factor of what is derived to those of what it was derived from.

This is the backward pass of the part of a program that depends on no example, with factors in the
place of gradients. Steps that only move numbers, add, or multiply matrices keep a lean factor lean;
behind any other stands `Pulled`, which forms a gradient and takes it back by `jax.vjp`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.core.composed_factors import Many, Stacked
from jaxdl.core.factor import Factor
from jaxdl.core.factors import Diag, Outer, Sum
from jaxdl.core.viewed_factors import Moved, Pulled, Steps, merge, unless_zero, untransposed
from jaxdl.numerics.dtypes import in_common, wide
from jaxdl.program.forms import moved, spread
from jaxdl.program.scope import Step, size_of
from jaxdl.program.uses import Equation

Value = Callable[[int], Any]
"""The value of an input of a step, by its place."""


def pull_back(step: Step, k: int, factors: list[Factor | None], value: Value) -> Factor | None:
    """The factor of input k, from those of the outputs (None where one was not used), if it is as
    lean as these; else None."""
    if step.name == "split":
        return _split(step, k, factors)
    rule = _RULES.get(step.name)
    if rule is not None and len(factors) == 1 and factors[0] is not None:
        pulled = _by_rule(rule, step, k, factors[0], value)
        if pulled is not None:
            return pulled
    return _entry_by_entry(step, k, factors, value)


def pull_formed(step: Step, k: int, factors: list[Factor | None], value: Value) -> Factor:
    """The factor of input k, with gradients formed before they are taken back."""
    inputs = tuple(None if i == k else value(i) for i in range(len(step.ins)))
    equation = Equation(step.eqn, range(len(step.outs)))
    return Pulled(tuple(factors), inputs, equation, k, step.ins[k].dtype)


def is_lean(factor: Factor) -> bool:
    """Whether no gradient has to be formed to see a factor through a further step."""
    if isinstance(factor, Many):
        return all(map(is_lean, factor.factors))
    if isinstance(factor, Moved | Stacked):
        return is_lean(factor.factor)
    return not isinstance(factor, Pulled | Steps)


def _by_rule(rule: Callable, step: Step, k: int, factor: Factor, value: Value) -> Factor | None:
    if isinstance(factor, Many):
        parts = [_by_rule(rule, step, k, part, value) for part in factor.factors]
        return None if any(p is None for p in parts) else Many(tuple(parts))  # type: ignore[arg-type]
    return rule(step, k, factor, value)


def summed_over_positions(factor: Factor, rank: int) -> Sum | None:
    """A factor of terms that have the parameter's shape as one term for each example: (N, ...)."""
    if isinstance(factor, Diag):
        factor = factor.summed()
    if not isinstance(factor, Sum):
        return None
    positions = tuple(range(1, factor.d.ndim - rank))
    if not positions:
        return factor
    return Sum(jnp.sum(factor.d, axis=positions, dtype=wide(factor.d.dtype)))


def _entry_by_entry(
    step: Step, k: int, factors: list[Factor | None], value: Value
) -> Factor | None:
    """Each example's own gradient is there already: it is taken back example by example."""
    if size_of(step.ins[k]) > 2 * max(size_of(out) for out in step.outs):
        return None
    sums = [
        None if f is None else summed_over_positions(f, len(out.shape))
        for f, out in zip(factors, step.outs, strict=True)
    ]
    if any(s is None for s, f in zip(sums, factors, strict=True) if f is not None):
        return None
    used = [i for i, s in enumerate(sums) if s is not None]
    equation = Equation(step.eqn, used)
    inputs = [value(i) for i in range(len(step.ins))]

    def function(w):
        return equation(*inputs[:k], w, *inputs[k + 1 :])

    outs, pull = jax.vjp(function, inputs[k])
    d = [s.d.astype(y.dtype) for s, y in zip((sums[i] for i in used), outs, strict=True)]  # type: ignore[union-attr]
    return Sum(jax.vmap(lambda *d: unless_zero(pull([*d])[0], [*d]))(*d))


# --- steps that only move numbers ---------------------------------------------------------------


def _same(step: Step, k: int, factor: Factor, value: Value) -> Factor | None:
    """A cast, or a copy: the gradient is summed in float32 or wider, whatever it was used in."""
    real = [jnp.issubdtype(v.dtype, jnp.floating) for v in (step.ins[k], step.outs[0])]
    return factor if real[0] == real[1] else None


def _transposed(step: Step, k: int, factor: Factor, value: Value) -> Factor | None:
    axes = tuple(step.eqn.params["permutation"])
    if isinstance(factor, Sum | Diag):
        rank, back = len(axes), sorted(range(len(axes)), key=axes.__getitem__)

        def turn(x):
            lead = x.ndim - rank
            return x.transpose(*range(lead), *(lead + i for i in back))

        return jax.tree.map(turn, factor)
    if isinstance(factor, Moved):  # the inner view, then this one
        through = tuple(axes[i] for i in factor.axes)
        return _simplest(replace(factor, axes=through), step.ins[k].shape)
    return Moved(factor, axes, step.outs[0].shape)


def _simplest(factor: Moved, whole: tuple[int, ...]) -> Factor:
    """Without a view that leaves everything where it is."""
    return moved(factor.factor, factor.axes, factor.shape, whole)


def _reshaped(step: Step, k: int, factor: Factor, value: Value) -> Factor | None:
    before, after = step.ins[k].shape, step.outs[0].shape
    if step.eqn.params.get("dimensions") is not None and step.name == "reshape":
        return None  # it reads the entries in another order
    if isinstance(factor, Sum | Diag):
        return jax.tree.map(lambda x: x.reshape(*x.shape[: x.ndim - len(after)], *before), factor)
    straight = tuple(range(len(before)))
    if isinstance(factor, Moved):
        if factor.axes == tuple(range(len(after))):  # a reshape of a reshape
            return _simplest(replace(factor, axes=straight), before)
        groups = _as_groups(before, after)
        if groups is not None:  # each axis that was moved is made of whole axes of the parameter
            axes = tuple(i for j in factor.axes for i in groups[j])
            return _simplest(replace(factor, axes=axes), before)
    return Moved(factor, straight, after)


def _as_groups(before: tuple[int, ...], after: tuple[int, ...]) -> list[list[int]] | None:
    """For each axis after a reshape the axes before it of which it is made; None if it is not."""
    groups, i = [], 0
    for size in after:
        group: list[int] = []
        while i < len(before) and prod(before[j] for j in group) < size:
            group.append(i)
            i += 1
        if prod(before[j] for j in group) != size:
            return None
        groups.append(group)
    ones = [j for j in range(i, len(before))]
    if prod(before[j] for j in ones) != 1 or (ones and not groups):
        return None
    if ones:
        groups[-1] += ones
    return groups


def _broadcast(step: Step, k: int, factor: Factor, value: Value) -> Factor | None:
    """The axes that were added, or widened from 1, are positions."""
    if not isinstance(factor, Sum | Diag):
        return None
    before, after = step.ins[k].shape, step.outs[0].shape
    dims = step.eqn.params["broadcast_dimensions"]
    own = [d for d, size in zip(dims, before, strict=True) if after[d] == size]
    turned = jax.tree.map(lambda x: spread(x, own, after, before), factor)
    # the sum of one number's is smaller than what is kept
    return summed_over_positions(turned, len(before)) if prod(before) == 1 else turned


def _added(step: Step, k: int, factor: Factor, value: Value) -> Factor | None:
    if step.ins[k].shape != step.outs[0].shape:  # one number, added to all entries
        return None
    return times(factor, -1) if step.name == "sub" and k == 1 else factor


def times(factor: Factor, c: Any) -> Factor | None:
    """The factor of a gradient that is c times as large; None if it has no plain cotangent."""
    if isinstance(factor, Moved | Stacked):
        inner = times(factor.factor, c)
        return None if inner is None else replace(factor, factor=inner)
    d = getattr(factor, "d", None)
    if d is None or isinstance(d, tuple):
        return None
    return replace(factor, d=d * jnp.asarray(c, d.dtype))  # type: ignore[call-arg]


def _multiplied(step: Step, k: int, factor: Factor, value: Value) -> Factor | None:
    """By a number."""
    if size_of(step.ins[1 - k]) == 1 and step.ins[k].shape == step.outs[0].shape:
        return times(factor, value(1 - k).reshape(()))
    return None


# --- steps that join, cut and multiply matrices -------------------------------------------------


def _concatenated(step: Step, k: int, factor: Factor, value: Value) -> Factor | None:
    axis = step.eqn.params["dimension"]
    start = sum(v.shape[axis] for v in step.ins[:k])
    return _cut(factor, axis, start, step.ins[k].shape[axis], len(step.outs[0].shape))


def _cut(factor: Factor, axis: int, start: int, size: int, rank: int) -> Factor | None:
    """The factor of a part of a parameter along one of its axes."""
    part, factor = slice(start, start + size), untransposed(factor)
    if isinstance(factor, Outer):
        a, d = factor.a, factor.d
        return Outer(a[..., part], d) if axis == 0 else Outer(a, d[..., part])
    if isinstance(factor, Sum | Diag):
        behind = (slice(None),) * (rank - 1 - axis)
        return jax.tree.map(lambda x: x[(..., part, *behind)], factor)
    return None


def _sliced(step: Step, k: int, factor: Factor, value: Value) -> Factor | None:
    """A part of a matrix: the rest of it has no gradient."""
    params, whole = step.eqn.params, step.ins[k].shape
    if params["strides"] not in (None, (1,) * len(whole)):
        return None
    around = [
        (lo, size - hi)
        for lo, hi, size in zip(
            params["start_indices"], params["limit_indices"], whole, strict=True
        )
    ]
    return _padded(factor, around)


def _padded(factor: Factor, around: list[tuple[int, int]]) -> Factor | None:
    factor = untransposed(factor)
    if isinstance(factor, Outer):
        sides = [(x, side) for x, side in zip((factor.a, factor.d), around, strict=True)]
        a, d = (jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [side]) for x, side in sides)
        # what needs no zeros stays the same array: uses that share it are added up
        return Outer(a if any(around[0]) else factor.a, d if any(around[1]) else factor.d)
    if isinstance(factor, Sum | Diag):
        return jax.tree.map(
            lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - len(around)) + around), factor
        )
    return None


def _split(step: Step, k: int, factors: list[Factor | None]) -> Factor | None:
    """A matrix in parts, each used for itself."""
    axis, sizes = step.eqn.params["axis"], step.eqn.params["sizes"]
    rank, whole, parts = len(step.ins[k].shape), sum(sizes), []
    for i, factor in enumerate(factors):
        if factor is None:
            continue
        start = sum(sizes[:i])
        around = [(0, 0)] * rank
        around[axis] = (start, whole - start - sizes[i])
        for part in factor.factors if isinstance(factor, Many) else (factor,):
            padded = _padded(part, around)
            if padded is None:
                return None
            parts.append(padded)
    return merge(parts)


def _product(step: Step, k: int, factor: Factor, value: Value) -> Factor | None:
    """W = U·V of matrices, none of them data: dU = dW·Vᵀ and dV = Uᵀ·dW, through the factor."""
    (left, right), beside = step.eqn.params["dimension_numbers"]
    u, v = step.ins
    factor = untransposed(factor)
    if not isinstance(factor, Outer) or beside != ((), ()) or len(left) != 1:
        return None
    if len(u.shape) != 2 or len(v.shape) != 2:
        return None
    other = value(1 - k)
    # both as they stand in U·V
    other = other.T if (right[0] if k == 0 else left[0]) == (1 if k == 0 else 0) else other
    if k == 0:
        d, other = in_common(factor.d, other)  # d may have fewer bits
        pulled = Outer(factor.a, d @ other.T)
        return pulled if left[0] == 1 else pulled.transpose()
    a, other = in_common(factor.a, other)
    pulled = Outer(a @ other, factor.d)
    return pulled if right[0] == 0 else pulled.transpose()


_RULES: dict[str, Callable[[Step, int, Factor, Value], Factor | None]] = {
    "convert_element_type": _same,
    "copy": _same,
    "copy_p": _same,
    "sharding_constraint": _same,
    "transpose": _transposed,
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "expand_dims": _reshaped,
    "broadcast_in_dim": _broadcast,
    "neg": lambda step, k, factor, value: times(factor, -1),
    "add": _added,
    "sub": _added,
    "add_any": _added,
    "mul": _multiplied,
    "concatenate": _concatenated,
    "slice": _sliced,
    "dot_general": _product,
}
