"""What is known of a program before it runs: its steps, and what each value depends on.

A value is

- *fixed* if no gradient goes through it: constants, what all examples share, integers, what
  `stop_gradient` lets through;
- *derived* if it depends on parameters and on no example: the parameters themselves, their casts,
  transposes and concatenations, exp(A), W + AB. It is the same for all examples;
- *data* if it depends on the examples. There is one for each of them.

A parameter meets data in a *use*: a step that has derived inputs and data. The gradient of what is
derived follows from its uses alone, and that of the parameters from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from math import prod
from typing import Any

import jax.numpy as jnp
from jax.extend.core import Literal

from jaxdl.numerics.jaxprs import CALLS, CHECKPOINTS, constants, opened, scan_parts


class Kind(IntEnum):
    """What a value depends on; of two, the greater wins."""

    FIXED = 0
    DERIVED = 1
    DATA = 2


@dataclass(eq=False)
class Var:
    """A value of a scope, by its shape and dtype for one example."""

    aval: Any
    kind: Kind = Kind.FIXED
    loops: frozenset[int] = frozenset()
    """The scans, by depth, at whose steps it has another value; of data, nothing is said."""
    roots: frozenset[int] = frozenset()
    """The parameters that it depends on, by number; of data, nothing is said."""
    made_by: Step | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.aval.shape

    @property
    def dtype(self) -> Any:
        return self.aval.dtype

    @property
    def is_inexact(self) -> bool:
        return jnp.issubdtype(self.dtype, jnp.inexact)


@dataclass(eq=False)
class Step:
    """One equation: at other places, if it stood in a function that was called twice.

    `eqn` is None where a derived value becomes data: one copy for each example.
    """

    eqn: Any
    ins: list[Var]
    outs: list[Var]
    parts: list[Scope] = field(default_factory=list)
    """What is inside, if it is walked: the body of a scan or a checkpoint, the branches of a
    cond."""
    live: bool = True
    """Whether a gradient comes back to it."""

    @property
    def name(self) -> str:
        return "broadcast to the examples" if self.eqn is None else self.eqn.primitive.name

    @property
    def is_plain(self) -> bool:
        """Whether it depends on no example."""
        return all(v.kind < Kind.DATA for v in self.ins) and self.eqn is not None

    @property
    def is_use(self) -> bool:
        """Whether a derived value meets data here, in an equation that is not walked into."""
        if self.parts or not self.live:
            return False
        derived = any(v.kind == Kind.DERIVED for v in self.ins)
        return derived and not self.is_plain and any(out.is_inexact for out in self.outs)


@dataclass(eq=False)
class Scope:
    """The steps between inputs and outputs, of the program or of what is inside a step."""

    ins: list[Var]
    outs: list[Var]
    steps: list[Step]
    consts: dict[Var, Any]
    depth: int
    """How many scans are around it."""

    @property
    def uses(self) -> list[Step]:
        return [step for step in self.steps if step.is_use]

    @property
    def walked(self) -> list[Step]:
        """The steps that have scopes inside."""
        return [step for step in self.steps if step.parts]

    def drop_dead(self, outs: Sequence[Var]) -> None:
        """Mark the steps to which no gradient comes back from these outputs."""
        wanted = set(outs)
        for step in reversed(self.steps):
            step.live = step.name != "stop_gradient" and any(
                out in wanted and out.is_inexact for out in step.outs
            )
            if step.live:
                wanted.update(step.ins)
            elif all(out.kind == Kind.DATA for out in step.outs):
                step.parts = []
            else:  # a scan that also carries what is the same for all examples: that is still so
                for part in step.parts:
                    part.drop_dead(())


def walk_scopes(scope: Scope) -> Iterator[Scope]:
    """The scope and all scopes inside it, in order."""
    yield scope
    for step in scope.walked:
        for part in step.parts:
            yield from walk_scopes(part)


# --- reading a jaxpr ----------------------------------------------------------------------------


def read_scope(
    jaxpr: Any, ins: Sequence[Var], depth: int = 0, as_data: Sequence[bool] | None = None
) -> Scope:
    """What is known of a jaxpr with these inputs.

    Args:
      jaxpr: closed or not; the calls in it are written out.
      ins: its inputs.
      depth: how many scans are around it.
      as_data: for each output whether it must be data; by default all of them.
    """
    for var in ins:
        if var.kind == Kind.DERIVED and not var.is_inexact:
            var.kind = Kind.FIXED
    scope = Scope(list(ins), [], [], {}, depth)
    scope.outs = _read(scope, jaxpr, ins)
    wanted = [True] * len(scope.outs) if as_data is None else as_data
    scope.outs = [
        _enter_data(scope, out) if must else out
        for out, must in zip(scope.outs, wanted, strict=True)
    ]
    return scope


def _read(scope: Scope, jaxpr: Any, ins: Sequence[Var]) -> list[Var]:
    """Add the steps of a jaxpr to a scope; the values of its outputs."""
    env: dict[Any, Var] = {}
    inner = opened(jaxpr)

    def constant(aval: Any, value: Any) -> Var:
        v = Var(aval)
        scope.consts[v] = value
        return v

    for v, value in zip(inner.constvars, constants(jaxpr), strict=True):
        env[v] = constant(v.aval, value)
    env.update(zip(inner.invars, ins, strict=True))

    def look(atom: Any) -> Var:
        return constant(atom.aval, atom.val) if isinstance(atom, Literal) else env[atom]

    for eqn in inner.eqns:
        inputs = [look(atom) for atom in eqn.invars]
        if eqn.primitive.name in CALLS:
            outs = _read(scope, eqn.params[CALLS[eqn.primitive.name]], inputs)
        else:
            step = Step(eqn, inputs, [Var(v.aval) for v in eqn.outvars])
            _classify(scope, step)
            scope.steps.append(step)
            outs = step.outs
        env.update(zip(eqn.outvars, outs, strict=True))
    return [look(atom) for atom in inner.outvars]


def _classify(scope: Scope, step: Step) -> None:
    """Say what the outputs of a step depend on, and read what is inside it."""
    kind = max((v.kind for v in step.ins), default=Kind.FIXED)
    changes = frozenset().union(*(v.loops for v in step.ins))
    roots = frozenset().union(*(v.roots for v in step.ins))
    for out in step.outs:
        out.made_by, out.loops, out.roots = step, changes, roots
        nothing_flows = not out.is_inexact or step.name == "stop_gradient"
        out.kind = Kind.FIXED if kind == Kind.DERIVED and nothing_flows else kind
    mixed = kind == Kind.DATA and any(v.kind == Kind.DERIVED for v in step.ins)
    if mixed and step.name == "scan":
        _read_scan(scope, step)
    elif mixed and step.name in CHECKPOINTS:
        body = step.eqn.params["jaxpr"]
        step.parts = [_inside(scope, step, body, 0)]
    elif mixed and step.name == "cond":
        step.parts = [_inside(scope, step, body, 1) for body in step.eqn.params["branches"]]


def _given(v: Var) -> Var:
    """The input of what is inside a step, for a value that is given to it."""
    return replace(v, made_by=None)


def _inside(scope: Scope, step: Step, jaxpr: Any, first: int) -> Scope:
    return read_scope(jaxpr, [_given(v) for v in step.ins[first:]], scope.depth)


def _read_scan(scope: Scope, step: Step) -> None:
    """Read the body of a scan. What it carries is data, or fixed and the same for all examples.

    A derived value that is carried is made data: only its first value is that of a parameter.
    """
    held, carried, _ = scan_parts(step.eqn)
    jaxpr, depth = step.eqn.params["jaxpr"], scope.depth + 1
    avals = [v.aval for v in opened(jaxpr).invars]
    first = [_given(v) for v in step.ins[held : held + carried]]
    kinds = [Kind.DATA if v.kind == Kind.DERIVED else v.kind for v in first]
    loops = [v.loops for v in first]

    def read(as_data: list[bool]) -> Scope:
        ins = [replace(_given(v), aval=a) for v, a in zip(step.ins, avals, strict=True)]
        for v in ins[held:]:
            v.loops |= {depth}
        for v, kind, changes in zip(ins[held : held + carried], kinds, loops, strict=True):
            v.kind, v.loops = kind, changes | {depth}
        return read_scope(jaxpr, ins, depth, as_data)

    while True:
        outs = read([False] * len(step.outs)).outs
        found = [out.kind for out in outs]
        grown = [
            Kind.FIXED if k == f == Kind.FIXED else Kind.DATA
            for k, f in zip(kinds, found[:carried], strict=True)
        ]
        # what is carried changes with all that its next value is made of
        changing = [c | out.loops for c, out in zip(loops, outs[:carried], strict=True)]
        if (grown, changing) == (kinds, loops):
            break
        kinds, loops = grown, changing
    is_data = [k != Kind.FIXED for k in (*kinds, *found[carried:])]
    step.parts = [read(is_data)]
    step.ins[held : held + carried] = [
        _enter_data(scope, v) if data else v
        for v, data in zip(step.ins[held : held + carried], is_data, strict=False)
    ]
    for out, data in zip(step.outs, is_data, strict=True):
        out.kind = Kind.DATA if data else Kind.FIXED


def _enter_data(scope: Scope, v: Var) -> Var:
    """A derived value as data: a use of its own. What is fixed is copied when it is needed."""
    if v.kind != Kind.DERIVED:
        return v
    step = Step(None, [v], [Var(v.aval, Kind.DATA, roots=v.roots)])
    step.outs[0].made_by = step
    scope.steps.append(step)
    return step.outs[0]


def size_of(v: Var) -> int:
    """How many numbers a value has, for one example."""
    return prod(v.aval.shape)
