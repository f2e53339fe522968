"""Large, small and equal arguments in the given dtypes, in which numbers overflow and cancel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.oracles.probe import backward_of, to_numpy
from jaxdl.gradcheck.oracles.rounding import eps, jittered
from jaxdl.gradcheck.problem.directions import cotangents
from jaxdl.gradcheck.problem.points import stress_points
from jaxdl.gradcheck.problem.problem import like
from jaxdl.gradcheck.report.findings import Finding

_LARGE = 1000.0
_POINTS = ("zeros", "zero slices", "ties", "equal extremes", "times 30", "times 0.001")
_LOST = 0.5  # relative error at which no digit is right
_WELL = 1e-2  # relative change by a rounding of the arguments: more is ill-conditioned
_HALF = 1e-4  # rounding of half precision: no digit is soon lost


def extremes(case: Case) -> Iterator[Finding]:
    """Where f and autodiff are finite so is the rule; it has a right digit where f is elementwise.

    In the given dtypes, at zeros, ties, and for large and small arguments: an exponential that
    overflows, or a difference in which everything cancels, shows nowhere else. Digits are asked
    for away from kinks, where something more precise knows them, and where each entry stands for
    itself: beside others that are larger a small one may be lost in a right rule.
    """
    problem = case.problem
    weights = cotangents(case.rng(33), jax.eval_shape(problem.outputs, *problem.inputs))
    value = jax.jit(problem.outputs)
    rule, plain = jax.jit(backward_of(problem.outputs)), jax.jit(case.autodiff)
    points = [(n, p) for n, p in stress_points(problem.inputs, case.rng(13)) if n in _POINTS]
    points += [
        (
            f"times {_LARGE * sign:g}",
            [_LARGE * (sign if x.ndim else 1) * np.asarray(x, np.float64) for x in problem.inputs],
        )
        for sign in (1, -1)
    ]
    apart = _entry_by_entry(case)
    told: set[str] = set()
    for sample, point in points:
        at = [like(x, p) for p, x in zip(point, problem.inputs, strict=True)]
        if not all(np.all(np.isfinite(y)) for y in to_numpy(value(*at))):
            continue
        got, auto = to_numpy(rule(at, weights)), to_numpy(plain(at, weights))
        (ruled, exact), (_, near) = _exact(case, at, weights)
        for leaf, name in enumerate(problem.input_names):
            if name in told or name in case.seen.doubtful:
                continue
            x, g, a, t = problem.inputs[leaf], got[leaf], auto[leaf], exact[leaf]
            bad = ~np.isfinite(g) & np.isfinite(a) & np.isfinite(t)
            text = f"f and its derivative are finite, but {int(bad.sum())} of {bad.size} entries "
            text += "of the gradient are NaN or infinite"
            half = eps(x.dtype) > _HALF
            told_apart = leaf in apart and not half and case.more_precise()
            if not bad.any() and told_apart and sample.startswith("times"):
                tiny = float(jnp.finfo(x.dtype).tiny) / eps(x.dtype)
                with np.errstate(invalid="ignore"):
                    good = (np.abs(a - t) <= 1e3 * eps(x.dtype) * np.abs(t)) & (np.abs(t) > tiny)
                    good &= np.abs(near[leaf] - t) <= _WELL * np.abs(t)  # and not by chance
                    bad = good & ~(np.abs(g - t) <= _LOST * np.abs(t))
                # what cancels leaves nothing, or another number in every precision
                same = np.all(np.abs(g - ruled[leaf])[bad] <= _WELL * np.abs(g[bad]))
                why = "something cancels, beyond what rounding explains"
                if same and np.all(g[bad]):
                    why = f"they are the same in {np.dtype(case.working).name}"
                text = (
                    f"{int(bad.sum())} of {bad.size} entries of the gradient have no right digit, "
                    f"where autodiff has all: {why}"
                )
            if bad.any() and np.all(np.isfinite(g)):
                bad = bad & ~_kinked(case, at, weights)[leaf]
            if bad.any() and (not case.rests() or case.rests_at(at, weights)):
                told.add(name)
                index = tuple(int(i) for i in np.argwhere(bad)[0])
                text += f"; first {index}: got {g[index]:.9g}, want {t[index]:.9g}"
                yield Finding("extremes", "fail", sample, name, index, text,
                              replay=case.replay())  # fmt: skip
    for name in problem.input_names:
        if name not in told:
            yield Finding("extremes", "pass", leaf=name)


def _exact(case: Case, at: list[Any], weights: list[Any]) -> list[tuple[list[np.ndarray], ...]]:
    """The rule's gradient and the reference in float64 if there is that, and a rounding away."""
    rounding = max(eps(x.dtype) for x in at)
    with case.mode():
        inputs, heavy = case.at(at), case.heavy(weights)
        points = (inputs, jittered(case.rng(34), inputs, rounding))
        return [case.probe.gradients(point, heavy) for point in points]


def _kinked(case: Case, at: list[Any], weights: list[Any]) -> list[np.ndarray]:
    """Entries at which the reference is another close by."""
    with case.mode():
        return case.probe.kinked(case.at(at), case.heavy(weights), case.rng(37))


def _entry_by_entry(case: Case) -> set[int]:
    """The leaves of which each entry has to do with one entry of the output alone."""
    with case.mode():
        inputs = case.at(case.problem.inputs)
        outputs = jax.eval_shape(case.probe.f, *inputs)
        weights = cotangents(case.rng(35), outputs)
        kept = [case.rng(36, i).random(w.shape) < 0.5 for i, w in enumerate(weights)]
        whole = case.probe.gradients(inputs, weights)[1]
        part = case.probe.gradients(
            inputs, [jnp.where(k, w, 0) for k, w in zip(kept, weights, strict=True)]
        )[1]
    return {
        leaf
        for leaf, (a, b) in enumerate(zip(whole, part, strict=True))
        if len(outputs) == 1
        and outputs[0].shape == a.shape
        and np.allclose(b, np.where(kept[0], a, 0), rtol=1e-6, atol=0)
    }
