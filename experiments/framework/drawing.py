"""What figures have in common: images without ticks, graphs open above and on the right."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes


def show_image(axes: Axes, image: Any, title: str = "", *, title_size: float = 10, **how: Any):
    """An image without ticks, a title above it; `how` goes to `imshow`."""
    axes.imshow(image, **how)
    axes.set(xticks=[], yticks=[])
    if title:
        axes.set_title(title, fontsize=title_size)


def open_graphs(*graphs: Axes, grid: bool = False) -> None:
    """Take the lines above and on the right away; a pale grid if asked for."""
    for axes in graphs:
        axes.spines[["top", "right"]].set_visible(False)
        if grid:
            axes.grid(alpha=0.25)
