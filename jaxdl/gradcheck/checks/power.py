"""Whether an error could have been seen at all, leaf by leaf."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp

from jaxdl.gradcheck.checks.case import BLIND, Case
from jaxdl.gradcheck.oracles.probe import SAFETY
from jaxdl.gradcheck.report.findings import Finding


def power(case: Case, seen_from: Mapping[str, float], told: set[str]) -> Iterator[Finding]:
    """A leaf at which no error could have been seen has not been checked."""
    inputs = case.at(case.problem.inputs)
    outputs = jax.eval_shape(case.probe.f, *inputs)
    coarse = case.probe.rounding(inputs, [jnp.ones(s.shape, s.dtype) for s in outputs])
    for i, (name, seen) in enumerate(seen_from.items()):
        if seen < BLIND or any(leaf.startswith(name) for leaf in told):
            continue
        if case.constant(i):
            continue  # f does not depend on it, and the rule says so
        cause = "give arguments at which the gradient is not zero and well conditioned"
        if coarse * SAFETY > BLIND / 10:
            cause = (
                f"f computes with a relative precision of {coarse:.1g} on the way, whatever the "
                "dtype of its arguments; check it without that cast, or skip={'power': why}"
            )
        text = f"a relative error below {seen:.1g} would not have been seen here; {cause}"
        yield Finding("power", "inconclusive", leaf=name, text=text)
