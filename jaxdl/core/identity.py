"""When two functions, two layers or two optimisers built apart are the same.

JAX compiles anew for every function that it has not met, and compares functions as objects. A model
that is built twice is made of new functions twice, so that everything around it would be compiled
twice. Here two functions are the same if they run the same code with the same globals and have
captured the same values: numbers and strings of one type that are equal, functions and layers that
are the same in turn. What can be changed in place (lists, dicts, arrays) is the same only as an
object, and so is everything that is not known: then a program is compiled once more than it must.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from types import FunctionType, MethodType
from typing import Any, TypeVar


def same(a: Any, b: Any) -> bool:
    """Whether `a` and `b` do the same, as far as can be known without running them."""
    # Pairs met before are the same, or the answer is no already: without this a model's depth
    # would cost exponential time, and a function that refers to itself would not end.
    met, keep, waiting = set(), [], [(a, b)]
    while waiting:
        a, b = waiting.pop()
        if a is b or (id(a), id(b)) in met:
            continue
        met.add((id(a), id(b)))
        parts, others = _parts(a), _parts(b)
        if type(a) is not type(b):
            return False
        if parts is None or others is None:
            if not _equal(a, b):
                return False
        elif len(parts) != len(others):
            return False
        else:
            keep.append((parts, others))  # an id is that of a living object only
            waiting += zip(parts, others, strict=True)
    return True


def _equal(a: Any, b: Any) -> bool:
    """Whether two values that are not taken apart are equal, and will be."""
    if isinstance(a, float):
        return repr(a) == repr(b)  # 0.0 is not −0.0 here, and NaN is NaN
    try:
        hash(a)
        return bool(a == b)
    except Exception:  # what has no hash may change; what cannot be compared is not the same
        return False


def fingerprint(value: Any) -> int:
    """A hash that agrees with `same`."""
    if isinstance(value, FunctionType):
        return hash(value.__code__)  # not what it has captured, which seldom tells two apart
    if isinstance(value, float):
        return hash(repr(value))
    parts = None if isinstance(value, SameByParts) else _parts(value)
    if parts is not None:
        return hash((type(value), *map(fingerprint, parts)))
    try:
        return hash(value)
    except TypeError:
        return id(value)


_EMPTY = object()


def _parts(value: Any) -> tuple | None:
    """What a value is made of, where that decides whether it is the same as another."""
    if isinstance(value, FunctionType):
        return (
            value.__code__,
            _Itself(value.__globals__),
            value.__defaults__,
            _items(value.__kwdefaults__),
            tuple(_captured(cell) for cell in value.__closure__ or ()),
        )
    if isinstance(value, functools.partial):
        return value.func, value.args, _items(value.keywords)
    if isinstance(value, MethodType):
        return value.__func__, value.__self__
    if isinstance(value, SameByParts):
        return tuple(getattr(value, field.name) for field in fields(value))  # type: ignore[arg-type]
    if isinstance(value, tuple):
        return tuple(value)
    return None


def _items(mapping: Any) -> tuple:
    return tuple(sorted((mapping or {}).items()))


def _captured(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return _EMPTY


class _Itself:
    """Equal to another one of the very same object."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


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


@dataclass(frozen=True, eq=False)
class _Call(SameByParts):
    args: tuple
    kwargs: tuple


Made = TypeVar("Made", bound=Callable[..., Any])


def made_once(make: Made) -> Made:
    """`make`, returning the same object again for arguments that are the `same`.

    For makers of functions: jit then knows the function that it is given, and has it compiled. The
    last 64 are kept.
    """

    @functools.lru_cache(maxsize=64)
    def call(key: _Call):
        return make(*key.args, **dict(key.kwargs))

    @functools.wraps(make)
    def once(*args, **kwargs):
        return call(_Call(args, _items(kwargs)))

    return once  # type: ignore[return-value]
