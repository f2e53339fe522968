"""From what the uses kept and heard to the factors of the parameters.

Inside a scan a derived value is either the same at every step, and then the steps are positions of
its uses, as time is; or it is another one at each step, and then its factors are stacked, as those
of layers are. Both may happen in one scan. So a body is gone through twice: first, under `jax.vmap`
over the steps, what changes with them; then, with the steps as positions, what does not.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.core.composed_factors import Common, Stacked
from jaxdl.core.examples import gradients_apart
from jaxdl.core.factor import Factor
from jaxdl.core.viewed_factors import Pulled, merge, unless_zero
from jaxdl.numerics.jaxprs import bind, scan_parts
from jaxdl.program.derived import is_lean, pull_back, pull_formed
from jaxdl.program.scope import Kind, Scope, Step, Var, size_of, walk_scopes
from jaxdl.program.uses import derived_places, form_of
from jaxdl.program.walk import ScanKept

Heard = dict[str, Any]
Chosen = Callable[[frozenset[int]], bool]


def pull_scope(
    scope: Scope,
    inputs: Sequence[Any],
    kept: Heard,
    heard: Heard,
    chosen: Chosen = lambda loops: True,
) -> dict[Var, Factor]:
    """The factors of the derived inputs of a scope, from the uses in it.

    Args:
      scope: the program, or what is inside one of its steps.
      inputs: the values of its inputs that are not data; anything in place of the others.
      kept, heard: what `run_scope` kept, and the cotangents of the ears, with the steps of scans
        inside this scope on leading axes, the examples behind them.
      chosen: which uses are counted, by the scans at whose steps what is used changes.
    """
    values = _Values(scope.consts | dict(zip(scope.ins, inputs, strict=True)))
    factors: dict[Var, list[Factor]] = defaultdict(list)
    for i, step in enumerate(scope.steps):
        if step.is_use and str(i) in kept:
            for k in derived_places(step):
                if chosen(step.ins[k].loops):
                    factor = _of_use(step, k, values, kept[str(i)], heard[str(i)])
                    factors[step.ins[k]].append(factor)
        elif step.parts:
            inside = _inside_scan if step.name == "scan" else _inside_plain
            for v, f in inside(step, values, kept[str(i)], heard[str(i)], chosen):
                factors[v].append(f)

    behind: dict[Var, Factor] = {}
    for step in reversed(scope.steps):
        made = [merge(factors[out]) if out in factors else None for out in step.outs]
        if not step.is_plain or all(factor is None for factor in made):
            continue
        pulled: dict[int, Factor | None] = {}
        if all(factor is None or is_lean(factor) for factor in made):
            ask = _asker(values, step)
            pulled = {k: pull_back(step, k, made, ask) for k in derived_places(step)}
        if all(factor is None for factor in pulled.values()):
            behind.update((v, f) for v, f in zip(step.outs, made, strict=True) if f is not None)
            continue
        for k, factor in pulled.items():
            factor = pull_formed(step, k, made, ask) if factor is None else factor
            factors[step.ins[k]].append(factor)
    for v, factor in _through(scope, behind, values):
        factors[v].append(factor)
    return {v: merge(factors[v]) for v in scope.ins if v in factors}


def _asker(values: _Values, step: Step) -> Callable[[int], Any]:
    return lambda i: values(step.ins[i])


def _through(scope: Scope, behind: dict[Var, Factor], values: _Values):
    """The factors of inputs from which values were derived in a way that keeps no factor lean.

    All of them at once: step by step, what is used twice would be gone through twice each time.
    """
    if not behind:
        return
    made_of = {w: _ancestors([w]) for w in behind}
    for v in scope.ins:
        outs = [w for w in behind if v.kind == Kind.DERIVED and v in made_of[w]]
        # what is one number has one gradient, for every example times another cotangent
        for w in [w for w in outs if size_of(w) == 1 and _is_real(v, w)]:
            outs.remove(w)
            yield v, _of_number(v, w, behind[w], values)
        if outs:
            given, derivation = _derivation(v, outs, [made_of[w] for w in outs], values)
            factors = tuple(behind[w] for w in outs)
            yield v, Pulled(factors, given, derivation, derivation.inputs.index(v), v.dtype)


def _derivation(v: Var, outs: list[Var], made_of: list[dict[Var, None]], values: _Values):
    """(values, how `outs` follow from them), with None in the place of v."""
    inputs = tuple(x for x in dict.fromkeys(itertools.chain(*made_of)) if not _is_computed(x))
    return tuple(None if x is v else values(x) for x in inputs), Derivation(inputs, tuple(outs))


def _of_number(v: Var, w: Var, factor: Factor, values: _Values) -> Factor:
    """The factor of v, of which the number w was made: w's cotangents, times its one gradient."""
    given, derivation = _derivation(v, [w], [_ancestors([w])], values)
    rows, form = gradients_apart(factor)
    d = jax.vmap(lambda row: form(row, jnp.zeros(w.shape, w.dtype)).reshape(()))(rows)

    def number(x):
        return derivation(*(x if y is None else y for y in given))[0].reshape(())

    return Common(d, unless_zero(jax.grad(number)(values(v)), [d]))


def _is_real(*values: Var) -> bool:
    return all(jnp.issubdtype(v.dtype, jnp.floating) for v in values)


def _is_computed(v: Var) -> bool:
    """Whether a value is made of others that depend on no example: not given, and not what a scan
    over data carries beside it."""
    return v.made_by is not None and v.made_by.is_plain


