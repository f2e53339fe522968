"""Reducers: what to make of the gradient factors, decided at each leaf inside the backward pass.

A reducer is a function ``reduce(params, factors, slots) -> anything``. It sees the parameters of
one leaf, one factor for each of them, and the leaf's part of a tree of slots (optimiser state,
accumulators, ...; None when the caller gave none). Inside `repeat` it runs in the scan, once a
layer, so that only what it returns is stacked.

Every reducer here works on every layer: it is written once for each *kind of factor*.
Per-example quantities belong to the example's own contribution to the loss: with a loss that is
a mean over N examples they carry the factor 1/N.

More reducers are in `jaxdl.core.example_norms`, `clipping`, `moments`, `gram`, `projection` and
`kronecker`; what those of single examples share is in `jaxdl.core.examples`.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxdl.core.example_norms import example_sq_norms
from jaxdl.core.examples import scaled
from jaxdl.core.factors import Factor, FactorError, Many, Stacked, contract, stack_factors
from jaxdl.core.paths import at_path, join_path
from jaxdl.core.reducer import (
    Factors,
    Reducer,
    TwoPass,
    check_alone,
    check_reducer,
    like_reducer,
    needs_examples,
    needs_layer,
    per_example,
    per_layer,
)
from jaxdl.core.viewed_factors import Moved, Pulled, Steps, Used
from jaxdl.numerics.dtypes import wide

__all__ = [
    "Combined", "Factors", "Reducer", "Seen", "TwoPass", "combine", "example_sq_norms", "grads",
    "keep", "keep_for", "l2_norm", "like_reducer", "measured", "needs_examples", "none",
    "per_example", "reduce_kept", "select", "total", "trace", "trace_with",
]  # fmt: skip


def grads(params: dict[str, Array], factors: Factors, slots: Any = None) -> dict[str, Array]:
    """The gradient of each parameter: the tree, shapes and dtypes of `params`."""
    return {name: contract(factors[name], param) for name, param in params.items()}


def none(params: dict[str, Array], factors: Factors, slots: Any = None) -> dict[str, Array]:
    """Nothing: no product that forms a parameter gradient is in the compiled program."""
    return {}


def keep(params: dict[str, Array], factors: Factors, slots: Any = None) -> Factors:
    """The factors themselves, to decide later; `reduce_kept` applies another reducer to them."""
    return factors


def keep_for(reducer: Reducer) -> Reducer:
    """`keep`, in the place of a reducer that will be applied later, and as particular as that."""
    return like_reducer(reducer)(lambda params, factors, slots=None: factors)


def l2_norm(array: Array) -> Array:
    """Euclidean norm over the whole array, accumulated in float32 or wider."""
    return jnp.sqrt(jnp.sum(jnp.square(jnp.abs(array.astype(wide(array.dtype))))))


def trace_with(measure: Callable[[Array], Any]) -> Reducer:
    """A reducer that applies `measure` to every array of every factor.

    For a dense weight that is ``{"a": measure(inputs), "d": measure(cotangents)}``; the keys are
    the field names of the factor. Integer arrays (row numbers) are left out. Of a parameter that is
    used in several places there is one such dict for each; of one that was not used as it is, that
    of what was made of it.
    """

    def is_float(value: Any) -> bool:
        return isinstance(value, Array) and jnp.issubdtype(value.dtype, jnp.inexact)

    def visit(factor: Factor) -> Any:
        if isinstance(factor, Many):
            return tuple(map(visit, factor.factors))
        if isinstance(factor, Moved | Steps):
            return visit(factor.factor)
        if isinstance(factor, Pulled):
            found = tuple(visit(part) for part in factor.factors if part is not None)
            return found[0] if len(found) == 1 else found
        if isinstance(factor, Used):
            operands = [x for x in jax.tree.leaves(factor.a) if is_float(x)]
            return {"a": tuple(map(measure, operands)), "d": tuple(map(measure, factor.d))}
        return {name: measure(array) for name, array in vars(factor).items() if is_float(array)}

    def trace(params: dict[str, Array], factors: Factors, slots: Any = None) -> Any:
        return {name: visit(factors[name]) for name in params}

    return trace


trace = trace_with(l2_norm)
"""The L2 norm of every input and every cotangent at every parameter."""


def total(tree: Any, axes: int = 1) -> Array:
    """Sum of per-example values over all parameters, and over the layers of a stack: (N,).

    Args:
      tree: what a reducer made, e.g. `example_sq_norms`.
      axes: how many axes at the end are those of one parameter: 1 for values of examples, 2 for
        those of pairs, (N, N), as `gram` makes them.
    """
    leaves = [
        leaf.reshape(-1, *leaf.shape[leaf.ndim - axes :]).sum(axis=0)
        for leaf in jax.tree.leaves(tree)
    ]
    if not leaves:
        raise ValueError("total: the tree has no per-example values; the model has no parameters")
    return functools.reduce(jnp.add, leaves)


# --- putting reducers together ------------------------------------------------------------------


@jax.tree_util.register_pytree_with_keys_class
class Combined(dict):
    """What `combine` returns at each leaf: one entry per reducer."""

    def tree_flatten_with_keys(self):
        names = tuple(sorted(self))
        return tuple((jax.tree_util.DictKey(name), self[name]) for name in names), names

    @classmethod
    def tree_unflatten(cls, names, values):
        return cls(zip(names, values, strict=True))


def combine(**reducers: Reducer) -> Reducer:
    """Several reducers in one backward pass; take their results apart with `select`.

    ``combine(grads=grads, norms=example_sq_norms)`` gives both for one pass over the model.

    Raises:
      TypeError: a reducer of two passes.
    """
    pairs = tuple(reducers.items())
    for name, reducer in pairs:
        if isinstance(reducer, TwoPass):
            raise TypeError(
                f"combine: {name}={reducer.name} takes two passes, and there is one here; keep the "
                "factors (reduce=keep), and give each reducer to reduce_kept"
            )

    def combined(params: dict[str, Array], factors: Factors, slots: Any = None) -> Combined:
        return Combined({name: r(params, factors, slots) for name, r in pairs})

    if any(needs_layer(r) for _, r in pairs):
        per_layer(combined)
    return per_example(combined) if any(needs_examples(r) for _, r in pairs) else combined


def select(tree: Any, name: str) -> Any:
    """The results of the reducer called `name` in a tree made with `combine`."""
    return jax.tree.map(
        lambda node: node[name] if isinstance(node, Combined) else node, tree, is_leaf=is_combined
    )


def is_combined(node: Any) -> bool:
    """For `jax.tree` functions that stop at what `combine` made."""
    return isinstance(node, Combined)


def measured(reducer: Reducer) -> tuple[Reducer, Callable[[Any], Any]]:
    """(reducer to run, what to make of its tree) to have what it made at leaves and nothing else.

    A tap reports what it does whatever the reducer: that is no measurement.
    """

    def only(tree: Any) -> Any:
        return jax.tree.map(
            lambda node: node["only"] if isinstance(node, Combined) else None,
            tree,
            is_leaf=is_combined,
        )

    return combine(only=reducer), only


def weighted(reducer: Reducer, weights: Array) -> Reducer:
    """The reducer, given factors whose examples are weighted; weights (N,)."""

    def reduce(params: dict[str, Array], factors: Factors, slots: Any = None) -> Any:
        return reducer(params, {k: scaled(f, weights) for k, f in factors.items()}, slots)

    return reduce


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Seen:
    """What `backprop_trace` reports of a leaf, around what the reducer made there."""

    activation: Any
    delta: Any
    reduced: Any


def reduce_kept(reduce: Reducer, params: Any, kept: Any, slots: Any = None) -> Any:
    """Apply a reducer, of two passes too, to the tree of factors that `keep` returned for a model.

    `reduce_kept(grads, params, kept)` is the gradient. What is not a factor (a tapped cotangent) is
    returned as it is. The layers are not asked again whether they mix the examples of a batch.

    Raises:
      FactorError: the reducer cannot reduce some factor; the text begins with its layer's path.
    """
    check_reducer("reduce_kept", reduce)
    if isinstance(reduce, TwoPass):
        measure, only = measured(reduce.measure)
        # what `backprop_trace` has seen beside the factors is no measurement
        factors = jax.tree.map(
            lambda node: node.reduced if isinstance(node, Seen) else node,
            kept,
            is_leaf=lambda node: isinstance(node, Seen),
        )
        found = only(_reduce_kept(measure, params, factors, None, ""))
        reduce = weighted(reduce.then, reduce.weights(found))
    return _reduce_kept(reduce, params, kept, slots, "")


def _reduce_kept(reduce: Reducer, params: Any, kept: Any, slots: Any, path: str) -> Any:
    if isinstance(kept, Seen):
        return replace(kept, reduced=_reduce_kept(reduce, params, kept.reduced, slots, path))
    if isinstance(kept, Combined):
        raise FactorError(
            f"reduce_kept: these are results of several reducers, {sorted(kept)}; take the factors "
            "out first, select(tree, name)"
        )
    if _is_mixed(kept) or (not _is_dict(kept) and _holds_factor(kept)):
        return _reduce_tree(reduce, params, kept, slots, path)
    if not _is_dict(kept):
        if hasattr(params, "shape"):
            raise FactorError(
                f"{path or 'reduce_kept'}: a parameter must have a factor beside it, got a "
                f"{type(kept).__name__}; keep with `keep`, which containers must pass on"
            )
        return kept
    if not any(isinstance(factor, Factor) for factor in kept.values()):
        slots = {} if slots is None else slots
        return {
            name: _reduce_kept(
                reduce, params.get(name, {}), part, slots.get(name), join_path(path, name)
            )
            for name, part in kept.items()
        }
    if any(isinstance(factor, Stacked) for factor in kept.values()):
        layers = {name: factor.factor for name, factor in kept.items()}
        reduced = lax.map(
            lambda part: _reduce_kept(reduce, part[0], part[1], part[2], path),
            (params, layers, slots),
        )
        return stack_factors(reduced)
    try:
        return reduce(params, kept, slots)
    except FactorError as error:
        raise at_path(FactorError(f"{path}: {error}" if path else str(error)), path) from None


def _is_dict(kept: Any) -> bool:
    """Whether it is a plain dict, as the parameters of layers are: no mapping of another kind, that
    is to come back as what it was."""
    return type(kept) is dict


def _is_mixed(kept: Any) -> bool:
    """Whether it is a dict with factors that are no layer's: beside further trees, or some of them
    stacked. The parameters of a program may lie so."""
    if not _is_dict(kept) or not any(isinstance(f, Factor) for f in kept.values()):
        return False
    whole = all(isinstance(factor, Factor) for factor in kept.values())
    return not whole or len({isinstance(factor, Stacked) for factor in kept.values()}) > 1


def _holds_factor(tree: Any) -> bool:
    leaves = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, Factor))
    return any(isinstance(leaf, Factor) for leaf in leaves)


def _reduce_tree(reduce: Reducer, params: Any, kept: Any, slots: Any, path: str) -> Any:
    """Parameters that are no layer's dict (a tuple, a dataclass, a program's): each for itself,
    under the last part of its path, as where it is reduced at once."""
    check_alone(path, reduce)
    placed, tree = jax.tree_util.tree_flatten_with_path(
        kept, is_leaf=lambda node: isinstance(node, Factor)
    )
    names = [jax.tree_util.keystr(keys[-1:], simple=True) or "params" for keys, _ in placed]
    factors = [factor for _, factor in placed]
    beside = [None] * len(factors) if slots is None else tree.flatten_up_to(slots)
    parts = zip(names, tree.flatten_up_to(params), factors, beside, strict=True)
    reduced = [
        _reduce_kept(reduce, {name: p}, {name: f}, None if s is None else {name: s}, path)
        for name, p, f, s in parts
    ]
    if not all(reduced):
        return {}
    return jax.tree.unflatten(tree, [entry_of(r, k) for k, r in zip(names, reduced, strict=True)])


def entry_of(reduced: Any, name: str) -> Any:
    """What a reducer made of one of its parameters."""
    if isinstance(reduced, Combined):
        return Combined({key: part.get(name, {}) for key, part in reduced.items()})
    return reduced.get(name, {})
