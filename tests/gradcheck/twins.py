"""Right rules and wrong ones of the corpus, and arguments for a rule that a test writes itself."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gradcheck_corpus.kinds import Rule, normal
from experiments.gradcheck_corpus.pairs import BY_NAME


def right(name: str) -> Rule:
    """The right twin of a pair."""
    return BY_NAME[name].f


def wrong(name: str, mistake: str) -> Rule:
    """A wrong one."""
    return BY_NAME[name].mistakes[mistake].f


def arguments(name: str) -> tuple[Any, ...]:
    """Of both, the same each time, in float32."""
    return BY_NAME[name].make_args(np.random.default_rng(0), jnp.float32)


def drawn(*shape: int) -> jax.Array:
    """Normal entries in float32, the same each time; those of another shape are independent."""
    return normal(np.random.default_rng(shape), jnp.float32, *shape)
