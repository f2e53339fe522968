"""The vote on a difference: is the rule wrong, or what it was held against?

A failure needs the stripped primal and finite differences of the function itself to agree with each
other and not with the rule, and the difference to show at a point close by too. Where the function
has a kink, any element of the generalised gradient (Clarke 1983) passes: output by output, for a
few of those in which the rule differs, every entry must lie between those found close by on all
sides, and every sum that is the same on all sides must be that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck.oracles.directional import slope_along
from jaxdl.gradcheck.oracles.finite_differences import Slope
from jaxdl.gradcheck.oracles.probe import (
    BAND,
    NEAR,
    Comparison,
    Probe,
    close_by,
    scale_of,
    to_numpy,
)
from jaxdl.gradcheck.problem.directions import direction
from jaxdl.gradcheck.report.findings import Outcome

_SIDES = 8
_OUTPUTS = 6  # entries of the output that are looked at one by one
_LOOKED_AT = 64  # entries that are looked at one by one


@dataclass(frozen=True)
class Verdict:
    """Of the vote: the outcome, and the slopes along the direction in which it was taken."""

    outcome: Outcome
    rule: float
    truth: float
    differences: Slope
    reason: str


def vote(probe: Probe, inputs: Sequence[Any], found: Comparison, leaf: int, seed: int) -> Verdict:
    """On the difference that `found` shows in a leaf."""
    got, want, wrong = found.got[leaf], found.want[leaf], found.wrong()[leaf]
    rng = np.random.default_rng([seed, leaf])
    if not np.all(np.isfinite(got[wrong])) and np.all(np.isfinite(want[wrong])):
        return _finite_vote(probe, inputs, found, leaf, wrong, rng)
    kinked = probe.kinked(inputs, found.weights, rng)[leaf]
    if not np.any(wrong & ~kinked):
        return _vote_at_kink(probe, inputs, found, leaf, rng)
    wrong = wrong & ~kinked  # along these entries f is smooth
    size = np.abs(direction(rng, got.shape))
    u = np.where(wrong, np.where(got >= want, size, -size), 0.0)
    rule, truth = float(np.vdot(got[wrong], u[wrong])), float(np.vdot(want[wrong], u[wrong]))
    by_differences = slope_along(probe, inputs, found.weights, leaf, u)
    slack = 4 * by_differences.error + float(np.vdot(found.tolerance[leaf], np.abs(u)))
    near_rule, near_truth = (abs(by_differences.value - v) <= slack for v in (rule, truth))

    def verdict(outcome: Outcome, reason: str) -> Verdict:
        return Verdict(outcome, rule, truth, by_differences, reason)

    if near_truth and not near_rule:
        near = [x * (1 + 2.0**-8 * jnp.asarray(direction(rng, x.shape), x.dtype)) for x in inputs]
        if probe.compare(near, found.weights, rng).wrong()[leaf].any():
            return verdict("fail", "reference and finite differences agree")
        return verdict("inconclusive", "close by there is no difference")
    if near_rule and not near_truth:
        text = "finite differences agree with the rule, not the reference"
        return verdict("inconclusive", f"{text}; ref='fd' takes them for the reference")
    if near_rule and near_truth:
        return verdict("inconclusive", "finite differences cannot tell the two apart")
    return verdict("inconclusive", "finite differences agree with neither")


def _vote_at_kink(
    probe: Probe, inputs: Sequence[Any], found: Comparison, leaf: int, rng: np.random.Generator
) -> Verdict:
    nothing = Slope(np.nan, np.nan)
    if _on_the_border(probe, inputs, found, leaf, rng):
        text = "on the border of where f is defined, where the reference is no number"
        return Verdict("pass", np.nan, np.nan, nothing, text)
    reason = _kink(probe, inputs, found, leaf, rng)
    if reason:
        return Verdict("fail", np.nan, np.nan, nothing, f"no valid subgradient: {reason}")
    if reason is None:
        text = "the reference jumps close by, but no single output shows a kink"
        return Verdict("inconclusive", np.nan, np.nan, nothing, text)
    return Verdict("pass", np.nan, np.nan, nothing, "a valid subgradient at a kink")


def _on_the_border(
    probe: Probe, inputs: Sequence[Any], found: Comparison, leaf: int, rng: np.random.Generator
) -> bool:
    """Whether nobody can tell the gradient: the reference is none, and close by f is no number."""
    wrong = found.wrong()[leaf]
    if not np.all(np.isnan(found.want[leaf][wrong]) & np.isfinite(found.got[leaf][wrong])):
        return False
    near = (to_numpy(probe.value(*close_by(inputs, rng))) for _ in range(_SIDES))
    return any(not np.all(np.isfinite(y)) for values in near for y in values)


def _finite_vote(probe, inputs, found, leaf, wrong, rng) -> Verdict:
    """The rule gives no number where the reference does: is the function smooth there?"""
    u = np.where(wrong, direction(rng, wrong.shape), 0.0)
    truth = float(np.vdot(found.want[leaf][wrong], u[wrong]))
    by_differences = slope_along(probe, inputs, found.weights, leaf, u)
    outcome: Outcome = "fail" if np.isfinite(by_differences.value) else "inconclusive"
    return Verdict(outcome, np.nan, truth, by_differences, "the rule's gradient is not finite")


def _kink(
    probe: Probe, inputs: Sequence[Any], found: Comparison, leaf: int, rng: np.random.Generator
) -> str | None:
    """As `_side`, for outputs one at a time: each may be on another side of its kink."""
    wrong = found.wrong()[leaf]
    if np.any(np.isnan(found.want[leaf][wrong])):  # zero times it is NaN too: no output is alone
        return _side(probe, inputs, found, leaf, rng)
    reasons = []
    for weights in _single_outputs(probe, inputs, found, leaf, rng):
        got, want = probe.gradients(inputs, weights)
        reasons.append(
            _side(probe, inputs, replace(found, got=got, want=want, weights=weights), leaf, rng)
        )
        if reasons[-1]:
            return reasons[-1]
    return "" if reasons and None not in reasons else None


def _single_outputs(
    probe: Probe, inputs: Sequence[Any], found: Comparison, leaf: int, rng: np.random.Generator
) -> Iterator[list[Any]]:
    """Cotangents of one entry of the output each, for which the rule differs: a few of them."""
    shapes = [np.shape(w) for w in found.weights]
    entries = np.arange(sum(int(np.prod(shape)) for shape in shapes))
    signs = direction(rng, entries.shape)
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]

    def cotangent(chosen: np.ndarray) -> list[Any]:
        flat = np.zeros(entries.shape)
        flat[chosen] = signs[chosen]
        return [
            jnp.asarray(part.reshape(w.shape), w.dtype)
            for part, w in zip(np.split(flat, ends), found.weights, strict=True)
        ]

    def differs(chosen: np.ndarray) -> bool:
        got, want = probe.gradients(inputs, cotangent(chosen))
        return bool(np.any(~(np.abs(got[leaf] - want[leaf]) <= found.tolerance[leaf])))

    seen: set[int] = set()
    for _ in range(_OUTPUTS):
        chosen = rng.permutation([i for i in entries if i not in seen])
        if not len(chosen) or not differs(chosen):
            return
        while len(chosen) > 1:  # one half differs, or both do
            half = chosen[: len(chosen) // 2]
            chosen = half if differs(half) else chosen[len(chosen) // 2 :]
        if not differs(chosen):
            return  # it differs only in company: the rule is not linear
        seen.add(int(chosen[0]))
        yield cotangent(chosen)


def _side(
    probe: Probe, inputs: Sequence[Any], found: Comparison, leaf: int, rng: np.random.Generator
) -> str | None:
    """Why the rule's gradient is none of the generalised one; '' if it is; None where unknown.

    Close by, on all sides, the reference is smooth. Every entry of the rule's gradient must lie
    between those found there; and wherever a sum along an axis, or of all entries, is the same on
    all sides, it must be that: of two equal maxima each may get everything, but not both. So it
    must be for the sum with the gradient of another argument of the same shape.
    """
    got, want = found.got[leaf], found.want[leaf]
    sizes = [scale_of(x) * NEAR for x in inputs]

    def close_by(step: np.ndarray) -> list[np.ndarray]:
        moved = [
            np.asarray(x, np.float64) + size * 2.0**-6 * direction(rng, x.shape)
            for x, size in zip(inputs, sizes, strict=True)
        ]
        moved[leaf] = moved[leaf] + sizes[leaf] * step
        arrays = [jnp.asarray(m, x.dtype) for m, x in zip(moved, inputs, strict=True)]
        return probe.gradients(arrays, found.weights)[1]

    steps = [direction(rng, got.shape) for _ in range(_SIDES)]
    whole = [close_by(sign * u) for u in steps for sign in (1.0, -1.0)]
    whole = [side for side in whole if all(np.all(np.isfinite(part)) for part in side)]
    sides = [side[leaf] for side in whole]
    if not sides:
        return _by_differences(probe, inputs, found, leaf, rng)
    size = (
        np.abs(np.nan_to_num(want)) + np.sqrt(np.mean(np.square(sides))) + np.finfo(np.float64).tiny
    )
    slack = BAND * np.where(np.isfinite(size), size, 0)
    if not np.any(np.ptp(sides, axis=0) > slack):
        return _smooth(probe, inputs, found, leaf, np.mean(sides, axis=0), slack, rng)
    outside = _outside(got, sides, slack)
    for index in np.argwhere(outside)[:_LOOKED_AT]:  # perhaps it was never on the right side
        only = np.zeros(got.shape)
        only[tuple(index)] = 2.0
        sides += [close_by(only)[leaf], close_by(-only)[leaf]]
    outside = _outside(got, sides, slack)
    looked_at = np.argwhere(outside)[:_LOOKED_AT]
    if len(looked_at):
        i = tuple(int(k) for k in looked_at[0])
        low, high = (float(f([side[i] for side in sides])) for f in (min, max))
        return f"entry {i} is {got[i]:.6g}, on the sides of the kink it is {low:.6g} to {high:.6g}"
    for axis in (None, *range(got.ndim)):
        sums = np.array([np.sum(side, axis=axis) for side in sides])
        slack_of_sum = np.sum(slack, axis=axis)
        same = np.ptp(sums, axis=0) <= slack_of_sum
        off = same & (np.abs(np.sum(got, axis=axis) - sums[0]) > slack_of_sum)
        if np.any(off):
            where = "all entries" if axis is None else f"axis {axis}"
            i = tuple(int(k) for k in np.argwhere(off)[0])
            mine, theirs = np.sum(got, axis=axis)[i], sums[0][i]
            return f"its sum over {where} is {mine:.6g}, on all sides of the kink {theirs:.6g}"
    for other, mine in enumerate(found.got):
        if other == leaf or mine.shape != got.shape:
            continue
        sums = np.array([side[leaf] + side[other] for side in whole])
        same = np.ptp(sums, axis=0) <= 2 * slack
        off = same & ~(np.abs(got + mine - sums[0]) <= 2 * slack)
        if np.any(off):
            i = tuple(int(k) for k in np.argwhere(off)[0])
            return (
                f"entry {i} and that of another argument add up to {(got + mine)[i]:.6g}, on all "
                f"sides of the kink to {sums[0][i]:.6g}"
            )
    return ""


def _by_differences(
    probe: Probe, inputs: Sequence[Any], found: Comparison, leaf: int, rng: np.random.Generator
) -> str | None:
    """As `_side` where the reference is no number, here and on all sides: f itself may be smooth.

    So it is for the distance of a point to itself, which is 0 wherever the point is.
    """
    got = found.got[leaf]
    u = np.where(found.wrong()[leaf] & np.isfinite(got), direction(rng, got.shape), 0.0)
    off = slope_along(probe, inputs, found.weights, leaf, u)
    mine = float(np.vdot(np.nan_to_num(got), u))
    size = float(np.vdot(np.abs(np.nan_to_num(got)), np.abs(u)))
    nothing = probe.floors(inputs, found.weights)[leaf] * float(np.sum(np.abs(u)))
    if not np.all(np.isfinite(got)) or not off.error <= BAND * max(size, abs(off.value)) + nothing:
        return None
    if abs(off.value - mine) <= 4 * off.error + nothing:
        return ""
    return f"along a direction the slope is {mine:.9g}, by finite differences {off.value:.9g}"


def _smooth(
    probe: Probe,
    inputs: Sequence[Any],
    found: Comparison,
    leaf: int,
    limit: np.ndarray,
    slack: np.ndarray,
    rng: np.random.Generator,
) -> str | None:
    """As `_side` where the reference is the same on all sides and another at this very point.

    There autodiff of the primal may be wrong, as where two branches meet in ``minimum(x, 0)``: if
    finite differences agree with the sides, those are the derivative.
    """
    got = found.got[leaf]
    u = np.where(found.wrong()[leaf], direction(rng, got.shape), 0.0)
    off = slope_along(probe, inputs, found.weights, leaf, u)
    allowed = 4 * off.error + float(np.vdot(slack, np.abs(u)))
    if not abs(off.value - float(np.vdot(limit, u))) <= allowed:
        return None
    outside = _outside(got, [limit], slack)
    if not outside.any():
        return ""
    i = tuple(int(k) for k in np.argwhere(outside)[0])
    return f"entry {i} is {got[i]:.6g}, on all sides it is {limit[i]:.6g}"


def _outside(got: np.ndarray, sides: Sequence[np.ndarray], slack: np.ndarray) -> np.ndarray:
    return ~((got >= np.min(sides, axis=0) - slack) & (got <= np.max(sides, axis=0) + slack))
