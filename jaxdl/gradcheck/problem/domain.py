"""Where a function is checked: draws of sizes, dtypes and hyper-parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np

from jaxdl.gradcheck.problem.problem import GradcheckError

_PATTERNS = 3


class Domain:
    """Arguments of many sizes, dtypes and hyper-parameters, for `check(f, samples=domain)`.

    Sizes are drawn pairwise distinct, one of them smallest, or next to powers of two, in turn;
    every value of a short list comes up. A draw that fails is made smaller.

    Args:
      make: of a `numpy.random.Generator` and one choice for every name, the arguments, a tuple.
      draws: how many are checked.
      **choices: for every name the values that it can have, the simplest first, such as
        ``n=range(1, 65)``, ``dtype=("float32", "bfloat16")``, ``causal=(False, True)``.

    Raises:
      GradcheckError: no draws, or a name without values.
    """

    def __init__(
        self, make: Callable[..., tuple[Any, ...]], *, draws: int = 6, **choices: Sequence[Any]
    ):
        if not callable(make):
            raise GradcheckError(
                f"Domain: make must be a function that returns arguments, got {make!r}"
            )
        if not isinstance(draws, int) or draws < 1:
            raise GradcheckError(f"Domain: draws must be a whole number from 1, got {draws!r}")
        for name, values in choices.items():
            if isinstance(values, str) or not isinstance(values, Sequence) or not len(values):
                raise GradcheckError(
                    f"Domain: {name} must be a sequence of the values it can have, such as "
                    f"range(1, 65), got {values!r}"
                )
        self.make, self.draws, self.choices = make, draws, dict(choices)

    def draw(self, i: int, seed: int = 0) -> dict[str, Any]:
        """The choices of the i-th draw."""
        rng = np.random.default_rng([seed, i, 23])
        names = list(self.choices)
        sizes = [n for n in names if _is_size(self.choices[n])]
        smallest = sizes[i // _PATTERNS % len(sizes)] if sizes and i % _PATTERNS == 1 else None
        chosen: dict[str, Any] = {}
        for position, name in enumerate(names):
            values = self.choices[name]
            if name not in sizes:
                chosen[name] = values[(i + position) % len(values)]
                continue
            if name == smallest:
                chosen[name] = values[0]
                continue
            fresh = [v for v in values if v not in chosen.values()] or list(values)
            if i % _PATTERNS == 2:
                fresh = [v for v in fresh if v > 2 and _beside_a_power(v)] or fresh
            chosen[name] = fresh[int(rng.integers(len(fresh)))]
        return chosen

    def args(self, choices: Mapping[str, Any], seed: int = 0) -> tuple[Any, ...]:
        """The arguments for some choices.

        Raises:
          GradcheckError: make returns no tuple.
        """
        rng = np.random.default_rng([seed, crc32(name_of(choices).encode())])
        args = self.make(rng, **choices)
        if not isinstance(args, tuple):
            raise GradcheckError(
                f"Domain: make must return a tuple of arguments, got {type(args).__name__} at "
                f"{name_of(choices)}; for a single one write (x,)"
            )
        return args

    def points(self, seed: int = 0) -> Iterator[tuple[dict[str, Any], tuple[Any, ...]]]:
        """Choices and arguments of all draws, each once."""
        seen = []
        for i in range(self.draws):
            choices = self.draw(i, seed)
            if choices not in seen:
                seen.append(choices)
                yield choices, self.args(choices, seed)


def name_of(choices: Mapping[str, Any]) -> str:
    """For messages."""
    return ", ".join(f"{n}={v}" for n, v in choices.items()) or "drawn"


def _is_size(values: Sequence[Any]) -> bool:
    whole = all(isinstance(v, int) and not isinstance(v, bool) for v in values)
    return whole and len(values) > 3


def _beside_a_power(value: int) -> bool:
    return any(n & (n - 1) == 0 for n in (value - 1, value + 1))
