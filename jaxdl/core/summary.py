"""A table of a model: output shape, parameters, FLOPs and residual bytes of every layer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import jax
from jax import Array

from jaxdl.core.layer import Layer, rebuilt, walk_layers
from jaxdl.core.paths import join_path
from jaxdl.core.side import split_side
from jaxdl.numerics.pytree import describe

_MARK = "jaxdl_leaf_"


@dataclass
class Row:
    """One leaf in a summary; figures count every repetition of the leaf."""

    path: str
    name: str
    output: str = ""
    params: int = 0
    flops: int = 0
    residual_bytes: int = 0


@dataclass(frozen=True, repr=False)
class Summary:
    """What `summary` measured; `print` shows it as a table."""

    rows: tuple[Row, ...] = field(default=())

    @property
    def params(self) -> int:
        """Number of parameters."""
        return sum(row.params for row in self.rows)

    @property
    def flops(self) -> int:
        """Operations of products and convolutions in one forward pass, 2 for each multiply-add."""
        return sum(row.flops for row in self.rows)

    @property
    def residual_bytes(self) -> int:
        """Bytes kept for the backward pass; an array that two layers keep is counted twice."""
        return sum(row.residual_bytes for row in self.rows)

    def __repr__(self) -> str:
        head = ("path", "layer", "output", "params", "MFLOP", "residual kB")
        body = [
            (r.path, r.name, r.output, *_figures(r.params, r.flops, r.residual_bytes))
            for r in self.rows
        ]
        figures = _figures(self.params, self.flops, self.residual_bytes)
        total = ("", "total", "", *figures)
        cells = [head, *body, total]
        widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
        lines = []
        for row in cells:
            columns = [c.ljust(w) for c, w in zip(row[:3], widths[:3], strict=True)]
            columns += [c.rjust(w) for c, w in zip(row[3:], widths[3:], strict=True)]
            lines.append("  ".join(columns).rstrip())
        rule = "─" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _figures(params: int, flops: int, residual_bytes: int) -> tuple[str, str, str]:
    return f"{params:,}", f"{flops / 1e6:,.3f}", f"{residual_bytes / 1e3:,.3f}"


def summary(model: Layer, x: Any, key: Array | None = None) -> Summary:
    """Measure every leaf of a model for an input of the shape and dtype of `x`.

    Nothing is computed and no parameter is made: everything is read off the traced program, so
    leaves inside `repeat` and `scan_time` are counted as often as they run. `remat` has a row of
    its own: it keeps its input, and the leaves inside it keep nothing.

    Args:
      model: any layer.
      x: the input, or `jax.ShapeDtypeStruct`s in its place.
      key: for what training keeps (the masks of dropout); without one, evaluation.
    """
    rows: list[Row] = []
    per_run: dict[int, tuple[int, int]] = {}

    def measured(layer: Layer, path: str) -> Layer:
        """The layer, leaving its figures in a row of its own when it is traced."""
        place = len(rows)
        rows.append(Row(path, layer.label))
        inside = marked(layer, path) if layer.children else layer

        def fwd(params, x, key=None):
            run, (y, residuals) = jax.make_jaxpr(inside.fwd, return_shape=True)(params, x, key)
            rows[place].output = ", ".join(map(describe, jax.tree.leaves(y)))
            kept = split_side(residuals)[0]  # a side input is kept once, by the whole model
            per_run[place] = 0 if layer.children else flops(run.jaxpr), _bytes(kept)
            return _boxed(inside.fwd, place)(params, x, key)

        return replace(inside, fwd=fwd)

    def marked(layer: Layer, path: str) -> Layer:
        names = layer.names or ("",) * len(layer.children)
        paths = [join_path(path, name) for name in names]
        return rebuilt(layer, *map(watched, layer.children, paths))

    def watched(layer: Layer, path: str = "") -> Layer:
        return measured(layer, path) if _has_row(layer) else marked(layer, path)

    model_seen = watched(model)
    x = jax.eval_shape(lambda x: x, x)
    params = jax.eval_shape(lambda key: model.init(key, x), jax.random.key(0))
    run = jax.make_jaxpr(lambda params, x: model_seen.fwd(params, x, key))(params, x)
    for place, times, forgotten in _boxes(run.jaxpr):
        rows[place].flops += times * per_run[place][0]
        rows[place].residual_bytes += 0 if forgotten else times * per_run[place][1]
    for row, made in _with_params(model, params, rows):
        row.params = sum(prod(p.shape) for p in jax.tree.leaves(made))
    return Summary(tuple(rows))


def _with_params(model: Layer, params: Any, rows: list[Row]) -> Iterator[tuple[Row, Any]]:
    """Each row of a leaf with its parameters."""
    layers = [layer for _, layer in walk_layers(model) if _has_row(layer)]
    for row, layer in zip(rows, layers, strict=True):
        if not layer.children:
            part = params
            for name in row.path.split("/") if row.path else ():
                part = part.get(name, {})
            yield row, part


def _has_row(layer: Layer) -> bool:
    return layer.name == "remat" or not layer.children


def _boxed(f: Callable[..., Any], place: int) -> Callable[..., Any]:
    """`f` as a jit with a name of its own: a box that stays visible in the traced program."""

    def box(*args):
        return f(*args)

    box.__name__ = f"{_MARK}{place}"
    return jax.jit(box)


def _boxes(jaxpr: Any, times: int = 1, inside: bool = False) -> Iterator[tuple[int, int, bool]]:
    """The boxes in a traced program: row, how often it runs, whether it is inside another.

    A box inside another is a layer inside `remat`, which keeps its input and nothing of theirs.
    """
    for eqn in jaxpr.eqns:
        name = eqn.params.get("name", "")
        box = isinstance(name, str) and name.startswith(_MARK)
        if box:
            yield int(name.removeprefix(_MARK)), times, inside
        for inner, runs in _inside(eqn):
            yield from _boxes(inner, times * runs, inside or box)


def flops(jaxpr: Any) -> int:
    """Operations of the matrix products and convolutions in a jaxpr: 2 for each multiply-add."""
    count = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            depth = prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
            count += 2 * depth * prod(eqn.outvars[0].aval.shape)
        if eqn.primitive.name == "conv_general_dilated":
            kernel, (features, *_) = eqn.invars[1].aval, eqn.params["dimension_numbers"].rhs_spec
            depth = prod(kernel.shape) // kernel.shape[features]
            count += 2 * depth * prod(eqn.outvars[0].aval.shape)
        count += sum(runs * flops(inner) for inner, runs in _inside(eqn))
    return count


def _inside(eqn: Any) -> Iterator[tuple[Any, int]]:
    """The programs inside an equation (of scan, jit, cond, ...), and how often each runs."""
    runs = eqn.params["length"] if eqn.primitive.name == "scan" else 1
    for value in eqn.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(part, "jaxpr", part)  # closed or open
            if hasattr(inner, "eqns"):
                yield inner, runs


def _bytes(tree: Any) -> int:
    return sum(prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))
