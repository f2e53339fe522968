"""Walking a jaxpr: its equations, those inside them, and what differs between versions of JAX."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax

_HOME = os.path.dirname(os.path.abspath(jax.__file__)) + os.sep

# Calls that mean nothing but "evaluate this", and the parameter that holds what.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "core_closed_call": "call_jaxpr",
}
CHECKPOINTS = ("remat2", "checkpoint", "remat")


class UnknownEquation(Exception):
    """An equation of a form that this version of the walker does not know; the text says which."""


def opened(jaxpr: Any) -> Any:
    """Without its constants, if it is closed over some."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def constants(jaxpr: Any) -> list[Any]:
    """What a jaxpr is closed over."""
    return list(getattr(jaxpr, "consts", ()) or ())


def is_jaxpr(value: Any) -> bool:
    """Whether a parameter of an equation is a jaxpr."""
    return hasattr(opened(value), "eqns")


def inner_jaxprs(eqn: Any) -> Iterator[Any]:
    """The jaxprs among the parameters of an equation."""
    for value in eqn.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if is_jaxpr(part):
                yield part


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a jaxpr, those inside other equations too."""
    for eqn in opened(jaxpr).eqns:
        yield eqn
        for inner in inner_jaxprs(eqn):
            yield from equations(inner)


def scan_parts(eqn: Any) -> tuple[int, int, int]:
    """How many inputs of a scan are held, carried, and stepped through.

    Raises:
      UnknownEquation: this version of JAX keeps them somewhere else.
    """
    params = eqn.params
    if "num_consts" in params:
        held, carried = params["num_consts"], params["num_carry"]
        return held, carried, len(eqn.invars) - held - carried
    try:  # since 0.12 a tree stands in their place
        held, carried, stepped = (len(part) for part in params["ft_in"].unpack())
    except (KeyError, AttributeError, TypeError, ValueError):
        raise UnknownEquation(
            f"scan: its parts are found in num_consts and num_carry, or in ft_in, got the "
            f"parameters {sorted(params)}; this version of JAX is not known yet"
        ) from None
    return held, carried, stepped


def bind(eqn: Any, inputs: Sequence[Any], params: dict[str, Any] | None = None) -> list[Any]:
    """The outputs of an equation at other inputs, and with other parameters if they are given."""
    params = eqn.params if params is None else params
    out = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(params))
    return list(out) if eqn.primitive.multiple_results else [out]


def where(eqn: Any) -> str:
    """Where an equation was written, as " at FILE:LINE (FUNCTION)"; "" if that is not known."""
    frames = getattr(getattr(eqn.source_info, "traceback", None), "frames", ())
    for frame in frames:
        if not os.path.abspath(frame.file_name).startswith(_HOME):
            return f" at {frame.file_name}:{frame.line_num} ({frame.function_name})"
    return ""
