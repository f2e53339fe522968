"""What is said after the checks have run: leaves about which nothing is known, and hints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck._case import BLIND, Case
from jaxdl.gradcheck._probe import SAFETY, to_numpy
from jaxdl.gradcheck._report import Finding


def vacuous(case: Case, power: Mapping[str, float], told: set[str]) -> Iterator[Finding]:
    """A leaf at which no error could have been seen has not been checked."""
    inputs = case.at(case.problem.inputs)
    outputs = jax.eval_shape(case.probe.f, *inputs)
    coarse = case.probe.rounding(inputs, [jnp.ones(s.shape, s.dtype) for s in outputs])
    for i, (name, seen) in enumerate(power.items()):
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


def hints(case: Case, findings: Sequence[Finding]) -> Iterator[str]:
    """What may be behind a failure, or a doubt, that is no mistake."""
    failed = [f for f in findings if f.outcome in ("fail", "inconclusive")]
    if failed and not all(
        np.all(np.isfinite(y)) for y in to_numpy(case.problem.outputs(*case.problem.inputs))
    ):
        yield "f is not finite at the given arguments: give others, at which it is defined"
    if any(f.sample == "given" and f.name in ("dot", "taylor") for f in failed):
        if case.holds_back():
            yield (
                "f has a stop_gradient: where the gradient is meant to differ from the derivative, "
                "give expect="
            )
        if case.rests():
            yield (
                "f has loops: where they end before they come to rest, and the rule is that of the "
                "limit, a small difference is no mistake; let them run further for the check"
            )
    elif any("among the integers" in f.sample or "all booleans" in f.sample for f in failed):
        yield (
            "only with other integers or booleans: if f relies on more than their range, let it "
            "return NaN where that does not hold"
        )
