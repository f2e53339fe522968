"""The checks of levels 'quick' and 'standard', each a function of a Case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck import _locate
from jaxdl.gradcheck._draw import cotangents, direction
from jaxdl.gradcheck._precision import eps, jittered
from jaxdl.gradcheck._probe import (
    SAFETY,
    Comparison,
    Probe,
    backward_of,
    close_by,
    jumps,
    to_numpy,
)
from jaxdl.gradcheck._problem import Problem, x64
from jaxdl.gradcheck._report import Finding
from jaxdl.gradcheck._vote import slope_along, vote

_COTANGENTS = 3
_MOST_OUTPUTS = 8  # so many are looked at one by one
BLIND = 1e-2  # a relative error that must be seen, or the check has seen nothing


@dataclass
class Case:
    """One function, what it is held against, and what has been seen so far."""

    problem: Problem
    """In the dtypes in which it was given."""
    probe: Probe
    """In float64 where that is possible."""
    wide: bool
    """Whether the probe is in float64."""
    seed: int
    arbiter: bool
    """Whether finite differences vote: not where a rule is meant to differ from the derivative."""
    power: dict[str, float] = field(default_factory=dict)
    sizes: list[float] = field(default_factory=list)
    """Of the gradients at the given arguments, leaf by leaf."""

    def rng(self, *keys: int) -> np.random.Generator:
        """Random numbers for one purpose."""
        return np.random.default_rng([self.seed, *keys])

    def at(self, inputs: Sequence[Any]) -> list[Any]:
        """Inputs in the probe's dtypes."""
        dtypes = [jnp.float64 if self.wide else x.dtype for x in self.problem.inputs]
        return [
            jnp.asarray(np.asarray(x, np.float64), d) for x, d in zip(inputs, dtypes, strict=True)
        ]

    def constant(self, leaf: int) -> bool:
        """Whether a leaf's gradient is zero to rounding, here and elsewhere: f does not feel it."""
        points = [self.problem.inputs]
        points += [point for _, point in stress_points(self.problem.inputs, self.rng(17))]
        weights = cotangents(
            self.rng(18), jax.eval_shape(self.probe.f, *self.at(self.problem.inputs))
        )
        for point in map(self.at, points):
            floor = self.probe.floors(point, weights)[leaf]
            for gradient in self.probe.gradients(point, weights):
                if not np.all(np.abs(gradient[leaf]) <= floor):
                    return False
        return True

    def replay(self) -> str:
        """The arguments of `check` that repeat a finding, beside the sample."""
        return f"seed={self.seed}"


Check = Callable[[Case], Iterator[Finding]]


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
        if sample == "given":
            sizes = [
                float(np.sqrt(np.mean(np.where(np.isfinite(w), w, 0) ** 2))) for w in found.want
            ]
            case.sizes = sizes if not case.sizes else list(map(max, case.sizes, sizes))
        else:  # where gradients all but vanish, the numbers they are made of do not
            rounding = SAFETY * case.probe.rounding(inputs, weights)
            sizes = case.sizes or [0.0] * len(inputs)
            wider = [t + rounding * z for t, z in zip(found.tolerance, sizes, strict=True)]
            found = replace(found, tolerance=wider)
        for leaf, wrong in enumerate(found.wrong()):
            if wrong.any() and leaf not in failed:
                finding = _difference(case, sample, inputs, found, leaf, only)
                if finding.outcome != "pass":
                    failed.add(leaf)
                    yield finding
        if only is None:
            for name, seen in zip(names, found.power(), strict=True):
                case.power[name] = min(case.power.get(name, np.inf), seen)
    for leaf, name in enumerate(names):
        if leaf not in failed:
            yield Finding("dot", "pass", sample, name)


