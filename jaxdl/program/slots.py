"""Reducing inside the backward pass, where what was kept and heard should not leave it.

What leaves a scan is stacked, and what leaves a checkpoint was saved for nothing. So a parameter
that is used once, at every step of the scans around it anew (the weights of a layer, in a scan over
layers), is reduced where the cotangent of its use arrives. The result comes out as the cotangent of
a *slot*, an input in its shape that nothing reads.

A parameter that is used more often has to wait until all of its uses are known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core.factor import Factor
from jaxdl.numerics.jaxprs import CHECKPOINTS, bind, scan_parts
from jaxdl.program.derived import pull_back
from jaxdl.program.scope import Kind, Scope, Step, Var, walk_scopes
from jaxdl.program.uses import derived_places, form_of

_VIEWS = (
    "convert_element_type", "transpose", "reshape", "squeeze", "expand_dims", "broadcast_in_dim",
    "neg", "copy", "copy_p",
)  # fmt: skip

ReduceAt = Callable[[int, Any, Factor], Any]
"""``(number of the parameter, its part at this step, factor) -> anything``."""


@dataclass(frozen=True, eq=False)
class Slot:
    """Where one parameter is reduced: at operand k of its only use.

    Attributes:
      root: the number of the parameter.
      source: the input of the scope of the use at which the parameter arrives.
      views: the steps from there to the operand.
      reduce: what to make of it.
    """

    root: int
    k: int
    source: Var
    views: tuple[Step, ...]
    reduce: ReduceAt

    def reduced(self, step: Step, held: Any, d: tuple[Array, ...]) -> Any:
        """What the reducer makes of the use, of the cotangents of its outputs."""
        kept, shared, param = held
        w = param
        for view in self.views:
            (w,) = bind(view.eqn, [w])
        factor = form_of(step, self.k).make(kept, shared, w, d)
        for view in reversed(self.views):
            seen = pull_back(view, 0, [factor], _not_asked)
            assert seen is not None
            factor = seen
        return self.reduce(self.root, param, factor)

    def held(self, step: Step, value: Callable[[Any], Any], kept: dict[str, Array]) -> Any:
        """What the backward pass needs for it."""
        form = form_of(step, self.k)
        mine = {j: kept[str(j)] for j in form.needs}
        shared = {
            j: value(v)
            for j, v in enumerate(step.ins)
            if j != self.k and j not in mine and v.kind != Kind.DATA
        }
        return mine, shared, value(self.source)

    def empty(self, step: Step, n: int) -> Any:
        """The slot: zeros in the shape of what the reducer makes; None if it has integers."""
        form = form_of(step, self.k)
        heard = tuple(_struct(out, n) for out in step.outs if out.is_inexact)
        kept = {j: _struct(step.ins[j], n) for j in form.needs}
        shared = {
            j: jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype)
            for j, v in enumerate(step.ins)
            if j != self.k and j not in kept and v.kind != Kind.DATA
        }
        param = jax.ShapeDtypeStruct(self.source.shape, self.source.dtype)
        shapes = jax.eval_shape(
            lambda held, d: self.reduced(step, held, d), (kept, shared, param), heard
        )
        if any(not jnp.issubdtype(s.dtype, jnp.inexact) for s in jax.tree.leaves(shapes)):
            return None
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def _struct(v: Any, n: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((n, *v.aval.shape), v.aval.dtype)


def _not_asked(place: int) -> Any:
    raise AssertionError("a view asks for no values")


def plan_slots(scope: Scope, params: int, reduce: ReduceAt, n: int) -> dict[Step, Slot]:
    """The uses that are reduced inside the backward pass, all of them inside scans and checkpoints.

    Args:
      params: how many of the inputs of the scope are parameters.
      n: the number of examples.
    """
    uses = Counter(
        root
        for part in walk_scopes(scope)
        for step in part.uses
        for k in derived_places(step)
        for root in step.ins[k].roots
    )
    slots: dict[Step, Slot] = {}

    def visit(scope: Scope, direct: dict[Var, int], inside: bool) -> None:
        for step in scope.uses if inside else ():
            slot = _slot(step, direct, reduce)
            if slot is not None and uses[slot.root] == 1 and slot.empty(step, n) is not None:
                slots[step] = slot
        for step in scope.walked:
            if step.name == "scan":
                held, carried, _ = scan_parts(step.eqn)
                first = held + carried
            elif step.name in CHECKPOINTS:
                first = 0
            else:
                continue
            body = step.parts[0]
            given = zip(body.ins[first:], step.ins[first:], strict=True)
            visit(body, {v: direct[x] for v, x in given if x in direct}, inside=True)  # type: ignore[index]

    visit(scope, {v: i for i, v in enumerate(scope.ins[:params])}, inside=False)
    return slots


def _slot(step: Step, direct: dict[Var, int], reduce: ReduceAt) -> Slot | None:
    places = derived_places(step)
    if len(places) != 1 or step.eqn is None:
        return None
    v, views = step.ins[places[0]], []
    while v not in direct:
        view = v.made_by
        if view is None or view.name not in _VIEWS or len(view.ins) != 1:
            return None
        views.append(view)
        v = view.ins[0]
    return Slot(direct[v], places[0], v, tuple(reversed(views)), reduce)


def tap_into(step: Step, slot: Slot, outs: list[Array], empty: Any, held: Any) -> list[Array]:
    """The outputs of a use; what the reducer makes of it will be the cotangent of `empty`."""

    @jax.custom_vjp
    def tap(outs, empty, held):
        return outs

    def back(held, d):
        return d, slot.reduced(step, held, tuple(d)), None

    tap.defvjp(lambda outs, empty, held: (outs, held), back)
    return tap(outs, empty, held)
