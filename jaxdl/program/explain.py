"""Where the parameters of a program meet its data, as a table: `explain`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.core.factor import Factor
from jaxdl.core.viewed_factors import Pulled
from jaxdl.numerics.jaxprs import where
from jaxdl.program.arguments import read_arguments
from jaxdl.program.opened import run
from jaxdl.program.pull import Derivation
from jaxdl.program.scope import Scope, Step, Var, size_of
from jaxdl.program.uses import Equation, derived_places, form_of
from jaxdl.program.value_and_reduce import seeds_of, trace_loss


@dataclass(frozen=True)
class Site:
    """One use of one parameter.

    Attributes:
      path: where the parameter is in the tree of parameters.
      primitive: the equation in which it meets data.
      form: the kind of factor it has there.
      positions: how many terms its gradient has for one example, steps of time included.
      stack: the steps of the scans that run through it, as through layers.
      why: why its gradients are formed one example at a time; "" if they are not.
      where: the line of code.
    """

    path: str
    primitive: str
    form: str
    positions: int
    stack: tuple[int, ...]
    why: str
    where: str


@dataclass(frozen=True)
class Explanation:
    """What `explain` found; print it for a table."""

    sites: tuple[Site, ...]
    unused: tuple[str, ...]
    """Parameters from which no path leads to the loss: their gradient is zero."""

    def __str__(self) -> str:
        rows = [("parameter", "used in", "factor", "positions", "not lean because")]
        for site in self.sites:
            stack = "".join(f"{n} × " for n in site.stack)
            rows.append(
                (
                    _called(site.path),
                    site.primitive,
                    site.form,
                    f"{stack}{site.positions}",
                    site.why,
                )
            )
        rows += [(_called(path), "–", "Zero", "0", "") for path in self.unused]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]])
            for row in rows
        ]
        return "\n".join(line.rstrip() for line in (lines[0], "─" * sum(widths, 24), *lines[1:]))


def explain(loss: Callable[..., Any], params: Any, *example: Any, has_aux: bool = False):
    """How `value_and_reduce` sees a loss: an `Explanation`, which prints as a table.

    Args:
      loss: ``loss(params, *example) -> scalar``.
      params, example: arrays, or shapes and dtypes; the example as the loss takes it, without an
        axis of examples (a batch of one for a loss of batches).
      has_aux: whether the loss returns a pair (scalar, anything).

    Raises:
      ValueError, TypeError: as `value_and_reduce`.
    """
    params, example = jax.tree.map(_concrete, (params, example))
    batch = jax.tree.map(lambda x: x[None], example)
    given = read_arguments("explain", params, batch, 0)
    traced = trace_loss("explain", loss, given, has_aux, keep_batch_dim=False)

    def factors(params):
        outs, pull = run(traced, params, given.examples, 1)
        return pull(seeds_of(outs))[0]

    behind = [_behind(factor) for factor in jax.eval_shape(factors, given.params)]
    sites = [
        _site(
            step, k, root, given.paths[root], size_of(traced.scope.ins[root]), loops, behind[root]
        )
        for step, loops in _uses(traced.scope, {})
        for k in derived_places(step)
        for root in sorted(step.ins[k].roots)
    ]
    used = {site.path for site in sites}
    sites.sort(key=lambda site: given.paths.index(site.path))
    return Explanation(tuple(sites), tuple(path for path in given.paths if path not in used))


def _called(path: str) -> str:
    """A parameter that is no part of a tree is called as the argument is."""
    return path or "params"


def _concrete(x: Any) -> Any:
    return jnp.zeros(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else jnp.asarray(x)


def _uses(scope: Scope, loops: dict[int, int]) -> Iterator[tuple[Step, dict[int, int]]]:
    """All uses, with the lengths of the scans around them by depth."""
    for step in scope.steps:
        if step.is_use:
            yield step, loops
        for part in step.parts:
            around = loops
            if step.name == "scan":
                around = loops | {part.depth: step.eqn.params["length"]}
            yield from _uses(part, around)


def _site(step: Step, k: int, root: int, path: str, size: int, loops: dict[int, int], behind: str):
    w = step.ins[k]
    assert isinstance(w, Var)
    form = form_of(step, k)
    time = prod(length for depth, length in loops.items() if depth not in w.loops)
    stack = tuple(length for depth, length in loops.items() if depth in w.loops)
    positions = time * _terms(step, k, form.kind, max(1, size // prod(stack)))
    name = "loss" if step.eqn is None else step.name
    at = "" if step.eqn is None else where(step.eqn).removeprefix(" at ")
    return Site(path, name, form.kind, positions, stack, form.why or behind, at)


def _terms(step: Step, k: int, kind: str, size: int) -> int:
    """How many terms one run of the step adds to one example's gradient."""
    out, w = max(map(size_of, step.outs)), size_of(step.ins[k])
    if kind in ("Outer", "Local"):
        contracted, beside = step.eqn.params["dimension_numbers"]
        x = step.ins[1 - k]
        own = prod(x.shape[i] for i in (*contracted[1 - k], *beside[1 - k]))
        return max(1, size_of(x) // max(1, own))
    if kind == "ConvOuter":
        return out // step.ins[k].shape[step.eqn.params["dimension_numbers"].rhs_spec[0]]
    if kind == "Scatter":
        return size_of(step.ins[1])
    return max(1, max(out, w) // size)


def _behind(factor: Factor) -> str:
    """The steps through which a gradient is taken back one example at a time."""
    names: dict[str, None] = {}

    def visit(node: Any) -> None:
        if isinstance(node, Pulled) and isinstance(node.function, Derivation):
            names.update(dict.fromkeys(node.function.primitives))
        elif isinstance(node, Pulled) and isinstance(node.function, Equation):
            names[node.function.eqn.primitive.name] = None
        for part in vars(node).values() if isinstance(node, Factor) else ():
            for one in part if isinstance(part, tuple) else (part,):
                if isinstance(one, Factor):
                    visit(one)

    visit(factor)
    return f"its gradient goes back through {', '.join(names)}" if names else ""
