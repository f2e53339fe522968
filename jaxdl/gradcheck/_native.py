"""Checks in the given dtypes: structure, linearity in the cotangent, state kept outside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck._case import Case
from jaxdl.gradcheck._draw import cotangents, direction
from jaxdl.gradcheck._precision import eps, jittered
from jaxdl.gradcheck._probe import (
    SAFETY,
    backward_of,
    to_numpy,
)
from jaxdl.gradcheck._problem import like
from jaxdl.gradcheck._report import Finding

_ULPS = 16.0
_HALF = 1e-4  # a coarser rounding is that of half precision, where so many digits are not there
_SAFETY_OF_HALF = 8.0


def contract(case: Case) -> Iterator[Finding]:
    """Gradients have the structure, shapes and dtypes of their arguments."""
    problem = case.problem
    weights = cotangents(case.rng(1), jax.eval_shape(problem.outputs, *problem.inputs))
    shapes = jax.eval_shape(backward_of(problem.outputs), problem.inputs, weights)
    for name, x, g in zip(problem.input_names, problem.inputs, shapes, strict=True):
        if (g.shape, g.dtype) == (x.shape, x.dtype):
            yield Finding("contract", "pass", leaf=name)
            continue
        yield Finding(
            "contract", "fail", leaf=name,
            text=f"the gradient must be {x.dtype}{list(x.shape)} as the argument, got "
            f"{g.dtype}{list(g.shape)}; cast it in the rule",
        )  # fmt: skip


def _native(case: Case) -> tuple[list[Any], list[Any], list[Any]]:
    """Outputs of the forward rule, gradients, and the cotangent, in the given dtypes."""
    problem = case.problem
    y, vjp = jax.vjp(problem.outputs, *problem.inputs)
    weights = cotangents(case.rng(2), y)
    return y, list(vjp(weights)), weights


def forward(case: Case) -> Iterator[Finding]:
    """The forward rule returns what f returns, to a few units in the last place."""
    problem = case.problem
    direct, (ruled, _, _) = problem.outputs(*problem.inputs), _native(case)
    near = jittered(case.rng(23), problem.inputs, max(eps(x.dtype) for x in problem.inputs))
    moved = problem.outputs(*map(like, problem.inputs, near))
    for i, (a, b, c) in enumerate(zip(direct, ruled, moved, strict=True)):
        x, y, z = (np.asarray(v, np.float64) for v in (a, b, c))
        size = np.maximum(np.abs(x), np.sqrt(np.mean(x**2)) if x.size else 0)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        with np.errstate(invalid="ignore", divide="ignore"):
            ulps = np.where(same, 0.0, np.abs(x - y) / (size * eps(a.dtype)))
            spread = np.nan_to_num(np.abs(x - z) / (size * eps(a.dtype)), nan=0, posinf=0)
        worst = float(np.nan_to_num(ulps, nan=np.inf).max(initial=0.0))
        most = _ULPS * max(1.0, float(spread.max(initial=0.0)))  # more where f is ill-conditioned
        yield Finding(
            "forward", "pass" if worst <= most else "fail", leaf=f"output {i}",
            text=f"the forward rule differs from f by {worst:.3g} units in the last place of a "
            f"typical entry, at most {most:.3g} are rounding; both must return the same",
            figures={"ulps": worst},
        )  # fmt: skip


def zero(case: Case) -> Iterator[Finding]:
    """A cotangent of zeros gives a gradient of zeros."""
    problem = case.problem
    y, vjp = jax.vjp(problem.outputs, *problem.inputs)
    usual = to_numpy(vjp(cotangents(case.rng(19), y)))
    of_zeros = to_numpy(vjp([jnp.zeros_like(a) for a in y]))
    for name, g, other in zip(problem.input_names, of_zeros, usual, strict=True):
        # zero times a derivative that is infinite is no number, and no mistake
        size = np.nan_to_num(np.abs(g[np.isfinite(other)]), nan=np.inf)
        worst = float(size.max(initial=0.0))
        yield Finding(
            "zero", "pass" if worst == 0 else "fail", leaf=name,
            text=f"a cotangent of zeros must give zeros, got entries up to {worst:.3g}: the "
            "gradient is not a linear function of the cotangent",
        )  # fmt: skip


def scaling(case: Case) -> Iterator[Finding]:
    """The gradient of ±2ᵏ times the cotangent is ±2ᵏ times the gradient, to the last bit.

    The factors are large and small, so that what is clipped or cut off shows.
    """
    problem = case.problem
    y, vjp = jax.vjp(problem.outputs, *problem.inputs)
    weights = cotangents(case.rng(3), y)
    base = to_numpy(vjp(weights))
    power = 3 if any(a.dtype == jnp.float16 for a in (*problem.inputs, *y)) else 20
    for factor in (2.0**power, -(2.0**-power)):
        scaled = to_numpy(vjp([w * factor for w in weights]))
        for leaf, (name, one, other) in enumerate(
            zip(problem.input_names, base, scaled, strict=True)
        ):
            expected = one * factor
            dtype = problem.inputs[leaf].dtype
            tiny = float(jnp.finfo(dtype).tiny) / eps(dtype)  # below, numbers lose digits
            with np.errstate(invalid="ignore"):
                off = (expected != other) & ~(np.isnan(expected) & np.isnan(other))
                size = np.abs(expected).max(initial=0.0, where=np.isfinite(expected))
                off &= np.abs(expected) <= float(jnp.finfo(dtype).max) / 64
                off &= (
                    np.abs(expected - other)
                    > 4 * eps(dtype) * np.maximum(np.abs(expected), tiny) + 1e-3 * eps(dtype) * size
                )
            outcome = "fail" if off.any() else "pass"
            yield Finding(
                "scaling", outcome, leaf=name,
                text=f"{factor:g} times the cotangent must give {factor:g} times the "
                f"gradient; {int(off.sum())} of {off.size} entries differ: the gradient is not a "
                "linear function of the cotangent",
            )  # fmt: skip


def finite(case: Case) -> Iterator[Finding]:
    """Where the function is finite its gradient is a number, infinite only if it should be."""
    y, gradients, weights = _native(case)
    smooth = all(np.all(np.isfinite(a)) for a in to_numpy(y))
    with case.mode():
        wanted = case.probe.gradients(case.at(case.problem.inputs), case.heavy(weights))[1]
    for name, g, want in zip(case.problem.input_names, to_numpy(gradients), wanted, strict=True):
        bad = np.isnan(g) | (np.isinf(g) & np.isfinite(want))
        outcome = "fail" if smooth and bad.any() else "pass"
        yield Finding(
            "finite", outcome, leaf=name,
            text=f"the function is finite here, but {int(bad.sum())} of {bad.size} entries of the "
            "gradient are NaN, or infinite where they should not be",
        )  # fmt: skip


def pullbacks(case: Case) -> Iterator[Finding]:
    """Two pullbacks at once do not disturb each other; one called twice gives the same bits."""
    problem = case.problem
    inputs = problem.inputs
    moved = [like(x, x + direction(case.rng(6), x.shape)) for x in inputs]
    y, first = jax.vjp(problem.outputs, *inputs)
    weights = cotangents(case.rng(7), y)
    expected = to_numpy(first(weights))
    _, mine = jax.vjp(problem.outputs, *inputs)
    _, other = jax.vjp(problem.outputs, *moved)
    other(weights)
    for name, a, b in zip(problem.input_names, to_numpy(mine(weights)), expected, strict=True):
        same = np.array_equal(a, b, equal_nan=True)
        yield Finding(
            "pullbacks", "pass" if same else "fail", leaf=name,
            text="the gradient changed after the pullback at another point was called: the rule "
            "keeps something outside its residuals",
        )  # fmt: skip


def precision(case: Case) -> Iterator[Finding]:
    """In its own dtype the rule is as near to the float64 truth as rounding and autodiff are."""
    problem, names = case.problem, case.problem.input_names
    if not case.more_precise():
        return
    shapes = jax.eval_shape(problem.outputs, *problem.inputs)
    weights = [
        # with all digits: what a cast on the way cuts off must be there
        jnp.asarray(np.asarray(w, np.float64) * case.rng(22, i).uniform(0.9, 1.1, w.shape), w.dtype)
        for i, w in enumerate(cotangents(case.rng(14), shapes))
    ]
    mine = to_numpy(jax.jit(backward_of(problem.outputs))(problem.inputs, weights))
    plain = to_numpy(jax.jit(case.autodiff)(problem.inputs, weights))
    rounding = max(eps(a.dtype) for a in (*problem.inputs, *weights))
    with case.mode():
        exact, heavy = case.at(problem.inputs), case.heavy(weights)
        truth = case.probe.gradients(exact, heavy)[1]
        kinked = case.probe.kinked(exact, heavy, case.rng(21))
        floors, exact_rounding = case.probe.floors(exact, heavy), case.probe.rounding(exact, heavy)
        moved = [np.zeros_like(t) for t in truth]
        for i in range(3):
            near = case.probe.gradients(
                jittered(case.rng(15, i), exact, rounding),
                jittered(case.rng(16, i), heavy, rounding),
            )[1]
            moved = [
                np.maximum(m, np.abs(a - t)) for m, a, t in zip(moved, near, truth, strict=True)
            ]
    for leaf, name in enumerate(names):
        if name in case.doubtful:
            yield Finding("precision", "skipped", leaf=name, text=f"{name}: the vote was open")
            continue
        t = truth[leaf]
        size = np.sqrt(np.mean(np.where(np.isfinite(t), t, 0) ** 2))
        autodiff = np.abs(plain[leaf] - t)
        m = np.where(np.isfinite(t), moved[leaf], 0)
        allowed = (SAFETY if rounding < _HALF else _SAFETY_OF_HALF) * (
            m + np.sqrt(np.mean(m**2)) + rounding * (np.abs(t) + size)
        ) + 8 * (
            np.nan_to_num(autodiff, nan=np.inf, posinf=np.inf)
            + np.sqrt(np.mean(np.nan_to_num(autodiff) ** 2))
        )
        error = np.abs(mine[leaf] - t)
        cancels = floors[leaf] / exact_rounding * rounding  # rounding of a gradient of zero
        if rounding >= _HALF:
            cancels /= SAFETY  # of which too much is nothing seen
        if size <= 10 * cancels:
            allowed = allowed + cancels
        off = ~(error <= allowed) & np.isfinite(t) & ~kinked[leaf]
        worst, other = (
            float(np.nan_to_num(e[np.isfinite(t)], nan=np.inf).max(initial=0))
            / max(size * rounding, 1e-300)
            for e in (error, autodiff)
        )
        yield Finding(
            "precision", "fail" if off.any() else "pass", leaf=name,
            text=f"in {problem.inputs[leaf].dtype} the rule is up to {worst:.3g} units in the last "
            f"place of a typical entry from the {np.dtype(case.working).name} truth, autodiff "
            f"{other:.3g}; "
            f"{int(off.sum())} of {off.size} entries are beyond what rounding explains",
            figures={"rule_ulps": worst, "autodiff_ulps": other},
            diagnosis=_digits(mine[leaf], plain[leaf]) if off.any() else "",
        )  # fmt: skip


def _digits(mine: np.ndarray, plain: np.ndarray) -> str:
    """The shorter float type that every entry of the rule's gradient fits into, if any."""
    if not np.any(mine):
        return ""
    for dtype in (jnp.bfloat16, jnp.float16):
        short, long = (bool(np.all(a.astype(dtype).astype(a.dtype) == a)) for a in (mine, plain))
        if short and not long:
            return f"it has the digits of {np.dtype(dtype).name} only"
    return ""
