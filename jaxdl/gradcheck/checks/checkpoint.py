"""The same gradient under `jax.checkpoint`."""

from __future__ import annotations

from collections.abc import Iterator

import jax

from jaxdl.gradcheck.checks.agreement import same, usual_gradients
from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.oracles.probe import backward_of, to_numpy
from jaxdl.gradcheck.report.findings import Finding


def checkpoint(case: Case) -> Iterator[Finding]:
    """With f computed again in the backward pass."""
    inputs, weights, whole, rounding, floors = usual_gradients(case, 41)
    again = to_numpy(jax.jit(backward_of(jax.checkpoint(case.probe.f)))(inputs, weights))
    for name, a, b, floor in zip(case.problem.input_names, again, whole, floors, strict=True):
        yield same("checkpoint", name, a, b, rounding, "under jax.checkpoint", floor)
