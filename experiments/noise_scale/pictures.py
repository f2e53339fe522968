"""The pictures of `noise_scale`."""

import numpy as np
from matplotlib import pyplot as plt

from experiments.framework.drawing import open_graphs

COLORS = {"SGD": "#2b5c8a", "Adam": "#2f7d4f"}
FORETOLD = "#a3331c"
RUNS = ("#8a6d2b", "#2b5c8a", "#2f7d4f", "#a3331c", "#6b4a8a")


def hyperbolas(out, found, predicted):
    fig, panels = plt.subplots(2, len(found), figsize=(5 * len(found), 7), sharex=True,
                               sharey="row", squeeze=False, layout="constrained")  # fmt: skip
    for column, (name, values) in zip(panels.T, found.items(), strict=True):
        sizes = np.asarray(values["batch_sizes"])
        curve = np.geomspace(sizes.min() / 1.3, sizes.max() * 1.3, 200)
        fitted = values["S_min"] + values["E_min"] / curve
        # as foretold: the fewest steps as fitted, the rest from the noise scale
        foretold = values["S_min"] * (1 + predicted / curve)
        critical = values["B_crit"]
        for axes, by in zip(column, (np.ones_like, np.asarray), strict=True):
            axes.loglog(curve, by(curve) * foretold, "--", color=FORETOLD, lw=1.5,
                        label=f"foretold: noise scale {predicted:.0f}")  # fmt: skip
            axes.loglog(curve, by(curve) * fitted, color=COLORS[name], lw=2,
                        label=f"fitted: critical batch size {critical:.0f}")  # fmt: skip
            for steps in np.asarray(values["steps"]).T:
                axes.loglog(sizes, by(sizes) * steps, "o", color=COLORS[name], ms=4, alpha=0.6)
            axes.axvline(critical, color=COLORS[name], lw=1, ls=":")
            axes.axvline(predicted, color=FORETOLD, lw=1, ls=":")
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
        "point for each seed. Solid: the fitted S_min (1 + B_crit/B). Dashed: the same S_min with "
        "the measured noise scale for B_crit. Dotted: both batch sizes."
    )
    out.figure("hyperbolas", fig, caption)


def courses(out, found):
    fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2), sharey=True, layout="constrained")
    for color, (batch, course) in zip(RUNS, found.items(), strict=False):
        order = np.argsort(course["loss"])[::-1]
        loss = np.asarray(course["loss"])[order]
        left.loglog(loss, course["estimated"][order], "o-", color=color, ms=4,
                    label=f"batch {batch}, in training")  # fmt: skip
        left.loglog(loss, course["exact"][order], color=color, ls=":", lw=2)
        bent = np.asarray(course["with_hessian"])[order]
        right.loglog(loss, np.where(bent > 0, bent, np.nan), "s-", color=color, ms=4,
                     label=f"batch {batch}")  # fmt: skip
    left.plot([], [], color="#5d6770", ls=":", lw=2, label="over all training digits")
    left.set(title="tr Σ / |G|²", ylabel="examples")
    right.set_title("with the Hessian: tr HΣ / GᵀHG")
    for axes in (left, right):
        axes.invert_xaxis()
        axes.set_xlabel("training loss (training goes to the right)")
        axes.legend(frameon=False, fontsize=9)
        open_graphs(axes, grid=True)
    caption = (
        "The noise scale as training goes on, by the loss reached. Left: from the steps' own "
        "batches (points), and from all training digits at once (dotted). Right: what the theory "
        "has before it takes the Hessian for a multiple of the identity."
    )
    out.figure("courses", fig, caption)
