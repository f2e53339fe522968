"""Every entry of every gradient against the reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.oracles.probe import SAFETY, Comparison, scale_of
from jaxdl.gradcheck.oracles.vote import vote
from jaxdl.gradcheck.problem.directions import cotangents
from jaxdl.gradcheck.report import diagnosis, locate
from jaxdl.gradcheck.report.error_map import error_map
from jaxdl.gradcheck.report.findings import Finding

_COTANGENTS = 3
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
        if sample == "given" and found.loose and not case.loose:
            case.loose = True
            case.notes.append(
                "f iterates, and ends before it has come to rest: further steps would change its "
                "derivative, and by so much the rule may differ from it"
            )
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
        if sample != "given" and not found.rests and case.rests():
            text = f"{sample}: the iterations of f do not come to rest there"
            yield Finding("dot", "skipped", sample, text=text)
            return
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
    parts = {diagnosis.ONES: case.probe.gradients(inputs, ones)[1][leaf]}
    if 1 < len(ones) <= _MOST_OUTPUTS:
        for i in range(len(ones)):
            alone = [w if j == i else jnp.zeros_like(w) for j, w in enumerate(found.weights)]
            parts[f"output {i}"] = case.probe.gradients(inputs, alone)[1][leaf]
    others = {n: w for i, (n, w) in enumerate(zip(names, found.want, strict=True)) if i != leaf}
    outputs = [f"output {i}" for i in range(len(ones))]
    constants = diagnosis.constants_of([np.shape(a) for a in (*inputs, *ones)], [*names, *outputs])
    return diagnosis.diagnose(got, want, constants, others, parts)


def confirmed(case: Case) -> bool:
    """Whether the vote has no doubt about the reference at the given arguments."""
    again = replace(case, power={}, sizes=[], wrong=set(), doubtful=set(), notes=[])
    with case.mode():
        return all(finding.outcome != "inconclusive" for finding in dot(again))
