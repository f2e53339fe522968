"""Directions and cotangents: never small, never all alike, exact in every float type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array


def direction(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """±k/64 with k from 32 to 96: every entry counts, and none hides behind a larger one."""
    size = rng.integers(32, 97, tuple(shape)) / 64.0
    return np.where(rng.random(tuple(shape)) < 0.5, -size, size)


def cotangents(rng: np.random.Generator, shapes: Sequence[Any]) -> list[Array]:
    """One direction for every output, in its dtype."""
    return [jnp.asarray(direction(rng, s.shape), s.dtype) for s in shapes]
