"""Right rules and wrong ones of the corpus, and what tests that write a rule themselves need."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gradcheck_corpus.kinds import Rule, normal
from experiments.gradcheck_corpus.pairs import BY_NAME
from jaxdl.gradcheck.checks.levels import LEVELS


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


def ruled(f: Rule, bwd: Rule) -> Any:
    """f with a backward rule of its arguments, as a tuple, and the cotangent."""
    made = jax.custom_vjp(f)
    made.defvjp(lambda *args: (f(*args), args), bwd)
    return made


def others_than(*names: str) -> dict[str, str]:
    """For `skip`: all checks but these; and failures stay as large as they are."""
    return {name: "not its subject" for name in (*LEVELS["full"], "shrink") if name not in names}
