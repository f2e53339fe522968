"""The same gradient inside loops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdl.gradcheck.checks.agreement import same, usual_gradients
from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.oracles.probe import backward_of, to_numpy
from jaxdl.gradcheck.report.findings import Finding


def loops(case: Case) -> Iterator[Finding]:
    """Inside `lax.scan`, over its arguments and with them held; taken inside a while loop."""
    inputs, weights, whole, rounding, floors = usual_gradients(case, 40)
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
