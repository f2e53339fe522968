"""A program with its gradient factors: traced for one example, run on all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core.composed_factors import Zero
from jaxdl.numerics.jaxprs import CHECKPOINTS, equations, inner_jaxprs, where
from jaxdl.numerics.sharding import as_varying, varying_axes
from jaxdl.program.pull import pull_scope
from jaxdl.program.scope import Kind, Scope, Var, read_scope, walk_scopes
from jaxdl.program.slots import ReduceAt, plan_slots
from jaxdl.program.walk import as_data, ears_of, heard_at_uses, reduced_in, run_scope


@dataclass(frozen=True, eq=False)
class Traced:
    """A function of parameters and of one example, as steps.

    The inputs of the scope are the leaves of the parameters, then those of the examples.
    """

    scope: Scope
    params: int
    """How many leaves the parameters have."""
    out_tree: Any

    @property
    def has_checkpoint(self) -> bool:
        """Whether a checkpoint with parameters inside is in it."""
        return any(
            step.name in CHECKPOINTS for part in walk_scopes(self.scope) for step in part.walked
        )


def trace(
    f: Callable[..., Any],
    params: Sequence[Any],
    examples: Sequence[Any],
    shared: Sequence[bool],
    with_gradient: int | None = None,
    name: str = "value_and_reduce",
) -> Traced:
    """Trace ``f(params, examples)``, both lists of leaves, at shapes and dtypes.

    Args:
      shared: for each leaf of the examples, whether it is one for all of them.
      with_gradient: how many of the outputs, the first ones, have a cotangent; by default all.
      name: who asks, for errors.

    Raises:
      ValueError: the function has side effects, or calls back into Python.
    """
    closed, shape = jax.make_jaxpr(f, return_shape=True)(params, examples)
    _check_effects(name, closed)
    kinds = [Kind.FIXED if same else Kind.DATA for same in shared]
    ins = [Var(a, Kind.DERIVED, roots=frozenset([i])) for i, a in enumerate(closed.in_avals)]
    ins[len(params) :] = [
        Var(v.aval, kind) for v, kind in zip(ins[len(params) :], kinds, strict=True)
    ]
    scope = read_scope(closed, ins)
    scope.drop_dead(scope.outs[:with_gradient])
    return Traced(scope, len(params), jax.tree.structure(shape))


def _check_effects(name: str, jaxpr: Any) -> None:
    for eqn in equations(jaxpr):
        if eqn.effects and not list(inner_jaxprs(eqn)):
            raise ValueError(
                f"{name}: the function must have no side effects, got {eqn.primitive.name}"
                f"{where(eqn)}; take prints, callbacks and writes out of it"
            )


Pull = Callable[[Sequence[Any]], tuple[list[Any], list[Any]]]


def run(
    traced: Traced,
    params: Sequence[Any],
    examples: Sequence[Any],
    n: int,
    reduce: ReduceAt = lambda root, param, factor: factor,
    *,
    inside: ReduceAt | None = None,
    pull_examples: bool = False,
) -> tuple[list[Array], Pull]:
    """(outputs, pull), the outputs with the n examples on the first axis.

    ``pull(cotangents of the outputs)`` is (what `reduce` makes of each parameter, the cotangents of
    the examples).

    Args:
      reduce: ``(number of the parameter, parameter, factor) -> anything``.
      inside: what to make of a parameter inside the backward pass, for one step of a scan at a
        time, the results being stacked, where that spares memory: see `jaxdl.program.slots`.
      pull_examples: whether cotangents of the examples are asked for; they are None if not, and for
        what has none.
    """
    scope = traced.scope
    slots = {} if inside is None else plan_slots(scope, traced.params, inside, n)
    floats = [
        i
        for i, (x, v) in enumerate(zip(examples, scope.ins[traced.params :], strict=True))
        if pull_examples and v.kind == Kind.DATA and jnp.issubdtype(x.dtype, jnp.inexact)
    ]

    def forward(ears, differentiated):
        given = list(examples)
        for i, x in zip(floats, differentiated, strict=True):
            given[i] = x
        outs, kept = run_scope(scope, [*params, *given], ears, n, slots)
        outs = as_data(outs, scope.outs, n)
        return outs, (outs, kept)

    axes = varying_axes(*params, *examples)
    ears = jax.tree.map(lambda ear: as_varying(ear, axes), ears_of(scope, n, slots))
    _, back, (outs, kept) = jax.vjp(forward, ears, [examples[i] for i in floats], has_aux=True)

    def pull(cotangents):
        heard, found = back(list(cotangents))
        values = [
            None if v.kind == Kind.DATA else x
            for v, x in zip(scope.ins, [*params, *examples], strict=True)
        ]
        reduced = reduced_in(scope, heard, slots)
        factors = pull_scope(scope, values, kept, heard_at_uses(scope, heard, slots))
        for i, (v, param) in enumerate(zip(scope.ins, params, strict=False)):
            if i not in reduced:
                reduced[i] = reduce(i, param, factors.get(v, Zero(n)))
        of_examples = dict(zip(floats, found, strict=True))
        return (
            [reduced[i] for i in range(traced.params)],
            [of_examples.get(i) for i in range(len(examples))],
        )

    return outs, pull
