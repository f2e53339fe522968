"""The pictures of `pooling`: each function draws one figure into the report."""

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from experiments.framework.drawing import open_graphs, show_image

COLORS = ("#2b5c8a", "#a3331c", "#2f7d4f", "#8a6d2b")


def _image(axes, image, cmap="gray_r", most=None):
    signed = cmap == "RdBu_r"
    most = most or max(float(np.abs(image).max()), 1e-9)
    show_image(axes, image, cmap=cmap, vmin=-most if signed else 0, vmax=most)


def stages(out, seen):
    digit, *maps = (np.asarray(y)[0] for y in seen)
    names = ("convolution", "detector", "pooling")
    shown = (0, 2, 4, 6)
    fig, panels = plt.subplots(4, 4, figsize=(7.4, 7.6), layout="constrained")
    for line, channel in zip(panels, shown, strict=True):
        line[0].axis("off")
        for axes, y, cmap in zip(line[1:], maps, ("RdBu_r", "gray_r", "gray_r"), strict=True):
            _image(axes, y[..., channel], cmap)
        line[1].set_ylabel(f"filter {channel + 1}")
    panels[1, 0].axis("on")
    _image(panels[1, 0], digit[..., 0])
    panels[1, 0].set_title(f"digit\n{digit.shape[0]}×{digit.shape[1]}", fontsize=10)
    for axes, name, y in zip(panels[0, 1:], names, maps, strict=True):
        axes.set_title(f"{name}\n{y.shape[0]}×{y.shape[1]}", fontsize=10)
    caption = (
        "One digit through the three stages, for the edge filters at 0, 90, 180 and 270 degrees. "
        "Convolution: red positive, blue negative; the detector keeps red; pooling halves each "
        "side and keeps the strongest answers."
    )
    out.figure("stages", fig, caption)


def kinds(out, maps, pooled, bump, shares):
    fig, panels = plt.subplots(2, 5, figsize=(10, 4.6), layout="tight")
    _image(panels[0, 0], np.asarray(maps))
    panels[0, 0].set_title(f"detector {maps.shape[0]}×{maps.shape[1]}", fontsize=10)
    for axes, (name, y) in zip(panels[0, 1:], pooled.items(), strict=True):
        _image(axes, np.asarray(y)[0, ..., 0])
        axes.set_title(f"{name} {y.shape[1]}×{y.shape[2]}", fontsize=10)
    squares = [("window", bump), *((f"dx, {name}", dx) for name, dx in shares.items())]
    for axes, (name, values) in zip(panels[1], squares, strict=True):
        _image(axes, values, "Blues", 1.6)
        axes.set_title(name, fontsize=10)
        for (row, column), value in np.ndenumerate(values):
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9)
    caption = (
        "Above: one detector map and what four kinds of pooling (3×3, stride 2) make of it. Below: "
        "a window of nine values and the gradient that each kind gives back to them for 1 at its "
        "output: all to the winner, equal parts, parts by value, parts by place."
    )
    out.figure("kinds", fig, caption)


def shift(out, before, after, pooled, found):
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(10.5, 3.9), width_ratios=(1, 1.15), layout="tight"
    )
    lines = (
        (3.2, "max of 3", pooled[0][0], pooled[1][0]),
        (2.2, "detector", before, after),
        (0.5, "max of 3", pooled[1][0], pooled[0][0]),
        (-0.5, "detector", after, before),
    )
    for height, name, values, others in lines:
        left.text(-0.75, height, name, ha="right", va="center")
        for place, (value, other) in enumerate(zip(values, others, strict=True)):
            color = "#dde5ec" if value == other else "#f0b9ab"
            left.add_patch(Rectangle((place - 0.42, height - 0.36), 0.84, 0.72, fc=color))
            left.text(place, height, f"{value:g}", ha="center", va="center")
    left.text(1.5, 3.85, "before", ha="center")
    left.text(1.5, 1.15, "one place to the right", ha="center")
    left.set(xlim=(-2.6, 3.6), ylim=(-1.1, 4.2))
    left.axis("off")
    widths = list(found)
    curve = np.linspace(1, max(widths), 200)
    right.plot(curve, 2 / (curve + 1), color="#b8c0c8", lw=4, label="2 / (width + 1)")
    right.plot(widths, [v["max"] for v in found.values()], "o", color=COLORS[0], label="maxima")
    right.plot(widths, [v["average"] for v in found.values()], "s", color=COLORS[1], label="means")
    right.set(xlabel="width of the window", ylabel="share that changes", ylim=(0, 1.08))
    open_graphs(right, grid=True)
    right.legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.68))
    caption = (
        "Left: all four inputs change under the shift (red), two of the four maxima do not (grey). "
        "Right: the share that changes in a long random row, by width."
    )
    out.figure("shift", fig, caption)


def _degrees(turn):
    return f"{turn}°".replace("-", "−")


