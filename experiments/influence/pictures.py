"""Precision over recall, accuracy without what was found, and mistakes beside their culprits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from experiments.framework.drawing import open_graphs, show_image
from experiments.framework.run import Run
from experiments.influence import scores
from experiments.influence.training import Task

STYLE = {
    scores.LOSSES: ("#1f4e8c", "-"),
    scores.LOSS: ("#1f4e8c", "--"),
    scores.ALONE: ("#6fa3d8", "-"),
    scores.COSINE: ("#2f7d4f", "-"),
    scores.NORMALISED: ("#2f7d4f", "--"),
    scores.PLAIN: ("#8cc29a", "-"),
    scores.OF_MISTAKES: ("#8cc29a", ":"),
    scores.SELF: ("#c0392b", "-"),
    scores.NORM: ("#c0392b", "--"),
    scores.RANDOM: ("#999999", "-"),
}
CHANGED = "#c0392b"


def curves(out: Run, found: Mapping[str, Mapping[str, Sequence[np.ndarray]]]) -> None:
    """Precision at each recall, (kind, method) -> one curve for each seed, their mean drawn."""
    fig, panels = plt.subplots(
        1, len(found), figsize=(10.5, 4), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, (kind, by_method) in zip(panels[0], found.items(), strict=True):
        for method, (color, line) in STYLE.items():
            runs = np.stack(by_method[method])
            recall = np.linspace(0, 1, runs.shape[1])
            axes.plot(recall, runs.mean(axis=0), color=color, ls=line, lw=1.8, label=method)
        axes.set(title=f"labels changed: {kind}", xlabel="share of the changed labels found")
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        open_graphs(axes, grid=True)
    panels[0][0].set_ylabel("share changed among those looked at")
    fig.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    caption = (
        "Training examples are looked at in the order of each method, most suspect first. Upwards: "
        "how many of them have a changed label. To the right: how many of all changed labels are "
        "found by then. Means over the seeds. Opponents and “by the held-out alone” are told the "
        "right labels of the held-out images."
    )
    out.figure("precision", fig, caption)


def accuracies(out: Run, found: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Test accuracy trained again, (kind, what was left out) -> one for each seed."""
    fig, panels = plt.subplots(
        1, len(found), figsize=(9.5, 2.9), sharex=True, sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes, (kind, by_method) in zip(panels[0], found.items(), strict=True):
        for row, (method, values) in enumerate(by_method.items()):
            color = STYLE.get(method, ("#222222", ""))[0]
            axes.plot(100 * np.array(values), [row] * len(values), "o", ms=5, alpha=0.45,
                      color=color, mec="none")  # fmt: skip
            axes.plot(100 * np.mean(values), row, "|", ms=17, mew=2.5, color=color)
        nothing = 100 * np.mean(next(iter(by_method.values())))
        axes.axvline(nothing, color="#222222", lw=0.8, ls=":")
        axes.set_yticks(range(len(by_method)), list(by_method))
        axes.set(title=f"labels changed: {kind}", xlabel="test accuracy, %")
        open_graphs(axes, grid=True)
    panels[0][0].invert_yaxis()  # shared by all
    caption = (
        "Trained again without as many examples as labels were changed, chosen by each method: "
        "dots are seeds, bars their mean; the dotted line is that of training on everything."
    )
    out.figure("accuracy", fig, caption)


def mistakes(
    out: Run,
    task: Task,
    names: np.ndarray,
    rows: Any,
    taken_for: Any,
    found: np.ndarray,
) -> None:
    """Held-out images that were read wrong, and beside each the training images that harmed it."""
    shown = found[:, :7]
    fig, grid = plt.subplots(
        len(rows), 1 + shown.shape[1], figsize=(10.5, 1.55 * len(rows)), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for line, t, taken, examples in zip(grid, rows, taken_for, shown, strict=True):
        title = f"{names[task.y_held_out[t]]}\ntaken for {names[taken]}"
        show_image(line[0], task.x_held_out[t, ..., 0], title, title_size=8.5, cmap="gray_r")
        line[0].spines[:].set_linewidth(2)
        for axes, i in zip(line[1:], examples, strict=True):
            show_image(axes, task.x[i, ..., 0], f"“{names[task.labels[i]]}”", title_size=8.5,
                       cmap="gray_r")  # fmt: skip
            if task.changed[i]:
                axes.title.set_color(CHANGED)
                axes.spines[:].set(color=CHANGED, linewidth=2)
    caption = (
        "Left: held-out images that the network reads wrong. Beside each: the training images "
        "whose gradients opposed it most, with the labels they had in training; red where the "
        "label had been changed."
    )
    out.figure("mistakes", fig, caption)