def _difference(
    case: Case, sample: str, inputs: list[Any], found: Comparison, leaf: int, only: int | None
) -> Finding:
    got, want, wrong = found.got[leaf], found.want[leaf], found.wrong()[leaf]
    index = _locate.worst(got, want, found.tolerance[leaf])
    names = case.problem.input_names
    figures = {
        "got": float(got[index]),
        "want": float(want[index]),
        "tolerance": float(found.tolerance[leaf][index]),
    }
    lines = [f"where   {_locate.where(got, want, wrong)}"]
    lines.append(
        f"worst   index {index}  got {got[index]:.9g}  want {want[index]:.9g} "
        f"± {found.tolerance[leaf][index]:.1g}"
    )
    outcome = "fail"
    if case.arbiter:
        verdict = vote(case.probe, inputs, found, leaf, case.seed)
        outcome = verdict.outcome
        slope = verdict.differences
        figures |= {"slope_of_rule": verdict.rule, "slope_of_reference": verdict.truth,
                    "differences": slope.value, "error_of_differences": slope.error}  # fmt: skip
        lines.append(
            f"slope   rule {verdict.rule:.9g}  reference {verdict.truth:.9g}  finite differences "
            f"{slope.value:.9g} ± {slope.error:.1g}: {verdict.reason}"
        )
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
    )


def _diagnosis(case: Case, inputs: list[Any], found: Comparison, leaf: int) -> str:
    got, want = found.got[leaf], found.want[leaf]
    names = case.problem.input_names
    ones = [jnp.ones_like(w) for w in found.weights]
    of_ones = case.probe.gradients(inputs, ones)[1][leaf]
    others = {n: w for i, (n, w) in enumerate(zip(names, found.want, strict=True)) if i != leaf}
    outputs = [f"output {i}" for i in range(len(ones))]
    constants = _locate.constants_of([np.shape(a) for a in (*inputs, *ones)], [*names, *outputs])
    return _locate.diagnose(got, want, constants, others, of_ones)


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
    direct, (ruled, _, _) = case.problem.outputs(*case.problem.inputs), _native(case)
    for i, (a, b) in enumerate(zip(direct, ruled, strict=True)):
        x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
        size = np.maximum(np.abs(x), np.sqrt(np.mean(x**2)) if x.size else 0)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        with np.errstate(invalid="ignore", divide="ignore"):
            ulps = np.where(same, 0.0, np.abs(x - y) / (size * eps(a.dtype)))
        worst = float(np.nan_to_num(ulps, nan=np.inf).max(initial=0.0))
        yield Finding(
            "forward", "pass" if worst <= 16 else "fail", leaf=f"output {i}",
            text=f"the forward rule differs from f by {worst:.3g} units in the last place of a "
            "typical entry, at most 16 are rounding; both must return the same",
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
    """The gradient of 2ᵏ times the cotangent is 2ᵏ times the gradient, to the last bit."""
    problem = case.problem
    y, vjp = jax.vjp(problem.outputs, *problem.inputs)
    weights = cotangents(case.rng(3), y)
    base = to_numpy(vjp(weights))
    for power in (3, -2):
        scaled = to_numpy(vjp([w * 2.0**power for w in weights]))
        for leaf, (name, one, other) in enumerate(
            zip(problem.input_names, base, scaled, strict=True)
        ):
            expected = one * 2.0**power
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
                text=f"{2.0**power:g} times the cotangent must give {2.0**power:g} times the "
                f"gradient; {int(off.sum())} of {off.size} entries differ: the gradient is not a "
                "linear function of the cotangent",
            )  # fmt: skip


def finite(case: Case) -> Iterator[Finding]:
    """Where the function is finite its gradient is a number, infinite only if it should be."""
    y, gradients, weights = _native(case)
    smooth = all(np.all(np.isfinite(a)) for a in to_numpy(y))
    with x64() if case.wide else nullcontext():
        outputs = jax.eval_shape(case.probe.f, *case.at(case.problem.inputs))
        exact = [jnp.asarray(w, s.dtype) for w, s in zip(weights, outputs, strict=True)]
        wanted = case.probe.gradients(case.at(case.problem.inputs), exact)[1]
    for name, g, want in zip(case.problem.input_names, to_numpy(gradients), wanted, strict=True):
        bad = np.isnan(g) | (np.isinf(g) & np.isfinite(want))
        outcome = "fail" if smooth and bad.any() else "pass"
        yield Finding(
            "finite", outcome, leaf=name,
            text=f"the function is finite here, but {int(bad.sum())} of {bad.size} entries of the "
            "gradient are NaN, or infinite where they should not be",
        )  # fmt: skip


