"""What takes long: a sample of it runs every day, the rest by `--long` (see conftest.py)."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest


def sampled(
    entries: Iterable[Any], daily: Collection[str], name: Callable[[Any], str] = str
) -> list[Any]:
    """For `parametrize`: those that are not in the sample of every day are marked as long."""
    return [
        pytest.param(entry, id=name(entry), marks=() if name(entry) in daily else pytest.mark.long)
        for entry in entries
    ]
