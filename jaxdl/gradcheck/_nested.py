"""The same gradient inside loops, under jax.checkpoint, on several devices, and in microbatches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdl.gradcheck._case import Case, same
from jaxdl.gradcheck._draw import cotangents
from jaxdl.gradcheck._probe import backward_of, to_numpy
from jaxdl.gradcheck._problem import Problem
from jaxdl.gradcheck._report import Finding

_MOST_SHARDED = 4  # axes of arguments that are spread over the devices one at a time
_MOST_CHOICES = 6  # of arguments that may hold the examples


def _start(case: Case, key: int) -> tuple[list[Any], list[Any], list[np.ndarray], float, list[Any]]:
    """Inputs, cotangents, the gradients by the rule, their rounding and their floors."""
    inputs = case.at(case.problem.inputs)
    weights = cotangents(case.rng(key), jax.eval_shape(case.probe.f, *inputs))
    whole = case.probe.gradients(inputs, weights)[0]
    rounding, floors = case.probe.rounding(inputs, weights), case.probe.floors(inputs, weights)
    return inputs, weights, whole, rounding, floors


def loops(case: Case) -> Iterator[Finding]:
    """Inside `lax.scan`, over its arguments and with them held; taken inside a while loop."""
    inputs, weights, whole, rounding, floors = _start(case, 40)
    f, backward = case.probe.f, backward_of(case.probe.f)
    two = [jnp.stack([w, -0.5 * w]) for w in weights]

    def over(*stacked: Any) -> list[Any]:
        return lax.scan(lambda carry, x: (carry, f(*x)), 0, list(stacked))[1]

    def held(*inputs: Any) -> list[Any]:
        return lax.scan(lambda carry, _: (carry, f(*inputs)), 0, jnp.arange(2))[1]

    def in_while(inputs: list[Any], weights: list[Any], times: Any) -> list[Any]:
        def body(i: Any, total: list[Any]) -> list[Any]:
            found = backward(inputs, weights)
            return [t + g * (i + 1).astype(g.dtype) for t, g in zip(total, found, strict=True)]

        return lax.fori_loop(0, times, body, [jnp.zeros_like(x) for x in inputs])

    @jax.jit
    def all_three(inputs: list[Any], weights: list[Any], two: list[Any], times: Any) -> Any:
        stacked = [jnp.stack([x, x]) for x in inputs]
        return (
            backward_of(over)(stacked, two),
            backward_of(held)(inputs, two),
            in_while(inputs, weights, times),
        )

    try:
        of_scan, of_held, of_while = all_three(inputs, weights, two, 2)
    except NotImplementedError as error:
        yield Finding("loops", "skipped", text=(str(error).splitlines() or [""])[0][:200])
        return
    stacked, held_, while_ = map(to_numpy, (of_scan, of_held, of_while))
    for i, name in enumerate(case.problem.input_names):
        g, floor = whole[i], 4 * floors[i]
        yield same("loops", name, stacked[i][1], -0.5 * g, rounding, "inside a scan", floor)
        yield same("loops", name, held_[i], 0.5 * g, rounding, "held in a scan", floor)
        yield same("loops", name, while_[i], 3 * g, rounding, "inside a while loop", floor)


def checkpoint(case: Case) -> Iterator[Finding]:
    """With f computed again in the backward pass."""
    inputs, weights, whole, rounding, floors = _start(case, 41)
    again = to_numpy(jax.jit(backward_of(jax.checkpoint(case.probe.f)))(inputs, weights))
    for name, a, b, floor in zip(case.problem.input_names, again, whole, floors, strict=True):
        yield same("checkpoint", name, a, b, rounding, "under jax.checkpoint", floor)


def sharded(case: Case) -> Iterator[Finding]:
    """With arguments spread over the devices, by the compiler's own partitioning."""
    inputs, weights, whole, rounding, floors = _start(case, 42)
    count = len(jax.devices())
    if count < 2:
        yield Finding("sharded", "skipped", text="there is one device")
        return
    spread = [
        (leaf, axis)
        for leaf, x in enumerate(inputs)
        for axis, n in enumerate(x.shape)
        if n % count == 0
    ]
    if not spread:
        yield Finding("sharded", "skipped",
                      text=f"no axis can be divided over {count} devices")  # fmt: skip
        return
    mesh = Mesh(np.array(jax.devices()), ("devices",), axis_types=(AxisType.Auto,))
    backward = jax.jit(backward_of(case.probe.f))
    firsts = [pair for pair in spread if pair[1] == 0]
    for chosen in [firsts or spread[:1], *([pair] for pair in spread[:_MOST_SHARDED])]:
        axes = dict(chosen)

        def placed(leaf: int, x: Any, axes: dict[int, int] = axes) -> Any:
            spec = [None] * x.ndim
            if leaf in axes:
                spec[axes[leaf]] = "devices"
            return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))

        everywhere = NamedSharding(mesh, PartitionSpec())
        at = [placed(leaf, x) for leaf, x in enumerate(inputs)]
        got = to_numpy(backward(at, [jax.device_put(w, everywhere) for w in weights]))
        told = ", ".join(f"axis {a} of {case.problem.input_names[i]}" for i, a in chosen)
        for name, a, b, floor in zip(case.problem.input_names, got, whole, floors, strict=True):
            how = f"with {told} over {count} devices"
            yield same("sharded", name, a, b, rounding, how, 4 * floor)


