"""The same gradient in microbatches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck.checks.agreement import same, usual_gradients
from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.oracles.probe import to_numpy
from jaxdl.gradcheck.problem.problem import Problem
from jaxdl.gradcheck.report.findings import Finding

_MOST_CHOICES = 6  # of arguments that may hold the examples


def microbatches(case: Case) -> Iterator[Finding]:
    """For a function of examples: those of the parts, put together, are those of the whole."""
    inputs, weights, whole, rounding, floors = usual_gradients(case, 43)
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