def additivity(case: Case) -> Iterator[Finding]:
    """The gradient of a sum of cotangents is the sum of the gradients."""
    inputs = case.at(case.problem.inputs)
    shapes = jax.eval_shape(case.probe.f, *inputs)
    one, two = (cotangents(case.rng(4, i), shapes) for i in range(2))
    both = [a + b for a, b in zip(one, two, strict=True)]
    parts = [case.probe.gradients(inputs, w)[0] for w in (one, two, both)]
    rounding = case.probe.rounding(inputs, one)
    floors = case.probe.floors(inputs, both)
    for name, a, b, c, floor in zip(case.problem.input_names, *parts, floors, strict=True):
        size = np.abs(a) + np.abs(b) + np.sqrt(np.mean(a**2 + b**2))
        off = ~(np.abs(a + b - c) <= 1e4 * rounding * size + floor) & np.isfinite(a + b)
        yield Finding(
            "additivity", "fail" if off.any() else "pass", leaf=name,
            text=f"the gradient of two cotangents added must be the sum of their gradients; "
            f"{int(off.sum())} of {off.size} entries differ",
        )  # fmt: skip


def subsets(case: Case) -> Iterator[Finding]:
    """Differentiated alone, an argument has the gradient that it has among all."""
    inputs = case.at(case.problem.inputs)
    if len(inputs) < 2:
        return
    weights = cotangents(case.rng(5), jax.eval_shape(case.probe.f, *inputs))
    whole = case.probe.gradients(inputs, weights)[0]
    rounding = case.probe.rounding(inputs, weights)
    for leaf, name in enumerate(case.problem.input_names):

        def alone(x: Any, leaf: int = leaf) -> list[Any]:
            return case.probe.f(*inputs[:leaf], x, *inputs[leaf + 1 :])

        (g,) = to_numpy(jax.jit(backward_of(alone))([inputs[leaf]], weights))
        yield _same("subsets", name, g, whole[leaf], rounding,
                    "differentiated alone, with the other arguments constant",
                    case.probe.floors(inputs, weights)[leaf])  # fmt: skip


def pullbacks(case: Case) -> Iterator[Finding]:
    """Two pullbacks at once do not disturb each other; one called twice gives the same bits."""
    problem = case.problem
    inputs = problem.inputs
    moved = [x + jnp.asarray(direction(case.rng(6), x.shape), x.dtype) for x in inputs]
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


def transforms(case: Case) -> Iterator[Finding]:
    """Under jit and vmap, with all or only some arguments mapped, it is the same gradient."""
    inputs = case.at(case.problem.inputs)
    weights = cotangents(case.rng(8), jax.eval_shape(case.probe.f, *inputs))
    rounding = case.probe.rounding(inputs, weights)
    backward = backward_of(case.probe.f)
    compiled, floors = case.probe.gradients(inputs, weights)[0], case.probe.floors(inputs, weights)
    names = case.problem.input_names
    eager = to_numpy(backward(inputs, weights))
    for name, a, b, floor in zip(names, eager, compiled, floors, strict=True):
        yield _same("jit", name, b, a, rounding, "under jit", floor)
    stacked = [
        jnp.stack([x, x * (1 + 0.25 * jnp.asarray(direction(case.rng(9, i), x.shape), x.dtype))])
        for i, x in enumerate(inputs)
    ]
    two = [jnp.stack([w, -0.5 * w]) for w in weights]
    mapped = [tuple(range(len(inputs)))] + (
        [(i,) for i in range(len(inputs))] if 1 < len(inputs) <= _MOST_OUTPUTS else []
    )
    for chosen in mapped:
        axes = [0 if i in chosen else None for i in range(len(inputs))]
        at = [s if i in chosen else x for i, (s, x) in enumerate(zip(stacked, inputs, strict=True))]
        together = to_numpy(jax.jit(jax.vmap(backward, (axes, 0)))(at, two))
        for k in range(2):
            here = [
                s[k] if i in chosen else x
                for i, (s, x) in enumerate(zip(stacked, inputs, strict=True))
            ]
            single = case.probe.gradients(here, [w[k] for w in two])[0]
            for name, a, b, floor in zip(names, together, single, floors, strict=True):
                which = "all arguments" if len(chosen) == len(inputs) else names[chosen[0]]
                yield _same("vmap", name, a[k], b, rounding, f"under vmap of {which}", 4 * floor)


