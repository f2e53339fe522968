"""The pictures of `convolution_algebra`."""

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter, ScalarFormatter

from experiments.framework.drawing import open_graphs, show_image

BLUE, RED, GREEN, GREY = "#2b5c8a", "#a3331c", "#2f7d4f", "#b8c0c8"


def draw_smoothing(out, true, noisy, smoothed, weights):
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4), width_ratios=(4, 1), layout="tight")
    left.plot(noisy, ".", color=GREY, ms=3, label="readings")
    left.plot(true, color="#1c2530", lw=1, label="true place")
    times = np.arange(len(weights) - 1, len(noisy))
    left.plot(times, smoothed[times], color=RED, lw=1.8, label="readings ∗ weights")
    left.set(xlabel="time t", ylabel="place")
    left.legend(frameon=False, loc="lower left")
    right.bar(np.arange(len(weights)), weights, color=BLUE)
    right.set(xlabel="age a of the reading", title="weights w(a)")
    open_graphs(left, right)
    caption = (
        "A noisy sensor, and the weighted mean of its last readings: s(t) = Σ x(a)·w(t − a). "
        "The curve is smooth, and late by the mean age of the readings it weighs."
    )
    out.figure("smoothing", fig, caption)


def draw_equivariance(out, panels):
    """For each line a title, f(g(x)), g(f(x)) and the error between them."""
    fig, axes = plt.subplots(len(panels), 3, figsize=(8, 2.7 * len(panels)), layout="tight")
    for line, (title, left, right, error) in zip(axes, panels, strict=True):
        size = 2.5 * np.std(right)
        images = {"f(g(x))": left, "g(f(x))": right, f"difference: {error}": left - right}
        for axis, (words, image) in zip(line, images.items(), strict=True):
            show_image(axis, image, cmap="RdBu", vmin=-size, vmax=size, title=words)
        line[0].set_ylabel(title)
    caption = (
        "f finds vertical edges, g moves, turns or enlarges the image. Only for the shift does the "
        "order not matter. The difference is relative to g(f(x)); all on one scale of colours."
    )
    out.figure("equivariance", fig, caption)


def draw_edges(out, image, edges):
    fig, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="tight")
    axes[0].imshow(image, cmap="gray")
    axes[0].set_title(f"image, {image.shape[0]} × {image.shape[1]}", fontsize=10)
    axes[1].imshow(np.abs(edges), cmap="gray", vmax=np.quantile(np.abs(edges), 0.99))
    axes[1].set_title(f"|x[i, j + 1] − x[i, j]|, {edges.shape[0]} × {edges.shape[1]}", fontsize=10)
    for axis in axes:
        axis.set(xticks=[], yticks=[])
    out.figure("edges", fig, "Vertical edges by the difference of neighbours: a kernel of two")


def draw_matrices(out, matrices):
    """Dense matrices of convolutions by title; one colour for each weight, zeros white."""
    widths = [matrix.shape[1] / matrix.shape[0] for matrix in matrices.values()]
    fig, axes = plt.subplots(1, len(matrices), figsize=(11, 5), width_ratios=widths, layout="tight")
    for axis, (title, matrix) in zip(axes, matrices.items(), strict=True):
        values = np.unique(matrix[matrix != 0])
        shown = np.full(matrix.shape, np.nan)
        for number, value in enumerate(values):
            shown[matrix == value] = number
        axis.imshow(shown, cmap="turbo", interpolation="nearest")
        axis.set_title(f"{title}\n{len(values)} weights", fontsize=10)
        axis.set(xlabel="output", ylabel="input")
    caption = (
        "The dense matrices that these convolutions are. White is zero; every place of one colour "
        "holds the same weight."
    )
    out.figure("matrices", fig, caption)


def draw_crossover(out, seconds, crossovers, side):
    """Median seconds by case and side ("direct", "Fourier"), each {kernel size: seconds}."""
    fig, panels = plt.subplots(1, len(seconds), figsize=(10, 3.8), sharex=True, layout="tight")
    for axes, (case, sides) in zip(np.atleast_1d(panels), seconds.items(), strict=True):
        for color, (name, found) in zip((BLUE, RED), sides.items(), strict=True):
            milliseconds = 1e3 * np.array(list(found.values()))
            axes.loglog(list(found), milliseconds, "o-", color=color, label=name)
        size = crossovers[case]
        words = "direct faster" if size is None else f"Fourier faster from {size} × {size}"
        if size is not None:
            axes.axvline(size, color=GREY, zorder=0)
        sizes = list(next(iter(sides.values())))
        axes.set(title=f"{case}: {words}", xlabel="kernel size")
        axes.set_xticks(sizes, [str(size) for size in sizes], fontsize=8)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(ScalarFormatter())
        open_graphs(axes)
        axes.legend(frameon=False, loc="upper left")
    np.atleast_1d(panels)[0].set_ylabel("milliseconds")
    caption = f"Time of one forward pass on an image of {side} × {side}: medians of one run"
    out.figure("crossover", fig, caption)


def draw_detector(out, image, template_at, size, maps, found):
    """The image with the template's place, and the response of each detector with its maximum."""
    fig, axes = plt.subplots(1, 1 + len(maps), figsize=(11, 3.6), layout="tight")
    axes[0].imshow(image, cmap="gray")
    axes[0].set_title("image, and the template's place", fontsize=10)
    row, column = template_at
    for axis, (name, response) in zip(axes[1:], maps.items(), strict=True):
        axis.imshow(response, cmap="magma")
        y, x = found[name]
        axis.plot(x, y, "+", color="#35e0ff", ms=16, mew=2)
        hit = max(abs(y - row), abs(x - column)) <= 1
        axis.set_title(f"{name}: {'found' if hit else 'wrong place'}", fontsize=10)
    for axis in axes:
        y, x = (row, column) if axis is not axes[0] else (row - 0.5, column - 0.5)
        if axis is axes[0]:
            axis.add_patch(Rectangle((x, y), size, size, fill=False, ec="#35e0ff", lw=1.5))
        else:
            axis.plot(x, y, "o", color="white", mfc="none", ms=13, mew=1.2)
        axis.set(xticks=[], yticks=[])
    caption = (
        "A template cut from the image, and what three detectors answer. Circle: where it was cut; "
        "cross: the maximum. The plain maximum goes to a patch of larger norm."
    )
    out.figure("detector", fig, caption)
