"""Figures of the digits experiment."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import confusion_matrix

import jaxdl
from experiments.digits.training import Trained
from experiments.framework.layers import first_layers, params_of
from experiments.framework.run import Run
from jaxdl.data import Dataset


def curves(out: Run, runs: list[Trained]) -> None:
    """Loss and accuracy by epoch, every seed."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    epochs = np.arange(1, len(runs[0].losses) + 1)
    for seed, done in enumerate(runs):
        labels = ("training", "test") if seed == 0 else (None, None)
        left.semilogy(epochs, done.losses, color="#3b6ea5", alpha=0.7, label=labels[0])
        left.semilogy(epochs, [s.loss for s in done.test], color="#d97b29", alpha=0.7,
                      label=labels[1])  # fmt: skip
        errors = [100 * (1 - s.accuracy) for s in done.test]
        right.semilogy(epochs, errors, color="#d97b29", alpha=0.7)
    left.set(xlabel="epoch", ylabel="loss")
    left.legend()
    right.set(xlabel="epoch", ylabel="wrong on the test set, %")
    right.yaxis.set_major_formatter("{x:g}")
    for axes in (left, right):
        axes.grid(alpha=0.3, which="both")
    caption = (
        f"Loss and test error by epoch, {len(runs)} seeds. The training loss is measured with "
        "dropout and on images as they are turned and moved, the test loss (cross-entropy) without "
        "either."
    )
    out.figure("curves", fig, caption)


def confusion(out: Run, labels: np.ndarray, predicted: np.ndarray, classes: int) -> None:
    """The confusion matrix of the first seed."""
    counts = confusion_matrix(labels, predicted, labels=np.arange(classes))
    fig, axes = plt.subplots(figsize=(5, 4.6), layout="constrained")
    wrong = np.where(np.eye(classes, dtype=bool), 0, counts)  # colour the mistakes, not the rest
    axes.imshow(wrong, cmap="Oranges", vmin=0, vmax=max(4, wrong.max()))
    for (i, j), count in np.ndenumerate(counts):
        if count:
            weight = "bold" if i == j else "normal"
            axes.text(j, i, str(count), ha="center", va="center", fontsize=9, weight=weight)
    axes.set(xlabel="predicted", ylabel="true", xticks=range(classes), yticks=range(classes))
    out.figure("confusion", fig, "Test digits by true and predicted class, first seed.")


def wrong_images(out: Run, data: Dataset, predicted: np.ndarray, most: int = 40) -> None:
    """The test images that the first seed gets wrong."""
    wrong = np.flatnonzero(predicted != data.y_test)
    if not wrong.size:
        out.text("The first seed gets every test image right.")
        return
    columns = min(10, wrong.size)
    rows = math.ceil(min(wrong.size, most) / columns)
    fig, grid = plt.subplots(
        rows, columns, figsize=(0.95 * columns, 1.15 * rows), squeeze=False, layout="constrained"
    )
    for axes in grid.flat:
        axes.axis("off")
    for axes, i in zip(grid.flat, wrong[:most], strict=False):
        axes.imshow(data.x_test[i, ..., 0], cmap="gray_r")
        axes.set_title(f"{data.y_test[i]} → {predicted[i]}", fontsize=9)
    shown = f"The first {most} of {wrong.size}" if wrong.size > most else f"All {wrong.size}"
    out.figure(
        "wrong", fig, f"{shown} test images that the first seed gets wrong: true → predicted."
    )


def gradient_norms(out: Run, model: jaxdl.Layer, done: Trained) -> None:
    """The norm of the weight gradient of every layer over the first seed's run."""
    steps = jax.tree.map(lambda *parts: np.concatenate(parts), *done.norms)
    curves = weights(model, steps)
    kinds = ["convolution" if w.ndim == 4 else "dense layer" for w in weights(model, done.last)]
    fig, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    window = max(1, len(curves[0]) // 100)
    for i, (kind, norms) in enumerate(zip(kinds, curves, strict=True)):
        means = norms[: len(norms) // window * window].reshape(-1, window).mean(axis=1)
        at = (np.arange(len(means)) + 0.5) * window
        colour = plt.get_cmap("viridis")(i / max(1, len(curves) - 0.5))
        axes.semilogy(at, means, color=colour, label=f"{kind} {kinds[: i + 1].count(kind)}")
    axes.set(xlabel="step", ylabel="‖∂loss/∂w‖")
    axes.grid(alpha=0.3)
    axes.legend()
    caption = f"Gradient norm of each layer's weights, first seed, means over {window} steps."
    out.figure("gradient_norms", fig, caption)


def weights(layer: jaxdl.Layer, tree: dict[str, Any]) -> list[Any]:
    """The entries "w" of a tree like that of the parameters, in the order of the layers."""
    if not layer.children:
        return [tree["w"]] if "w" in tree else []
    inside = zip(layer.names, layer.children, strict=True)
    return [w for name, child in inside for w in weights(child, tree.get(name, {}))]


def filters(out: Run, model: jaxdl.Layer, params: Any, data: Dataset, most: int = 16) -> None:
    """The kernels of the first convolution, and what each makes of one test digit."""
    first = first_layers(model.children[0], 2)  # convolution and activation
    image = jnp.asarray(data.x_test[:1])
    maps = np.asarray(first.apply(params_of(first, params["stages"]), image))[0]
    kernels = np.asarray(params["stages"]["conv"]["w"])[:, :, 0]
    shown = min(most, kernels.shape[-1])
    columns = min(8, shown)
    rows = math.ceil(shown / columns)
    fig = plt.figure(figsize=(1.9 + columns, 2.1 * rows), layout="constrained")
    spec = fig.add_gridspec(2 * rows, columns + 2)
    axes = fig.add_subplot(spec[:2, :2])
    axes.imshow(image[0, ..., 0], cmap="gray_r")
    axes.set_title(f"the image, a {data.y_test[0]}", fontsize=9)
    axes.axis("off")
    limit, top = np.abs(kernels).max(), maps[..., :shown].max()
    for i in range(shown):
        row, column = 2 * (i // columns), 2 + i % columns
        above, below = (fig.add_subplot(spec[row + k, column]) for k in (0, 1))
        for axes in (above, below):
            axes.set(xticks=[], yticks=[])
        above.imshow(kernels[..., i], cmap="RdBu_r", vmin=-limit, vmax=limit)
        below.imshow(maps[..., i], cmap="gray_r", vmin=0, vmax=top)
    caption = (
        f"{shown} kernels of the first convolution of the first seed (red: positive, blue: "
        "negative, one scale for all), and below each its map of one test digit behind the "
        "activation (one scale for all)."
    )
    out.figure("filters", fig, caption)
