"""Layers of this library inside a foreign program (`as_function`): they hand over own factors."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.core.composed_factors import Formed, Many, Stacked, Zero
from jaxdl.core.factor import Factor
from jaxdl.core.factors import Sum
from jaxdl.core.reducers import keep
from jaxdl.program.scope import Kind, Step


def layer_of(step: Step) -> tuple[Any, Any] | None:
    """(the layer, the structure of its arguments), if the step is one made by `as_function`."""
    if step.name != "custom_vjp_call":
        return None
    rule = getattr(step.eqn.params.get("bwd"), "f", None)
    layer = getattr(rule, "layer", None)
    structure = getattr(rule, "structure", None)
    if (
        layer is None
        or structure is None
        or _constants(step) + structure.num_leaves != len(step.ins)
    ):
        return None
    return layer, structure


def _constants(step: Step) -> int:
    """How many inputs are constants of the layer's forward (a table of windows), the first ones."""
    return step.eqn.params.get("num_consts", 0)


def own_factors(step: Step, places: int, inputs: list[Any], d: list[Any]) -> dict[int, Factor]:
    """The factors of the parameters among the inputs of a layer's step, by place.

    Args:
      places: the number of position axes behind the examples.
      inputs: those that are data with the examples first, then the positions.
      d: the cotangents of the outputs.
    """
    layer, structure = layer_of(step)  # type: ignore[misc]
    fixed = [v.kind != Kind.DATA for v in step.ins]

    def one(data, d):
        data = iter(data)
        leaves = [x if same else next(data) for x, same in zip(inputs, fixed, strict=True)]
        params, x, key = jax.tree.unflatten(structure, leaves[_constants(step) :])
        y, residuals = layer.fwd(params, x, key)
        dy = jax.tree.unflatten(jax.tree.structure(y), d)
        return layer.bwd(params, residuals, dy, keep)[0]

    for _ in range(places + 1):
        one = jax.vmap(one)
    kept = one([x for x, same in zip(inputs, fixed, strict=True) if not same], d)
    paths = {path: i for i, path in enumerate(_paths(structure), _constants(step))}
    factors = jax.tree_util.tree_flatten_with_path(kept, is_leaf=_is_factor)[0]
    return {
        paths[jax.tree_util.keystr(path)]: _of_positions(factor, places + 1, d[0].shape[0])
        for path, factor in factors
    }


def _is_factor(node: Any) -> bool:
    return isinstance(node, Factor)


def _paths(structure: Any) -> list[str]:
    """Where in the parameters each leaf of (params, x, key) is; those of x and key are unlike."""
    tree = jax.tree.unflatten(structure, range(structure.num_leaves))
    params = jax.tree_util.tree_flatten_with_path(tree[0])[0]
    names = [jax.tree_util.keystr(path) for path, _ in params]
    return names + [f"not a parameter {i}" for i in range(structure.num_leaves - len(names))]


def _of_positions(factor: Factor, lead: int, n: int) -> Factor:
    """A layer's factor, with axes in front of its own: the examples of the layer are positions."""
    if isinstance(factor, Many):
        return Many(tuple(_of_positions(part, lead, n) for part in factor.factors))
    if isinstance(factor, Stacked):
        front = jax.tree.map(lambda x: jnp.moveaxis(x, lead, 0), factor.factor)
        return Stacked(_of_positions(front, lead, n))
    if isinstance(factor, Formed):
        return Sum(factor.g)
    return Zero(n) if isinstance(factor, Zero) else factor
