"""`tied`: one parameter used in two places.

    w₂ = w₁ or w₁ᵀ              dw₁ = the sum of both uses: a `Many` factor

The gradient of a shared weight is the sum over the places it is used (Rumelhart, Hinton &
Williams 1986). Sharing over time is `jaxdl.core.scan_time`.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import jax

from jaxdl.core.container import Child, container
from jaxdl.core.factors import Factor, FactorError, Many
from jaxdl.core.layer import Layer, check_layer, map_layers, walk_layers
from jaxdl.core.paths import at_path, join_path
from jaxdl.core.reducers import Reducer, Seen, grads, keep_for


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
