"""The pictures of `natural_gradient`."""

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter

from experiments.framework.drawing import open_graphs

COLORS = {"natural gradient": "#a3331c", "Adam": "#2b5c8a"}


def errors(out, seen):
    fig, panels = plt.subplots(1, 2, figsize=(10.5, 4.2), sharey=True, layout="constrained")
    for axes, key in zip(panels, ("seconds", "steps"), strict=True):
        for name, course in seen.items():
            axes.loglog(course[key], course["error"], color=COLORS[name], lw=2, label=name)
        axes.set_xlabel("seconds of processor time" if key == "seconds" else key)
        axes.xaxis.set_minor_formatter(NullFormatter())
        open_graphs(axes, grid=True)
    panels[0].set_ylabel("relative L2 error")
    panels[0].legend(frameon=False)
    caption = (
        "Error of the solution on a grid, by the time that each solver has used, and by its steps. "
        "Adam has the best of the learning rates tried, falling to zero at the end."
    )
    out.figure("errors", fig, caption)


def maps(out, exact, found):
    fig, panels = plt.subplots(1, 1 + len(found), figsize=(4 * (1 + len(found)), 3.5),
                               layout="constrained")  # fmt: skip
    first, *others = panels
    shown = first.imshow(exact.T, origin="lower", extent=(0, 1, 0, 1), cmap="viridis")
    first.set_title("the solution")
    fig.colorbar(shown, ax=first, shrink=0.85)
    for axes, (name, values) in zip(others, found.items(), strict=True):
        off = values - exact
        most = float(np.abs(off).max())
        shown = axes.imshow(off.T, origin="lower", extent=(0, 1, 0, 1), cmap="RdBu_r", vmin=-most,
                            vmax=most)  # fmt: skip
        axes.set_title(f"error of {name}")
        bar = fig.colorbar(shown, ax=axes, shrink=0.85, format="%.1e")
        bar.ax.tick_params(labelsize=8)
    for axes in panels:
        axes.set(xticks=(0, 1), yticks=(0, 1))
    caption = "The solution, and what each solver is off by at the end. Mind the scales."
    out.figure("maps", fig, caption)
