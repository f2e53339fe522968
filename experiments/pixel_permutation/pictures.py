"""Pictures of pixel_permutation: the digits in each order, and errors by size."""

from matplotlib import pyplot as plt

from experiments.framework.drawing import open_graphs, show_image

COLORS = {"convolutional": "#a3331c", "dense": "#2b5c8a"}
STYLES = {"as they are": "-", "transposed": ":", "shuffled": "--"}


def images(out, rows):
    """`rows`: order of the pixels -> the same eight images."""
    fig, panels = plt.subplots(len(rows), 8, figsize=(9, 3.5), layout="tight")
    for line, (order, images) in zip(panels, rows.items(), strict=True):
        for axes, image in zip(line, images, strict=True):
            show_image(axes, image[..., 0], cmap="gray_r", vmin=0, vmax=1)
        line[0].set_ylabel(order, rotation=0, ha="right", va="center")
    caption = "The same digits in three orders of their pixels. Each row holds the same information"
    out.figure("images", fig, caption)


def errors(out, scores, sizes, nets, orders):
    fig, panels = plt.subplots(1, 2, figsize=(10.5, 4.2), sharex=True, sharey=True, layout="tight")
    for which, (axes, title) in enumerate(zip(panels, ("training", "test"), strict=True)):
        for net in nets:
            for order in orders:
                points = sorted(
                    (sizes[n, w], 100 * (1 - found[:, which]))
                    for (n, w, o), found in scores.items()
                    if (n, o) == (net, order)
                )
                means = [max(error.mean(), 0.02) for _, error in points]
                spread = [error.std() for _, error in points]
                low = [m - max(m - s, 0.02) for m, s in zip(means, spread, strict=True)]
                axes.errorbar([p for p, _ in points], means, yerr=[low, spread], marker="o", ms=3.5,
                              color=COLORS[net], ls=STYLES[order], capsize=2,
                              label=f"{net}, {order}")  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="parameters", title=f"{title} error, %")
        open_graphs(axes, grid=True)
    panels[0].legend(frameon=False, fontsize=8, loc="lower left", handlelength=4)
    caption = (
        "Errors by number of parameters; bars are standard deviations over seeds, and an error of "
        "none is drawn at 0.02 %. Shuffling moves the convolutional network and not the dense one."
    )
    out.figure("errors", fig, caption)
