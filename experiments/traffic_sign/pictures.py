"""Pictures of traffic_sign: examples, the stages, the confusion matrix and a scene."""

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from experiments.framework.drawing import open_graphs
from experiments.traffic_sign.signs import NAMES


def examples(out, x, y):
    fig, panels = plt.subplots(len(NAMES), 10, figsize=(9, 8.2))
    for k, line in enumerate(panels):
        for axes in line:
            axes.set(xticks=[], yticks=[])
        for axes, image in zip(line, x[y == k], strict=False):
            axes.imshow(image)
        line[0].set_ylabel(NAMES[k], rotation=0, ha="right", va="center")
    fig.tight_layout(pad=0.3)
    caption = (
        "Generated training images. Stop and no entry differ in shape alone, the limits in one "
        "digit. “No sign” is clutter, or a sign too far from the middle."
    )
    out.figure("examples", fig, caption)


def stages(out, params, image, maps):
    fig, panels = plt.subplots(5, 10, figsize=(11, 6.2), gridspec_kw={"hspace": 0.25})
    for axes in panels.ravel():
        axes.set_axis_off()
    kernels = np.moveaxis(np.asarray(params["conv"]["w"]), -1, 0)
    kernels = 0.5 + 0.5 * kernels / np.abs(kernels).max()
    for axes, picture in zip(panels[0], [image, *kernels], strict=False):
        axes.imshow(picture)
    titles = ("image and the 4 kernels", "behind 4 kernels and relu", "behind pooling",
              "behind 10 kernels and relu", "behind pooling")  # fmt: skip
    for line, stage in zip(panels[1:], maps[:4], strict=True):
        for axes, channel in zip(line, np.moveaxis(stage, -1, 0), strict=False):
            axes.imshow(channel, cmap="magma", vmin=0, vmax=max(stage.max(), 1e-6))
    for line, title in zip(panels, titles, strict=True):
        line[0].set_title(title, loc="left", fontsize=9)
    bars = fig.add_axes((0.62, 0.56, 0.27, 0.3))
    share = np.exp(maps[4] - maps[4].max())
    bars.barh(range(len(share)), share / share.sum(), color="#2b5c8a")
    bars.set_yticks(range(len(share)), NAMES, fontsize=8)
    bars.set(xlim=(0, 1), title="softmax")
    bars.invert_yaxis()
    open_graphs(bars)
    caption = "A test image behind every stage; dark is 0. Kernels: grey is 0"
    out.figure("stages", fig, caption)


def scene(out, image, boxes, proposed, kept, scores, classes):
    fig, panels = plt.subplots(1, 2, figsize=(12, 4.4), layout="tight")
    titles = ("every window that sees a sign", "after non-maximum suppression")
    for axes, rows, title in zip(panels, (proposed, kept), titles, strict=True):
        axes.imshow(image)
        axes.set(xticks=[], yticks=[], title=f"{title}: {len(rows)}")
        for row in rows:
            y0, x0, y1, x1 = boxes[row]
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color="w", lw=1.2))
    for row in kept:
        y0, x0, *_ = boxes[row]
        panels[1].text(x0, y0 - 2, f"{NAMES[classes[row]]} {scores[row]:.2f}", color="k",
                       fontsize=8, bbox={"facecolor": "w", "pad": 1, "lw": 0})  # fmt: skip
    out.figure("scene", fig, "A generated scene: boxes before and after non-maximum suppression")


def confusion(out, count):
    """`count`: images of each class (rows) by the class predicted (columns)."""
    share = count / np.maximum(count.sum(axis=1, keepdims=True), 1)
    fig, axes = plt.subplots(figsize=(6.4, 5.6))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), n in np.ndenumerate(count):
        if n:
            axes.text(j, i, n, ha="center", va="center", color="w" if share[i, j] > 0.5 else "k")
    axes.set_xticks(range(len(count)), NAMES, rotation=45, ha="right")
    axes.set_yticks(range(len(count)), NAMES)
    axes.set(xlabel="predicted", ylabel="drawn")
    out.figure("confusion", fig, "Test images by class, drawn and predicted (seed 0)")
