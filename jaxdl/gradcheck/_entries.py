"""Every entry of every gradient against the reference, and slopes against differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck import _locate
from jaxdl.gradcheck._case import BLIND, Case, stress_points
from jaxdl.gradcheck._draw import cotangents, direction
from jaxdl.gradcheck._error_map import error_map
from jaxdl.gradcheck._held import held_points, promises
from jaxdl.gradcheck._probe import (
    SAFETY,
    Comparison,
    scale_of,
    to_numpy,
)
from jaxdl.gradcheck._report import Finding
from jaxdl.gradcheck._vote import slope_along, vote

_COTANGENTS = 3
_SHORT = 2.0**-10
_MOST_OUTPUTS = 8  # so many are looked at one by one


def dot(
    case: Case, sample: str = "given", inputs: Sequence[Any] | None = None
) -> Iterator[Finding]:
    """Every entry of every gradient, for several cotangents and for each output alone."""
    inputs = case.at(case.problem.inputs if inputs is None else inputs)
    names, key = case.problem.input_names, crc32(sample.encode())
    shapes = jax.eval_shape(case.probe.f, *inputs)
    alone = range(len(shapes)) if 1 < len(shapes) <= _MOST_OUTPUTS else ()
    rounds: list[tuple[int, int | None]] = [(0, None)]
    if sample == "given":
        rounds += [(i, None) for i in range(1, _COTANGENTS)]
        rounds += [(_COTANGENTS + i, i) for i in alone]
    failed: set[int] = set()
    for i, only in rounds:
        rng = case.rng(key, i)
        weights = cotangents(rng, shapes)
        if only is None and i == _COTANGENTS - 1:  # as the gradient of a plain sum has
            weights = [jnp.ones_like(w) for w in weights]
        elif only is not None:
            weights = [w if j == only else jnp.zeros_like(w) for j, w in enumerate(weights)]
        found = case.probe.compare(inputs, weights, rng)
        if sample == "given":
            sizes = [
                float(np.sqrt(np.mean(np.where(np.isfinite(w), w, 0) ** 2))) for w in found.want
            ]
            case.sizes = sizes if not case.sizes else list(map(max, case.sizes, sizes))
        else:  # where gradients all but vanish, the numbers they are made of do not
            rounding = SAFETY * case.probe.rounding(inputs, weights) * _growth(case, inputs) ** 2
            sizes = case.sizes or [0.0] * len(inputs)
            floors = case.probe.floors(inputs, weights)
            wider = [
                t + rounding * z + floor
                for t, z, floor in zip(found.tolerance, sizes, floors, strict=True)
            ]
            found = replace(found, tolerance=wider)
        for leaf, wrong in enumerate(found.wrong()):
            if wrong.any() and leaf not in failed:
                finding = _difference(case, sample, inputs, found, leaf, only)
                if finding.outcome == "fail" and sample == "given" and i == _COTANGENTS - 1:
                    why = "only for a cotangent of ones: the gradient is not a linear function of "
                    finding = replace(finding, diagnosis=why + "the cotangent")
                if finding.outcome != "pass":
                    failed.add(leaf)
                    if sample == "given":
                        case.wrong.add(names[leaf])
                    if sample == "given" and finding.outcome == "inconclusive":
                        case.doubtful.add(names[leaf])
                    yield finding
        if only is None:
            for name, seen in zip(names, found.power(), strict=True):
                case.power[name] = min(case.power.get(name, np.inf), seen)
    for leaf, name in enumerate(names):
        if leaf not in failed:
            yield Finding("dot", "pass", sample, name)


def _growth(case: Case, inputs: Sequence[Any]) -> float:
    """By how much some argument is larger than it was given: products of two grow by its square."""
    given = case.problem.inputs
    return max(1.0, *(scale_of(x) / scale_of(y) for x, y in zip(inputs, given, strict=True)))


def _difference(
    case: Case, sample: str, inputs: list[Any], found: Comparison, leaf: int, only: int | None
) -> Finding:
    got, want, wrong = found.got[leaf], found.want[leaf], found.wrong()[leaf]
    index = _locate.worst(got, want, found.tolerance[leaf])
    names = case.problem.input_names
    figures = {
        "got": float(got[index]),
        "want": float(want[index]),
        "tolerance": float(found.tolerance[leaf][index]),
    }
    place = _locate.where(got, want, wrong)
    common = _locate.condition(wrong, np.asarray(inputs[leaf], np.float64), names[leaf])
    lines = [f"where   {'; '.join(filter(None, [place, common]))}"]
    lines.append(
        f"worst   index {index}  got {got[index]:.9g}  want {want[index]:.9g} "
        f"± {found.tolerance[leaf][index]:.1g}"
    )
    outcome = "fail"
    if case.arbiter:
        verdict = vote(case.probe, inputs, found, leaf, case.seed)
        outcome = verdict.outcome
        slope = verdict.differences
        figures |= {"slope_of_rule": verdict.rule, "slope_of_reference": verdict.truth,
                    "differences": slope.value, "error_of_differences": slope.error}  # fmt: skip
        lines.append(
            f"slope   rule {verdict.rule:.9g}  reference {verdict.truth:.9g}  finite differences "
            f"{slope.value:.9g} ± {slope.error:.1g}: {verdict.reason}"
        )
    if only is not None:
        lines.append(f"with a cotangent for output {only} alone")
    diagnosis = "" if outcome == "pass" else _diagnosis(case, inputs, found, leaf)
    name = f"{names[leaf]}  {case.problem.inputs[leaf].dtype}{list(np.shape(inputs[leaf]))}"
    return Finding(
        "dot",
        outcome,
        sample,
        name,
        index,
        "\n".join(lines),
        figures,
        diagnosis,
        case.replay(),
        errors=error_map(got, want),
    )


def _diagnosis(case: Case, inputs: list[Any], found: Comparison, leaf: int) -> str:
    got, want = found.got[leaf], found.want[leaf]
    names = case.problem.input_names
    ones = [jnp.ones_like(w) for w in found.weights]
    parts = {_locate.ONES: case.probe.gradients(inputs, ones)[1][leaf]}
    if 1 < len(ones) <= _MOST_OUTPUTS:
        for i in range(len(ones)):
            alone = [w if j == i else jnp.zeros_like(w) for j, w in enumerate(found.weights)]
            parts[f"output {i}"] = case.probe.gradients(inputs, alone)[1][leaf]
    others = {n: w for i, (n, w) in enumerate(zip(names, found.want, strict=True)) if i != leaf}
    outputs = [f"output {i}" for i in range(len(ones))]
    constants = _locate.constants_of([np.shape(a) for a in (*inputs, *ones)], [*names, *outputs])
    return _locate.diagnose(got, want, constants, others, parts)


def stress(case: Case) -> Iterator[Finding]:
    """The check 'dot' at points derived from the given ones, where rules tend to go wrong."""
    for sample, inputs in stress_points(case.problem.inputs, case.rng(13)):
        if _finite(case, inputs):
            for finding in dot(case, sample, inputs):
                yield replace(finding, name="stress")
    several = len(promises(case.problem)) > 1
    for sample, problem in held_points(case.problem, case.rng(38)):
        other = case.again(problem)
        other.sizes = case.sizes
        if _finite(other, problem.inputs):
            for finding in dot(other, sample):
                yield replace(unless_coupled(finding) if several else finding, name="stress")


def unless_coupled(finding: Finding) -> Finding:
    """A failure is none if integers that were changed apart say one thing: rows and their ends."""
    if finding.outcome != "fail":
        return finding
    text = f"{finding.text}\nor else several integer arguments belong together, and no longer do"
    return replace(finding, outcome="inconclusive", text=text)


def _finite(case: Case, inputs: Sequence[Any]) -> bool:
    """Whether these arguments lie in the domain of f."""
    try:
        y = case.probe.value(*case.at(inputs))
    except Exception:
        return False
    return all(np.all(np.isfinite(a)) for a in to_numpy(y))


def differences(case: Case, sample: str = "given") -> Iterator[Finding]:
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
            case.notes.append(
                f"{name}: {count} of {size} entries lie on kinks of f; they were checked close by"
            )
            yield from _along_directions(case, f"{sample}, beside the kinks", aside, leaf)


def _along_directions(
    case: Case, sample: str, inputs: Sequence[Any], leaf: int
) -> Iterator[Finding]:
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
            case.power[name] = min(case.power.get(name, np.inf), seen)
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
