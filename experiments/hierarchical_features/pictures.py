"""Pictures of hierarchical_features: filters, what excites each unit, selectivity by layer."""

import numpy as np
from matplotlib import pyplot as plt

from experiments.framework.drawing import open_graphs

COLORS = {"trained": "#2b5c8a", "untrained": "#999999"}


def bare(axes):
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color="#999999", linewidth=0.5)


def filters(out, w):
    """w (rows, columns, units)."""
    units = w.shape[-1]
    lines = -(-units // 16)
    fig, panels = plt.subplots(
        lines, min(units, 16), figsize=(11, 0.75 * lines), squeeze=False, layout="compressed"
    )
    for axes in panels.flat[units:]:
        axes.axis("off")
    for axes, k in zip(panels.flat, range(units), strict=False):
        most = np.abs(w[..., k]).max()
        axes.imshow(w[..., k], cmap="RdBu_r", vmin=-most, vmax=most)
        bare(axes)
    caption = (
        f"The {w.shape[0]}×{w.shape[1]} filters of the first layer, each on its own scale: red "
        "weights are above 0, blue ones below. Many are strokes and edges of one direction."
    )
    out.figure("filters", fig, caption)


def tile(image):
    """(rows, columns) or (rows, columns, 3) in [0, 1] as colours, some 60 pixels wide, framed."""
    colours = np.broadcast_to(image if image.ndim == 3 else image[..., None], (*image.shape[:2], 3))
    large = colours.repeat(60 // len(image), axis=0).repeat(60 // len(image), axis=1)
    for width, shade in ((1, 0.6), (4, 1.0)):
        large = np.pad(large, ((width, width), (width, width), (0, 0)), constant_values=shade)
    return large


def units(out, layer, made, parts):
    """`made`: an image for each unit; `parts`: for each unit the parts that excite it most."""
    lines = []
    for image, found in zip(made, parts, strict=True):
        shown = plt.get_cmap("magma")(image / max(image.max(), 1e-6))[..., :3]
        lines.append(np.concatenate([tile(each) for each in (shown, *found)], axis=1))
    board = np.concatenate(lines)
    columns, width = 1 + len(parts[0]), board.shape[1] / (1 + len(parts[0]))
    size = (0.68 * columns, 0.68 * len(made) + 0.3)
    fig, axes = plt.subplots(figsize=size, layout="constrained")
    axes.imshow(board, interpolation="nearest")
    axes.axis("off")
    for place, word in ((0, "made"), (1, "found")):
        axes.text(width * place + 5, -4, word, fontsize=8)
    side = made[0].shape[0]
    words = "class scores" if layer == "classes" else "units"
    caption = (
        f"{layer}: {len(made)} {words}, one a row, on {side}×{side} pixels. Left the image made "
        "by gradient ascent, on its own scale, then the best parts of test images."
    )
    out.figure(f"units_{layer.replace(' ', '_')}", fig, caption)


def selectivity(out, layers, table):
    """`table`: (trained or untrained, probe or bits) -> (networks, layers)."""
    fig, panels = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="tight")
    titles = {"probe": "softmax regression on a layer", "bits": "one unit and the class"}
    for axes, what in zip(panels, titles, strict=True):
        for which, color in COLORS.items():
            values = table[which, what] * (100 if what == "probe" else 1)
            axes.plot(layers, values.T, color=color, lw=0.7, alpha=0.5)
            axes.plot(layers, values.mean(axis=0), "o-", color=color, lw=2, label=which)
        axes.set(title=titles[what])
        axes.set_ylabel("test accuracy, %" if what == "probe" else "mutual information, bits")
        open_graphs(axes, grid=True)
    panels[0].legend(frameon=False)
    caption = (
        "Each layer has equally many units, taken by their largest activation in an image. Thin "
        "lines are single networks."
    )
    out.figure("selectivity", fig, caption)
