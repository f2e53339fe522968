"""What a reducer is, and whether it needs the examples of a batch apart."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jax import Array

from jaxdl.core.factor import Factor

Factors = Mapping[str, Factor]
Reducer = Callable[[dict[str, Array], Factors, Any], Any]


R = TypeVar("R", bound=Callable[..., Any])


def per_example(reducer: R) -> R:
    """Say of a reducer that it needs the examples apart: layers that mix them refuse it by path."""
    try:
        reducer.needs_examples = True  # type: ignore[attr-defined]
    except AttributeError:  # a method, say
        reducer = functools.partial(reducer)  # type: ignore[assignment]
        reducer.needs_examples = True  # type: ignore[attr-defined]
    return reducer


def needs_examples(reducer: Callable[..., Any]) -> bool:
    """Whether a reducer has said that it needs the examples apart."""
    if hasattr(reducer, "needs_examples"):
        return reducer.needs_examples  # type: ignore[attr-defined]
    return isinstance(reducer, functools.partial) and needs_examples(reducer.func)


def like_reducer(reducer: Callable[..., Any]) -> Callable[[R], R]:
    """Say of a reducer that it needs the examples apart if `reducer` does, which it stands for."""
    return per_example if needs_examples(reducer) else lambda stand_in: stand_in