def microbatches(case: Case) -> Iterator[Finding]:
    """For a function of examples: those of the parts, put together, are those of the whole."""
    inputs, weights, whole, rounding, floors = _start(case, 43)
    counts = {w.shape[:1] for w in weights}
    count = next(iter(counts))[0] if len(counts) == 1 and counts != {()} else 0
    cut = (count + 1) // 2
    halves = (slice(0, cut), slice(cut, count))
    for leaves in _may_hold_examples(case.problem, count) if count > 1 else ():
        try:
            parts = [case.again(_part(case.problem, leaves, half)) for half in halves]
            values = [to_numpy(p.probe.value(*p.at(p.problem.inputs))) for p in parts]
        except Exception:
            continue  # f does not take the parts
        y = to_numpy(case.probe.value(*inputs))
        if not all(
            a.shape[0] + b.shape[0] == count
            and same("", "", np.concatenate([a, b]), c, rounding, "").outcome == "pass"
            for a, b, c in zip(*values, y, strict=True)
        ):
            continue
        break
    else:
        yield Finding("microbatches", "skipped", text="f is no function of examples one by one")
        return
    found = [
        part.probe.gradients(part.at(part.problem.inputs), [w[half] for w in weights])[0]
        for part, half in zip(parts, halves, strict=True)
    ]
    for i, (name, a, b) in enumerate(zip(case.problem.input_names, *found, strict=True)):
        together = np.concatenate([a, b]) if case.problem.wrt[i] in leaves else a + b
        yield same("microbatches", name, together, whole[i], rounding,
                   f"from {cut} and {count - cut} examples", 4 * floors[i])  # fmt: skip


def _may_hold_examples(problem: Problem, count: int) -> Iterator[tuple[int, ...]]:
    """Sets of leaves with that many rows, the largest first."""
    rows = [
        i for i, leaf in enumerate(problem.leaves)
        if np.ndim(leaf) and np.shape(leaf)[0] == count
        and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
    ]  # fmt: skip
    sets = (s for n in range(len(rows), 0, -1) for s in combinations(rows, n))
    for number, chosen in enumerate(sets):
        if number < _MOST_CHOICES:
            yield chosen


def _part(problem: Problem, leaves: Sequence[int], half: slice) -> Problem:
    taken = [x[half] if i in leaves else x for i, x in enumerate(problem.leaves)]
    return replace(problem, leaves=taken)
