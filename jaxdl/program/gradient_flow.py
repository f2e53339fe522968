"""How gradients flow through a model, as a table and a figure: `gradient_flow`."""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxdl.core.flow import Flow, flow
from jaxdl.program.value_and_reduce import value_and_reduce


@dataclass(frozen=True)
class FlowRow:
    """One parameter, or its part of one layer in a stack. See `jaxdl.core.flow.Flow`.

    Attributes:
      path: where the parameter is.
      layer: which one, in a parameter that a scan steps through; else None. Scans inside scans give
        a tuple of several numbers.
      activation, cotangent: root mean squares, NaN where there is none.
      gradient, weight: L2 norms.
      noise_scale: tr Σ/|G|², the batch size at which noise and signal are equal; infinite where the
        noise drowns the signal (the estimate of |G|² is not above 0), NaN for a batch of one.
      silent: share of the input features that are 0 throughout the batch.
      dead: share of the output units that get no cotangent from any example.
    """

    path: str
    layer: tuple[int, ...] | None
    activation: float
    cotangent: float
    gradient: float
    weight: float
    noise_scale: float
    silent: float
    dead: float

    @property
    def name(self) -> str:
        """The path, with the layer in brackets."""
        return self.path + ("" if self.layer is None else f"[{', '.join(map(str, self.layer))}]")

    @property
    def relative(self) -> float:
        """‖∇‖/‖w‖: what a step of learning rate 1 would change. NaN for a parameter that is 0."""
        return self.gradient / self.weight if self.weight else math.nan


HEAD = ("parameter", "activation", "cotangent", "‖∇‖", "‖∇‖/‖w‖", "noise", "silent", "dead")