def filters(out, turns, w, turned, winners, angles, curves, one):
    fig = plt.figure(figsize=(10.5, 6.2))
    parts = fig.add_gridspec(2, 4, height_ratios=(1, 1.35), hspace=0.3, wspace=0.3)
    table = fig.add_subplot(parts[1, 0:2])
    for i in range(3):
        axes = fig.add_subplot(parts[0, i])
        _image(axes, w[..., i], "RdBu_r")
        axes.set_title(f"filter {i + 1}", color=COLORS[i])
    three = parts[0, 3].subgridspec(3, 1, hspace=0.08)
    for i, (turn, image) in enumerate(zip(turns, turned, strict=True)):
        axes = fig.add_subplot(three[i])
        _image(axes, image)
        axes.set_ylabel(_degrees(turn), rotation=0, ha="right", va="center")
        if i == 0:
            axes.set_title("mean 5, by turn", fontsize=10)
    table.imshow(winners, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(winners):
        color = "white" if share > 0.6 else "black"
        table.text(column, row, f"{share:.0%}", ha="center", va="center", color=color)
    table.set_xticks(range(3), [f"filter {i + 1}" for i in range(3)])
    table.set_yticks(range(3), [f"5 at {_degrees(turn)}" for turn in turns])
    table.set_title("which filter wins", fontsize=10)
    lines = fig.add_subplot(parts[1, 2:4])
    for i in range(3):
        lines.plot(angles, curves[..., i].mean(axis=1), color=COLORS[i], label=f"filter {i + 1}")
    highest = curves.max(axis=-1).mean(axis=1)
    lines.plot(angles, highest, color="black", lw=3, alpha=0.45, label="maximum of the three")
    lines.plot(angles, one[..., 0].mean(axis=1), color="#5d6770", ls="--", label="one filter alone")
    lines.axhline(0, color="#b8c0c8", lw=1, zorder=0)
    lines.set(
        xlabel="turn of the 5, degrees", title="mean answer to test 5s", xticks=range(-120, 121, 60)
    )
    lines.title.set_fontsize(10)
    open_graphs(lines)
    lines.legend(frameon=False, fontsize=8, loc="lower center", ncols=2)
    lines.set_ylim(min(curves.mean(axis=1).min() * 1.45, -2))
    caption = (
        "Learned: the three filters (red positive, blue negative), which of them wins for 5s in "
        "each turn, and their answers while the 5s of the test set are turned. Above 0 the network "
        "says 5; the maximum of the three has a peak at each turn it was trained on, and drops "
        "between them."
    )
    out.figure("filters", fig, caption)


def sizes(out, found):
    names = list(found)
    fig, panels = plt.subplots(1, 3, figsize=(10.5, 3.4), layout="tight")
    for key, color, words in (("accuracy", COLORS[0], "test digits"),
                              ("accuracy_moved", COLORS[1], "moved by 2 pixels")):  # fmt: skip
        scores = np.array([values[key] for values in found.values()])
        panels[0].errorbar(range(len(names)), scores.mean(axis=1), scores.std(axis=1), fmt="o-",
                           color=color, capsize=3, label=words)  # fmt: skip
    panels[0].set_ylabel("accuracy")
    panels[0].legend(frameon=False, fontsize=9)
    for key, color, words in (("kept_bytes", COLORS[0], "all layers"),
                              ("behind_bytes", COLORS[1], "behind the detector")):  # fmt: skip
        kept = [values[key] / 1e3 for values in found.values()]
        panels[1].semilogy(range(len(names)), kept, "o-", color=color, label=words)
    panels[1].set_ylabel("kB kept for each image")
    panels[1].legend(frameon=False, fontsize=9)
    panels[2].semilogy(range(len(names)), [v["params"] for v in found.values()], "o-",
                       color=COLORS[2])  # fmt: skip
    panels[2].set_ylabel("parameters")
    for axes in panels:
        axes.set_xticks(range(len(names)), [f"{size}×{size}" for size in names])
        axes.set_xlabel("pooling region")
        open_graphs(axes, grid=True)
    caption = "Accuracy, memory for the backward pass, and parameters, by size of the regions"
    out.figure("sizes", fig, caption)


def _draw_regions(axes, bounds, scale=1.0, colors=COLORS):
    for i, ((top, bottom), (left, right)) in enumerate(bounds):
        inset = 0.12 * (i % 3)  # so that lines on the same edge stay apart
        axes.add_patch(Rectangle(
            (left - 0.5 + inset, top - 0.5 + inset), right - left - 2 * inset,
            bottom - top - 2 * inset, fill=False, ec=colors[i % len(colors)], lw=1.8 * scale,
        ))  # fmt: skip


def regions(out, strongest, sets):
    fig, panels = plt.subplots(1, len(sets), figsize=(9.5, 3.4), layout="tight")
    for axes, (name, bounds) in zip(panels, sets.items(), strict=True):
        _image(axes, strongest)
        _draw_regions(axes, bounds)
        axes.set_title(name, fontsize=10)
    caption = "The strongest answer of the detector at each place, under three sets of regions"
    out.figure("regions", fig, caption)


def structure(out, mean, candidates, structures):
    fig, panels = plt.subplots(2, 5, figsize=(10.5, 4.7), layout="tight")
    chosen = structures[max(structures)]["learned"]
    _image(panels[0, 0], mean, most=2.5 * mean.max())
    _draw_regions(panels[0, 0], candidates[structures[max(structures)]["grid"]])
    panels[0, 0].set_title("fixed grid", fontsize=10)
    for i, (axes, region) in enumerate(zip(panels.flat[1:], chosen, strict=True)):
        _image(axes, mean, most=2.5 * mean.max())
        _draw_regions(axes, candidates[[region]], 1.3, COLORS[1:])
        axes.set_title(f"learned, {i + 1}", fontsize=10)
    caption = (
        "The fixed grid, and the regions of the learned structure in the order in which they were "
        "chosen, over the mean detector answer of 1,000 digits"
    )
    out.figure("structure", fig, caption)
