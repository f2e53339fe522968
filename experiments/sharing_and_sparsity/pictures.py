"""The pictures of `sharing_and_sparsity`."""

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from experiments.framework.drawing import open_graphs, show_image

COLORS = ("#2b5c8a", "#a3331c", "#2f7d4f", "#b07d1e", "#6a4c93")


def _box(axis, start, size):
    corner = (start - 0.5, start - 0.5)
    axis.add_patch(Rectangle(corner, size, size, fill=False, ec="#35e0ff", lw=1.2))


def draw_connections(out, jacobians):
    """Which output hangs on which input, by name of the layer: (outputs, inputs) each."""
    fig, axes = plt.subplots(1, len(jacobians), figsize=(3 * len(jacobians), 3.3), layout="tight")
    for axis, (name, jacobian) in zip(axes, jacobians.items(), strict=True):
        axis.imshow(jacobian != 0, cmap="Blues", vmin=0, vmax=1.3)
        axis.set_title(f"{name}\n{np.count_nonzero(jacobian):,} connections", fontsize=10)
        axis.set(xlabel="input", ylabel="output")
    caption = (
        "Where ∂output/∂input is not zero. A row is the receptive field of an output, a column "
        "the outputs that one input touches."
    )
    out.figure("connections", fig, caption)


def draw_fields(out, seen):
    """By name of a stack, its fields: (layers, reach, measured size, (start, size)) each."""
    columns = max(len(fields) for fields in seen.values())
    fig, panels = plt.subplots(
        len(seen), columns, figsize=(1.7 * columns, 1.95 * len(seen)), layout="tight"
    )
    for line, (name, fields) in zip(panels, seen.items(), strict=True):
        for axes in line[len(fields) :]:
            axes.axis("off")
        for axes, (layers, reach, _, (start, size)) in zip(line, fields, strict=False):
            axes.imshow(reach, cmap="magma", vmin=0, vmax=1)
            axes.set_facecolor("black")
            _box(axes, start, size)
            around = start + size / 2 - 18, start + size / 2 + 17
            axes.set(xticks=[], yticks=[], xlim=around, ylim=around[::-1])
            axes.set_title(f"{layers}: {size} × {size}", fontsize=9)
        line[0].set_ylabel(name.replace(", ", ",\n").replace(" and", "\nand"), fontsize=9)
    caption = (
        "The inputs behind one unit, by the number of layers, from the backward pass: the share of "
        "random images for which the gradient reaches the place (black: never). Box: the formula. "
        "Where max pooling or relu choose, each image shows a part of the field, or nothing."
    )
    out.figure("fields", fig, caption)


def draw_growth(out, seen):
    fig, axes = plt.subplots(figsize=(7, 4))
    for color, (name, fields) in zip(COLORS, seen.items(), strict=True):
        wide = name == "3 × 3, stride 2"  # the next lies on it
        layers, _, measured, boxes = zip(*fields, strict=True)
        axes.plot(layers, [size for _, size in boxes], color=color, lw=4 if wide else 1.5)
        axes.plot(layers, measured, "o", color=color, ms=10 if wide else 6, label=name)
    axes.set(xlabel="layers with a window", ylabel="receptive field, rows", ylim=(0, None))
    open_graphs(axes)
    axes.legend(frameon=False)
    caption = (
        "Receptive fields: dots measured, lines r = 1 + Σ (kᵢ − 1)·δᵢ·Πs. Stride 2 in every layer "
        "and dilation by 1, 2, 4, 8 give the same sizes."
    )
    out.figure("growth", fig, caption)


def draw_effective(out, maps, depths, spread, expected):
    """Maps of mean squared gradients and their deviations, by depth."""
    shown = list(zip(depths, maps, strict=True))[-4:]
    widths = [2] * len(shown) + [3]
    fig, panels = plt.subplots(1, len(widths), figsize=(13, 3), width_ratios=widths, layout="tight")
    for axes, (depth, mean) in zip(panels, shown, strict=False):
        size = 2 * depth + 1
        axes.imshow(np.sqrt(mean), cmap="magma")
        _box(axes, (len(mean) - size) // 2, size)
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"{depth} layers: {size} × {size}", fontsize=10)
    axes = panels[-1]
    axes.loglog(depths, spread, "o", color=COLORS[0], label="measured")
    axes.loglog(depths, expected, color="#5d6770", lw=1, label="√(2n/3)")
    half = [depth + 0.5 for depth in depths]
    axes.loglog(depths, half, color="#b8c0c8", ls="--", label="half of the field")
    axes.set(xlabel="layers n", ylabel="deviation, pixels")
    axes.set_xticks(depths, [str(depth) for depth in depths])
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100) if min(spread) < tick < max(half)]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    open_graphs(axes)
    axes.legend(frameon=False, fontsize=8)
    caption = (
        "The effective receptive field: size of the gradient of one unit with respect to each "
        "pixel, in stacks of 3 × 3 kernels and relu. The field (box) grows with the depth, the "
        "part of it that counts with its square root."
    )
    out.figure("effective", fig, caption)


def draw_gradient_by_place(out, mean_image, contributions, dw, summed):
    """‖dw‖ at every place of the unshared layer, and one kernel's gradient made both ways."""
    fig, axes = plt.subplots(1, 4, figsize=(11, 3), layout="tight")
    size = np.abs(dw).max()
    panels = [
        (axes[0], mean_image, "mean digit", {"cmap": "gray"}),
        (axes[1], contributions, "‖dw‖ at each place", {"cmap": "magma", "vmin": 0}),
        (axes[2], summed, "their sum, one kernel", {"cmap": "RdBu", "vmin": -size, "vmax": size}),
        (axes[3], dw, "dw of the convolution", {"cmap": "RdBu", "vmin": -size, "vmax": size}),
    ]
    for axis, image, title, options in panels:
        show_image(axis, image, **options, title=title)
    caption = (
        "The gradient of a shared weight is the sum over the places where it is used: sizes of "
        "the terms, and their sum, for one kernel of 3 × 3, beside the gradient of the convolution."
    )
    out.figure("gradient_by_place", fig, caption)
