"""The dtype in which rule and reference are compared: float64 wherever that can be."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.gradcheck.oracles.probe import backward_of
from jaxdl.gradcheck.oracles.rounding import eps
from jaxdl.gradcheck.problem.problem import Problem, x64


def working_dtype(
    problem: Problem, truth: Any, without_float64: list[str]
) -> tuple[Any, list[str]]:
    """The dtype in which f is compared, and notes that say why if it is not float64.

    If that cannot be, as where `calls` names what float64 does not reach, and f is given in half
    precision, it is float32; else None, the given ones.
    """
    why = (
        f"it calls {', '.join(without_float64)}"
        if without_float64
        else _refused_in(jnp.float64, problem, truth)
    )
    if not why:
        return jnp.float64, []
    told = f"{problem.name} has no float64 ({why[:100]}): compared in"
    short = any(eps(x.dtype) > eps(jnp.float32) for x in problem.inputs)
    if short and not _refused_in(jnp.float32, problem, truth):
        return jnp.float32, [f"{told} float32"]
    return None, [f"{told} the given dtypes"]


def _refused_in(dtype: Any, problem: Problem, truth: Any) -> str:
    """Why f or its rule cannot be computed in a dtype, as where one is written down; else ''."""
    # JAX takes the dtype of a NumPy array that f indexes with from the mode in which a program that
    # lives has met it: that must show now, and not when there are compiled ones
    held = jax.make_jaxpr(problem.outputs)(*problem.inputs)
    with x64(dtype == jnp.float64):
        try:
            working = problem.widened(dtype)
            truth(working)
            shapes = jax.eval_shape(working.outputs, *working.inputs)
            weights = [jnp.zeros(s.shape, s.dtype) for s in shapes]
            jax.eval_shape(backward_of(working.outputs), working.inputs, weights)
        except Exception as error:
            return (str(error).splitlines() or [""])[0] or type(error).__name__
    del held
    return ""
