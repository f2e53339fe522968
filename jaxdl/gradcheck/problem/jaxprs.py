"""Walking a jaxpr: its equations, and those inside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def opened(jaxpr: Any) -> Any:
    """Without its constants, if it is closed over some."""
    return getattr(jaxpr, "jaxpr", jaxpr)


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
