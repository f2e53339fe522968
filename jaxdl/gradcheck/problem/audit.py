"""What the given arguments have in common that has hidden real bugs."""

from __future__ import annotations

import numpy as np

from jaxdl.gradcheck.problem.problem import Problem


def audit(problem: Problem) -> list[str]:
    """What the given arguments have in common that has hidden real bugs."""
    notes = []
    for leaf, x in zip(problem.input_names, problem.inputs, strict=True):
        values = np.asarray(x, np.float64)
        if values.size > 1 and np.ptp(values) == 0:
            notes.append(f"{leaf}: all entries are equal; a sum and a mean of others look alike")
        elif values.size > 2 and np.all(values > 0):
            notes.append(f"{leaf}: all entries are positive; wrong signs and branches may not show")
        longer = [n for n in values.shape if n > 1]
        for length in sorted({n for n in longer if longer.count(n) > 1}):
            notes.append(
                f"{leaf}: axes of equal length {length}; give another sample in which they differ, "
                "or a transpose may not show"
            )
        if values.ndim == 2 and values.size > 1 and np.array_equal(values, values.T):
            notes.append(f"{leaf}: symmetric; a transpose does not show")
    if problem.inputs and all(np.all(np.asarray(x) == 1) for x in problem.inputs):
        notes.append("all arguments are ones: a factor of them, or its square, does not show")
    for leaf, value in zip(problem.names, problem.leaves, strict=True):
        if isinstance(value, float) and value == 1.0:
            notes.append(f"{leaf} is exactly 1: powers and products of it do not show")
    return notes
