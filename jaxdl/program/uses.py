"""The form of a use: what kind of factor a parameter has that meets data in an equation.

Each form says which operands must be kept, and makes the factor of them and of the cotangents of
the outputs. The lean ones are in `jaxdl.program.forms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxdl.core.factors import Sum
from jaxdl.core.viewed_factors import Used
from jaxdl.numerics.jaxprs import bind
from jaxdl.program.forms import FORMS, Form
from jaxdl.program.own_layers import layer_of, own_factors
from jaxdl.program.scope import Kind, Step, size_of


class Equation:
    """An equation as a function of its operands; the same only as an object."""

    def __init__(self, eqn: Any, outs: Sequence[int]):
        self.eqn, self.outs = eqn, tuple(outs)

    def __call__(self, *operands: Any) -> list[Any]:
        results = bind(self.eqn, operands)
        return [results[i] for i in self.outs]


def derived_places(step: Step) -> list[int]:
    """The operands of a step that are derived."""
    return [k for k, v in enumerate(step.ins) if v.kind == Kind.DERIVED]


def operands_kept(step: Step, values: Sequence[Any], n: int) -> dict[str, Array]:
    """What a use keeps of its operands, each with the n examples on its first axis."""
    places = {j for k in derived_places(step) for j in form_of(step, k).needs}
    kept = {}
    for j in sorted(places):
        is_data = step.ins[j].kind == Kind.DATA
        value = values[j]
        kept[str(j)] = value if is_data else jnp.broadcast_to(value, (n, *jnp.shape(value)))
    return kept


def form_of(step: Step, k: int) -> Form:
    """The form in which operand k of a use has its gradient."""
    if step.eqn is None:
        return Form("Sum", (), lambda kept, shared, w, d: Sum(d[0]))
    if layer_of(step) is not None:
        return _layer(step, k)
    others = [v for i, v in enumerate(step.ins) if i != k]
    real = all(not jnp.issubdtype(v.dtype, jnp.complexfloating) for v in [step.ins[k], *step.outs])
    if real and step.name in FORMS and any(v.kind == Kind.DATA for v in others):
        form = FORMS[step.name](step, k)
        if form is not None:
            return form
    return _general(step, k)


def _layer(step: Step, k: int) -> Form:
    """A layer of this library: its own backward pass says what the factor is."""
    data = tuple(j for j, v in enumerate(step.ins) if v.kind == Kind.DATA)

    def make(kept, shared, w, d):
        inputs = [kept[j] if j in kept else w if j == k else shared[j] for j in range(count)]
        places = kept[data[0]].ndim - 1 - len(step.ins[data[0]].shape)
        return own_factors(step, places, inputs, list(d))[k]

    count = len(step.ins)
    return Form("of its own", data, make)


def _general(step: Step, k: int) -> Form:
    """Any equation: by its `jax.vjp`. Where the operand is no larger than an output, its gradients
    for all examples are no larger than what is there anyway."""
    outs = [i for i, out in enumerate(step.outs) if out.is_inexact]
    equation = Equation(step.eqn, outs)
    mine = step.ins[k].loops
    kept = tuple(
        j for j, v in enumerate(step.ins) if j != k and (v.kind == Kind.DATA or not v.loops <= mine)
    )
    small = size_of(step.ins[k]) <= max(size_of(out) for out in step.outs)
    count = len(step.ins)
    steps = step.ins[kept[0]] if kept else None

    def function(w, shared, a):
        operands = dict(shared) | dict(a) | {k: w}
        return equation(*(operands[i] for i in range(count)))

    def make(kept, shared, w, d):
        first = next(iter(kept))
        places = kept[first].ndim - len(steps.shape) - 1 if steps is not None else 0
        used = Used(w, shared, kept, d, function, places)
        return Sum(used.each()) if small else used

    if small:
        return Form("Sum", kept, make)
    return Form("Used", kept, make, why=f"no lean form is known for {step.name}")
