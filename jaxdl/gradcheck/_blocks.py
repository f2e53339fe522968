"""The tests that `check` is built of, one at a time, with their numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck._check import check
from jaxdl.gradcheck.checks.taylor import Remainder, remainder
from jaxdl.gradcheck.oracles import strip
from jaxdl.gradcheck.oracles.probe import Probe, backward_of, scale_of, to_numpy
from jaxdl.gradcheck.oracles.reference import narrow
from jaxdl.gradcheck.problem.directions import cotangents, direction
from jaxdl.gradcheck.problem.problem import GradcheckError, Problem, checked_outputs, state, x64
from jaxdl.gradcheck.report.findings import Finding
from jaxdl.gradcheck.report.report import Report


class Dot(NamedTuple):
    """Both sides of ⟨vjp(w), u⟩ = ⟨w, Ju⟩, and what rounding may make them differ by."""

    by_rule: float
    by_reference: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether they differ by no more than that."""
        return abs(self.by_rule - self.by_reference) <= self.tolerance


def dot_test(
    f: Callable[..., Any],
    *args: Any,
    ref: Callable[..., Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Dot:
    """The pullback of f against the forward derivative of f without its rules, in float64.

    Args:
      f: any function of arrays that JAX can trace.
      *args: its arguments; all floating-point leaves are moved at once.
      ref: a function of the same meaning, in place of f; its rules are taken out too.
      kwargs: its keyword arguments.
      seed: of the cotangent w and the direction u.

    Raises:
      GradcheckError: there is nothing to differentiate, or f holds a callback or a kernel, which
        has no float64: use `taylor_test` or `check`.
    """
    problem = _float64_problem("dot_test", f, args, kwargs)
    with x64():
        working = problem.widened()
        inputs, rng = working.inputs, np.random.default_rng([seed, 70])
        shapes = jax.eval_shape(working.outputs, *inputs)
        weights = cotangents(rng, shapes)
        u = [jnp.asarray(direction(rng, x.shape), x.dtype) for x in inputs]
        plain = strip.strip(working.outputs)
        if ref is not None:
            other = Problem(ref, problem.structure, working.leaves, problem.names, problem.wrt)
            plain = strip.strip(other.outputs)
        probe = Probe(working.outputs, backward_of(plain))
        gradient = probe.gradients(inputs, weights)[0]
        moved = to_numpy(jax.jit(lambda x, t: jax.jvp(plain, x, t)[1])(tuple(inputs), tuple(u)))
        terms = [np.sum(np.abs(g * np.asarray(d))) for g, d in zip(gradient, u, strict=True)]
        size = float(sum(terms)) + probe.size_of(inputs, weights)
        return Dot(
            float(sum(np.vdot(g, d) for g, d in zip(gradient, u, strict=True))),
            float(sum(np.vdot(w, m) for w, m in zip(weights, moved, strict=True))),
            1e3 * probe.rounding(inputs, weights) * size,
        )


def taylor_test(
    f: Callable[..., Any],
    *args: Any,
    kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Remainder:
    """How ⟨w, f(x + hu) − f(x)⟩ − h⟨vjp(w), u⟩ falls with h: order 2 for a right gradient.

    All floating-point leaves are moved at once, each in proportion to its size. Functions without
    callbacks and kernels are computed in float64.

    Returns:
      steps, remainders, and the order found at the smallest steps at which the remainder is more
      than rounding; NaN where it never is, as for a linear function.
    """
    problem = state(f, args, kwargs, None)
    checked_outputs(problem)
    jaxpr = jax.make_jaxpr(problem.outputs)(*problem.inputs)
    with x64(not narrow(jaxpr)):
        working = problem if narrow(jaxpr) else problem.widened()
        inputs, rng = working.inputs, np.random.default_rng([seed, 71])
        weights = cotangents(rng, jax.eval_shape(working.outputs, *inputs))
        probe = Probe(working.outputs, backward_of(working.outputs))
        base = [np.asarray(x, np.float64) for x in inputs]
        u = [scale_of(x) * direction(rng, x.shape) for x in base]
        gradient, heavy = probe.gradients(inputs, weights)[0], to_numpy(weights)

        def g(t: float) -> float:
            at = [jnp.asarray(b + t * d, x.dtype) for b, d, x in zip(base, u, inputs, strict=True)]
            values = to_numpy(probe.value(*at))
            return float(sum(np.vdot(w, y) for w, y in zip(heavy, values, strict=True)))

        slope = float(sum(np.vdot(a, b) for a, b in zip(gradient, u, strict=True)))
        rounding = probe.rounding(inputs, weights)
        return remainder(g, slope, 1.0, rounding, probe.size_of(inputs, weights))


def compare(
    f: Callable[..., Any],
    g: Callable[..., Any],
    *args: Any,
    kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Report:
    """Whether two functions have the same value and the same gradients, entry by entry.

    Args:
      f: the function that is judged.
      g: the function that it is held against, of the same arguments.
      *args: where.
      kwargs: keyword arguments of both.
      seed: of all random numbers.

    Returns:
      A `Report` of the level 'quick' with one check more, 'value'; it does not raise for a failure.
    """
    report = check(
        f, *args, kwargs=kwargs, ref=g, level="quick", seed=seed, raises=False,
        skip={"power": "compared as it is"},
    )  # fmt: skip
    mine, other = (state(h, args, kwargs, None) for h in (f, g))
    found = []
    pairs = zip(mine.outputs(*mine.inputs), other.outputs(*other.inputs), strict=True)
    for i, (a, b) in enumerate(pairs):
        x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
        eps = float(max(jnp.finfo(v.dtype).eps for v in (a, b)))
        size = np.abs(y) + (np.sqrt(np.mean(y**2)) if y.size else 0.0)
        near = (np.abs(x - y) <= 256 * eps * size) | (np.isnan(x) & np.isnan(y)) | (x == y)
        found.append(
            Finding(
                "value", "pass" if near.all() else "fail", leaf=f"output {i}",
                text=f"{int((~near).sum())} of {near.size} entries of the values differ",
            )
        )  # fmt: skip
    return Report(report.function, report.rules, report.oracle, report.level,
                  [*found, *report.findings], report.power, report.notes)  # fmt: skip


def _float64_problem(name: str, f: Any, args: Any, kwargs: Any) -> Problem:
    problem = state(f, args, kwargs, None)
    checked_outputs(problem)
    found = narrow(jax.make_jaxpr(problem.outputs)(*problem.inputs))
    if found:
        raise GradcheckError(
            f"gradcheck: {name} needs float64, which {', '.join(found)} in {problem.name} does not "
            "have; use taylor_test or check"
        )
    return problem
