"""What every check is given: one function, its probe, and what has been seen so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck import _strip
from jaxdl.gradcheck._draw import cotangents
from jaxdl.gradcheck._precision import eps
from jaxdl.gradcheck._probe import Backward, Probe
from jaxdl.gradcheck._problem import Problem, x64
from jaxdl.gradcheck._report import Finding

_SORTED = 4  # entries: fewer are often in order by chance
BLIND = 1e-2  # a relative error that must be seen, or the check has seen nothing


@dataclass
class Case:
    """One function, what it is held against, and what has been seen so far."""

    problem: Problem
    """In the dtypes in which it was given."""
    probe: Probe
    """In float64, or another wider dtype, where that is possible."""
    autodiff: Backward
    """The probe's truth in the given dtypes."""
    working: Any
    """The dtype in which the probe computes; None: the given ones."""
    seed: int
    arbiter: bool
    """Whether finite differences vote: not where a rule is meant to differ from the derivative."""
    again: Callable[[Problem], Case]
    """The same function at other arguments, of other shapes."""
    power: dict[str, float] = field(default_factory=dict)
    sizes: list[float] = field(default_factory=list)
    """Of the gradients at the given arguments, leaf by leaf."""
    wrong: set[str] = field(default_factory=set)
    """Leaves whose gradient is wrong at the given arguments."""
    doubtful: set[str] = field(default_factory=set)
    """Leaves about which the vote was open there: the reference says nothing."""
    rests: Callable[[], bool] = bool
    """Whether f iterates, and has come to rest at the arguments given at first, or nearly: asked
    only where something differs, since four more programs tell."""
    loose: bool = False
    """Whether f iterates, and at the given arguments ends before it has come to rest: its rule
    gives the limit's gradient, which is not to be compared to the last digit."""
    notes: list[str] = field(default_factory=list)
    """Remarks for the report."""
    reference: bool = True
    """Whether the truth is one: where it is not, finite differences alone judge the rule."""
    forward_mode: bool = False
    """Whether the truth is the primal's derivative entry by entry: slow, and for loops not always
    the derivative that is meant."""

    @property
    def wide(self) -> bool:
        """Whether the probe is more precise than what was given."""
        return self.working is not None

    def more_precise(self) -> bool:
        """Whether some argument was given in a shorter dtype than that of the probe."""
        return self.wide and any(eps(x.dtype) > eps(self.working) for x in self.problem.inputs)

    def mode(self) -> AbstractContextManager[Any]:
        """The context in which the probe is called."""
        return x64(self.working == jnp.float64)

    def rng(self, *keys: int) -> np.random.Generator:
        """Random numbers for one purpose."""
        return np.random.default_rng([self.seed, *keys])

    def at(self, inputs: Sequence[Any]) -> list[Any]:
        """Inputs in the probe's dtypes."""
        return [
            jnp.asarray(np.asarray(x, np.float64), self.working or given.dtype)
            for x, given in zip(inputs, self.problem.inputs, strict=True)
        ]

    def heavy(self, weights: Sequence[Any]) -> list[Any]:
        """Cotangents of the given function as the probe takes them; call it inside `mode()`."""
        outputs = jax.eval_shape(self.probe.f, *self.at(self.problem.inputs))
        return [
            jnp.asarray(np.asarray(w, np.float64), s.dtype)
            for w, s in zip(weights, outputs, strict=True)
        ]

    def holds_back(self) -> bool:
        """Whether f has a `stop_gradient` in it, beside those of JAX's own functions."""
        jaxpr = jax.make_jaxpr(self.problem.outputs)(*self.problem.inputs)
        return any(map(_strip.is_foreign_stop, _strip.equations(jaxpr)))

    def constant(self, leaf: int) -> bool:
        """Whether a leaf's gradient is zero to rounding, here and elsewhere: f does not feel it."""
        points = [self.at(self.problem.inputs)]
        stressed = stress_points(self.problem.inputs, self.rng(17))
        points += filter(self.probe.is_finite, (self.at(point) for _, point in stressed))
        weights = cotangents(
            self.rng(18), jax.eval_shape(self.probe.f, *self.at(self.problem.inputs))
        )
        for point in points:
            floor = self.probe.floors(point, weights)[leaf]
            for gradient in self.probe.gradients(point, weights):
                if not np.all(np.abs(gradient[leaf]) <= floor):
                    return False
        return True

    def rests_at(self, inputs: Sequence[Any], weights: Sequence[Any]) -> bool:
        """Whether what f iterates comes to rest there; all in the given dtypes."""
        with self.mode():
            return self.probe.rests(self.at(inputs), self.heavy(weights))

    def replay(self) -> str:
        """The arguments of `check` that repeat a finding, beside the sample."""
        return f"seed={self.seed}"


