"""The derivative of the gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck.checks.agreement import same
from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.oracles.probe import close_by, jumps, to_numpy
from jaxdl.gradcheck.problem.directions import cotangents, direction
from jaxdl.gradcheck.report.findings import Finding


def second_order(case: Case) -> Iterator[Finding]:
    """The gradient's own derivative along a direction, against that of the reference.

    By the arguments, and by the cotangent, of which the gradient is a linear function: a rule that
    holds its cotangent constant is right once and wrong in every Hessian.
    """
    if case.seen.wrong:
        yield Finding("second order", "skipped", text="the gradient itself is wrong")
        return
    inputs = case.at(case.problem.inputs)
    weights = cotangents(case.rng(11), jax.eval_shape(case.probe.f, *inputs))
    u = [jnp.asarray(direction(case.rng(12, i), x.shape), x.dtype) for i, x in enumerate(inputs)]

    def along(backward: Any) -> Callable[[list[Any]], list[Any]]:
        def second(inputs: list[Any]) -> list[Any]:
            outputs, vjp = jax.vjp(backward, list(inputs), list(weights))
            of_both = vjp([v.astype(o.dtype) for v, o in zip(u, outputs, strict=True)])
            return [derivative for part in of_both for derivative in part]

        return jax.jit(second)

    try:
        truth = along(case.probe.truth)
        want, got = to_numpy(truth(inputs)), to_numpy(along(case.probe.rule)(inputs))
    except (TypeError, NotImplementedError, ValueError) as error:
        why = str(error).splitlines()[0][:120]
        yield Finding("second order", "skipped", text=f"cannot be differentiated twice: {why}")
        return
    near = [to_numpy(truth(close_by(inputs, case.rng(20, i)))) for i in range(4)]
    sides = [jumps(w, [n[i] for n in near]) for i, w in enumerate(want)]
    rounding, floors = case.probe.rounding(inputs, weights), case.probe.floors(inputs, weights)
    held = case.holds_back()
    names, how = list(case.problem.input_names), "differentiated a second time"
    names += [f"the cotangent of output {i}" for i in range(len(weights))]
    floors = [*floors, *[sum(floors)] * len(weights)]
    for name, a, b, floor, jump in zip(names, got, want, floors, sides, strict=True):
        if held and name in case.problem.input_names and not np.any(b):
            why = f"{name}: stop_gradient in f holds it back"
            yield Finding("second order", "skipped", leaf=name, text=why)
            continue
        if jump.all():
            yield Finding("second order", "skipped", leaf=name, text=f"{name}: it jumps close by")
            continue
        a = np.where(jump, b, a)  # where it jumps either side is right
        yield same("second order", name, a, b, 1e2 * rounding, how, 1e2 * floor)
