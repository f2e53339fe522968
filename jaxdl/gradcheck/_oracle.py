"""What the gradients by a rule are held against: the stripped primal, a reference, or f itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxdl.gradcheck import _strip
from jaxdl.gradcheck._probe import Backward, backward_of
from jaxdl.gradcheck._problem import GradcheckError, Problem

Reference = Literal["auto", "strip", "fd"] | Callable[..., Any]
# Their code runs outside XLA or is compiled for one dtype: float64 does not reach it.
_NARROW = ("pure_callback", "io_callback", "ffi_call", "custom_call", "pallas_call")


@dataclass(frozen=True)
class Oracle:
    """A way to the right gradient."""

    name: str
    truth: Callable[[Problem], Backward]
    """Of a function at a point: what its gradient should be, as a function of both."""

    @property
    def is_reference(self) -> bool:
        """Whether it gives gradients of its own: with differences alone there is nothing to hold
        every entry against."""
        return self.name != "finite differences"


def narrow(jaxpr: Any) -> list[str]:
    """The primitives in it that float64 does not reach; kernels that are interpreted it does."""
    return sorted(
        {
            eqn.primitive.name
            for eqn in _strip.equations(jaxpr)
            if eqn.primitive.name in _NARROW and not eqn.params.get("interpret")
        }
    )


def choose(
    problem: Problem,
    ref: Reference,
    expect: Callable[..., Any] | None,
    rules: list[str],
    notes: list[str],
) -> Oracle:
    """The oracle for what `check` was asked; what it could not use goes into the notes."""
    if expect is not None:
        return Oracle("the intended gradient", lambda p: _intended(p, expect))
    if callable(ref):
        other = ref
        name = f"the reference {getattr(other, '__name__', 'function')}"
        return Oracle(
            name,
            lambda p: backward_of(Problem(other, p.structure, p.leaves, p.names, p.wrt).outputs),
        )
    if ref not in ("auto", "strip", "fd"):
        raise GradcheckError(
            f"gradcheck: ref must be 'auto', 'strip', 'fd' or a function, got {ref!r}"
        )
    by_differences = Oracle("finite differences", lambda p: backward_of(p.outputs))
    if ref == "fd":
        return by_differences
    if not rules and ref == "auto":
        notes.append("no rule written by hand was found: JAX's own derivative was checked")
        return by_differences
    stripped = _strip.strip(problem.outputs)
    try:
        shapes = jax.eval_shape(problem.outputs, *problem.inputs)
        jax.eval_shape(backward_of(stripped), problem.inputs,
                       [jnp.zeros(s.shape, s.dtype) for s in shapes])  # fmt: skip
    except Exception as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        if ref == "strip":
            raise GradcheckError(
                f"gradcheck: {problem.name} without its rules cannot be differentiated: "
                f"{why}; give ref='fd' or a function of the same meaning"
            ) from error
        notes.append(f"without its rules {problem.name} cannot be differentiated ({why[:100]})")
        return by_differences
    return Oracle("the primal without its rules", lambda p: backward_of(_strip.strip(p.outputs)))


def _intended(problem: Problem, expect: Callable[..., Any]) -> Callable[..., list[Any]]:
    def backward(inputs: list[Any], weights: list[Any]) -> list[Any]:
        args, kwargs = jax.tree.unflatten(problem.structure, problem.at(inputs).leaves)
        shape = jax.eval_shape(problem.call, *inputs)
        fresh = iter(weights)
        leaves = [next(fresh) if jnp.issubdtype(s.dtype, jnp.inexact) else None
                  for s in jax.tree.leaves(shape)]  # fmt: skip
        cotangent = jax.tree.unflatten(jax.tree.structure(shape), leaves)
        gradients = expect(cotangent, *args, **kwargs)
        found = dict(zip(problem.names, [None] * len(problem.names), strict=True))
        for i, of_arg in enumerate(gradients):
            for path, leaf in jax.tree_util.tree_flatten_with_path(of_arg)[0]:
                found[f"args[{i}]" + jax.tree_util.keystr(path)] = leaf
        missing = [n for n in problem.input_names if found.get(n) is None]
        if missing:
            raise GradcheckError(
                f"gradcheck: expect returned no gradient for {', '.join(missing)}; return one for "
                "each positional argument, or name the others in wrt"
            )
        return [jnp.asarray(found[n], x.dtype)
                for n, x in zip(problem.input_names, inputs, strict=True)]  # fmt: skip

    return backward
