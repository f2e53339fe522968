"""Combinators that use one parameter more than once: over time, and in two places.

    scan_time(cell)   (hₜ, yₜ) = cell(hₜ₋₁, xₜ)   (dhₜ₋₁, dxₜ) = cell.bwd(dhₜ, dyₜ), backwards in t
    tied(model, …)    w₂ = w₁ or w₁ᵀ              dw₁ = the sum of both uses: a `Many` factor

The gradient of a shared weight is the sum over the places it is used (Rumelhart, Hinton &
Williams 1986). In `scan_time` that sum is not taken in the loop: the factors of every step are
kept, time becomes one more position axis, and the reducer runs once behind the loop. One matrix
product over all steps takes the place of T small ones.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl.core.factors import Factor, FactorError, Many
from jaxdl.core.layer import Layer, map_layers
from jaxdl.core.reducers import Reducer, Seen, grads, keep, reduce_kept
from jaxdl.numerics.checks import check_array
from jaxdl.numerics.pytree import Static, as_jax, pack_unique, unpack_unique
from jaxdl.numerics.sharding import explicit_sharding


def scan_time(cell: Layer, carry: Callable[[jax.ShapeDtypeStruct], Any]) -> Layer:
    """Run a cell over the time axis: x (N, T, ...) to y (N, T, ...), one set of parameters.

    Args:
      cell: a layer from the pair (carry, xₜ) to the pair (carry, yₜ).
      carry: from the shape and dtype of xₜ (N, ...) to those of the carry, a pytree of
        `jax.ShapeDtypeStruct` with leading axis N. It starts as zeros.
    """

    def init(key, x):
        x_t = _one_step(as_jax(x))
        return cell.init(key, (carry(x_t), x_t))

    def fwd(params, x, key=None):
        x = as_jax(x)
        x_t = _one_step(x)
        h = jax.tree.map(lambda s: _zeros(s, x), carry(x_t))
        keys = None if key is None else jax.random.split(key, x.shape[1])

        def step(h, xs):
            (h, y), residuals = cell.fwd(params, (h, xs[0]), xs[1])
            return h, (y, pack_unique(residuals))

        _, (y, steps) = lax.scan(step, h, (jnp.moveaxis(x, 1, 0), keys))
        leaves, structure = jax.tree.flatten(carry(x_t))
        residuals = {"steps": steps, "carry": Static((tuple(leaves), structure))}
        return jnp.moveaxis(y, 0, 1), residuals

    def bwd(params, residuals, dy, reduce: Reducer = grads, slots=None):
        leaves, structure = residuals["carry"].value
        dh = jax.tree.unflatten(structure, [_zeros(s, dy) for s in leaves])

        def step(dh, xs):
            kept, (dh, dx) = cell.bwd(params, unpack_unique(xs[1]), (dh, xs[0]), keep)
            return dh, (kept, dx)

        _, (kept, dx) = lax.scan(
            step, dh, (jnp.moveaxis(dy, 1, 0), residuals["steps"]), reverse=True
        )
        kept = jax.tree.map(
            lambda f: f.join_time() if isinstance(f, Factor) else f,
            kept,
            is_leaf=lambda f: isinstance(f, Factor),
        )
        dx = None if dx is None else jnp.moveaxis(dx, 0, 1)
        try:
            return reduce_kept(reduce, params, kept, slots), dx
        except FactorError as error:
            raise FactorError(f"scan_time: {error}") from None

    return Layer(
        "scan_time", init, fwd, bwd, (cell,), lambda new: scan_time(new, carry), wraps=True
    )


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

    ``tied(serial(embedding(v, m), body, dense(v, use_bias=False)), {"2/w": "0/table.T"})`` reads
    its output weights from the embedding table. The tied parameter disappears from `params`; its
    gradient arrives at the source, in every reducer.

    Args:
      model: the layers.
      ties: from the parameter that goes to the one that stays, each written as the path of its
        leaf through `children` and its name, "2/w"; ".T" behind the source transposes it.

    Raises:
      ValueError: no such leaf or parameter; a source that is itself tied; a leaf inside
        `repeat`, `scan_time`, `frozen` or another `tied`: its parameters are not there once
        and free. Give all ties to one `tied`.
    """
    parsed = {_parse(target): _parse(source) for target, source in ties.items()}
    sources = {(path, name.removesuffix(".T")) for path, name in parsed.values()}
    for path, name in parsed:
        if (path, name) in sources:
            raise ValueError(
                f"tied: a source must keep its parameter, got {path}/{name} as source and as tied; "
                "tie both to the same source"
            )
    places = {path: _place(model, path) for pair in parsed.items() for path, _ in pair}
    deferred = map_layers(lambda path, f: _defer(f) if path in places else f, model)

    def fill(params):
        for (path, name), (source, entry) in parsed.items():
            w = _get(params, places[source]).get(entry.removesuffix(".T"))
            if w is None:
                raise ValueError(
                    f"tied: {source} must have the parameter {entry.removesuffix('.T')!r}, got "
                    f"{sorted(_get(params, places[source]))}; name one of these"
                )
            whole = _get(params, places[path]) | {name: w.T if entry.endswith(".T") else w}
            params = _put(params, places[path], whole)
        return params

    def init(key, x):
        params = model.init(key, x)
        filled = fill(params)
        for path, name in parsed:
            own = _get(params, places[path])
            shape = _get(filled, places[path])[name].shape
            if name not in own or own[name].shape != shape:
                shapes = {k: v.shape for k, v in own.items()}
                raise ValueError(
                    f"tied: {path} must have a parameter {name!r} of shape {shape}, got {shapes}; "
                    "check the path, or transpose with .T"
                )
            params = _put(params, places[path], {k: v for k, v in own.items() if k != name})
        return params

    def fwd(params, x, key=None):
        return model.fwd(fill(params), x, key)

    def bwd(params, residuals, dy, reduce: Reducer = grads, slots=None):
        kept, dx = deferred.bwd(fill(params), residuals, dy, reduce, slots)
        factors = {path: dict(_factors(_get(kept, place))) for path, place in places.items()}
        for (path, name), (source, entry) in parsed.items():
            second = factors[path].pop(name)
            second = second.transpose() if entry.endswith(".T") else second
            entry = entry.removesuffix(".T")
            factors[source][entry] = Many((factors[source][entry], second))
        for path, place in places.items():
            try:
                part = reduce(_get(params, place), factors[path], _get(slots, place))
            except FactorError as error:
                raise FactorError(f"tied: {path}: {error}") from None
            node = _get(kept, place)
            kept = _put(
                kept, place, replace(node, reduced=part) if isinstance(node, Seen) else part
            )
        return kept, dx

    detail = ", ".join(f"{target} = {source}" for target, source in ties.items())
    return Layer("tied", init, fwd, bwd, (model,), lambda new: tied(new, ties), detail, wraps=True)


