"""Combinators that use one parameter more than once: over time, and in two places.

    scan_time(cell)   (hₜ, yₜ) = cell(hₜ₋₁, xₜ)   (dhₜ₋₁, dxₜ) = cell.bwd(dhₜ, dyₜ), backwards in t
    tied(model, …)    w₂ = w₁ or w₁ᵀ              dw₁ = the sum of both uses: a `Many` factor

The gradient of a shared weight is the sum over the places it is used (Rumelhart, Hinton &
Williams 1986). In `scan_time` that sum is not taken in the loop: the factors of every step are
kept, time becomes one more position axis, and the reducer runs once behind the loop. One matrix
product over all steps takes the place of T small ones.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl.core.container import Child, container
from jaxdl.core.factors import Factor, FactorError, Many
from jaxdl.core.layer import Layer, check_layer, map_layers, walk_layers
from jaxdl.core.paths import at_path, join_path, path_of
from jaxdl.core.reducers import Reducer, Seen, grads, keep_for, reduce_kept
from jaxdl.core.side import add_to_side, zero_cotangent
from jaxdl.numerics.checks import check_array, is_inexact
from jaxdl.numerics.pytree import Static, as_jax, describe, pack_unique, struct, unpack_unique
from jaxdl.numerics.sharding import explicit_sharding


def scan_time(cell: Layer, carry: Callable[[jax.ShapeDtypeStruct], Any] | None = None) -> Layer:
    """Run a cell over the time axis, with one set of parameters.

    With `carry` the state starts as zeros: x (N, T, ...) to y (N, T, ...). Without it the state is
    given and returned, as it is by the cell: (h₀, x) to (h_T, y), each with its cotangent.

    Args:
      cell: a layer from the pair (carry, xₜ) to the pair (carry, yₜ).
      carry: from the shape and dtype of xₜ (N, ...) to those of the carry, a pytree of
        `jax.ShapeDtypeStruct` with leading axis N.

    Raises:
      ValueError: an x without an axis of time; a cell that returns another carry than it is given.
    """
    check_layer("scan_time", cell)
    child = Child(cell)

    def start(x):
        """The state before the first step, or its shapes, and x."""
        if carry is None:
            return _given_state(x)
        x = as_jax(x)
        return jax.tree.map(lambda s: _zeros(s, x), carry(_one_step(x))), x

    def init(key, x, side):
        x = as_jax(x)
        h, x = (carry(_one_step(x)), x) if carry is not None else _given_state(x)
        return child.init(key, (h, _one_step(x)), side)

    def fwd(params, x, side, key):
        h, x = start(x)
        _one_step(x)
        keys = None if key is None else jax.random.split(key, x.shape[1])

        def step(h, xs):
            (new, y), residuals = child.fwd(params, (h, xs[0]), side, xs[1])
            if struct(new) != struct(h):
                raise ValueError(
                    f"scan_time: {cell.label} must return a carry of the shape and dtype it is "
                    f"given, {describe(h)}, got {describe(new)}; give a carry of its width"
                )
            return new, (y, pack_unique(residuals))

        last, (y, steps) = lax.scan(step, h, (jnp.moveaxis(x, 1, 0), keys))
        y = jnp.moveaxis(y, 0, 1)
        if carry is None:
            return (last, y), steps
        leaves, structure = jax.tree.flatten(struct(last))
        return y, {"steps": steps, "carry": Static((tuple(leaves), structure))}

    def bwd(params, residuals, side, dy, reduce, slots):
        steps = residuals
        if carry is None:
            dh, dy = dy
            dh = jax.tree.map(lambda d: d if is_inexact(d) else None, dh)
        else:
            leaves, structure = residuals["carry"].value
            dh = jax.tree.unflatten(
                structure, [_zeros(s, dy) if is_inexact(s) else None for s in leaves]
            )
            steps = residuals["steps"]

        def step(carried, xs):
            dh, dside = carried
            kept, (dh, dx), part = child.bwd(
                params, unpack_unique(xs[1]), side, (dh, xs[0]), keep_for(reduce), None
            )
            # factors hold residuals, and share cotangents
            return (dh, add_to_side(dside, part)), (pack_unique(kept, xs[1].arrays), dx)

        carried = (dh, zero_cotangent(side) if cell.side else None)
        (dh, dside), (kept, dx) = lax.scan(
            step, carried, (jnp.moveaxis(dy, 1, 0), steps), reverse=True
        )
        kept = jax.tree.map(
            lambda f: f.join_time() if isinstance(f, Factor) else f,
            unpack_unique(kept, steps.arrays),
            is_leaf=lambda f: isinstance(f, Factor),
        )
        dx = None if dx is None else jnp.moveaxis(dx, 0, 1)
        try:
            reduced = reduce_kept(reduce, params, kept, slots)
        except FactorError as error:
            if path_of(error):
                raise
            raise FactorError(f"{cell.name}: {error}") from None
        return reduced, dx if carry is not None else (dh, dx), dside

    rebuild = functools.partial(scan_time, carry=carry)
    return container("scan_time", child, init, fwd, bwd, rebuild)


def _given_state(x: Any) -> tuple[Any, Any]:
    if not isinstance(x, tuple) or len(x) != 2:
        raise TypeError(
            f"scan_time: without `carry`, x must be the pair (state, inputs), got {describe(x)}; "
            "give the state, or build it with a carry that starts as zeros"
        )
    return as_jax(x)


def _one_step(x: Any) -> jax.ShapeDtypeStruct:
    check_array("scan_time: x", x)
    if len(x.shape) < 2:
        raise ValueError(
            f"scan_time: x must have axes (examples, time, ...), got shape {x.shape}; add the "
            "missing axis"
        )
    return jax.ShapeDtypeStruct((x.shape[0], *x.shape[2:]), x.dtype)


def _zeros(struct: jax.ShapeDtypeStruct, beside: Array) -> Array:
    """Zeros of that shape; under Explicit mesh axes their examples lie where those of x lie."""
    sharding = explicit_sharding(beside)
    if sharding is not None:
        sharding = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:1]))
    return jnp.zeros(struct.shape, struct.dtype, device=sharding)


def tied(model: Layer, ties: Mapping[str, str]) -> Layer:
    """The model with some parameters taken from others: one array, used in two places.

    ``tied(serial(embed=embedding(v, m), body=body, head=dense(v, use_bias=False)),
    {"head/w": "embed/table.T"})`` reads its output weights from the embedding table. The tied
    parameter disappears from `params`; its gradient arrives at the source, in every reducer.

    Args:
      model: the layers.
      ties: from the parameter that goes to the one that stays, each written as its path; ".T"
        behind the source transposes it.

    Raises:
      ValueError: no such leaf or parameter; a source that is itself tied; a leaf inside
        `repeat`, `scan_time`, `frozen` or another `tied`: its parameters are not there once
        and free. Give all ties to one `tied`.
    """
    check_layer("tied", model)
    child = Child(model)
    parsed = tuple((_parse(target), _parse(source)) for target, source in ties.items())
    sources = {(path, name.removesuffix(".T")) for _, (path, name) in parsed}
    for (path, name), _ in parsed:
        if (path, name) in sources:
            raise ValueError(
                f"tied: a source must keep its parameter, got {join_path(path, name)} as source "
                "and as tied; tie both to the same source"
            )
    places = tuple(dict.fromkeys(path for pair in parsed for path, _ in pair))
    for path in places:
        _check_place(model, path)
    deferred = Child(map_layers(lambda path, f: _defer(f) if path in places else f, model))

    def fill(params):
        for (path, name), (source, entry) in parsed:
            w = _get(params, source).get(entry.removesuffix(".T"))
            if w is None:
                raise ValueError(
                    f"tied: {source} must have the parameter {entry.removesuffix('.T')!r}, got "
                    f"{sorted(_get(params, source))}; name one of these"
                )
            whole = _get(params, path) | {name: w.T if entry.endswith(".T") else w}
            params = _put(params, path, whole)
        return params

    def init(key, x, side):
        params = child.init(key, x, side)
        filled = fill(params)
        for (path, name), _ in parsed:
            own, shape = _get(params, path), _get(filled, path)[name].shape
            if name not in own or own[name].shape != shape:
                shapes = {k: v.shape for k, v in own.items()}
                raise ValueError(
                    f"tied: {path} must have a parameter {name!r} of shape {shape}, got {shapes}; "
                    "check the path, or transpose with .T"
                )
            params = _put(params, path, {k: v for k, v in own.items() if k != name})
        return params

    def fwd(params, x, side, key):
        return child.fwd(fill(params), x, side, key)

    def bwd(params, residuals, side, dy, reduce, slots):
        full = fill(params)
        kept, dx, dside = deferred.bwd(full, residuals, side, dy, reduce, slots)
        factors = {path: dict(_factors(_get(kept, path))) for path in places}
        # a layer may report something else, whatever the reducer: that passes as it is
        whole = {p for p, fs in factors.items() if all(isinstance(f, Factor) for f in fs.values())}
        for (path, name), (source, entry) in parsed:
            if not {path, source} <= whole:
                continue
            second = factors[path].pop(name)
            second = second.transpose() if entry.endswith(".T") else second
            entry = entry.removesuffix(".T")
            factors[source][entry] = Many((factors[source][entry], second))
        for path in places:
            own, node = _get(params, path), _get(kept, path)
            part = {name: factor for name, factor in factors[path].items() if name in own}
            try:
                if own and path in whole:
                    part = reduce(own, part, _get(slots, path, None))
            except FactorError as error:
                raise at_path(FactorError(f"{path or model.name}: {error}"), path) from None
            part = replace(node, reduced=part) if isinstance(node, Seen) else part
            kept = _put(kept, path, part, keep_empty=bool(own))
        return kept, dx, dside

    detail = ", ".join(f"{target} = {source}" for target, source in ties.items())
    items = tuple(ties.items())
    return container(
        "tied", child, init, fwd, bwd, lambda new: tied(new, dict(items)), detail=detail,
        kind=model.kind,
    )  # fmt: skip


def _parse(parameter: str) -> tuple[str, str]:
    path, slash, name = parameter.rpartition("/")
    if not name or (slash and not path):
        raise ValueError(
            f"tied: a parameter is written as path/name, e.g. 'head/w', got {parameter!r}; print "
            "the model to see the names"
        )
    return path, name


def _defer(layer: Layer) -> Layer:
    """The leaf with its factors kept, whatever the reducer: `tied` reduces them when all are in."""

    def bwd(params, residuals, dy, reduce: Reducer = grads, slots=None):
        return layer.bwd(params, residuals, dy, keep_for(reduce))

    return replace(layer, bwd=bwd)


def _check_place(model: Layer, path: str) -> None:
    """Raise ValueError unless a leaf is at `path` whose parameters are there once and free."""
    found = [layer for at, layer in walk_layers(model) if at == path]
    if not found:
        above = [
            (at, layer)
            for at, layer in walk_layers(model)
            if layer.names and (not at or f"{path}/".startswith(f"{at}/"))
        ]
        at, names = (above[-1][0], above[-1][1].names) if above else ("", ())
        raise ValueError(
            f"tied: {path!r} must lead to a leaf, but {at or 'the model'} has {list(names)} inside "
            "and no such name; print the model to see the names"
        )
    for at, layer in walk_layers(model):
        inside = path == at or path.startswith(f"{at}/") or not at
        if inside and layer.name in ("repeat", "scan_time", "frozen", "tied"):
            raise ValueError(
                f"tied: {path!r} must not lead into {layer.label}, whose parameters are stacked, "
                "stepped, fixed or tied; tie outside it"
            )
    if found[-1].children:
        raise ValueError(
            f"tied: {path!r} must lead to a leaf, got the container {found[-1].label}; go on with "
            f"one of {list(found[-1].names)}"
        )


def _get(tree: Any, path: str, missing: Any = MappingProxyType({})) -> Any:
    """The part of a tree of dicts at `path`; `missing` where it is left out, None of no tree."""
    for name in path.split("/") if path else ():
        tree = None if tree is None else tree.get(name, missing)
    return tree


def _put(tree: Any, path: str, value: Any, keep_empty: bool = False) -> Any:
    """The tree with `value` at `path`; left out if it is empty, as what has no parameters is."""
    if not path:
        return value
    name, _, rest = path.partition("/")
    part = _put(tree.get(name, {}), rest, value, keep_empty)
    others = {k: v for k, v in tree.items() if k != name}
    return others | {name: part} if keep_empty or jax.tree.leaves(part) else others


def _factors(node: Any) -> dict[str, Factor]:
    return node.reduced if isinstance(node, Seen) else node
