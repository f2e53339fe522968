"""The same gradient whichever way it is asked for, and its own derivative."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck._case import Case, same
from jaxdl.gradcheck._draw import cotangents, direction
from jaxdl.gradcheck._probe import (
    backward_of,
    close_by,
    jumps,
    to_numpy,
)
from jaxdl.gradcheck._report import Finding

_MAPPED = 3  # two may be a special case
_MOST_ALONE = 8  # arguments or outputs that are taken one by one


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
            text="the gradient of two cotangents added must be the sum of their gradients; "
            f"{int(off.sum())} of {off.size} entries differ: it is not a linear function of the "
            "cotangent",
        )  # fmt: skip


def subsets(case: Case) -> Iterator[Finding]:
    """Alone, an argument has the gradient that it has among all; so it is for outputs.

    A rule may be told which arguments are constant and which cotangents are zero.
    """
    inputs = case.at(case.problem.inputs)
    weights = cotangents(case.rng(5), jax.eval_shape(case.probe.f, *inputs))
    names, rounding = case.problem.input_names, case.probe.rounding(inputs, weights)
    floors = case.probe.floors(inputs, weights)
    whole = case.probe.gradients(inputs, weights)[0]
    for leaf, name in enumerate(names if len(inputs) > 1 else ()):

        def of_one(x: Any, leaf: int = leaf) -> list[Any]:
            return case.probe.f(*inputs[:leaf], x, *inputs[leaf + 1 :])

        (g,) = to_numpy(jax.jit(backward_of(of_one))([inputs[leaf]], weights))
        how = "differentiated alone, with the other arguments constant"
        yield same("subsets", name, g, whole[leaf], rounding, how, floors[leaf])
    for i, w in enumerate(weights if 1 < len(weights) <= _MOST_ALONE else ()):

        def to_one(*x: Any, i: int = i) -> list[Any]:
            return [case.probe.f(*x)[i]]

        others = [v if j == i else jnp.zeros_like(v) for j, v in enumerate(weights)]
        together = case.probe.gradients(inputs, others)[0]
        found = to_numpy(jax.jit(backward_of(to_one))(inputs, [w]))
        for name, a, b, floor in zip(names, found, together, floors, strict=True):
            yield same("subsets", name, a, b, rounding, f"with output {i} alone", floor)


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
        yield same("jit", name, b, a, rounding, "under jit", floor)
    stacked = [
        jnp.stack([x, *(x * (1 + 0.25 * jnp.asarray(direction(case.rng(9, i, k), x.shape), x.dtype))
                        for k in range(1, _MAPPED))])
        for i, x in enumerate(inputs)
    ]  # fmt: skip
    several = [jnp.stack([w * (-0.5) ** k for k in range(_MAPPED)]) for w in weights]
    mapped = [tuple(range(len(inputs)))] + (
        [(i,) for i in range(len(inputs))] if 1 < len(inputs) <= _MOST_ALONE else []
    )
    for chosen in mapped:
        axes = [0 if i in chosen else None for i in range(len(inputs))]
        at = [s if i in chosen else x for i, (s, x) in enumerate(zip(stacked, inputs, strict=True))]
        try:
            together = to_numpy(jax.jit(jax.vmap(backward, (axes, 0)))(at, several))
        except NotImplementedError as error:  # such as a callback that says nothing about vmap
            yield Finding("vmap", "skipped", text=str(error).splitlines()[0][:200])
            return
        for k in range(_MAPPED):
            here = [
                s[k] if i in chosen else x
                for i, (s, x) in enumerate(zip(stacked, inputs, strict=True))
            ]
            single = case.probe.gradients(here, [w[k] for w in several])[0]
            for name, a, b, floor in zip(names, together, single, floors, strict=True):
                which = "all arguments" if len(chosen) == len(inputs) else names[chosen[0]]
                yield same("vmap", name, a[k], b, rounding, f"under vmap of {which}", 4 * floor)


def second_order(case: Case) -> Iterator[Finding]:
    """The gradient's own derivative along a direction, against that of the reference.

    By the arguments, and by the cotangent, of which the gradient is a linear function: a rule that
    holds its cotangent constant is right once and wrong in every Hessian.
    """
    if case.wrong:
        yield Finding("second order", "skipped", text="the gradient itself is wrong")
        return
    inputs = case.at(case.problem.inputs)
    weights = cotangents(case.rng(11), jax.eval_shape(case.probe.f, *inputs))
    u = [jnp.asarray(direction(case.rng(12, i), x.shape), x.dtype) for i, x in enumerate(inputs)]

    def along(backward: Any) -> Callable[[list[Any]], list[Any]]:
        def second(inputs: list[Any]) -> list[Any]:
            outputs, vjp = jax.vjp(backward, list(inputs), list(weights))
            of_both = vjp([v.astype(o.dtype) for v, o in zip(u, outputs, strict=True)])
            return [derivative for part in of_both for derivative in part]

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
    rounding, floors = case.probe.rounding(inputs, weights), case.probe.floors(inputs, weights)
    held = case.holds_back()
    names, how = list(case.problem.input_names), "differentiated a second time"
    names += [f"the cotangent of output {i}" for i in range(len(weights))]
    floors = [*floors, *[sum(floors)] * len(weights)]
    for name, a, b, floor, jump in zip(names, got, want, floors, sides, strict=True):
        if held and name in case.problem.input_names and not np.any(b):
            why = f"{name}: stop_gradient in f holds it back"
            yield Finding("second order", "skipped", leaf=name, text=why)
            continue
        if jump.all():
            yield Finding("second order", "skipped", leaf=name, text=f"{name}: it jumps close by")
            continue
        a = np.where(jump, b, a)  # where it jumps either side is right
        yield same("second order", name, a, b, 1e2 * rounding, how, 1e2 * floor)