def _parse(parameter: str) -> tuple[str, str]:
    path, slash, name = parameter.rpartition("/")
    if not name or (slash and not path):
        raise ValueError(
            f"tied: a parameter is written as path/name, e.g. '2/w', got {parameter!r}; print the "
            "model to see the paths"
        )
    return path, name


def _defer(layer: Layer) -> Layer:
    """The leaf with its factors kept, whatever the reducer: `tied` reduces them when all are in."""

    def bwd(params, residuals, dy, reduce: Reducer = grads, slots=None):
        return layer.bwd(params, residuals, dy, keep)

    return replace(layer, bwd=bwd)


def _place(model: Layer, path: str) -> tuple[int, ...]:
    """Where the parameters of the leaf at `path` are in the parameter tree."""
    place, layer = [], model
    for step in path.split("/") if path else []:
        if not step.isdigit() or int(step) >= len(layer.children):
            raise ValueError(
                f"tied: {path!r} must lead to a leaf, but {layer.label} has "
                f"{len(layer.children)} layers inside and no {step!r}; print the model"
            )
        if layer.name in ("repeat", "scan_time", "frozen", "tied"):
            raise ValueError(
                f"tied: {path!r} must not lead into {layer.label}, whose parameters are stacked, "
                "stepped, fixed or tied; tie outside it"
            )
        if not layer.wraps:
            place.append(int(step))
        layer = layer.children[int(step)]
    if layer.children:
        raise ValueError(
            f"tied: {path!r} must lead to a leaf, got the container {layer.label}; go on with the "
            "number of a layer inside it"
        )
    return tuple(place)


def _get(tree: Any, place: tuple[int, ...]) -> Any:
    for i in place:
        tree = None if tree is None else tree[i]
    return tree


def _put(tree: Any, place: tuple[int, ...], value: Any) -> Any:
    if not place:
        return value
    i, *rest = place
    return (*tree[:i], _put(tree[i], tuple(rest), value), *tree[i + 1 :])


def _factors(node: Any) -> dict[str, Factor]:
    return node.reduced if isinstance(node, Seen) else node
