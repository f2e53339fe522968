"""The same gradient under jit and vmap."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from jaxdl.gradcheck.checks.agreement import MOST_ALONE, same
from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.oracles.probe import backward_of, to_numpy
from jaxdl.gradcheck.problem.directions import cotangents, direction
from jaxdl.gradcheck.report.findings import Finding

_MAPPED = 3  # two may be a special case


def transforms(case: Case) -> Iterator[Finding]:
    """Under jit and vmap, with all or only some arguments mapped, it is the same gradient."""
    inputs = case.at(case.problem.inputs)
    weights = cotangents(case.rng(8), jax.eval_shape(case.probe.f, *inputs))
    rounding = case.probe.rounding(inputs, weights)
    backward = backward_of(case.probe.f)
    compiled, floors = case.probe.gradients(inputs, weights)[0], case.probe.floors(inputs, weights)
    names = case.problem.input_names
    eager = to_numpy(backward(inputs, weights))
    for name, a, b, floor in zip(names, eager, compiled, floors, strict=True):
        yield same("jit", name, b, a, rounding, "under jit", floor)
    stacked = [
        jnp.stack([x, *(x * (1 + 0.25 * jnp.asarray(direction(case.rng(9, i, k), x.shape), x.dtype))
                        for k in range(1, _MAPPED))])
        for i, x in enumerate(inputs)
    ]  # fmt: skip
    several = [jnp.stack([w * (-0.5) ** k for k in range(_MAPPED)]) for w in weights]
    mapped = [tuple(range(len(inputs)))] + (
        [(i,) for i in range(len(inputs))] if 1 < len(inputs) <= MOST_ALONE else []
    )
    for chosen in mapped:
        axes = [0 if i in chosen else None for i in range(len(inputs))]
        at = [s if i in chosen else x for i, (s, x) in enumerate(zip(stacked, inputs, strict=True))]
        try:
            together = to_numpy(jax.jit(jax.vmap(backward, (axes, 0)))(at, several))
        except NotImplementedError as error:  # such as a callback that says nothing about vmap
            yield Finding("vmap", "skipped", text=str(error).splitlines()[0][:200])
            return
        for k in range(_MAPPED):
            here = [
                s[k] if i in chosen else x
                for i, (s, x) in enumerate(zip(stacked, inputs, strict=True))
            ]
            single = case.probe.gradients(here, [w[k] for w in several])[0]
            for name, a, b, floor in zip(names, together, single, floors, strict=True):
                which = "all arguments" if len(chosen) == len(inputs) else names[chosen[0]]
                yield same("vmap", name, a[k], b, rounding, f"under vmap of {which}", 4 * floor)
