"""The simplest choices that still fail, and where the border runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Fails = Callable[[Mapping[str, Any]], bool]


def smallest(
    fails: Fails, start: Mapping[str, Any], choices: Mapping[str, Sequence[Any]], trials: int
) -> tuple[dict[str, Any], str]:
    """The simplest choices that fail, one name after the other, and where the border runs.

    Args:
      fails: whether some choices fail.
      start: choices that do.
      choices: for every name its values, the simplest first.
      trials: how often `fails` may be called.

    Returns:
      The choices, and "fails at n=9, passes at n=8" for the last name with a border; else "".
    """
    now, border = dict(start), ""
    for name, values in choices.items():
        values = list(values)
        low, high = -1, values.index(now[name])  # the last that passes, the first that fails
        trial = 0
        while low + 1 < high and trials > 0:
            trials -= 1
            if fails({**now, name: values[trial]}):
                high = trial
            else:
                low = trial
            trial = (low + high) // 2
        now[name] = values[high]
        if low >= 0 and low + 1 == high:
            border = f"fails at {name}={values[high]}, passes at {name}={values[low]}"
    return now, border
