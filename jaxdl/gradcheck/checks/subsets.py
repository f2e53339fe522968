"""Arguments differentiated alone, and outputs alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.gradcheck.checks.agreement import MOST_ALONE, same
from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.oracles.probe import backward_of, to_numpy
from jaxdl.gradcheck.problem.directions import cotangents
from jaxdl.gradcheck.report.findings import Finding


def subsets(case: Case) -> Iterator[Finding]:
    """Alone, an argument has the gradient that it has among all; so it is for outputs.

    A rule may be told which arguments are constant and which cotangents are zero.
    """
    inputs = case.at(case.problem.inputs)
    weights = cotangents(case.rng(5), jax.eval_shape(case.probe.f, *inputs))
    names, rounding = case.problem.input_names, case.probe.rounding(inputs, weights)
    floors = case.probe.floors(inputs, weights)
    whole = case.probe.gradients(inputs, weights)[0]
    for leaf, name in enumerate(names if len(inputs) > 1 else ()):

        def of_one(x: Any, leaf: int = leaf) -> list[Any]:
            return case.probe.f(*inputs[:leaf], x, *inputs[leaf + 1 :])

        (g,) = to_numpy(jax.jit(backward_of(of_one))([inputs[leaf]], weights))
        how = "differentiated alone, with the other arguments constant"
        yield same("subsets", name, g, whole[leaf], rounding, how, floors[leaf])
    for i, w in enumerate(weights if 1 < len(weights) <= MOST_ALONE else ()):

        def to_one(*x: Any, i: int = i) -> list[Any]:
            return [case.probe.f(*x)[i]]

        others = [v if j == i else jnp.zeros_like(v) for j, v in enumerate(weights)]
        together = case.probe.gradients(inputs, others)[0]
        found = to_numpy(jax.jit(backward_of(to_one))(inputs, [w]))
        for name, a, b, floor in zip(names, found, together, floors, strict=True):
            yield same("subsets", name, a, b, rounding, f"with output {i} alone", floor)
