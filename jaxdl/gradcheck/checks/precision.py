"""The error in the given dtypes, against the float64 truth and beside that of autodiff."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.oracles.probe import SAFETY, backward_of, to_numpy
from jaxdl.gradcheck.oracles.rounding import eps, jittered
from jaxdl.gradcheck.problem.directions import cotangents
from jaxdl.gradcheck.report.findings import Finding

_HALF = 1e-4  # a coarser rounding is that of half precision, where so many digits are not there
_SAFETY_OF_HALF = 8.0


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
        if name in case.seen.doubtful:
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
