"""Slopes of a gradient along directions, against finite differences of f itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck.checks.case import BLIND, Case
from jaxdl.gradcheck.checks.results import Note, Result, Seen
from jaxdl.gradcheck.oracles.directional import slope_along
from jaxdl.gradcheck.oracles.probe import scale_of
from jaxdl.gradcheck.problem.directions import cotangents, direction
from jaxdl.gradcheck.report.findings import Finding

_COTANGENTS = 3
_SHORT = 2.0**-10


def differences(case: Case, sample: str = "given") -> Iterator[Result]:
    """Each argument's gradient along random directions, against finite differences of f itself.

    The only judge where there is no primal to strip, else not needed: it sees less. Entries that
    lie on kinks are looked at close by, where f is smooth.
    """
    given = case.at(case.problem.inputs)
    rng = case.rng(10)
    weights = cotangents(rng, jax.eval_shape(case.probe.f, *given))
    kinked = case.probe.kinked(given, weights, rng)
    aside = [
        jnp.asarray(x + 2.0**-6 * scale_of(x) * direction(rng, x.shape), x.dtype) for x in given
    ]
    for leaf, name in enumerate(case.problem.input_names):
        if not kinked[leaf].all():
            yield from _along_directions(case, sample, given, leaf)
        if kinked[leaf].any():
            count, size = int(kinked[leaf].sum()), kinked[leaf].size
            yield Note(
                f"{name}: {count} of {size} entries lie on kinks of f; they were checked close by"
            )
            yield from _along_directions(case, f"{sample}, beside the kinks", aside, leaf)


def _along_directions(
    case: Case, sample: str, inputs: Sequence[Any], leaf: int
) -> Iterator[Result]:
    name = case.problem.input_names[leaf]
    for i in range(_COTANGENTS):
        rng = case.rng(10, leaf, i)
        weights = cotangents(rng, jax.eval_shape(case.probe.f, *inputs))
        kinked = case.probe.kinked(inputs, weights, rng)[leaf]
        u = np.where(kinked, 0.0, direction(rng, inputs[leaf].shape))
        gradient = case.probe.gradients(inputs, weights)[0][leaf]
        if i == 0:  # along the gradient itself nothing cancels
            u = np.abs(u) * np.where(gradient < 0, -1.0, 1.0)
        x = np.abs(np.asarray(inputs[leaf], np.float64))
        size = scale_of(inputs[leaf])
        ways = [
            (u, size),
            (u * np.where(x == 0, size, x), 1.0),  # entries of all sizes need steps of all sizes
            (u, _SHORT * size),  # a kink close by needs short ones
        ]
        for along, scale in ways:
            finding = _by_differences(case, inputs, weights, leaf, gradient, along, scale)
            if finding.outcome == "pass":
                break
        else:
            finding = _by_differences(case, inputs, weights, leaf, gradient, u, size)
        slopes = (finding.figures["rule"], finding.figures["differences"])
        zero = max(map(abs, slopes)) <= case.probe.floors(inputs, weights)[leaf]
        if finding.outcome == "pass" and not zero:  # where it is zero no error can be relative
            seen = finding.figures["power"]
            yield Seen(power={name: seen})
            if i == 0 and seen >= BLIND:  # other directions may be those along which it cancels
                finding = replace(finding, outcome="inconclusive")
        yield replace(finding, sample=sample)


def _by_differences(
    case: Case,
    inputs: Sequence[Any],
    weights: Sequence[Any],
    leaf: int,
    gradient: np.ndarray,
    u: np.ndarray,
    scale: float,
) -> Finding:
    """The slope of a gradient along u against that of f."""
    mine = float(np.vdot(gradient, u))
    found = slope_along(case.probe, inputs, weights, leaf, u, scale)
    size = float(np.vdot(np.abs(gradient), np.abs(u)))
    slack = 4 * found.error + 1e3 * case.probe.rounding(inputs, weights) * size
    off = abs(mine - found.value)
    figures = {"rule": mine, "differences": found.value, "error": found.error}
    outcome = "inconclusive"
    if np.isfinite(found.value) and off <= slack:
        outcome = "pass"
        figures["power"] = slack / max(abs(found.value), float(np.finfo(np.float64).tiny))
    elif np.isfinite(found.error) and found.error < 0.1 * off:
        outcome = "fail"
    text = f"slope {mine:.9g}, by finite differences {found.value:.9g} ± {found.error:.1g}"
    return Finding("differences", outcome, leaf=case.problem.input_names[leaf], text=text,
                   figures=figures, replay=case.replay())  # fmt: skip
