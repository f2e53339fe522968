"""Every entry of every gradient against the reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.checks.results import Note, Result, Seen, findings_of
from jaxdl.gradcheck.oracles.probe import SAFETY, Comparison, scale_of
from jaxdl.gradcheck.oracles.vote import vote
from jaxdl.gradcheck.problem.directions import cotangents
from jaxdl.gradcheck.report import diagnosis, locate
from jaxdl.gradcheck.report.error_map import error_map
from jaxdl.gradcheck.report.findings import Finding

_COTANGENTS = 3
_MOST_OUTPUTS = 8  # so many are looked at one by one
_LOOSE = Note(
    "f iterates, and ends before it has come to rest: further steps would change its derivative, "
    "and by so much the rule may differ from it"
)


@dataclass(frozen=True)
class _Round:
    """One cotangent."""

    weights: list[Any]
    rng: np.random.Generator
    of_ones: bool = False
    """As the gradient of a plain sum has."""
    only: int | None = None
    """The output for which it is not zero, if for one alone."""


def dot(case: Case, sample: str = "given", inputs: Sequence[Any] | None = None) -> Iterator[Result]:
    """Every entry of every gradient, for several cotangents and for each output alone."""
    inputs = case.at(case.problem.inputs if inputs is None else inputs)
    names = case.problem.input_names
    failed: set[int] = set()
    loose = False
    for each in _rounds(case, sample, inputs):
        found = case.probe.compare(inputs, each.weights, each.rng)
        if sample == "given":
            yield Seen(sizes=[_size(want) for want in found.want], loose=found.loose)
            if found.loose and not loose:
                yield _LOOSE
            loose = loose or found.loose
        else:
            found = _with_lost_digits(case, inputs, found)
            if not found.rests and case.rests():
                text = f"{sample}: the iterations of f do not come to rest there"
                yield Finding("dot", "skipped", sample, text=text)
                return
        for leaf, wrong in enumerate(found.wrong()):
            if wrong.any() and leaf not in failed:
                finding = _judged(case, sample, inputs, found, leaf, each)
                if finding.outcome != "pass":
                    failed.add(leaf)
                    if sample == "given":
                        yield _seen_by(finding)
                    yield finding
        if each.only is None:
            yield Seen(power=dict(zip(names, found.power(), strict=True)))
    for leaf, name in enumerate(names):
        if leaf not in failed:
            yield Finding("dot", "pass", sample, name)


def confirmed(case: Case) -> bool:
    """Whether the vote has no doubt about the reference at the given arguments."""
    with case.mode():
        return all(finding.outcome != "inconclusive" for finding in findings_of(dot(case)))


def _rounds(case: Case, sample: str, inputs: list[Any]) -> Iterator[_Round]:
    """One cotangent; at the given arguments several, the last of ones, and one for each output."""
    shapes = jax.eval_shape(case.probe.f, *inputs)

    def drawn(i: int) -> tuple[list[Any], np.random.Generator]:
        rng = case.rng(crc32(sample.encode()), i)
        return cotangents(rng, shapes), rng

    yield _Round(*drawn(0))
    if sample != "given":
        return
    for i in range(1, _COTANGENTS - 1):
        yield _Round(*drawn(i))
    weights, rng = drawn(_COTANGENTS - 1)
    yield _Round([jnp.ones_like(w) for w in weights], rng, of_ones=True)
    for only in range(len(shapes)) if 1 < len(shapes) <= _MOST_OUTPUTS else ():
        weights, rng = drawn(_COTANGENTS + only)
        yield _Round(_alone(weights, only), rng, only=only)


def _alone(weights: Sequence[Any], only: int) -> list[Any]:
    """The cotangent of one output, zeros for the others."""
    return [w if i == only else jnp.zeros_like(w) for i, w in enumerate(weights)]


def _size(want: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.where(np.isfinite(want), want, 0) ** 2)))


def _with_lost_digits(case: Case, inputs: list[Any], found: Comparison) -> Comparison:
    """With the rounding of numbers as large as at the given arguments: where gradients all but
    vanish, those that they are made of do not.
    """
    rounding = SAFETY * case.probe.rounding(inputs, found.weights) * _growth(case, inputs) ** 2
    sizes = case.seen.sizes or [0.0] * len(inputs)
    floors = case.probe.floors(inputs, found.weights)
    wider = [
        tolerance + rounding * size + floor
        for tolerance, size, floor in zip(found.tolerance, sizes, floors, strict=True)
    ]
    return replace(found, tolerance=wider)


def _growth(case: Case, inputs: Sequence[Any]) -> float:
    """By how much some argument is larger than it was given: products of two grow by its square."""
    given = case.problem.inputs
    return max(1.0, *(scale_of(x) / scale_of(y) for x, y in zip(inputs, given, strict=True)))


def _seen_by(finding: Finding) -> Seen:
    """What other checks are to know of a leaf that does not pass."""
    leaf = frozenset([finding.path])
    return Seen(wrong=leaf, doubtful=leaf if finding.outcome == "inconclusive" else frozenset())


def _judged(
    case: Case, sample: str, inputs: list[Any], found: Comparison, leaf: int, each: _Round
) -> Finding:
    got, want, wrong = found.got[leaf], found.want[leaf], found.wrong()[leaf]
    index = locate.worst(got, want, found.tolerance[leaf])
    names = case.problem.input_names
    figures = {
        "got": float(got[index]),
        "want": float(want[index]),
        "tolerance": float(found.tolerance[leaf][index]),
    }
    place = locate.where(got, want, wrong)
    common = locate.condition(wrong, np.asarray(inputs[leaf], np.float64), names[leaf])
    lines = [f"where   {'; '.join(filter(None, [place, common]))}"]
    known = f" ± {found.tolerance[leaf][index]:.1g}" if np.isfinite(want[index]) else ""
    lines.append(f"worst   index {index}  got {got[index]:.9g}  want {want[index]:.9g}{known}")
    outcome = "fail"
    if case.arbiter:
        verdict = vote(case.probe, inputs, found, leaf, case.seed)
        outcome = verdict.outcome
        slope = verdict.differences
        figures |= {"slope_of_rule": verdict.rule, "slope_of_reference": verdict.truth,
                    "differences": slope.value, "error_of_differences": slope.error}  # fmt: skip
        told = (
            f"rule {verdict.rule:.9g}  reference {verdict.truth:.9g}  finite differences "
            f"{slope.value:.9g} ± {slope.error:.1g}: "
        )
        lines.append(f"slope   {told if np.isfinite(slope.value) else ''}{verdict.reason}")
    if each.only is not None:
        lines.append(f"with a cotangent for output {each.only} alone")
    looks_like = ""
    if outcome == "fail" and each.of_ones:
        why = "the gradient is not a linear function of the cotangent"
        looks_like = f"only for a cotangent of ones: {why}"
    elif outcome != "pass":
        looks_like = _diagnosis(case, inputs, found, leaf)
    name = f"{names[leaf]}  {case.problem.inputs[leaf].dtype}{list(np.shape(inputs[leaf]))}"
    return Finding(
        "dot",
        outcome,
        sample,
        name,
        index,
        "\n".join(lines),
        figures,
        looks_like,
        case.replay(),
        errors=error_map(got, want),
    )


def _diagnosis(case: Case, inputs: list[Any], found: Comparison, leaf: int) -> str:
    got, want = found.got[leaf], found.want[leaf]
    names = case.problem.input_names
    ones = [jnp.ones_like(w) for w in found.weights]
    parts = {diagnosis.ONES: case.probe.gradients(inputs, ones)[1][leaf]}
    if 1 < len(ones) <= _MOST_OUTPUTS:
        for i in range(len(ones)):
            alone = _alone(found.weights, i)
            parts[f"output {i}"] = case.probe.gradients(inputs, alone)[1][leaf]
    others = {n: w for i, (n, w) in enumerate(zip(names, found.want, strict=True)) if i != leaf}
    outputs = [f"output {i}" for i in range(len(ones))]
    constants = diagnosis.constants_of([np.shape(a) for a in (*inputs, *ones)], [*names, *outputs])
    return diagnosis.diagnose(got, want, constants, others, parts)
