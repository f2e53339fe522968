"""The figure of a `GradientFlow`, by matplotlib: loaded only when it is asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import NullFormatter

from jaxdl.program.gradient_flow import FlowRow, GradientFlow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREY = "#2b5c8a", "#c4622d", "#8a8a8a"
FAINT = "#e6e6e6"


def draw(flow: GradientFlow, title: str | None = None) -> Any:
    """Four panels beside each other, a line for each parameter, a dot for each layer of a stack.

    The figure belongs to no window: save it, or show it in a notebook.
    """
    from matplotlib.figure import Figure

    paths = list(dict.fromkeys(row.path for row in flow.rows))
    lines = [[row for row in flow.rows if row.path == path] for path in paths]
    drowned = any(math.isinf(row.noise_scale) for row in flow.rows)
    longest = max(len(path) for path in paths)
    height = 1.5 + 0.24 * len(paths)
    figure = Figure(figsize=(8.5 + 0.075 * longest, max(height, 2.6)), layout="constrained")
    panels = figure.subplots(1, 4, sharey=True, width_ratios=(3, 3, 2, 2))
    _log_panel(
        panels[0], lines, "root mean square at the parameter",
        {
            "activation": (lambda r: r.activation, BLUE),
            "cotangent": (lambda r: r.cotangent, ORANGE),
        },
    )  # fmt: skip
    _log_panel(
        panels[1], lines, "L2 norm",
        {"‖∇‖": (lambda r: r.gradient, BLUE), "‖∇‖ / ‖w‖": (lambda r: r.relative, ORANGE)},
    )  # fmt: skip
    _log_panel(
        panels[2], lines, "noise scale" + (" (▸: no signal)" if drowned else ""),
        {"tr Σ / |G|²": (lambda r: r.noise_scale, BLUE)},
    )  # fmt: skip
    _share_panel(panels[3], lines)
    panels[0].set_yticks(range(len(paths)), [path or "params" for path in paths], fontsize=8)
    panels[0].set_ylim(len(paths) - 0.5, -0.5)
    for panel in panels:
        panel.tick_params(axis="x", labelsize=8)
        panel.tick_params(axis="y", length=0)
        panel.spines[["top", "right", "left"]].set_visible(False)
        for y in range(len(paths)):
            panel.axhline(y, color=FAINT, linewidth=0.6, zorder=0)
    if any(len(line) > 1 for line in lines):
        note = "Dots of one line: the layers of a stack, the first palest, the last darkest."
        figure.supxlabel(note, x=0.01, ha="left", fontsize=8, color=GREY)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _log_panel(axes: Axes, lines: list[list[FlowRow]], label: str, series: dict[str, Any]) -> None:
    """Dots on a logarithmic axis; what is 0 or infinite is a triangle at the edge."""
    values = {
        name: [[of(row) for row in line] for line in lines] for name, (of, _) in series.items()
    }
    every = [v for some in values.values() for line in some for v in line]
    inside = [v for v in every if math.isfinite(v) and v > 0]
    low, high = (min(inside), max(inside)) if inside else (0.1, 10.0)
    middle, reach = math.sqrt(low * high), max(math.sqrt(high / low) ** 1.16, 4.0)
    low, high = middle / reach, middle * reach
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(low, high)
    for shift, (name, (_, color)) in zip(_shifts(len(series)), series.items(), strict=True):
        axes.plot([], [], "o", color=color, markersize=4.5, label=name)
        for y, line in enumerate(values[name]):
            for strength, value in zip(_strengths(len(line)), line, strict=True):
                if math.isnan(value):
                    continue
                marker = "<" if value <= 0 else ">" if math.isinf(value) else "o"
                place = min(max(value, low), high)
                axes.plot(
                    place, y + shift, marker, color=color, alpha=strength, markersize=4.5,
                    markeredgewidth=0, clip_on=False,
                )  # fmt: skip
    axes.set_xlabel(label, fontsize=8)
    _legend(axes, len(series))


def _share_panel(axes: Axes, lines: list[list[FlowRow]]) -> None:
    series = {"silent inputs": ("silent", BLUE), "dead units": ("dead", ORANGE)}
    for shift, (name, (field, color)) in zip(_shifts(2), series.items(), strict=True):
        axes.plot([], [], "o", color=color, markersize=4.5, label=name)
        for y, line in enumerate(lines):
            for strength, row in zip(_strengths(len(line)), line, strict=True):
                share = getattr(row, field)
                if not math.isnan(share):
                    axes.plot(
                        share, y + shift, "o", color=color, alpha=strength, markersize=4.5,
                        markeredgewidth=0, clip_on=False,
                    )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_xticks((0, 0.5, 1), ("0", "50 %", "100 %"))
    axes.set_xlabel("share that is always 0", fontsize=8)
    _legend(axes, 2)


def _legend(axes: Axes, entries: int) -> None:
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=entries, fontsize=8, frameon=False,
        handletextpad=0.2, columnspacing=1.0, borderaxespad=0.2,
    )  # fmt: skip


def _shifts(count: int) -> tuple[float, ...]:
    """Two series on one line lie a little apart."""
    return (0.0,) if count == 1 else (-0.14, 0.14)


def _strengths(count: int) -> Iterator[float]:
    return iter([1.0] if count == 1 else np.linspace(0.25, 1.0, count).tolist())
