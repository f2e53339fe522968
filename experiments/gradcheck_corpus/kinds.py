"""What the corpus is made of: right functions, and pairs of a right rule and wrong ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Rule = Callable[..., Any]
MakeArgs = Callable[[np.random.Generator, Any], tuple[Any, ...]]
"""Of random numbers and a floating-point dtype: the arguments."""

DTYPES = ("float32", "float64", "bfloat16")


@dataclass(frozen=True)
class Function:
    """A function whose gradient is right, and how to draw arguments for it."""

    name: str
    f: Rule
    make_args: MakeArgs
    dtypes: tuple[str, ...] = DTYPES
    """In which it is defined."""
    why_not: str = ""
    """Why a dtype is missing from `dtypes`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `check` that its users would give, such as `expect`."""


@dataclass(frozen=True)
class Mistake:
    """A wrong twin: the whole function with its wrong rule."""

    f: Rule
    leaf: str = "args[0]"
    """The path at which every leaf begins whose gradient is wrong; '' where no leaf is: the output
    is, or the gradient's own derivative by the cotangent, or JAX gives none at all, or it depends
    on how the function is called."""
    diagnosis: str | None = None
    """A piece of the sentence that names the mistake, as a regular expression; None where no
    transform of the right gradient gives the wrong one."""
    source: str = ""
    """Where a rule with this mistake was shipped."""


@dataclass(frozen=True)
class Pair:
    """A right rule and wrong ones that differ from it by one mistake each."""

    name: str
    f: Rule
    """With the right rule."""
    make_args: MakeArgs
    mistakes: Mapping[str, Mistake]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `check`, for the right twin and the wrong ones."""


def ruled(f: Rule, fwd: Rule, bwd: Rule, nondiff: tuple[int, ...] = ()) -> Rule:
    """f with that rule, as `jax.custom_vjp` has it."""
    made = jax.custom_vjp(f, nondiff_argnums=nondiff)
    made.defvjp(fwd, bwd)
    return made


def normal(rng: np.random.Generator, dtype: Any, *shape: int) -> jax.Array:
    """Independent standard normal entries."""
    return jnp.asarray(rng.normal(size=shape), dtype)
