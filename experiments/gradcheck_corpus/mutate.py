"""One change in one equation of a traced function: what a slip of the pen does to a rule.

A change is addressed by primitive and number (the third `mul`, counted through inner jaxprs), so
that the changed function can be traced anew in any dtype and under any transform. Where a rule
has a branch for each platform, only that of the platform at hand is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from experiments.gradcheck_corpus.operators import OPERATORS, ZEROED, Operator, bind

_INLINED = ("jit", "closed_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call")


@dataclass(frozen=True)
class Change:
    """An operator at one equation, or at one output (`primitive` is 'output')."""

    operator: Operator
    primitive: str
    number: int

    @property
    def label(self) -> str:
        """Such as 'a factor dropped, mul 2'."""
        return f"{self.operator.name}, {self.primitive} {self.number}"


# --- walking ------------------------------------------------------------------------------------


def _open(jaxpr: Any) -> Any:
    return getattr(jaxpr, "jaxpr", jaxpr)


def _platform(eqn: Any) -> int:
    """Which branch of a `platform_index` is that of this platform."""
    for i, names in enumerate(eqn.params["platforms"]):
        if names is None or jax.default_backend() in names:
            return i
    raise LookupError(f"mutate: no branch for {jax.default_backend()} among {eqn.params}")


def _inner(eqn: Any, branches: dict[Any, int]) -> Any:
    """The one jaxpr inside an equation that is walked into; None where there is none."""
    if eqn.primitive.name == "cond":
        index = branches.get(eqn.invars[0]) if isinstance(eqn.invars[0], core.Var) else None
        return None if index is None else eqn.params["branches"][index]
    if eqn.primitive.name in (*_INLINED, "scan"):
        return next((v for v in eqn.params.values() if hasattr(_open(v), "eqns")), None)
    return None


def equations(jaxpr: Any, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Every equation and the way to it, outer ones first."""
    branches: dict[Any, int] = {}
    for i, eqn in enumerate(_open(jaxpr).eqns):
        if eqn.primitive.name == "platform_index":
            branches[eqn.outvars[0]] = _platform(eqn)
        yield (*path, i), eqn
        inner = _inner(eqn, branches)
        if inner is not None:
            yield from equations(inner, (*path, i))


def evaluate(
    jaxpr: Any, args: list[Any], operator: Operator | None = None, path: tuple[int, ...] = ()
) -> list[Any]:
    """The jaxpr's results, with `operator` at the equation at the end of `path`."""
    consts, jaxpr = list(getattr(jaxpr, "consts", ())), _open(jaxpr)
    values: dict[Any, Any] = {}
    values.update(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))
    branches: dict[Any, int] = {}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values.get(atom)

    for i, eqn in enumerate(jaxpr.eqns):
        inputs = [read(atom) for atom in eqn.invars]
        if eqn.primitive.name == "platform_index":
            branches[eqn.outvars[0]] = _platform(eqn)
            continue
        inner, here = _inner(eqn, branches), path[:1] == (i,)
        if here and len(path) == 1 and operator is not None:
            outputs = operator.run(eqn, inputs)
        elif eqn.primitive.name == "cond" and inner is not None:
            outputs = evaluate(inner, inputs[1:], operator, path[1:] if here else ())
        elif here and eqn.primitive.name == "scan":
            outputs = bind(eqn, inputs, jaxpr=_changed_body(inner, operator, path[1:]))
        elif here:
            outputs = evaluate(inner, inputs, operator, path[1:])
        else:
            outputs = bind(eqn, inputs)
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


@lru_cache(maxsize=8)  # a body at many points: traced, and compiled, once
def _changed_body(body: Any, operator: Operator | None, path: tuple[int, ...]) -> Any:
    return jax.make_jaxpr(lambda *args: evaluate(body, list(args), operator, path))(*body.in_avals)


def changes(jaxpr: Any) -> list[Change]:
    """Every change that can be made in a jaxpr."""
    found, counts = [], dict[str, int]()
    for _, eqn in equations(jaxpr):
        name = eqn.primitive.name
        number = counts[name] = counts.get(name, -1) + 1
        found += [Change(op, name, number) for op in OPERATORS if op.applies(eqn)]
    for i, aval in enumerate(jaxpr.out_avals):
        if jnp.issubdtype(aval.dtype, jnp.floating):
            found.append(Change(ZEROED, "output", i))
    return found


def apply(jaxpr: Any, args: list[Any], change: Change) -> list[Any]:
    """The jaxpr's results with the change made.

    Raises:
      LookupError: there is no such equation.
    """
    if change.operator is ZEROED:
        outputs = evaluate(jaxpr, args)
        outputs[change.number] = jnp.zeros_like(outputs[change.number])
        return outputs
    ways = [path for path, eqn in equations(jaxpr) if eqn.primitive.name == change.primitive]
    if change.number >= len(ways):
        raise LookupError(f"mutate: no {change.primitive} {change.number}, there are {len(ways)}")
    return evaluate(jaxpr, args, change.operator, ways[change.number])


def changed(f: Callable[..., Any], change: Change) -> Callable[..., Any]:
    """A function of arrays, in any pytrees, with one equation of it changed."""

    def call(*args: Any) -> Any:
        jaxpr, shape = jax.make_jaxpr(f, return_shape=True)(*args)
        return jax.tree.unflatten(
            jax.tree.structure(shape), apply(jaxpr, jax.tree.leaves(args), change)
        )

    return call
