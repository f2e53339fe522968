"""How the arguments of the right functions are drawn, and pieces that many rules share."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gradcheck_corpus.kinds import MakeArgs, Rule, normal, ruled

NO_BFLOAT16_LINALG = "the factorisations of jax.numpy.linalg have no bfloat16"
WIDE = ("float32", "float64")


def of(*shapes: tuple[int, ...], scale: float = 1.0, shift: float = 0.0) -> MakeArgs:
    """One array of normal entries for each shape: shift + scale·N(0, 1)."""

    def make_args(rng: np.random.Generator, dtype: Any) -> tuple[Any, ...]:
        return tuple(jnp.asarray(shift + scale * rng.normal(size=s), dtype) for s in shapes)

    return make_args


def between(low: float, high: float, *shapes: tuple[int, ...]) -> MakeArgs:
    """One array of uniform entries for each shape."""

    def make_args(rng: np.random.Generator, dtype: Any) -> tuple[Any, ...]:
        return tuple(jnp.asarray(rng.uniform(low, high, s), dtype) for s in shapes)

    return make_args


def positive(rng: np.random.Generator, dtype: Any, *shape: int) -> jax.Array:
    """Uniform entries from 0.3 to 3."""
    return jnp.asarray(rng.uniform(0.3, 3.0, shape), dtype)


def definite(rng: np.random.Generator, dtype: Any, n: int) -> jax.Array:
    """A symmetric positive definite matrix with eigenvalues from about 1 to 5."""
    a = rng.normal(size=(n, n))
    return jnp.asarray(a @ a.T / n + np.eye(n), dtype)


def regular(rng: np.random.Generator, dtype: Any, n: int) -> jax.Array:
    """A matrix far from singular."""
    return jnp.asarray(rng.normal(size=(n, n)) / math.sqrt(n) + 2 * np.eye(n), dtype)


def integers(rng: np.random.Generator, high: int, *shape: int) -> jax.Array:
    """From 0 to high − 1."""
    return jnp.asarray(rng.integers(0, high, shape), jnp.int32)


def distinct(rng: np.random.Generator, dtype: Any, *shape: int) -> jax.Array:
    """Entries 1/4 apart in random order: no two are equal, in any dtype."""
    n = math.prod(shape)
    return jnp.asarray((rng.permutation(n).reshape(shape) - n // 2) / 4.0, dtype)


def pointwise(f: Rule, slope: Rule) -> Rule:
    """An elementwise function of one array with the rule g·slope(x)."""
    return ruled(f, lambda x: (f(x), x), lambda x, g: (g * slope(x),))


def from_inputs(f: Rule, bwd: Rule) -> Rule:
    """f with the rule bwd(g, *args): its residuals are the arguments."""
    return ruled(f, lambda *args: (f(*args), args), lambda args, g: bwd(g, *args))


def summed_to(g: jax.Array, like: jax.Array) -> jax.Array:
    """The transpose of broadcasting: g summed to the shape of `like`."""
    g = g.sum(tuple(range(g.ndim - like.ndim)))
    return g.sum(tuple(i for i, n in enumerate(like.shape) if n == 1 < g.shape[i]), keepdims=True)


__all__ = [
    "NO_BFLOAT16_LINALG", "WIDE", "between", "definite", "distinct", "from_inputs", "integers",
    "normal", "of", "pointwise", "positive", "regular", "ruled", "summed_to",
]  # fmt: skip