def stress_points(
    inputs: Sequence[Any], rng: np.random.Generator
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Zeros, ties, equal extremes, large and small entries, other signs, rows of zeros: by name.

    What is sorted stays so: knots, edges of bins. A single number keeps its sign: it is a width, a
    rate, a temperature.
    """
    given = [np.asarray(x, np.float64) for x in inputs]
    points = {
        "zeros": [np.where(rng.random(x.shape) < 0.5, 0.0, x) for x in given],
        "ties": [np.round(2 * x) / 2 for x in given],
        "equal extremes": [np.clip(x, *np.quantile(x, [0.35, 0.65])) for x in given],
        "times 30": [30 * x for x in given],
        "times 0.001": [1e-3 * x for x in given],
        "other signs": [np.where(rng.random(x.shape) < 0.5, -x, x) for x in given],
        "fresh": [
            np.mean(x) + (np.std(x) or abs(np.mean(x)) or 1.0) * rng.normal(size=x.shape)
            for x in given
        ],
        "zero slices": [_with_zero_slices(x) for x in given],
    }
    for name, point in points.items():
        yield (
            name,
            [
                np.copysign(drawn, x) if x.ndim == 0 else kept_sorted(x, drawn)
                for x, drawn in zip(given, point, strict=True)
            ],
        )


def _with_zero_slices(x: np.ndarray) -> np.ndarray:
    """x with a slice of zeros along every axis, at which norms and their inverses go wrong."""
    x = x.copy()
    for axis in range(min(x.ndim, 2)):
        np.moveaxis(x, axis, 0)[0] = 0.0
    return np.zeros_like(x) if x.ndim == 1 else x


def kept_sorted(x: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """What was drawn in place of x, in ascending order if x is, which f may rely on."""
    if x.ndim == 0 or x.shape[-1] < _SORTED or not np.all(np.diff(np.asarray(x, np.float64)) > 0):
        return drawn
    drawn = np.sort(drawn, axis=-1)
    if np.all(np.diff(drawn) > 0):
        return drawn
    return np.asarray(x, np.float64) if drawn.shape == x.shape else drawn


def same(
    check: str,
    name: str,
    got: np.ndarray,
    want: np.ndarray,
    rounding: float,
    how: str,
    floor: float = 0.0,
) -> Finding:
    """Whether a gradient that was found in another way (`how`) is the same, to rounding."""
    size = np.abs(want) + np.sqrt(np.mean(np.where(np.isfinite(want), want, 0) ** 2))
    with np.errstate(invalid="ignore"):
        off = ~((np.abs(got - want) <= 1e4 * rounding * size + floor) | (got == want))
    off &= ~(np.isnan(got) & np.isnan(want))
    if not off.any():
        return Finding(check, "pass", leaf=name)
    index = tuple(int(i) for i in np.argwhere(off)[0])
    return Finding(
        check, "fail", leaf=name, index=index,
        text=f"{how} the gradient is another: {int(off.sum())} of {off.size} entries differ, "
        f"first at {index}: {got[index]:.9g}, else {want[index]:.9g}",
    )  # fmt: skip


Check = Callable[[Case], Iterator[Finding]]
