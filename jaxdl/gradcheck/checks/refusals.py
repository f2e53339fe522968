"""What is refused before any number is compared: by us, or by JAX."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.gradcheck.oracles import strip
from jaxdl.gradcheck.oracles.probe import backward_of
from jaxdl.gradcheck.problem.problem import GradcheckError, Problem
from jaxdl.gradcheck.report.findings import Finding


def must_repeat(problem: Problem) -> None:
    """Refuse a function that gives other results when it is called again."""
    first, second = (problem.outputs(*problem.inputs) for _ in range(2))
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        if not np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True):
            raise GradcheckError(
                f"gradcheck: {problem.name} is not deterministic: output {i} differs between two "
                "calls with the same arguments; hold its random state fixed, e.g. pass a key"
            )


def refused_by_jax(problem: Problem, rules: list[str]) -> Finding | None:
    """A failure of the contract if JAX cannot take the gradient, but can without the rules."""
    if not rules:
        return None
    shapes = jax.eval_shape(problem.outputs, *problem.inputs)
    weights = [jnp.zeros(s.shape, s.dtype) for s in shapes]
    try:
        jax.eval_shape(backward_of(problem.outputs), problem.inputs, weights)
        return None
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
    try:
        plain = strip.strip(problem.outputs)
        jax.eval_shape(partial(jax.jvp, plain), tuple(problem.inputs), tuple(problem.inputs))
    except Exception:
        return None  # not the rule's doing, or not to be told
    leaf = _refused_leaf(problem, why)
    return Finding("contract", "fail", leaf=leaf, text=f"JAX refuses what the rule returns: {why}")


def not_given(problem: Problem, rules: list[str]) -> Finding | None:
    """A failure of the contract if a rule closes over an array that is differentiated.

    JAX tells by an error, when the gradient is run, that does not name it.

    Raises:
      GradcheckError: it closes over single numbers, which may be meant to be held.
    """
    if not rules or _pulls_back(problem, problem.wrt):
        return None
    less = {i: tuple(j for j in problem.wrt if j != i) for i in problem.wrt}
    single = tuple(i for i in problem.wrt if np.ndim(problem.leaves[i]) == 0)
    several = tuple(i for i in problem.wrt if i not in single)
    found = [i for i, others in less.items() if others and _pulls_back(problem, others)]
    if not found and several and _pulls_back(problem, several):
        found = list(single)
    if not found:
        return None
    names = ", ".join(problem.names[i] for i in found)
    text = f"a rule closes over {names}, which is differentiated here, and returns no gradient"
    if all(i in single for i in found):
        raise GradcheckError(
            f"gradcheck: {problem.name}: {text} for it: name the others in wrt, or make it an "
            "argument of the function with the rule"
        )
    text += " for it: JAX raises UnexpectedTracerError; make it an argument of the rule"
    return Finding("contract", "fail", leaf=problem.names[found[0]], text=text)


def _pulls_back(problem: Problem, wrt: tuple[int, ...]) -> bool:
    """Whether the gradient of these leaves can be run without a tracer where there should be none.

    Another error is not for this to tell.
    """
    part = replace(problem, wrt=wrt)
    try:
        y, pullback = jax.vjp(part.outputs, *part.inputs)
        pullback([jnp.zeros_like(a) for a in y])
    except jax.errors.UnexpectedTracerError:
        return False
    except Exception:
        return True
    return True


def _refused_leaf(problem: Problem, why: str) -> str:
    """The leaf that JAX's message is about, where f takes what its rule takes; else ''."""
    place = re.search(r"at output((?:\[[^]]*\])+) .* input of type (\S+?\])", why)
    if place is None:
        return ""
    for name, x in zip(problem.input_names, problem.inputs, strict=True):
        if (name, jax.typeof(x).str_short()) == (f"args{place[1]}", place[2]):
            return name
    return ""
