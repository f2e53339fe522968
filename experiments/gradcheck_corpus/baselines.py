"""Other checkers of gradients, on the same harness: what a user would reach for otherwise.

- `jax.test_util.check_grads` in reverse mode with its default tolerances, of first and second
  order, in float32 and float64: one random direction, a central difference with step 1e-4.
- The criterion of PyTorch's `torch.autograd.gradcheck`, rewritten from its documentation. Slow: the
  whole Jacobian by central differences with step 1e-6 in float64, every entry of the rule's within
  1e-5 + 1e-3·|n| of it; the rule called twice gives the same bits. Fast: vᵀJu instead, with u and v
  drawn from [0, 1) and normalised, the absolute tolerance times Σu·Σv: a matrix of them, projected.
- Five-point differences of ⟨w, f⟩, entry by entry, with the fixed step 1e-3·max(1, |x|) in float64,
  and NumPy's `allclose` with a relative tolerance of 1e-4.

Each is given what it takes: f as a function of its floating-point leaves alone, all other leaves
held, and of its results those that can be differentiated. Each raises `AssertionError` where it
finds a fault; whatever else it raises, it could not do the job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from jaxdl.gradcheck.problem.points import stress_points
from jaxdl.gradcheck.problem.problem import state

Flat = Callable[..., list[Any]]
"""A function of floating-point arrays that returns a list of them."""


@dataclass(frozen=True)
class Baseline:
    """A checker that is not ours."""

    run: Callable[[Flat, Sequence[Any]], None]
    """Of a function and its arguments; raises AssertionError where they do not agree."""
    dtype: str
    """Of the arguments it is given."""
    everywhere: bool = False
    """Whether it also runs at our stress points."""
    most: int = 10**9
    """Arguments with more entries than this take it too long."""


def _torch_slow(f: Flat, inputs: Sequence[Any], eps=1e-6, atol=1e-5, rtol=1e-3) -> None:
    value = jax.jit(f)
    outputs, vjp = jax.vjp(f, *inputs)
    sizes = [int(y.size) for y in outputs]
    columns = [_columns(value, inputs, leaf, sizes, eps) for leaf in range(len(inputs))]
    for i, y in enumerate(outputs):
        rows: list[list[np.ndarray]] = []
        for k in range(sizes[i]):
            unit = jnp.zeros(sizes[i], y.dtype).at[k].set(1).reshape(y.shape)
            weights = [unit if j == i else jnp.zeros_like(other) for j, other in enumerate(outputs)]
            rows.append(_flat(vjp(weights)))
            for a, b in zip(rows[-1], _flat(vjp(weights)), strict=True):
                assert np.array_equal(a, b, equal_nan=True), "two calls give different gradients"
        for leaf, numeric in enumerate(columns):
            if not sizes[i]:
                continue
            analytic = np.stack([row[leaf] for row in rows])
            _close(analytic, numeric[i], atol, rtol, f"Jacobian of output {i}, input {leaf}")


def _columns(value, inputs, leaf, sizes, eps) -> list[np.ndarray]:
    """The Jacobian with respect to one input, output by output: (entries of y, entries of x)."""
    base = np.asarray(inputs[leaf], np.float64)
    found = [np.empty((size, base.size)) for size in sizes]
    for k in range(base.size):
        sides = [_flat(value(*_moved(inputs, leaf, base, k, step))) for step in (eps, -eps)]
        for matrix, plus, minus in zip(found, *sides, strict=True):
            matrix[:, k] = (plus - minus) / (2 * eps)
    return found


def _moved(inputs, leaf, base, k, step) -> list[Any]:
    moved = base.copy()
    moved.flat[k] += step
    return [jnp.asarray(moved) if i == leaf else x for i, x in enumerate(inputs)]


def _torch_fast(f: Flat, inputs: Sequence[Any], eps=1e-6, atol=1e-5, rtol=1e-3) -> None:
    rng = np.random.default_rng(0)
    value = jax.jit(f)
    outputs, vjp = jax.vjp(f, *inputs)
    us = [_unit(rng, np.shape(x)) for x in inputs]
    vs = [_unit(rng, np.shape(y)) for y in outputs]
    numeric = []
    for leaf, u in enumerate(us):
        base = np.asarray(inputs[leaf], np.float64)
        plus, minus = (
            value(*(jnp.asarray(base + s * u) if i == leaf else x for i, x in enumerate(inputs)))
            for s in (eps, -eps)
        )
        numeric.append([(np.asarray(a) - np.asarray(b)) / (2 * eps)
                        for a, b in zip(plus, minus, strict=True)])  # fmt: skip
    for i, v in enumerate(vs):
        weights = [jnp.asarray(v) if j == i else jnp.zeros_like(y) for j, y in enumerate(outputs)]
        gradients = vjp(weights)
        for leaf, u in enumerate(us):
            scaled = atol * float(u.sum()) * float(v.sum())
            _close(np.vdot(np.asarray(gradients[leaf]), u), np.vdot(v, numeric[leaf][i]), scaled,
                   rtol, f"output {i}, input {leaf}")  # fmt: skip


def _unit(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    drawn = rng.random(shape)
    return drawn / np.linalg.norm(drawn)


def _five_point(f: Flat, inputs: Sequence[Any], step=1e-3, atol=1e-8, rtol=1e-4) -> None:
    rng = np.random.default_rng(0)
    value = jax.jit(f)
    outputs, vjp = jax.vjp(f, *inputs)
    weights = [rng.normal(size=y.shape) for y in outputs]
    gradients = _flat(vjp([jnp.asarray(w, y.dtype) for w, y in zip(weights, outputs, strict=True)]))
    for leaf, x in enumerate(inputs):
        base = np.asarray(x, np.float64)
        slopes = np.empty(base.size)
        for k in range(base.size):
            h = step * max(1.0, abs(base.flat[k]))
            at = [
                sum(np.vdot(w, np.asarray(y)) for w, y in
                    zip(weights, value(*_moved(inputs, leaf, base, k, t * h)), strict=True))
                for t in (-2, -1, 1, 2)
            ]  # fmt: skip
            slopes[k] = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * h)
        _close(gradients[leaf], slopes, atol, rtol, f"input {leaf}")


def _flat(arrays: Sequence[Any]) -> list[np.ndarray]:
    return [np.asarray(jnp.asarray(a), np.float64).reshape(-1) for a in arrays]


def _close(got: Any, want: Any, atol: float, rtol: float, where: str) -> None:
    if not np.allclose(got, want, rtol=rtol, atol=atol):
        with np.errstate(invalid="ignore"):
            worst = np.max(np.abs(np.asarray(got) - want))
        raise AssertionError(f"{where}: off by {worst:.3g}")


def _check_grads(order: int) -> Callable[[Flat, Sequence[Any]], None]:
    return partial(check_grads, order=order, modes=("rev",))


OF_JAX = {
    f"check_grads {dtype}{order_name}{place}": Baseline(_check_grads(order), dtype, bool(place))
    for place in ("", ", our points")
    for order, order_name in ((1, ""), (2, ", order 2"))
    for dtype in ("float32", "float64")
}
BASELINES: dict[str, Baseline] = OF_JAX | {
    "PyTorch slow": Baseline(_torch_slow, "float64", most=2000),
    "PyTorch fast": Baseline(_torch_fast, "float64"),
    "five-point": Baseline(_five_point, "float64", most=20_000),
}


def judge(
    name: str, f: Callable[..., Any], args: Sequence[Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The outcome of one checker: 'pass', 'fail', or 'refused' where it raises anything else.

    'left out' where f is meant to have another gradient than its derivative, which none of them
    can be told, or where there are too many entries for it.
    """
    baseline = BASELINES[name]
    if settings.get("expect") is not None:
        return {"outcome": "left out", "text": "the gradient is meant to differ"}
    try:
        problem = state(f, args, settings.get("kwargs"), settings.get("wrt"))
        if sum(int(x.size) for x in problem.inputs) > baseline.most:
            return {"outcome": "left out", "text": f"more than {baseline.most} entries"}
        flat = lambda *inputs: problem.outputs(*map(jnp.asarray, inputs))  # noqa: E731
        points = [problem.inputs]
        if baseline.everywhere:
            for _, point in stress_points(problem.inputs, np.random.default_rng(0)):
                points.append([jnp.asarray(a, x.dtype)
                               for a, x in zip(point, problem.inputs, strict=True)])  # fmt: skip
        for i, point in enumerate(points):
            if i == 0 or all(np.all(np.isfinite(y)) for y in _flat(flat(*point))):
                baseline.run(flat, point)
    except AssertionError as error:
        return {"outcome": "fail", "text": str(error).strip()[:300]}
    except Exception as error:
        return {"outcome": "refused", "text": f"{type(error).__name__}: {error}"[:300]}
    return {"outcome": "pass"}
