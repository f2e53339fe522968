"""What every check is given: one function, its probe, and what has been seen so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck.checks.results import Result, Seen
from jaxdl.gradcheck.oracles import strip
from jaxdl.gradcheck.oracles.probe import Backward, Probe
from jaxdl.gradcheck.oracles.rounding import eps
from jaxdl.gradcheck.problem.directions import cotangents
from jaxdl.gradcheck.problem.points import stress_points
from jaxdl.gradcheck.problem.problem import Problem, x64
from jaxdl.numerics.jaxprs import equations

BLIND = 1e-2  # a relative error that must be seen, or the check has seen nothing


@dataclass(frozen=True)
class Case:
    """One function at one point, what it is held against, and what has been seen so far."""

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
    seen: Seen = field(default_factory=Seen)
    """By the checks that have run, at the given arguments."""
    rests: Callable[[], bool] = bool
    """Whether f iterates, and has come to rest at the arguments given at first, or nearly: asked
    only where something differs, since four more programs tell."""
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
        return any(map(strip.is_foreign_stop, equations(jaxpr)))

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

    def comes_to_rest(self) -> bool:
        """Whether what f iterates is at its end at the given arguments, or nearly."""
        with self.mode():
            inputs = self.at(self.problem.inputs)
            weights = cotangents(self.rng(39), jax.eval_shape(self.probe.f, *inputs))
            return self.probe.rests(inputs, weights)

    def elsewhere(self, problem: Problem) -> Case:
        """The same function at other arguments, where gradients may be as large as at these."""
        return replace(self.again(problem), seen=Seen(sizes=self.seen.sizes))

    def replay(self) -> str:
        """The arguments of `check` that repeat a finding, beside the sample."""
        return f"seed={self.seed}"


Check = Callable[[Case], Iterator[Result]]
"""It returns what it found, and changes nothing."""
