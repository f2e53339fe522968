"""The gradient for a cotangent of zeros."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.oracles.probe import to_numpy
from jaxdl.gradcheck.problem.directions import cotangents
from jaxdl.gradcheck.report.findings import Finding


def zero(case: Case) -> Iterator[Finding]:
    """A cotangent of zeros gives a gradient of zeros."""
    problem = case.problem
    y, vjp = jax.vjp(problem.outputs, *problem.inputs)
    usual = to_numpy(vjp(cotangents(case.rng(19), y)))
    of_zeros = to_numpy(vjp([jnp.zeros_like(a) for a in y]))
    for name, g, other in zip(problem.input_names, of_zeros, usual, strict=True):
        # zero times a derivative that is infinite is no number, and no mistake
        size = np.nan_to_num(np.abs(g[np.isfinite(other)]), nan=np.inf)
        worst = float(size.max(initial=0.0))
        yield Finding(
            "zero", "pass" if worst == 0 else "fail", leaf=name,
            text=f"a cotangent of zeros must give zeros, got entries up to {worst:.3g}: the "
            "gradient is not a linear function of the cotangent",
        )  # fmt: skip