def _same(
    check: str,
    name: str,
    got: np.ndarray,
    want: np.ndarray,
    rounding: float,
    how: str,
    floor: float = 0.0,
) -> Finding:
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


def differences(case: Case, sample: str = "given") -> Iterator[Finding]:
    """Each argument's gradient along random directions, against finite differences of f itself.

    The only judge where there is no primal to strip, else not needed: it sees less.
    """
    inputs = case.at(case.problem.inputs)
    for leaf, name in enumerate(case.problem.input_names):
        for i in range(_COTANGENTS):
            rng = case.rng(10, leaf, i)
            weights = cotangents(rng, jax.eval_shape(case.probe.f, *inputs))
            kinked = case.probe.kinked(inputs, weights, rng)[leaf]
            u = np.where(kinked, 0.0, direction(rng, inputs[leaf].shape))
            gradient = case.probe.gradients(inputs, weights)[0][leaf]
            mine, found = (
                float(np.vdot(gradient, u)),
                slope_along(case.probe, inputs, weights, leaf, u),
            )
            size = float(np.vdot(np.abs(gradient), np.abs(u)))
            slack = 4 * found.error + 1e3 * case.probe.rounding(inputs, weights) * size
            figures = {"rule": mine, "differences": found.value, "error": found.error}
            text = f"slope {mine:.9g}, by finite differences {found.value:.9g} ± {found.error:.1g}"
            if np.isfinite(found.value) and abs(mine - found.value) <= slack:
                relative = slack / max(abs(found.value), np.finfo(float).tiny)
                case.power[name] = min(case.power.get(name, np.inf), relative)
                outcome = "pass" if relative < BLIND else "inconclusive"
            else:
                outcome = (
                    "fail"
                    if np.isfinite(found.error) and found.error < 0.1 * abs(mine - found.value)
                    else "inconclusive"
                )
            yield Finding("differences", outcome, sample, name, (), text, figures,
                          replay=case.replay())  # fmt: skip


def second_order(case: Case) -> Iterator[Finding]:
    """The gradient's own derivative along a direction, against that of the reference."""
    inputs = case.at(case.problem.inputs)
    weights = cotangents(case.rng(11), jax.eval_shape(case.probe.f, *inputs))
    u = [jnp.asarray(direction(case.rng(12, i), x.shape), x.dtype) for i, x in enumerate(inputs)]

    def along(backward: Any) -> Callable[[list[Any]], list[Any]]:
        def second(inputs: list[Any]) -> list[Any]:
            outputs, vjp = jax.vjp(lambda *x: backward(list(x), weights), *inputs)
            return list(vjp([v.astype(o.dtype) for v, o in zip(u, outputs, strict=True)]))

        return jax.jit(second)

    try:
        truth = along(case.probe.truth)
        want, got = to_numpy(truth(inputs)), to_numpy(along(case.probe.rule)(inputs))
    except (TypeError, NotImplementedError, ValueError) as error:
        why = str(error).splitlines()[0][:120]
        yield Finding("second order", "skipped", text=f"cannot be differentiated twice: {why}")
        return
    near = [to_numpy(truth(close_by(inputs, case.rng(20, i)))) for i in range(4)]
    sides = [jumps(w, [n[i] for n in near]) for i, w in enumerate(want)]
    # where the first or the second derivative jumps, either side is right
    got = [np.where(jump, w, g) for jump, g, w in zip(sides, got, want, strict=True)]
    rounding, floors = case.probe.rounding(inputs, weights), case.probe.floors(inputs, weights)
    for name, a, b, floor in zip(case.problem.input_names, got, want, floors, strict=True):
        how = "differentiated a second time"
        yield _same("second order", name, a, b, 1e2 * rounding, how, 1e2 * floor)


