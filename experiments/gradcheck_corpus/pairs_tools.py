"""What the files of pairs share: rules that keep their arguments, and how to draw them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from experiments.gradcheck_corpus.kinds import MakeArgs, Rule, normal, ruled


def kept(f: Rule, bwd: Rule) -> Rule:
    """f with a rule that keeps the arguments: bwd(*arguments, cotangent) gives all gradients."""
    return ruled(f, lambda *args: (f(*args), args), lambda args, g: bwd(*args, g))


def of(f: Rule, derivative: Rule) -> Rule:
    """A function of one array: derivative(x, cotangent) is its gradient."""
    return kept(lambda x: f(x), lambda x, g: (derivative(x, g),))


def normals(*shapes: tuple[int, ...], scale: float = 1.0) -> MakeArgs:
    """Draws independent normal entries for arguments of these shapes."""
    return lambda rng, dtype: tuple(scale * normal(rng, dtype, *shape) for shape in shapes)


def uniforms(*shapes: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> MakeArgs:
    """Draws entries between two bounds."""
    return lambda rng, dtype: tuple(jnp.asarray(rng.uniform(low, high, s), dtype) for s in shapes)


def integers(rng: Any, high: int, *shape: int) -> Any:
    """Of 0 to high − 1."""
    return jnp.asarray(rng.integers(0, high, shape), jnp.int32)
