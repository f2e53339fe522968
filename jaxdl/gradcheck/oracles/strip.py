"""The stripped primal: a function without the hand-written rules that belong to it.

What is left is differentiated by JAX alone and says what the rules should have given. Rules of JAX
itself (relu, logsumexp, ...) stay: they are part of the language in which the primal is written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

from jaxdl.numerics.jaxprs import (
    UnknownEquation,
    bind,
    constants,
    equations,
    inner_jaxprs,
    is_jaxpr,
    opened,
    scan_parts,
)

RULES = ("custom_jvp_call", "custom_vjp_call")
# Calls that mean nothing but "evaluate this": they are written out in place.
_INLINED = ("jit", "closed_call", "remat2")
_HOME = os.path.dirname(os.path.abspath(jax.__file__)) + os.sep


class CannotStrip(Exception):
    """The rule is in a place that cannot be rebuilt without it; the message says which."""


def is_foreign_rule(eqn: Any) -> bool:
    """Whether an equation calls a custom rule that is not JAX's own.

    JAX's own are those of which function and rule were both written in its files; but what it wraps
    for `jax.custom_gradient`, which it does not use itself, is the user's.
    """
    if eqn.primitive.name not in RULES:
        return False
    files = list(_files(eqn))
    if not files or files[0].endswith("custom_derivatives.py"):
        return True
    return not all(file.startswith(_HOME) for file in files)


def is_foreign_stop(eqn: Any) -> bool:
    """Whether an equation is a `stop_gradient` that no function of JAX, such as softmax, wrote."""
    if eqn.primitive.name != "stop_gradient":
        return False
    frames = getattr(getattr(eqn.source_info, "traceback", None), "frames", ())
    called = [i for i, frame in enumerate(frames) if frame.function_name == "stop_gradient"]
    callers = (frame.file_name for frame in frames[called[-1] + 1 :]) if called else ()
    # it may have been mapped over a tree
    caller = next((file for file in callers if not file.endswith("tree_util.py")), "")
    return not os.path.abspath(caller).startswith(_HOME)


def _files(eqn: Any) -> Iterator[str]:
    """Where the function under a rule (first), and the rule, were written."""
    parts = [opened(jaxpr) for jaxpr in inner_jaxprs(eqn)] + list(eqn.params.values())
    for part in parts:
        info = getattr(part, "debug_info", None)
        found = re.search(r" at (.*):\d+$", str(getattr(info, "func_src_info", "")))
        if found:
            yield os.path.abspath(found.group(1))


def rule_names(jaxpr: Any) -> list[str]:
    """The functions with a foreign rule, in order, each once."""
    names = {}
    for eqn in filter(is_foreign_rule, equations(jaxpr)):
        for inner in inner_jaxprs(eqn):
            info = getattr(opened(inner), "debug_info", None)
            names[str(getattr(info, "func_src_info", "?")).split(" at ")[0]] = None
            break
    return list(names)


def has_rule(jaxpr: Any) -> bool:
    """Whether a foreign rule is called anywhere in it."""
    return any(map(is_foreign_rule, equations(jaxpr)))


def strip(f: Callable[..., Any], further: int = 0) -> Callable[..., Any]:
    """f without foreign rules: array arguments only, the same results.

    Further steps are taken by every loop that carries a state alone, after its last: what changes
    by them tells how far an iteration is from where it goes.

    Raises (when called):
      CannotStrip: a rule inside an equation that this version of JAX does not let us rebuild.
    """

    def stripped(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(f, return_shape=True)(*args)
        flat = _evaluate(closed, jax.tree.leaves(args), further)
        return jax.tree.unflatten(jax.tree.structure(shape), flat)

    return stripped


def iterates(jaxpr: Any) -> bool:
    """Whether a loop in it carries a state alone, as iterations to a solution do."""
    return any(map(_carries_alone, equations(jaxpr)))


def _carries_alone(eqn: Any) -> bool:
    if eqn.primitive.name == "while":
        return True
    if eqn.primitive.name != "scan":
        return False
    try:
        consts, carry, others = scan_parts(eqn)
    except UnknownEquation:
        return False
    return others == 0 and carry == len(eqn.outvars) and consts + carry > 0


def _steps(eqn: Any, inputs: list[Any], state: list[Any], number: int) -> list[Any]:
    """The body of a loop, on the state that it ended with."""
    params = eqn.params
    if eqn.primitive.name == "while":
        first, body = params["cond_nconsts"], params["body_jaxpr"]
        held = inputs[first : first + params["body_nconsts"]]
    else:
        held, body = inputs[: scan_parts(eqn)[0]], params["jaxpr"]
    for _ in range(number):
        state = _evaluate(body, [*held, *state])
    return state


def _evaluate(jaxpr: Any, args: list[Any], further: int = 0) -> list[Any]:
    consts, jaxpr = constants(jaxpr), opened(jaxpr)
    values: dict[Any, Any] = {}
    values.update(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        inside = list(inner_jaxprs(eqn))
        to_open = _holds_rule(inside) or (further and any(map(iterates, inside)))
        if is_foreign_rule(eqn) or (to_open and eqn.primitive.name in _INLINED):
            outputs = _evaluate(inside[0], inputs, further)
        elif eqn.primitive.name == "shard_map" and _holds_rule(inside):
            outputs = _in_shards(eqn, inside[0], inputs)
        else:
            params = _rebuilt(eqn) if _holds_rule(inside) else eqn.params
            outputs = bind(eqn, inputs, params)
            if further and _carries_alone(eqn):
                outputs = _steps(eqn, inputs, outputs, further)
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _in_shards(eqn: Any, body: Any, inputs: list[Any]) -> list[Any]:
    """A shard_map again, its body stripped; its parameters are those of the public function."""
    params = eqn.params
    axes = params.get("newly_manual_axes", params.get("manual_axes"))
    if axes is None:
        raise CannotStrip("a custom rule inside a shard_map of another version of JAX")
    return jax.shard_map(
        lambda *args: _evaluate(body, list(args)),
        mesh=params["mesh"],
        in_specs=tuple(params["in_specs"]),
        out_specs=list(params["out_specs"]),
        axis_names=set(axes),
        check_vma=params["check_vma"],
    )(*inputs)


def _holds_rule(jaxprs: list[Any]) -> bool:
    return any(map(has_rule, jaxprs))


def _rebuilt(eqn: Any) -> dict[str, Any]:
    """The parameters of a loop or a branch, the jaxprs in them stripped."""

    def new(jaxpr: Any) -> Any:
        if not is_jaxpr(jaxpr) or not has_rule(jaxpr):
            return jaxpr
        if eqn.primitive.name not in ("scan", "while", "cond"):
            raise CannotStrip(f"a custom rule inside {eqn.primitive.name}")
        return jax.make_jaxpr(lambda *args: _evaluate(jaxpr, list(args)))(*jaxpr.in_avals)

    return {
        name: type(value)(map(new, value)) if isinstance(value, tuple | list) else new(value)
        for name, value in eqn.params.items()
    }


def rules(f: Callable[..., Any], *args: Any) -> list[str]:
    """The functions with a hand-written rule, not JAX's own, that f calls at these arguments."""
    return rule_names(jax.make_jaxpr(f)(*args))
