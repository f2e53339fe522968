"""Accuracy over privacy, batches at one ε, and who is recognised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from experiments.framework.drawing import open_graphs
from experiments.framework.run import Run
from experiments.private_training.attack import Attacked, rates

COLORS = ("#a3331c", "#d97b29", "#2f7d4f", "#2b5c8a", "#7a5195", "#444444")
Runs = Sequence[float]


def noise(
    out: Run,
    found: Mapping[str, Mapping[float, Runs]],
    plain: Mapping[str, Runs],
    epsilons: Mapping[str, Mapping[float, float | None]],
) -> None:
    """Accuracy over ε, σ beside each point; over σ where ε is not known."""
    known = all(e is not None for of in epsilons.values() for e in of.values())
    fig, panels = plt.subplots(
        1, len(found), figsize=(4.9 * len(found), 3.8), squeeze=False, layout="constrained"
    )
    for axes, (name, by_sigma) in zip(panels[0], found.items(), strict=True):
        sigmas = [sigma for sigma in by_sigma if sigma > 0]
        place: list[Any] = [epsilons[name][sigma] if known else sigma for sigma in sigmas]
        runs = 100 * np.array([by_sigma[sigma] for sigma in sigmas])
        for values, words, line in (
            (plain[name], "neither clipped nor noised", "-"),
            (by_sigma[0.0], "clipped only", "--"),
        ):
            axes.axhline(100 * np.mean(values), color="#444444", ls=line, lw=1.2, label=words)
        axes.plot(place, runs.mean(axis=1), "o-", color="#2b5c8a", lw=2, label="clipped and noised")
        for x, values in zip(place, runs, strict=True):
            axes.plot(
                [x] * len(values), values, "o", ms=3.5, color="#2b5c8a", alpha=0.4, mec="none"
            )
        if known:
            for x, y, sigma in zip(place, runs.mean(axis=1), sigmas, strict=True):
                axes.annotate(f"σ = {sigma:g}", (x, y), (7, -12), textcoords="offset points",
                              fontsize=8)  # fmt: skip
        axes.set_xscale("log")
        if known:
            axes.set_xlabel("ε at δ = 1e-5 (to the right: less private)")
        else:
            axes.set_xlabel("noise multiplier σ (to the right: more private)")
            axes.set_xticks(sigmas, [f"{sigma:g}" for sigma in sigmas], minor=False)
        axes.margins(x=0.16, y=0.1)
        axes.set_title(name)
        open_graphs(axes, grid=True)
    panels[0][0].set_ylabel("test accuracy, %")
    panels[0][0].legend(frameon=False, loc="lower right" if known else "lower left")
    caption = "Test accuracy at a fixed number of steps; lines are means, dots single seeds. " + (
        "ε counts all steps." if known else "ε was not computed: it needs dp-accounting."
    )
    out.figure("noise", fig, caption)


def batches(out: Run, found: Mapping[str, Mapping[str, Mapping[int, Runs]]], target: float) -> None:
    """Accuracy over the expected batch at one ε: (data set, what is kept equal) -> by batch."""
    fig, panels = plt.subplots(
        1, len(found), figsize=(1.6 + 4.2 * len(found), 3.3), squeeze=False, layout="constrained"
    )
    for axes, (name, by_way) in zip(panels[0], found.items(), strict=True):
        for (way, by_batch), color, line in zip(
            by_way.items(), ("#2b5c8a", "#d97b29"), ("o-", "s--"), strict=False
        ):
            runs = 100 * np.array(list(by_batch.values()))
            axes.plot(list(by_batch), runs.mean(axis=1), line, color=color, lw=2, label=way)
            for x, values in zip(by_batch, runs, strict=True):
                axes.plot(
                    [x] * len(values), values, "o", ms=3.5, color=color, alpha=0.4, mec="none"
                )
            axes.set_xscale("log")
            axes.set_xticks(list(by_batch), [str(batch) for batch in by_batch])
            axes.minorticks_off()
        axes.set(title=name, xlabel="expected examples a step")
        axes.margins(x=0.12)
        open_graphs(axes, grid=True)
    panels[0][0].set_ylabel("test accuracy, %")
    fig.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    caption = (
        f"Every training has ε = {target:g}: larger batches take more noise. With as many steps "
        "they also see more examples; with as many examples they take fewer steps."
    )
    out.figure("batches", fig, caption)


def roc(out: Run, found: Mapping[str, Attacked]) -> None:
    """True over false positives of the attack, all seeds together."""
    fig, axes = plt.subplots(figsize=(5, 4.4), layout="constrained")
    for (name, attacked), color in zip(found.items(), COLORS, strict=False):
        _, true, false = rates(attacked.members, attacked.others)
        label = f"{name} ({np.mean(attacked.auc()):.2f})"
        axes.plot(false, true, color=color, lw=2, label=label)
    axes.plot([0, 1], [0, 1], color="#999999", lw=1, ls=":", label="guessing (0.50)")
    axes.set(xlabel="others taken for members", ylabel="members recognised")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.legend(frameon=False, title="trained (area under the curve)", loc="lower right")
    open_graphs(axes, grid=True)
    caption = (
        "A threshold on the loss says who was trained on: shares at every threshold, the losses of "
        "all seeds together."
    )
    out.figure("attack", fig, caption)