def stress(case: Case) -> Iterator[Finding]:
    """The check 'dot' at points derived from the given ones, where rules tend to go wrong."""
    for sample, inputs in stress_points(case.problem.inputs, case.rng(13)):
        y = case.probe.value(*case.at(inputs))
        if not all(np.all(np.isfinite(a)) for a in to_numpy(y)):
            continue  # outside the domain of f
        yield from dot(case, sample, inputs)


def stress_points(
    inputs: Sequence[Any], rng: np.random.Generator
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Zeros, ties, equal extremes, large and small entries, other signs: by name."""
    given = [np.asarray(x, np.float64) for x in inputs]
    yield "zeros", [np.where(rng.random(x.shape) < 0.5, 0.0, x) for x in given]
    yield "ties", [np.round(2 * x) / 2 for x in given]
    yield "equal extremes", [np.clip(x, *np.quantile(x, [0.35, 0.65])) for x in given]
    yield "times 30", [30 * x for x in given]
    yield "times 0.001", [1e-3 * x for x in given]
    yield "other signs", [np.where(rng.random(x.shape) < 0.5, -x, x) for x in given]
    yield (
        "fresh",
        [
            np.mean(x) + (np.std(x) or abs(np.mean(x)) or 1.0) * rng.normal(size=x.shape)
            for x in given
        ],
    )


def precision(case: Case) -> Iterator[Finding]:
    """In its own dtype the rule is as near to the float64 truth as rounding and autodiff are."""
    if not case.wide:
        return
    problem, names = case.problem, case.problem.input_names
    if all(x.dtype == jnp.float64 for x in problem.inputs):
        return
    weights = cotangents(case.rng(14), jax.eval_shape(problem.outputs, *problem.inputs))
    mine = to_numpy(jax.jit(backward_of(problem.outputs))(problem.inputs, weights))
    plain = to_numpy(jax.jit(case.probe.truth)(problem.inputs, weights))
    rounding = max(eps(a.dtype) for a in (*problem.inputs, *weights))
    with x64():
        exact, heavy = case.at(problem.inputs), [jnp.asarray(w, jnp.float64) for w in weights]
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
        t, size = truth[leaf], np.sqrt(np.mean(truth[leaf] ** 2))
        autodiff = np.abs(plain[leaf] - t)
        allowed = SAFETY * (
            moved[leaf] + np.sqrt(np.mean(moved[leaf] ** 2)) + rounding * (np.abs(t) + size)
        ) + 8 * (
            np.nan_to_num(autodiff, nan=np.inf, posinf=np.inf)
            + np.sqrt(np.mean(np.nan_to_num(autodiff) ** 2))
        )
        error = np.abs(mine[leaf] - t)
        if size <= 10 * floors[leaf] / exact_rounding * rounding:
            allowed = allowed + floors[leaf] / exact_rounding * rounding  # of what cancels
        off = ~(error <= allowed) & np.isfinite(t) & ~kinked[leaf]
        worst = float(np.nan_to_num(error, nan=np.inf).max(initial=0)) / max(
            size * rounding, 1e-300
        )
        other = float(np.nan_to_num(autodiff, nan=np.inf).max(initial=0)) / max(
            size * rounding, 1e-300
        )
        yield Finding(
            "precision", "fail" if off.any() else "pass", leaf=name,
            text=f"in {problem.inputs[leaf].dtype} the rule is up to {worst:.3g} units in the last "
            f"place of a typical entry from the float64 truth, autodiff {other:.3g}; "
            f"{int(off.sum())} of {off.size} entries are beyond what rounding explains",
            figures={"rule_ulps": worst, "autodiff_ulps": other},
        )  # fmt: skip


# By name: the check, and whether it runs in the given dtypes, outside the float64 mode.
QUICK: dict[str, tuple[Check, bool]] = {
    "contract": (contract, True),
    "forward": (forward, True),
    "zero": (zero, True),
    "scaling": (scaling, True),
    "finite": (finite, True),
    "dot": (dot, False),
}
STANDARD: dict[str, tuple[Check, bool]] = {
    "additivity": (additivity, False),
    "stress": (stress, False),
    "transforms": (transforms, False),
    "subsets": (subsets, False),
    "pullbacks": (pullbacks, True),
    "second order": (second_order, False),
    "precision": (precision, True),
}
