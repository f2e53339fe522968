"""A layer of jaxdl: its backward as a gradient, and what every reducer is promised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck._check import check
from jaxdl.gradcheck._check_at import Level
from jaxdl.gradcheck.checks.agreement import same
from jaxdl.gradcheck.problem.directions import direction
from jaxdl.gradcheck.problem.problem import x64
from jaxdl.gradcheck.report.findings import Finding
from jaxdl.gradcheck.report.report import Report

_EPS = float(np.finfo(np.float64).eps)


def check_layer(
    layer: Any,
    x: Any,
    params: Any = None,
    *,
    key: Any = None,
    level: Level = "standard",
    seed: int = 0,
    raises: bool = True,
    **settings: Any,
) -> Report:
    """Whether a `jaxdl.Layer` keeps its contract: one gradient by two paths, and every reducer.

    All of `check` on the layer as a function whose rule is its `bwd`, against autodiff of its
    `fwd`; and in float64: `keep` followed by `reduce_kept(grads)` is the gradient; `none` returns
    no parameter gradient and the same dx; `slots` reach the parameter they stand beside;
    `combine` gives what its parts give; `trace` measures every parameter; `example_sq_norms` are
    those of autodiff, one example at a time; no residual is a parameter.

    Args:
      layer: the layer or model, without taps.
      x: its input, examples on the first axis.
      params: its parameters; by default those of `init`, moved a little, since zeros and ones
        hide mistakes.
      key: for layers that draw random numbers in training; None is evaluation.
      level: as in `check`.
      seed: of all random numbers.
      raises: whether anything but a pass is an AssertionError.
      **settings: further arguments of `check`, such as skip; `skip` may name reducers too.

    Raises:
      AssertionError: the outcome is 'fail' or 'inconclusive'; the message is the report.
      ValueError: the layer has a tap, whose reduced value is no gradient.
    """
    # here and not above: the checker itself needs nothing else of jaxdl
    from jaxdl.core.doors import as_function

    if params is None:
        params = _moved(layer.init(jax.random.key(seed), x), np.random.default_rng([seed, 80]))
    skip = dict(settings.pop("skip", None) or {})
    function = as_function(layer)
    # the key is held: no argument, so that it stays as it is when others are varied
    report = check(
        lambda params, x: function(params, x, key), params, x, level=level, seed=seed,
        raises=False, skip={n: why for n, why in skip.items() if n not in REDUCERS}, **settings,
    )  # fmt: skip
    findings = list(report.findings)
    with x64():
        at = _Layer(layer, jax.tree.map(_float64, params), jax.tree.map(_float64, x), key, seed)
        for name, run in REDUCERS.items():
            if name in skip:
                findings.append(Finding(name, "skipped", text=skip[name]))
                continue
            try:
                findings += list(run(at))
            except Exception as error:
                why = (str(error).splitlines() or [""])[0][:200]
                findings.append(Finding(name, "fail", text=f"{type(error).__name__}: {why}"))
    report = replace(report, function=layer.name, findings=findings)
    if raises and report.outcome != "pass":
        raise AssertionError(str(report))
    return report


def _is_float(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating)


def _float64(leaf: Any) -> Any:
    return jnp.asarray(np.asarray(leaf, np.float64)) if _is_float(leaf) else leaf


def _moved(params: Any, rng: np.random.Generator) -> Any:
    return jax.tree.map(
        lambda p: p + jnp.asarray(direction(rng, p.shape) / 4, p.dtype) if _is_float(p) else p,
        params,
    )


class _Layer:
    """A layer at a point in float64, with a cotangent and the gradient there."""

    def __init__(self, layer: Any, params: Any, x: Any, key: Any, seed: int):
        self.layer, self.params, self.x, self.key = layer, params, x, key
        self.rng = np.random.default_rng([seed, 81])
        y, self.residuals = jax.jit(layer.fwd)(params, x, key)
        self.dy = jax.tree.map(
            lambda a: jnp.asarray(direction(self.rng, a.shape), a.dtype) if _is_float(a) else a, y
        )
        self.gradient, self.dx = self.reduced(None)

    def reduced(self, reduce: Any, slots: Any = None, finish: Callable[..., Any] | None = None):
        """What a reducer makes of the pass, and dx; None is the default, the gradient."""
        rest = () if reduce is None else (reduce,)

        @jax.jit
        def run(params: Any, x: Any, dy: Any, slots: Any) -> Any:
            _, residuals = self.layer.fwd(params, x, self.key)
            if slots is not None:
                found, dx = self.layer.bwd(params, residuals, dy, *rest, slots)
            else:
                found, dx = self.layer.bwd(params, residuals, dy, *rest)
            return (found if finish is None else finish(params, found)), dx

        return run(self.params, self.x, self.dy, slots)


def _trees(check: str, got: Any, want: Any, how: str) -> Iterator[Finding]:
    """One finding for every array of two trees, which must be the same."""
    if jax.tree.structure(got) != jax.tree.structure(want):
        text = f"{how} the tree is {jax.tree.structure(got)}, not {jax.tree.structure(want)}"
        yield Finding(check, "fail", text=text)
        return
    pairs = zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True)
    for (path, a), b in pairs:
        mine, other = np.asarray(a, np.float64), np.asarray(b, np.float64)
        name = jax.tree_util.keystr(path)
        if mine.shape != other.shape:
            text = f"{how} the shape is {list(mine.shape)}, not {list(other.shape)}"
            yield Finding(check, "fail", leaf=name, text=text)
            continue
        yield same(check, name, mine, other, _EPS, how)
    if not jax.tree.leaves(got):
        yield Finding(check, "pass")


def _keep(at: _Layer) -> Iterator[Finding]:
    from jaxdl.core.reducers import grads, keep, reduce_kept

    found = at.reduced(keep, finish=lambda params, kept: reduce_kept(grads, params, kept))
    yield from _trees("keep", found, (at.gradient, at.dx), "from the factors that were kept")


def _none(at: _Layer) -> Iterator[Finding]:
    from jaxdl.core.reducers import none

    nothing, dx = at.reduced(none)
    left = len(jax.tree.leaves(nothing))
    text = f"with `none` nothing must be returned for the parameters, got {left} arrays"
    yield Finding("none", "fail" if left else "pass", text=text)
    yield from _trees("none", dx, at.dx, "with `none`, of the input,")


def _slots(at: _Layer) -> Iterator[Finding]:
    from jaxdl.core.factors import contract

    def accumulate(params: Any, factors: Any, slots: Any) -> Any:
        return {n: slots[n] + contract(factors[n], params[n]) for n in params}

    slots = jax.tree.map(lambda p: jnp.asarray(direction(at.rng, p.shape), p.dtype), at.params)
    found = at.reduced(accumulate, slots)
    want = (jax.tree.map(jnp.add, slots, at.gradient), at.dx)
    yield from _trees("slots", found, want, "added to a slot")


def _combine(at: _Layer) -> Iterator[Finding]:
    from jaxdl.core.reducers import combine, grads, none, select

    both, dx = at.reduced(combine(gradient=grads, nothing=none))
    found = (select(both, "gradient"), dx)
    yield from _trees("combine", found, (at.gradient, at.dx), "beside another reducer")
    left = len(jax.tree.leaves(select(both, "nothing")))
    text = f"beside `grads`, `none` must return nothing, got {left} arrays"
    yield Finding("combine", "fail" if left else "pass", text=text)


def _trace(at: _Layer) -> Iterator[Finding]:
    from jaxdl.core.reducers import trace

    measured, dx = at.reduced(trace)
    yield from _trees("trace", dx, at.dx, "traced, of the input,")
    bad = [
        jax.tree_util.keystr(path)
        for path, norm in jax.tree_util.tree_leaves_with_path(measured)
        if not np.all(np.isfinite(norm)) or np.any(np.asarray(norm) < 0)
    ]
    text = f"norms of factors must be finite and not negative: {', '.join(bad)}"
    yield Finding("trace", "fail" if bad else "pass", text=text)


def _example_norms(at: _Layer) -> Iterator[Finding]:
    from jaxdl.core.factors import FactorError
    from jaxdl.core.reducers import example_sq_norms

    check = "example_sq_norms"
    rows = {a.shape[:1] for a in jax.tree.leaves((at.x, at.dy))}
    if len(rows) != 1 or rows == {()} or not jax.tree.leaves(at.params):
        yield Finding(check, "skipped", text="there are no examples, or no parameters")
        return
    try:
        norms, dx = at.reduced(example_sq_norms)
    except FactorError as error:
        yield Finding(check, "skipped", text=str(error).splitlines()[0])
        return
    ((count,),) = rows

    @jax.jit
    def by_autodiff(params: Any, x: Any, dy: Any) -> Any:
        _, pullback = jax.vjp(lambda p: at.layer.apply(p, x, at.key), params)

        def one(i: Any) -> Any:
            (g,) = pullback(jax.tree.map(lambda d: jnp.zeros_like(d).at[i].set(d[i]), dy))
            return jax.tree.map(lambda a: jnp.sum(a * a), g)

        return jax.lax.map(one, jnp.arange(count))

    # a stack of layers gives (layers, examples)
    norms = jax.tree.map(lambda v: v.reshape(-1, count).sum(axis=0), norms)
    want = by_autodiff(at.params, at.x, at.dy)
    how = "one example at a time by autodiff,"
    yield from _trees(check, norms, want, how)
    yield from _trees(check, dx, at.dx, "with norms, of the input,")


def _residuals(at: _Layer) -> Iterator[Finding]:
    """No residual is a parameter, nor has its numbers in another order or many times over."""
    held = []
    for path, parameter in jax.tree_util.tree_leaves_with_path(at.params):
        # what a scan gives to its body is one layer of the stack
        for numbers in (parameter, parameter[0]) if np.ndim(parameter) > 1 else (parameter,):
            numbers = np.sort(np.ravel(numbers))
            for residual in jax.tree.leaves(at.residuals):
                if numbers.size < 2 or not _is_float(residual) or residual.size % numbers.size:
                    continue
                pieces = np.sort(np.reshape(residual, (-1, numbers.size)), axis=1)
                if (pieces == numbers).all(axis=1).any():
                    name = jax.tree_util.keystr(path)
                    held.append(f"one of shape {list(residual.shape)} holds {name}")
    text = f"residuals must hold no parameter, since bwd is given them: {'; '.join(held)}"
    yield Finding("residuals", "fail" if held else "pass", text=text)


REDUCERS: dict[str, Callable[[_Layer], Iterator[Finding]]] = {
    "keep": _keep,
    "none": _none,
    "slots": _slots,
    "combine": _combine,
    "trace": _trace,
    "example_sq_norms": _example_norms,
    "residuals": _residuals,
}
