"""The gradient for a cotangent times a power of two."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.oracles.probe import to_numpy
from jaxdl.gradcheck.oracles.rounding import eps
from jaxdl.gradcheck.problem.directions import cotangents
from jaxdl.gradcheck.report.findings import Finding


def scaling(case: Case) -> Iterator[Finding]:
    """The gradient of ±2ᵏ times the cotangent is ±2ᵏ times the gradient, to the last bit.

    The factors are large and small, so that what is clipped or cut off shows.
    """
    problem = case.problem
    y, vjp = jax.vjp(problem.outputs, *problem.inputs)
    weights = cotangents(case.rng(3), y)
    base = to_numpy(vjp(weights))
    power = 3 if any(a.dtype == jnp.float16 for a in (*problem.inputs, *y)) else 20
    for factor in (2.0**power, -(2.0**-power)):
        scaled = to_numpy(vjp([w * factor for w in weights]))
        for leaf, (name, one, other) in enumerate(
            zip(problem.input_names, base, scaled, strict=True)
        ):
            expected = one * factor
            dtype = problem.inputs[leaf].dtype
            tiny = float(jnp.finfo(dtype).tiny) / eps(dtype)  # below, numbers lose digits
            with np.errstate(invalid="ignore"):
                off = (expected != other) & ~(np.isnan(expected) & np.isnan(other))
                size = np.abs(expected).max(initial=0.0, where=np.isfinite(expected))
                off &= np.abs(expected) <= float(jnp.finfo(dtype).max) / 64
                off &= (
                    np.abs(expected - other)
                    > 4 * eps(dtype) * np.maximum(np.abs(expected), tiny) + 1e-3 * eps(dtype) * size
                )
            outcome = "fail" if off.any() else "pass"
            yield Finding(
                "scaling", outcome, leaf=name,
                text=f"{factor:g} times the cotangent must give {factor:g} times the "
                f"gradient; {int(off.sum())} of {off.size} entries differ: the gradient is not a "
                "linear function of the cotangent",
            )  # fmt: skip
