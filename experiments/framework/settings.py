"""What a setting may be, said beside it: `epochs: Count = 12`.

    @dataclass(frozen=True)
    class Settings(Checked):
        epochs: Count = 12
        learning_rate: Above0 = 1e-3

`Settings(epochs=0)` is a ValueError: `NAME: epochs must be at least 1, got 0; the default is 12`.
What else holds between several is checked in a `__post_init__` that calls this one first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NoReturn, get_args, get_type_hints

import numpy as np


@dataclasses.dataclass(frozen=True)
class Bound:
    """What must hold of a value, in words and as a function, and what to do where it does not."""

    words: str
    holds: Callable[[Any], Any]
    hint: str = "the default is {default}"


@dataclasses.dataclass(frozen=True)
class NoMoreThan:
    """A number that must not be larger than another setting."""

    other: str


def at_least(least: int, hint: str = Bound.hint) -> Bound:
    """A number from `least` on; of several numbers each, and at least one."""
    return Bound(f"must be at least {least}", lambda v: np.size(v) and np.min(v) >= least, hint)


def within(low: float, high: float, words: str = "") -> Bound:
    """A number from `low` to `high`, both included; `words` say what `high` is."""
    words = f"must be in {low} … {high}{words and f', {words}'}"
    return Bound(words, lambda v: low <= v <= high)


_above_0 = Bound("must be above 0", lambda v: v > 0)
_not_negative = Bound("must not be negative", lambda v: v >= 0, "0 is none")

Count = Annotated[int, at_least(1)]
Counts = Annotated[tuple[int, ...], at_least(1)]
CountOr0 = Annotated[int, _not_negative]
Above0 = Annotated[float, _above_0]
NotNegative = Annotated[float, _not_negative]
Share = Annotated[float, Bound("is a share in [0, 1)", lambda v: 0 <= v < 1, "e.g. 0.1")]


class Checked:
    """Base of a dataclass of settings whose annotations say what each of them may be."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self), include_extras=True)
        for name, hint in hints.items():
            value = getattr(self, name)
            for bound in self._bounds(hint) if value is not None else ():
                if not bound.holds(value):
                    advice = bound.hint.format(default=self.default_of(name))
                    self.refuse(f"{name} {bound.words}, got {value}; {advice}")

    def default_of(self, name: str) -> Any:
        """What the setting is if it is not given."""
        return getattr(type(self), name)

    def refuse(self, why: str) -> NoReturn:
        """Raise a ValueError that begins with the name of the experiment."""
        path = type(self).__module__.removeprefix("experiments.").removesuffix(".settings")
        raise ValueError(f"{path}: {why}")

    def _bounds(self, hint: Any) -> Iterator[Bound]:
        """Those of `Annotated[…]`, also of one that stands in a union with None."""
        for part in (hint, *get_args(hint)):
            for note in getattr(part, "__metadata__", ()):
                if isinstance(note, NoMoreThan):
                    most = getattr(self, note.other)
                    words = f"must be at most {note.other} ({most})"
                    yield Bound(words, lambda v, most=most: v <= most, "take less")
                elif isinstance(note, Bound):
                    yield note
