"""What the gradients by a rule are held against: the stripped primal, a reference, or f itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxdl.gradcheck.oracles import strip
from jaxdl.gradcheck.oracles.probe import Backward, Flat, backward_of
from jaxdl.gradcheck.problem.problem import GradcheckError, Problem
from jaxdl.numerics.jaxprs import equations

Reference = Literal["auto", "strip", "fd"] | Callable[..., Any]
_BY_DIFFERENCES = "finite differences"
_MOST_COLUMNS = 1024  # entries of all arguments: so many derivatives are taken, one for each
# Their code runs outside XLA or is compiled for one dtype: float64 does not reach it.
_NARROW = ("pure_callback", "io_callback", "ffi_call", "custom_call", "pallas_call")


@dataclass(frozen=True)
class Oracle:
    """A way to the right gradient."""

    name: str
    truth: Callable[[Problem], Backward]
    """Of a function at a point: what its gradient should be, as a function of both."""
    further: Callable[[Problem], list[Backward]] = lambda _: []
    """The same after one, and two, more steps of the iterations in it."""
    reverse: bool = True
    """Whether that is by reverse mode, as the rule's. In forward mode their costs are not compared;
    and what a loop ends on may have another derivative than what it looks for, as a bisection does:
    where finite differences do not confirm that mode, nothing is held against it."""

    notes: tuple[str, ...] = ()
    """What could not be used, and why."""

    @property
    def is_reference(self) -> bool:
        """Whether it gives gradients of its own: with differences alone there is nothing to hold
        every entry against."""
        return self.name != _BY_DIFFERENCES


def narrow(jaxpr: Any) -> list[str]:
    """The primitives in it that float64 does not reach; kernels that are interpreted it does."""
    return sorted(
        {
            eqn.primitive.name
            for eqn in equations(jaxpr)
            if eqn.primitive.name in _NARROW and not eqn.params.get("interpret")
        }
    )


def choose(
    problem: Problem,
    ref: Reference,
    expect: Callable[..., Any] | None,
    rules: list[str],
) -> Oracle:
    """The oracle for what `check` was asked."""
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
    if ref == "fd":
        return by_differences()
    if not rules and ref == "auto":
        return by_differences("no rule written by hand was found: JAX's own derivative was checked")
    try:
        _try(problem, backward_of)
        return Oracle(
            "the primal without its rules",
            lambda p: backward_of(strip.strip(p.outputs)),
            _further(problem, backward_of),
        )
    except Exception as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
    if ref == "strip" or sum(x.size for x in problem.inputs) <= _MOST_COLUMNS:
        # a while loop and a kernel have no transpose, but most have a derivative
        with contextlib.suppress(Exception):
            _try(problem, by_columns)
            note = (
                f"without its rules {problem.name} has no reverse mode: its derivative was taken "
                "in forward mode, entry by entry of the arguments"
            )
            return Oracle(
                "the primal without its rules, in forward mode",
                lambda p: by_columns(strip.strip(p.outputs)),
                _further(problem, by_columns),
                reverse=False,
                notes=(note,),
            )
    if ref == "strip":
        raise GradcheckError(
            f"gradcheck: {problem.name} without its rules cannot be differentiated: "
            f"{why}; give ref='fd' or a function of the same meaning"
        )
    return by_differences(
        f"without its rules {problem.name} cannot be differentiated ({why[:100]})"
    )


def by_differences(*notes: str) -> Oracle:
    """No reference: slopes along directions are all there is."""
    return Oracle(_BY_DIFFERENCES, lambda p: backward_of(p.outputs), notes=notes)


def _further(problem: Problem, way: Callable[..., Backward]) -> Callable[[Problem], list[Backward]]:
    if not strip.iterates(jax.make_jaxpr(strip.strip(problem.outputs))(*problem.inputs)):
        return lambda _: []
    return lambda p: [way(strip.strip(p.outputs, further=n)) for n in (1, 2)]


def _try(problem: Problem, way: Callable[..., Backward]) -> None:
    """Trace the gradient of the primal that way; it may raise whatever JAX and f raise."""
    shapes = jax.eval_shape(problem.outputs, *problem.inputs)
    weights = [jnp.zeros(s.shape, s.dtype) for s in shapes]
    jax.eval_shape(way(strip.strip(problem.outputs)), problem.inputs, weights)


def by_columns(f: Flat) -> Backward:
    """The pullback of a function from its derivative along each entry of the arguments."""

    def backward(inputs: list[Any], weights: list[Any]) -> list[Any]:
        def along(leaf: int, u: Any) -> Any:
            tangents = [jnp.zeros_like(x) for x in inputs]
            tangents[leaf] = u
            changes = jax.jvp(f, tuple(inputs), tuple(tangents))[1]
            return sum(jnp.vdot(w, dy) for w, dy in zip(weights, changes, strict=True))

        return [
            jax.vmap(partial(along, i))(jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape))
            .reshape(x.shape)
            .astype(x.dtype)
            for i, x in enumerate(inputs)
        ]

    return backward


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