def _ancestors(values: Iterable[Var]) -> dict[Var, None]:
    """The values, and all that they were made of, in an order that is always the same."""
    found, waiting = {}, list(values)
    while waiting:
        v = waiting.pop()
        if v not in found:
            found[v] = None
            if v.made_by is not None and _is_computed(v):
                waiting += v.made_by.ins
    return found


@dataclass(frozen=True, eq=False)
class Derivation:
    """Values that depend on no example as a function of what they are derived from."""

    inputs: tuple[Var, ...]
    outs: tuple[Var, ...]

    def __call__(self, *given: Any) -> list[Any]:
        values = _Values(dict(zip(self.inputs, given, strict=True)))
        return [values(v) for v in self.outs]

    @property
    def primitives(self) -> list[str]:
        """The names of the steps in between."""
        steps = [v.made_by for v in _ancestors(self.outs) if v not in self.inputs]
        return sorted({step.name for step in steps if step is not None})


def _any_use(scope: Scope, chosen: Chosen) -> bool:
    """Whether a use inside is chosen."""
    return any(
        chosen(step.ins[k].loops)
        for part in walk_scopes(scope)
        for step in part.uses
        for k in derived_places(step)
    )


class _Values:
    """The values of a scope that are not data, computed when they are asked for."""

    def __init__(self, known: dict[Var, Any]):
        self.known = dict(known)

    def __call__(self, v: Var) -> Any:
        waiting = [v]
        while waiting:  # no recursion: a chain of derived values may be long
            step = waiting[-1].made_by
            if waiting[-1] in self.known:
                waiting.pop()
                continue
            assert step is not None and step.is_plain
            missing = [x for x in step.ins if x not in self.known]
            waiting += missing
            if not missing:
                ins = [self.known[x] for x in step.ins]
                self.known.update(zip(step.outs, bind(step.eqn, ins), strict=True))
        return self.known[v]


def _of_use(step: Step, k: int, values: _Values, kept: Heard, heard: tuple) -> Factor:
    form = form_of(step, k)
    mine = {j: kept[str(j)] for j in form.needs}
    shared = {
        j: values(v)
        for j, v in enumerate(step.ins)
        if j != k and j not in mine and v.kind != Kind.DATA
    }
    return form.make(mine, shared, values(step.ins[k]), heard)


def _inside_plain(step: Step, values: _Values, kept: Any, heard: Any, chosen: Chosen):
    """The factors of the inputs of a checkpoint or a cond."""
    given = step.ins[len(step.ins) - len(step.parts[0].ins) :]
    inputs = [None if v.kind == Kind.DATA else values(v) for v in given]
    for part, part_kept, part_heard in zip(step.parts, kept, heard, strict=True):
        found = pull_scope(part, inputs, part_kept, part_heard, chosen)
        for inside, outside in zip(part.ins, given, strict=True):
            if inside in found:
                yield outside, found[inside]


def _inside_scan(step: Step, values: _Values, kept: Any, heard: Any, chosen: Chosen):
    """The factors of what a scan holds and of what it steps through."""
    values.known.update((v, x) for v, x in zip(step.outs, kept.after, strict=True) if x is not None)
    (body,), (inside,), (heard,) = step.parts, kept.inside, heard
    held, carried, _ = scan_parts(step.eqn)
    given = [
        None if v.kind == Kind.DATA else values(v)
        for v in (*step.ins[:held], *step.ins[held + carried :])
    ]
    inputs = [*given[:held], *kept.fixed, *given[held:]]

    def changes(loops):
        return body.depth in loops and chosen(loops)

    def stays(loops):
        return body.depth not in loops and chosen(loops)

    if _any_use(body, changes):
        axes = [None if i < held or x is None else 0 for i, x in enumerate(inputs)]
        found = jax.vmap(
            lambda given, kept, heard: _by_place(
                body, pull_scope(body, given, kept, heard, changes)
            ),
            in_axes=(axes, 0, 0),
        )(inputs, inside, heard)
        for i, factor in found.items():
            yield step.ins[i], factor.join_time() if i < held else Stacked(factor)
    if _any_use(body, stays):
        inputs = [x if i < held else None for i, x in enumerate(inputs)]
        inside, heard = _as_positions(body, inside), _as_positions(body, heard)
        found = _by_place(body, pull_scope(body, inputs, inside, heard, stays))
        for i, factor in found.items():
            yield step.ins[i], factor


def _by_place(scope: Scope, factors: dict[Var, Factor]) -> dict[int, Factor]:
    return {i: factors[v] for i, v in enumerate(scope.ins) if v in factors}


def _as_positions(scope: Scope, tree: Heard, scans: int = 0) -> Heard:
    """The leading axis, the steps of a scan, behind the examples; `scans` others lie between."""

    def each(part: Any, inside: Scope, more: int) -> Any:
        return _as_positions(inside, part, scans + more)

    moved = {}
    for name, part in tree.items():
        step = scope.steps[int(name)]
        if isinstance(part, ScanKept):
            # the same at every step, or not asked for
            fixed, after = jax.tree.map(lambda x: x[0], (part.fixed, part.after))
            moved[name] = ScanKept([each(part.inside[0], step.parts[0], 1)], fixed, after)
        elif step.parts:
            more = int(step.name == "scan")
            moved[name] = [each(p, s, more) for p, s in zip(part, step.parts, strict=True)]
        else:
            moved[name] = jax.tree.map(lambda x: jnp.moveaxis(x, 0, scans + 1), part)
    return moved
