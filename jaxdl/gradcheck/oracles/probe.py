"""One compiled program: the rule's gradient and what it should be, at a point, for a cotangent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck.oracles.rounding import jittered, working_eps
from jaxdl.gradcheck.oracles.strip import strip
from jaxdl.gradcheck.problem.directions import cotangents, direction

SAFETY = 64.0  # how far beyond the measured rounding a difference must lie to count
NEAR = 2.0**-20  # how far from a kink its sides are looked at, in units of the leaf's size
BAND = 1e-4  # relative: by how much gradients differ at that distance where there is no kink
_COARSE = 1e-3  # a tolerance, relative: above it nothing is said about what cancels
_STEPS = 16.0  # how many times the way that seems left an iteration may be from its limit
_RESTS = 5e-3  # relative: what is farther is no iteration that comes to rest
_SETTLED = 1e3  # units of rounding: smaller steps need not become smaller still
_JITTERS = 3
_SIDES = 8

Gradients = list[np.ndarray]
Flat = Callable[..., list[Any]]
"""A function of arrays that returns a list of arrays."""
Backward = Callable[[list[Any], list[Any]], list[Any]]
"""(inputs, cotangents) to the gradients of the inputs."""


@dataclass(frozen=True)
class Comparison:
    """A gradient by the rule, what it should be, and how well that is known, leaf by leaf."""

    got: Gradients
    want: Gradients
    tolerance: Gradients
    weights: list[Any]
    """The cotangents."""
    loose: bool = False
    """Whether f or the rule iterates, and ends farther from its limit than rounding: so much is
    tolerated."""
    rests: bool = True
    """Whether all iterations come to rest; known where something differs."""

    def wrong(self) -> list[np.ndarray]:
        """Where they differ by more than the tolerance, or only one of them is a number."""
        return [
            ~((np.abs(g - w) <= t) | (np.isnan(g) & np.isnan(w)) | (g == w))
            for g, w, t in zip(self.got, self.want, self.tolerance, strict=True)
        ]

    def power(self) -> list[float]:
        """The smallest relative error of a whole leaf that would have been seen."""
        found = []
        for want, tolerance in zip(self.want, self.tolerance, strict=True):
            seen = (want != 0) & np.isfinite(want)
            found.append(
                float(np.min(tolerance[seen] / np.abs(want[seen]))) if seen.any() else np.inf
            )
        return found


def backward_of(f: Flat) -> Backward:
    """The pullback of a function, by jax.vjp."""

    def backward(inputs: list[Any], weights: list[Any]) -> list[Any]:
        return list(jax.vjp(f, *inputs)[1](list(weights)))

    return backward


class Probe:
    """A rule and what it is held against, compiled together and called at many points."""

    def __init__(self, f: Flat, truth: Backward, further: Sequence[Backward] = ()):
        """Further: the truth after one, and two, more steps of the iterations in f, if any."""
        self.f = f
        self.value = jax.jit(f)
        self.rule = backward_of(f)
        self.truth = truth
        self._both = jax.jit(lambda x, w: (self.rule(x, w), self.truth(x, w)))
        self.iterates = bool(further)
        rules = [strip(self.rule, further=n) for n in (1, 2)]
        self._further = jax.jit(
            lambda x, w: [[way(x, w) for way in side] for side in (further, rules)]
        )
        self._rounding: dict[Any, float] = {}

    def gradients(self, inputs: Sequence[Any], weights: Sequence[Any]) -> tuple[Gradients, ...]:
        """By the rule, and as they should be."""
        return tuple(map(to_numpy, self._both(list(inputs), list(weights))))

    def is_finite(self, inputs: Sequence[Any]) -> bool:
        """Whether all of f's results are numbers there."""
        return all(np.all(np.isfinite(y)) for y in to_numpy(self.value(*inputs)))

    def rounding(self, inputs: Sequence[Any], weights: Sequence[Any]) -> float:
        """The coarsest precision on the way."""
        key = tuple((x.shape, x.dtype) for x in inputs)
        if key not in self._rounding:
            traced = jax.make_jaxpr(lambda x, w: (self.rule(x, w), self.truth(x, w)))
            self._rounding[key] = working_eps(traced(list(inputs), list(weights)))
        return self._rounding[key]

    def size_of(self, inputs: Sequence[Any], weights: Sequence[Any]) -> float:
        """Of the terms of ⟨weights, f⟩, added without their signs."""
        values = zip(weights, to_numpy(self.value(*inputs)), strict=True)
        return sum(float(np.sum(np.abs(np.nan_to_num(np.asarray(w) * y)))) for w, y in values)

    def floors(self, inputs: Sequence[Any], weights: Sequence[Any]) -> list[float]:
        """For each leaf, what rounding of ⟨weights, f⟩ would make of a gradient of zero."""
        size = self.size_of(inputs, weights)
        rounding = SAFETY * self.rounding(inputs, weights)
        if rounding > _COARSE:
            return [0.0] * len(inputs)  # no gradient is small beside that
        return [rounding * size / scale_of(x) for x in inputs]

    def kinked(
        self, inputs: Sequence[Any], weights: Sequence[Any], rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Entries whose reference gradient is another close by: there f has a kink, or a jump."""
        want = self.gradients(inputs, weights)[1]
        near = [self.gradients(close_by(inputs, rng), weights)[1] for _ in range(_SIDES)]
        return [jumps(w, [n[i] for n in near]) for i, w in enumerate(want)]

    def compare(
        self, inputs: Sequence[Any], weights: Sequence[Any], rng: np.random.Generator
    ) -> Comparison:
        """Rule and truth for one cotangent.

        The rounding is measured: by how much either gradient moves when inputs and cotangent change
        in their last place, in the coarsest precision in which anything is computed. What jumps,
        as at a tie, is cut off there: it is no rounding, and for the vote to judge.
        """
        rounding = self.rounding(inputs, weights)
        got, want = self.gradients(inputs, weights)
        # the gradient of a sum may vanish where that of its terms does not
        typical = self.gradients(inputs, cotangents(rng, weights))[1]
        floors = self.floors(inputs, weights)
        moved = [np.zeros_like(w) for w in want]
        for _ in range(_JITTERS):
            near = self.gradients(jittered(rng, inputs, rounding), jittered(rng, weights, rounding))
            for i, (a, b) in enumerate(zip(*near, strict=True)):
                size = max(_rms(want[i]), _rms(typical[i]))
                with np.errstate(invalid="ignore"):
                    change = np.maximum(np.abs(a - got[i]), np.abs(b - want[i]))
                change = np.where(np.isfinite(change), change, 0)
                moved[i] = np.maximum(moved[i], np.minimum(change, np.sqrt(rounding) * size))
        tolerance = [
            # beside a gradient that vanishes, the rounding of what cancels is all there is
            tolerance_of(w, m, rounding) + (floor if _rms(w) <= 10 * floor else 0)
            for w, m, floor in zip(want, moved, floors, strict=True)
        ]
        found = Comparison(got, want, tolerance, list(weights))
        if not self.iterates or not any(wrong.any() for wrong in found.wrong()):
            return found
        steps = self._steps(inputs, weights)
        left = [np.zeros_like(w) for w in want]
        for here, (one, two) in zip((want, got), steps, strict=True):
            for i in range(len(want)):
                way = way_left(here[i], one[i], two[i], rounding)
                left[i] += way if np.isfinite(way) else 0.0
        return replace(
            found,
            tolerance=[t + more for t, more in zip(tolerance, left, strict=True)],
            loose=any(map(np.any, left)),
            rests=all(_all_rest(*side, rounding) for side in zip((want, got), steps, strict=True)),
        )

    def rests(self, inputs: Sequence[Any], weights: Sequence[Any]) -> bool:
        """Whether f iterates, and more steps would not change its derivative much."""
        if not self.iterates:
            return False
        want = self.gradients(inputs, weights)[1]
        steps = self._steps(inputs, weights)[0]
        return _all_rest(want, steps, self.rounding(inputs, weights))

    def _steps(self, inputs: Sequence[Any], weights: Sequence[Any]) -> list[list[Gradients]]:
        """The truth, and the rule, after one step and after two."""
        sides = self._further(list(inputs), list(weights))
        return [[to_numpy(after) for after in side] for side in sides]


def close_by(inputs: Sequence[Any], rng: np.random.Generator) -> list[Any]:
    """A point so near that a smooth function is the same there."""
    return [
        jnp.asarray(
            np.asarray(x, np.float64) + scale_of(x) * NEAR * direction(rng, x.shape), x.dtype
        )
        for x in inputs
    ]


def jumps(here: np.ndarray, there: Sequence[np.ndarray]) -> np.ndarray:
    """Entries that are another at one of the points close by."""
    found = np.zeros(here.shape, bool)
    for other in there:
        size = np.abs(here) + max(_rms(here), _rms(other))
        with np.errstate(invalid="ignore"):
            found |= ~(np.abs(here - other) <= BAND * size)
    return found


def way_left(here: np.ndarray, one: np.ndarray, two: np.ndarray, rounding: float) -> float:
    """How far an iteration is from its limit, from two more steps; infinite if there is none near.

    A rule for the limit (the implicit function theorem) is right where what the loop ends on is
    not. What changes little by another step, and less by the next, comes to rest.
    """
    with np.errstate(invalid="ignore"):
        first, second = (float(np.max(np.abs(s), initial=0)) for s in (one - here, two - one))
    size = _rms(here)
    if first <= _SETTLED * rounding * size:
        return 0.0
    if not second < first:
        return np.inf
    left = _STEPS * first / (1 - second / first)
    return left if left <= _RESTS * size else np.inf


def _all_rest(here: Gradients, steps: list[Gradients], rounding: float) -> bool:
    one, two = steps
    return all(
        np.isfinite(way_left(h, a, b, rounding)) for h, a, b in zip(here, one, two, strict=True)
    )


def scale_of(leaf: Any) -> float:
    """The size of the entries of a leaf; 1 for zeros."""
    size = _rms(np.asarray(leaf, np.float64))
    return size if size > 0 else 1.0


def tolerance_of(want: np.ndarray, moved: np.ndarray, rounding: float) -> np.ndarray:
    """From the measured rounding, entry by entry and over the leaf, and the size of the result."""
    finite = np.where(np.isfinite(want), want, 0)
    spread = moved + _rms(moved) + rounding * (np.abs(finite) + _rms(finite))
    return SAFETY * spread + np.finfo(np.float64).tiny


def _rms(values: np.ndarray) -> float:
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.mean(np.where(np.isfinite(values), values, 0) ** 2)))


def to_numpy(arrays: Sequence[Any]) -> list[np.ndarray]:
    """In float64."""
    return [np.asarray(jnp.asarray(a), np.float64) for a in arrays]
