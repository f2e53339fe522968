"""The same gradient on several devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdl.gradcheck.checks.agreement import same, usual_gradients
from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.oracles.probe import backward_of, to_numpy
from jaxdl.gradcheck.report.findings import Finding

_MOST_SHARDED = 4  # axes of arguments that are spread over the devices one at a time


def sharded(case: Case) -> Iterator[Finding]:
    """With arguments spread over the devices, by the compiler's own partitioning."""
    inputs, weights, whole, rounding, floors = usual_gradients(case, 42)
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
