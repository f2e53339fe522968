"""When two layers, losses or optimisers built apart are the same.

JAX compiles anew for every function that it has not met, and compares functions as objects. A model
that is built twice is made of new functions twice, so that everything around it would be compiled
twice. Two things are the same here if they were built by the same code with equal settings:

- a function that jaxdl, optax or JAX makes when it is called (a combinator's `fwd`, an optimiser's
  `update`, an initializer), if its code is the same and what it has captured is. These libraries
  set captured values once;
- a `functools.partial` of one function, if its arguments are the same; so are tuples of the same
  things, and numbers and strings of one type that are equal.

Everything else is the same only as an object, a user's own function above all: what it refers to
may have changed since it was compiled. Then a program is compiled once more than it must.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import Enum
from types import CodeType, FunctionType, MethodType
from typing import Any, TypeVar

import numpy as np

_BUILT_ONCE = ("jaxdl", "optax", "jax")
"""Packages whose functions do not change what they have captured."""
_VALUES = (int, str, bytes, type(None), CodeType, Enum, np.dtype)
_NUMBERS = (float, complex, np.generic)


def same(a: Any, b: Any) -> bool:
    """Whether `a` and `b` were built alike, so that one may run in the place of the other."""
    # Pairs met before are the same, or the answer is no already: without this a model's depth
    # would cost exponential time.
    met, keep, waiting = set(), [], [(a, b)]
    while waiting:
        a, b = waiting.pop()
        if a is b or (id(a), id(b)) in met:
            continue
        met.add((id(a), id(b)))
        if type(a) is not type(b):
            return False
        parts, others = _parts(a), _parts(b)
        if parts is None or others is None or len(parts) != len(others):
            if parts is not others or not _equal(a, b):
                return False
            continue
        keep.append((parts, others))  # an id is that of a living object only
        waiting += zip(parts, others, strict=True)
    return True


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, _NUMBERS):
        return repr(a) == repr(b)  # 0.0 is not −0.0 here, and NaN is NaN
    return isinstance(a, _VALUES) and a == b


def fingerprint(value: Any) -> int:
    """A hash that agrees with `same`."""
    if isinstance(value, FunctionType):
        return hash(value.__code__)  # not what it has captured, which seldom tells two apart
    if isinstance(value, (SameByParts, *_VALUES)):
        return hash(value)
    if isinstance(value, _NUMBERS):
        return hash(repr(value))
    parts = _parts(value)
    return id(value) if parts is None else hash((type(value), *map(fingerprint, parts)))


def _parts(value: Any) -> tuple | None:
    """What a value is made of, where that decides whether it is the same as another."""
    if isinstance(value, FunctionType):
        if value.__module__.partition(".")[0] not in _BUILT_ONCE:
            return None
        cells = value.__closure__ or ()
        captured = (cell.cell_contents if _is_filled(cell) else _EMPTY for cell in cells)
        marks = _items(value.__kwdefaults__), _items(value.__dict__)
        return value.__code__, value.__defaults__, *marks, *captured
    if isinstance(value, functools.partial):
        return value.func, value.args, _items(value.keywords), _items(value.__dict__)
    if isinstance(value, MethodType) and isinstance(value.__self__, SameByParts):
        return value.__func__, value.__self__
    if isinstance(value, SameByParts):
        return tuple(getattr(value, field.name) for field in fields(value))  # type: ignore[arg-type]
    return tuple(value) if isinstance(value, tuple) else None


_EMPTY = object()


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _items(mapping: Any) -> tuple:
    return tuple(sorted((mapping or {}).items()))


class SameByParts:
    """Base of frozen dataclasses that are equal if their fields are the `same`."""

    def __eq__(self, other: object) -> bool:
        return self is other or (type(self) is type(other) and same(self, other))

    def __hash__(self) -> int:
        known = self.__dict__.get("_hash")
        if known is None:
            parts = (getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]
            known = hash((type(self), *map(fingerprint, parts)))
            object.__setattr__(self, "_hash", known)
        return known

    def __getstate__(self):
        # hashes of strings differ from process to process
        return {name: value for name, value in self.__dict__.items() if name != "_hash"}


@dataclass(frozen=True, eq=False)
class _Call(SameByParts):
    args: tuple
    kwargs: tuple


Made = TypeVar("Made", bound=Callable[..., Any])


def made_once(make: Made) -> Made:
    """`make`, returning the same object again for arguments that are the `same`.

    For makers of functions: jit then knows the function that it is given, and has it compiled. The
    last 16 are kept, with what they were made of.
    """

    @functools.lru_cache(maxsize=16)
    def call(key: _Call):
        return make(*key.args, **dict(key.kwargs))

    @functools.wraps(make)
    def once(*args, **kwargs):
        return call(_Call(args, _items(kwargs)))

    return once  # type: ignore[return-value]
