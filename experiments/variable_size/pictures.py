"""Picture of variable_size: accuracy by size."""

import numpy as np
from matplotlib import pyplot as plt

from experiments.framework.drawing import open_graphs

COLORS = {"fixed": "#5d6770", "variable": "#2b5c8a", "global average": "#a3331c"}


def accuracy(out, scores, mixed, everywhere):
    """`mixed`: the sides of mixed training; `everywhere`: all sides."""
    fig, axes = plt.subplots(figsize=(7.5, 4.2))
    kinds = list(dict.fromkeys((name, kind) for name, kind, _ in scores))
    styles = {"mixed sizes": "-", "resized": ":"}
    for name, kind in kinds:
        found = {s: v for (n, k, s), v in scores.items() if (n, k) == (name, kind)}
        words = f"{name}, images resized" if name == "fixed" else f"{name}, trained at {kind}"
        values = np.array(list(found.values()))
        axes.errorbar(list(found), values.mean(axis=1), values.std(axis=1), color=COLORS[name],
                      fmt="o" + styles.get(kind, "--"), capsize=3, ms=4, label=words)  # fmt: skip
    for size in mixed:
        axes.axvline(size, color="#dde5ec", lw=6, zorder=0)
    axes.set(xlabel="side of the image, pixels", ylabel="test accuracy", xticks=everywhere)
    axes.grid(alpha=0.25, axis="y")
    open_graphs(axes)
    axes.set(ylim=(0, 1.02))
    axes.legend(frameon=False, fontsize=9, loc="lower left", ncols=2)
    caption = (
        "Accuracy by size of the test images. Bars mark the sizes of mixed training; dashed lines "
        "are networks trained at 28×28 alone."
    )
    out.figure("accuracy", fig, caption)
