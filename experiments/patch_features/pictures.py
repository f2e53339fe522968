"""Pictures of patch_features: the textures, filters, maps and accuracies."""

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from experiments.framework.drawing import open_graphs, show_image


def crops(out, areas):
    """`areas`: texture -> its two areas."""
    fig, panels = plt.subplots(2, len(areas), figsize=(8, 5.5), layout="compressed")
    for column, (name, pair) in zip(panels.T, areas.items(), strict=True):
        for axes, area, words in zip(column, pair, ("first", "second"), strict=True):
            axes.imshow(area, cmap="gray", vmin=0, vmax=1)
            axes.set(title=f"{name}, {words} area", xticks=[], yticks=[])
            axes.title.set_fontsize(9)
            axes.add_patch(Rectangle((4, 4), 96, 96, fill=False, color="#ffb000", lw=1))
    caption = "The two areas of each texture; the frame is as large as a crop."
    out.figure("textures", fig, caption)


def tiled(filters, size, columns):
    """(size², K) as one picture, each filter on its own scale, with lines between."""
    k = filters.shape[1]
    picture = np.ones((-(-k // columns) * (size + 1) + 1, columns * (size + 1) + 1))
    for n in range(k):
        i, j = n // columns * (size + 1) + 1, n % columns * (size + 1) + 1
        one = filters[:, n].reshape(size, size)
        picture[i : i + size, j : j + size] = one / np.abs(one).max()
    return picture


def filters(out, learned, size):
    fig, axes = plt.subplots(figsize=(10, 10 * -(-learned.shape[1] // 20) / 20 + 0.2))
    axes.imshow(tiled(learned, size, min(20, learned.shape[1])), cmap="gray", vmin=-1, vmax=1)
    axes.axis("off")
    caption = (
        f"What each hidden unit adds up over the pixels of a {size}×{size} patch, each on its own "
        "scale: edges and strokes of one direction, many of them in one part of the patch."
    )
    out.figure("filters", fig, caption)


def maps(out, image, found, filters, size, pool):
    """An image and the maps of the units that vary most on it."""
    chosen = np.argsort(-found.std(axis=(0, 1)))[:4]
    fig, panels = plt.subplots(1, 5, figsize=(11, 2.6), layout="compressed")
    panels[0].imshow(image, cmap="gray")
    panels[0].set_title("a test image", fontsize=9)
    for axes, k in zip(panels[1:], chosen, strict=True):
        axes.imshow(found[..., k], cmap="magma")
        for edge in range(pool, found.shape[0], pool):
            axes.axhline(edge - 0.5, color="white", lw=0.8)
            axes.axvline(edge - 0.5, color="white", lw=0.8)
        axes.set_title(f"map of unit {k}", fontsize=9)
        inset = axes.inset_axes((0.0, 0.0, 0.22, 0.22))
        show_image(inset, filters[:, k].reshape(size, size), cmap="gray")
    for axes in panels:
        axes.set(xticks=[], yticks=[])
    side = found.shape[0]
    caption = (
        f"Maps of {side}×{side} places, each unit's filter in the corner. Lines are the borders "
        "of the pooling regions."
    )
    out.figure("maps", fig, caption)


def accuracy(out, names, found, sizes):
    colors = {"learned": "#2b5c8a", "random": "#a3331c"}
    fig, panels = plt.subplots(1, len(sizes), figsize=(10, 3.4), sharey=True, layout="tight")
    for axes, n in zip(panels, sizes, strict=True):
        for height, name in enumerate(names):
            values = 100 * np.asarray(found[name, n])
            color = colors.get(name.split()[0], "#999999")
            axes.barh(height, values.mean(), color=color, alpha=0.75, height=0.7)
            axes.plot(values, np.full(len(values), height), "k.", ms=4)
        axes.axvline(25, color="#444444", lw=1, ls=":")
        axes.set(title=f"{n} crops of each texture", xlabel="test accuracy, %", xlim=(0, 101))
        open_graphs(axes)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    caption = "Softmax regression on each kind of features; dots are single runs, dotted is chance."
    out.figure("accuracy", fig, caption)