@dataclass(frozen=True, repr=False)
class GradientFlow:
    """What `gradient_flow` found: `print` shows a table, `figure` draws it.

    With Rich, ``rich.print(flow)`` shows it in colour. A row stands out where a figure is not
    finite, no gradient arrives, or half the units or more are dead; `remarks` names these.

    Attributes:
      rows: one for each parameter and layer, in the order of the tree.
      losses: of the examples, (N,); None where only a reduced tree was given.
    """

    rows: tuple[FlowRow, ...]
    losses: Array | None = None

    @classmethod
    def of(cls, reduced: Any, losses: Array | None = None) -> GradientFlow:
        """From a tree that the reducer `flow` made, in a training step, say.

        Raises:
          ValueError: a tree without any `Flow`.
        """
        nodes, _ = jax.tree_util.tree_flatten_with_path(
            jax.device_get(reduced), is_leaf=lambda node: isinstance(node, Flow)
        )
        rows = [
            row
            for path, node in nodes
            if isinstance(node, Flow)
            for row in _rows(jax.tree_util.keystr(path, simple=True, separator="/"), node)
        ]
        if not rows:
            raise ValueError(
                "GradientFlow: the tree must be one that the reducer flow made, got one without "
                "its results; use reduce=jaxdl.flow"
            )
        return cls(tuple(rows), losses)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What stands out: figures that are not finite, no gradient at all, dead units."""
        bad = [r.name for r in self.rows if not math.isfinite(r.gradient + r.weight)]
        none = [r.name for r in self.rows if r.gradient == 0]
        dead = [f"{r.name} ({r.dead:.0%})" for r in self.rows if r.gradient != 0 and r.dead >= 0.5]
        found = (("not finite", bad), ("no gradient", none), ("half the units or more dead", dead))
        return tuple(f"{what}: {_listed(names)}" for what, names in found if names)

    def __repr__(self) -> str:
        return "\n".join(text for text, _ in self._lines())

    def __rich__(self) -> Any:
        """The same in colour, as Rich asks for it: red and yellow for what the remarks name."""
        text: Any = importlib.import_module("rich.text").Text
        return text("\n").join(text(line, style=style) for line, style in self._lines())

    def _lines(self) -> Iterator[tuple[str, str]]:
        """The table, line by line, each with its style: parameters of one layer under its path."""
        table = [HEAD, *map(_cells, self.rows)]
        widths = [max(len(row[i]) for row in table) for i in range(len(HEAD))]

        def line(cells: tuple[str, ...]) -> str:
            numbers = [c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)]
            return "  ".join([cells[0].ljust(widths[0]), *numbers])

        rule = "─" * len(line(HEAD))
        yield line(HEAD), "bold"
        yield rule, "dim"
        above = ""
        for row, cells in zip(self.rows, table[1:], strict=True):
            parent = row.path.rpartition("/")[0]
            if parent != above:
                yield parent, "bold"
            above = parent
            yield line(cells), _style(row)
        yield rule, "dim"
        if self.losses is not None:
            yield f"{len(self.losses)} examples, mean loss {float(np.mean(self.losses)):.4g}", ""
        for remark in self.remarks:
            yield remark, ""

    def figure(self, title: str | None = None) -> Any:
        """A matplotlib figure: a line for each parameter, a dot for each layer of a stack.

        Raises:
          ImportError: without matplotlib.
        """
        try:
            pictures = importlib.import_module("jaxdl.program.flow_pictures")
            return pictures.draw(self, title)
        except ImportError as error:
            if (error.name or "").partition(".")[0] != "matplotlib":
                raise
            raise ImportError(
                "GradientFlow.figure: matplotlib must be installed to draw, and is not; "
                "pip install matplotlib, or print the table instead"
            ) from error


def gradient_flow(
    loss: Callable[..., Any],
    params: Any,
    *examples: Any,
    in_axes: Any = 0,
    has_aux: bool = False,
    keep_batch_dim: bool = False,
) -> GradientFlow:
    """How activations, cotangents and gradients flow through a model, parameter by parameter.

    Takes what `value_and_reduce` takes: a loss of one example with any model of JAX in it, and a
    batch. The first call for a loss compiles; later ones with arguments of the same shapes do not.
    In a training step use the reducer `flow`, and `GradientFlow.of` on what it made.

    Args:
      loss: ``loss(params, *example) -> scalar``.
      params: a tree of floating-point arrays.
      examples: the batch, examples on the axes that `in_axes` names.
      in_axes, has_aux, keep_batch_dim: as `value_and_reduce`.

    Raises:
      ValueError, TypeError, FactorError: as `value_and_reduce`.
    """
    try:
        compiled = _compiled(loss, in_axes, has_aux, keep_batch_dim)
    except TypeError:  # settings that cannot be looked up: lists of axes, say
        compiled = _compiled.__wrapped__(loss, in_axes, has_aux, keep_batch_dim)
    values, reduced = compiled(params, *examples)
    losses = values[0] if has_aux else values
    return GradientFlow.of(reduced, losses)


@functools.lru_cache(maxsize=16)
def _compiled(loss: Callable[..., Any], in_axes: Any, has_aux: bool, keep_batch_dim: bool):
    reduced = value_and_reduce(
        loss, flow, in_axes=in_axes, has_aux=has_aux, keep_batch_dim=keep_batch_dim
    )
    return jax.jit(reduced)


def _rows(path: str, node: Flow) -> Iterator[FlowRow]:
    signal = node.noise.sq_norm
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(signal > 0, node.noise.trace / signal, np.inf)
    scale = np.where(np.isnan(signal) | (np.asarray(node.gradient) == 0), np.nan, scale)
    columns = (
        node.activation, node.cotangent, node.gradient, node.weight, scale, node.silent, node.dead
    )  # fmt: skip
    for place in np.ndindex(np.shape(node.gradient)):
        yield FlowRow(path, place or None, *(float(column[place]) for column in columns))


def _style(row: FlowRow) -> str:
    if not math.isfinite(row.gradient + row.weight) or row.gradient == 0:
        return "red"
    return "yellow" if row.dead >= 0.5 else ""


def _cells(row: FlowRow) -> tuple[str, ...]:
    """A row of the table as text."""
    parent, _, leaf = row.name.rpartition("/")
    return (
        ("  " if parent else "") + (leaf or "params"),
        _or_dash(row.activation, ".3g"),
        f"{row.cotangent:.3g}",
        f"{row.gradient:.3g}",
        f"{row.relative:.3g}" if row.weight else "–",
        "∞" if math.isinf(row.noise_scale) else _or_dash(float(f"{row.noise_scale:.2g}"), "g"),
        _or_dash(row.silent, ".0%"),
        _or_dash(row.dead, ".0%"),
    )


def _or_dash(value: float, form: str) -> str:
    """What a parameter does not have is NaN."""
    return "–" if math.isnan(value) else format(value, form)


def _listed(names: list[str], most: int = 5) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
