"""The pictures of `noise_scale`."""

import numpy as np
from matplotlib import pyplot as plt

from experiments.framework.drawing import open_graphs

COLORS = {"SGD": "#2b5c8a", "Adam": "#2f7d4f"}
FORETOLD = "#a3331c"
RUNS = ("#8a6d2b", "#2b5c8a", "#2f7d4f", "#a3331c", "#6b4a8a")


def hyperbolas(out, found, scales):
    fig, panels = plt.subplots(2, len(found), figsize=(5 * len(found), 7), sharex=True,
                               sharey="row", squeeze=False, layout="constrained")  # fmt: skip
    for column, (name, values) in zip(panels.T, found.items(), strict=True):
        sizes = np.asarray(values["batch_sizes"])
        curve = np.geomspace(sizes.min() / 1.3, sizes.max() * 1.3, 200)
        fitted = values["S_min"] + values["E_min"] / curve
        # as foretold: the fewest steps as fitted, the rest from the noise scale
        lowest, highest = min(scales), max(scales)
        foretold = [values["S_min"] * (1 + scale / curve) for scale in (lowest, highest)]
        critical = values["B_crit"]
        for axes, by in zip(column, (np.ones_like, np.asarray), strict=True):
            axes.fill_between(
                curve, *(by(curve) * steps for steps in foretold), color=FORETOLD, alpha=0.22,
                lw=0, label=f"foretold: noise scale {lowest:.0f} … {highest:.0f}",
            )  # fmt: skip
            axes.loglog(curve, by(curve) * fitted, color=COLORS[name], lw=2,
                        label=f"fitted: critical batch size {critical:.0f}")  # fmt: skip
            for steps in np.asarray(values["steps"]).T:
                axes.loglog(sizes, by(sizes) * steps, "o", color=COLORS[name], ms=4, alpha=0.6)
            axes.axvline(critical, color=COLORS[name], lw=1, ls=":")
            open_graphs(axes, grid=True)
            column[0].set_title(name)
        column[0].legend(frameon=False, fontsize=9, loc="upper right")
        column[1].set_xlabel("batch size")
        column[1].set_xticks(sizes, [str(b) for b in sizes], fontsize=8)
        column[1].minorticks_off()
    panels[0, 0].set_ylabel("steps to the target")
    panels[1, 0].set_ylabel("examples to the target")
    caption = (
        "Steps and examples to one training loss by batch size, each at its best learning rate, a "
        "point for each seed. Lines: the fitted S_min (1 + B_crit/B), B_crit dotted. Red: the same "
        "S_min with the noise scales that were measured in runs of SGD for B_crit."
    )
    out.figure("hyperbolas", fig, caption)


def courses(out, found):
    titles = {
        "estimated": "tr Σ / |G|², in training",
        "exact": "the same, all digits at one moment",
        "with_hessian": "with the Hessian: tr HΣ / GᵀHG",
    }
    fig, panels = plt.subplots(1, 3, figsize=(13, 4.2), sharey=True, layout="constrained")
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        for color, (batch, course) in zip(RUNS, found.items(), strict=False):
            ends, scale = course["ends"], np.asarray(course[key])
            share = (ends[:-1] + ends[1:]) / 2 / ends[-1]
            axes.semilogy(share, np.where(scale > 0, scale, np.nan), "o-", color=color, ms=4,
                          label=f"batch {batch}")  # fmt: skip
        axes.set_title(title, fontsize=11)
        axes.set(xlabel="share of the steps to the target", xlim=(0, 1))
        open_graphs(axes, grid=True)
    panels[0].set_ylabel("noise scale, examples")
    panels[0].legend(frameon=False, title="runs of SGD")
    caption = (
        "The noise scale as training goes on. Left: from the steps' own batches, for stretches of "
        "steps. Middle: over all training digits, at the middle of each stretch. Right: what the "
        "theory has before it takes the Hessian for a multiple of the identity."
    )
    out.figure("courses", fig, caption)
