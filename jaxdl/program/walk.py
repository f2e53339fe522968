"""Running a program on all examples at once, with an ear at each place where parameters meet data.

Every value that is data has the examples on its first axis; what is not is there once. A step runs
under a `jax.vmap` of its own, over that axis, so that a parameter is never copied for the examples.
What a use has to remember (the data it met) is returned beside the outputs, and a *tap* behind each
of its outputs lets the cotangent there out of the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxdl.core.composed_factors import stack_factors
from jaxdl.numerics.jaxprs import CHECKPOINTS, bind, scan_parts
from jaxdl.numerics.pytree import pack_unique, unpack_unique
from jaxdl.program.scope import Kind, Scope, Step, Var
from jaxdl.program.slots import Slot, tap_into
from jaxdl.program.uses import operands_kept


@jax.custom_vjp
def tap(y: Array, ear: Array) -> Array:
    """y as it is; the cotangent that comes back here is also that of `ear`."""
    return y


tap.defvjp(lambda y, ear: (y, None), lambda _, dy: (dy, dy))


class ScanKept(NamedTuple):
    """What is kept of a scan."""

    inside: list[dict[str, Any]]
    """What was kept at the uses of its body, at every step."""
    fixed: list[Any]
    """What it carried and was the same for all examples, at every step; None for data."""
    after: list[Any]
    """Its outputs that are the same for all examples; None for data."""


Slots = dict[Step, Slot]


def ears_of(scope: Scope, n: int, slots: Slots, steps: tuple[int, ...] = ()) -> dict[str, Any]:
    """Zeros in the shape of all that is to be heard, for n examples: the cotangents at each use, or
    what it is reduced to, by the number of its step; and for what is inside a step likewise.
    `steps` are those of the scans around."""
    ears: dict[str, Any] = {}
    for i, step in enumerate(scope.steps):
        if step in slots:
            empty = slots[step].empty(step, n)
            ears[str(i)] = jax.tree.map(lambda x: jnp.zeros((*steps, *x.shape), x.dtype), empty)
        elif step.is_use:
            heard = [out for out in step.outs if out.is_inexact]
            ears[str(i)] = tuple(jnp.zeros((*steps, n, *out.shape), out.dtype) for out in heard)
        elif step.parts:
            more = (step.eqn.params["length"],) if step.name == "scan" else ()
            ears[str(i)] = [ears_of(part, n, slots, steps + more) for part in step.parts]
    return ears


def reduced_in(scope: Scope, heard: dict[str, Any], slots: Slots) -> dict[int, Any]:
    """What was reduced inside the backward pass, by the number of the parameter."""
    found: dict[int, Any] = {}
    for i, step in enumerate(scope.steps):
        if step in slots:
            found[slots[step].root] = heard[str(i)]
        elif step.parts:
            for part, inside in zip(step.parts, heard[str(i)], strict=True):
                reduced = reduced_in(part, inside, slots)
                # a reducer may have kept factors: those of the steps of a scan are stacked now
                found |= stack_factors(reduced) if step.name == "scan" else reduced
    return found


def heard_at_uses(scope: Scope, heard: dict[str, Any], slots: Slots) -> dict[str, Any]:
    """What was heard, without what was reduced inside the backward pass."""
    rest: dict[str, Any] = {}
    for name, part in heard.items():
        step = scope.steps[int(name)]
        if step.parts:
            both = zip(step.parts, part, strict=True)
            rest[name] = [heard_at_uses(inner, one, slots) for inner, one in both]
        elif step not in slots:
            rest[name] = part
    return rest


def run_scope(
    scope: Scope, inputs: Sequence[Any], ears: dict[str, Any], n: int, slots: Slots
) -> tuple[list[Any], dict[str, Any]]:
    """(outputs, what was kept at each use and inside each step): see `ears_of`."""
    env: dict[Var, Any] = dict(scope.consts)
    env.update(zip(scope.ins, inputs, strict=True))
    kept: dict[str, Any] = {}

    for i, step in enumerate(scope.steps):
        values = [env[v] for v in step.ins]
        if step.parts:
            outs, kept[str(i)] = _INSIDE[step.name](step, values, ears[str(i)], n, slots)
        elif step.eqn is None:
            outs = [on_all_examples(values[0], n)]
        elif step.is_plain:
            outs = bind(step.eqn, values)
        else:
            outs = on_examples(step, values)
        if step.is_use:
            floats = [y for y, out in zip(outs, step.outs, strict=True) if out.is_inexact]
            of_use = operands_kept(step, values, n)
            if step in slots:
                held = slots[step].held(step, env.__getitem__, of_use)
                heard = tap_into(step, slots[step], floats, ears[str(i)], held)
            else:
                heard = [tap(y, ear) for y, ear in zip(floats, ears[str(i)], strict=True)]
                kept[str(i)] = of_use
            rest = iter(heard)
            outs = [
                next(rest) if out.is_inexact else y for y, out in zip(outs, step.outs, strict=True)
            ]
        env.update(zip(step.outs, outs, strict=True))
    return [env[v] for v in scope.outs], kept


def on_examples(step: Step, values: Sequence[Any]) -> list[Any]:
    """The outputs of a step for every example."""
    axes = [0 if v.kind == Kind.DATA else None for v in step.ins]
    return jax.vmap(lambda *one: bind(step.eqn, one), axes)(*values)


def on_all_examples(value: Any, n: int) -> Array:
    """The same value for every example."""
    return jnp.broadcast_to(value, (n, *jnp.shape(value)))


def as_data(values: Sequence[Any], variables: Sequence[Var], n: int) -> list[Any]:
    """All of them with the examples on the first axis."""
    return [
        value if v.kind == Kind.DATA else on_all_examples(value, n)
        for value, v in zip(values, variables, strict=True)
    ]


# --- steps with others inside -------------------------------------------------------------------


def _scan(step: Step, values: list[Any], ears: list, n: int, slots: Slots) -> tuple[list[Any], Any]:
    body, params = step.parts[0], step.eqn.params
    held, carried, _ = scan_parts(step.eqn)
    first, last = held, held + carried
    start = [
        on_all_examples(value, n) if inside.kind == Kind.DATA and v.kind != Kind.DATA else value
        for value, v, inside in zip(
            values[first:last], step.ins[first:last], body.ins[first:last], strict=True
        )
    ]
    stepped = [
        jnp.moveaxis(value, 0, 1) if v.kind == Kind.DATA else value
        for value, v in zip(values[last:], step.ins[last:], strict=True)
    ]

    def one(carry, slices):
        xs, ears = slices
        outs, kept = run_scope(body, [*values[:held], *carry, *xs], ears, n, slots)
        outs = [
            on_all_examples(out, n) if v.kind == Kind.DATA and b.kind != Kind.DATA else out
            for out, v, b in zip(outs, step.outs, body.outs, strict=True)
        ]
        # what is carried and the same for all examples: derived values may depend on it
        fixed = [
            None if v.kind == Kind.DATA else c
            for c, v in zip(carry, body.ins[first:last], strict=True)
        ]
        return outs[:carried], (outs[carried:], pack_unique((kept, fixed)))

    end, (ys, kept) = lax.scan(
        one, start, (stepped, ears[0]), params["length"], params["reverse"], params["unroll"]
    )
    ys = [
        jnp.moveaxis(y, 0, 1) if v.kind == Kind.DATA else y
        for y, v in zip(ys, step.outs[carried:], strict=True)
    ]
    outs = [*end, *ys]
    inside, fixed = unpack_unique(kept)
    after = [None if v.kind == Kind.DATA else x for x, v in zip(outs, step.outs, strict=True)]
    return outs, ScanKept([inside], fixed, after)


def _checkpoint(
    step: Step, values: list[Any], ears: list, n: int, slots: Slots
) -> tuple[list[Any], Any]:
    body, params = step.parts[0], step.eqn.params

    def run(values, ears):
        outs, kept = run_scope(body, values, ears, n, slots)
        return as_data(outs, body.outs, n), kept

    again = jax.checkpoint(run, prevent_cse=params["prevent_cse"], policy=params["policy"])
    outs, kept = again(values, ears[0])
    return outs, [kept]


def _cond(step: Step, values: list[Any], ears: list, n: int, slots: Slots) -> tuple[list[Any], Any]:
    index, *values = values

    def branch(k):
        def run(values, ears):
            outs, kept = run_scope(step.parts[k], values, ears[k], n, slots)
            return as_data(outs, step.parts[k].outs, n), kept

        return run

    branches = [branch(k) for k in range(len(step.parts))]
    if step.ins[0].kind == Kind.DATA:  # each example chooses: all run, as under vmap
        results = [
            _for_some(step, k, jnp.clip(index, 0, len(branches) - 1) == k, run, values, ears)
            for k, run in enumerate(branches)
        ]
        choose = jax.vmap(lambda i, *cases: lax.select_n(_as_choice(i, len(cases)), *cases))
        outs = [choose(index, *cases) for cases in zip(*(r[0] for r in results), strict=True)]
        return outs, [kept for _, kept in results]
    shapes = [jax.eval_shape(run, values, ears)[1] for run in branches]

    def with_others(k):
        def run(values, ears):
            outs, kept = branches[k](values, ears)
            none = [jax.tree.map(_harmless, shape) for shape in shapes]
            return outs, [*none[:k], kept, *none[k + 1 :]]

        return run

    return lax.switch(index, [with_others(k) for k in range(len(branches))], values, ears)


def _for_some(step: Step, k: int, took: Array, run: Callable, values: list[Any], ears: list):
    """Branch k for the examples that take it. What it makes of the others may be NaN: none of that
    comes back, and none of it is kept."""

    def among(x, axis):
        return took.reshape(*(1,) * axis, -1, *(1,) * (x.ndim - axis - 1))

    def let_back(x, axis=0):
        return only_back(x, among(x, axis))

    def let_out(x, axis):
        return jnp.where(among(x, axis), x, _harmless(x)) if _is_inexact(x) else x

    given = [
        let_back(x) if v.kind == Kind.DATA and _is_inexact(x) else x
        for x, v in zip(values, step.ins[1:], strict=True)
    ]
    ears = [*ears[:k], map_uses(step.parts[k], ears[k], let_back), *ears[k + 1 :]]
    outs, kept = run(given, ears)
    return outs, map_uses(step.parts[k], kept, let_out)


@jax.custom_vjp
def only_back(x: Array, which: Array) -> Array:
    """x as it is; no cotangent comes back but where `which` is true, not 0 · NaN either."""
    return x


only_back.defvjp(
    lambda x, which: (x, which), lambda which, dx: (jnp.where(which, dx, jnp.zeros_like(dx)), None)
)


def _is_inexact(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def _harmless(x: Any) -> Array:
    """In the place of what was not kept, beside a cotangent of zero: 1, by which one can divide."""
    return jnp.ones(x.shape, x.dtype) if _is_inexact(x) else jnp.zeros(x.shape, x.dtype)


def map_uses(scope: Scope, tree: dict[str, Any], f: Callable[..., Any], scans: int = 0) -> Any:
    """f(array, number of axes before the examples) of all that belongs to a use inside a scope."""
    mapped: dict[str, Any] = {}
    for name, part in tree.items():
        step = scope.steps[int(name)]
        more = scans + (step.name == "scan")
        if isinstance(part, ScanKept):
            mapped[name] = part._replace(inside=[map_uses(step.parts[0], part.inside[0], f, more)])
        elif step.parts:
            both = zip(step.parts, part, strict=True)
            mapped[name] = [map_uses(inner, one, f, more) for inner, one in both]
        else:
            mapped[name] = jax.tree.map(lambda x: f(x, scans), part)
    return mapped


def _as_choice(index: Array, cases: int) -> Array:
    return index.astype(bool) if cases == 2 else jnp.clip(index, 0, cases - 1)


_INSIDE = {"scan": _scan, "cond": _cond} | dict.fromkeys(CHECKPOINTS, _checkpoint)
