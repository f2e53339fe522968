"""Pictures of gradcheck_score: rates of the checkers, the power curve, times."""

import numpy as np
from matplotlib import pyplot as plt

from experiments.gradcheck_corpus.items import OURS
from experiments.gradcheck_score.tables import MOST_RATIO

_COLORS = ("#2b5c8a", "#a3331c", "#2f7d4f", "#8a6d1f", "#6b4a8e", "#555555", "#b0568c")
_MARKS = "osD^vPX"


def _bare(axes):
    axes.spines[["top", "right"]].set_visible(False)


def _kept(out, name, fig, caption, shown):
    """The picture, and the numbers that it shows."""
    out.figure(name, fig, caption)
    out.result(f"figure_{name}", shown)


def bars(out, rates):
    """Of each checker how much it finds, against how often it blames what is right."""
    names = list(rates)[::-1]
    places = np.arange(len(names))
    fig, panels = plt.subplots(1, 2, figsize=(11, 0.8 + 0.42 * len(names)), sharey=True)

    def draw(axes, what, shift, height, color, label):
        for place, name in zip(places, names, strict=True):
            count, total = rates[name][what]
            if total:
                value = 100 * count / total
                axes.barh(place + shift, value, height, color=color, label=label,
                          alpha=1.0 if name in OURS else 0.6)  # fmt: skip
                axes.text(value + 1, place + shift, f"{value:.3g}", va="center", fontsize=7.5)
                label = None

    draw(panels[0], "by hand", 0.2, 0.36, _COLORS[0], "by hand")
    draw(panels[0], "automatic", -0.2, 0.36, _COLORS[2], "automatic")
    draw(panels[1], "false alarms", 0, 0.5, _COLORS[1], None)
    panels[0].set_title("wrong rules found, %")
    panels[1].set_title("right functions blamed, %")
    panels[0].set_yticks(places, names)
    for axes in panels:
        axes.set_xlim(0, 112)
        axes.set_xticks(range(0, 101, 20))
        _bare(axes)
    if panels[0].get_legend_handles_labels()[0]:
        panels[0].legend(frameon=False, fontsize=8, loc="upper center", ncols=2,
                         bbox_to_anchor=(0.5, -0.08))  # fmt: skip
    fig.tight_layout()
    caption = (
        "Left: mistakes that a checker fails while it passes the right twin, longer is better. "
        "Right: right functions that it fails, shorter is better."
    )
    _kept(out, "rates", fig, caption, rates)


def power(out, panels):
    """Smallest relative error that is seen, over the number of entries."""
    columns = 2 if len(panels) > 1 else 1
    rows = -(-len(panels) // columns)
    fig, grid = plt.subplots(rows, columns, figsize=(5.4 * columns, 3.7 * rows), squeeze=False,
                             sharex=True, sharey=True)  # fmt: skip
    styles: dict[str, int] = {}
    for axes, (title, curves) in zip(grid.ravel(), panels.items(), strict=False):
        for name, seen in curves.items():
            k = styles.setdefault(name, len(styles)) % len(_COLORS)
            sizes = sorted(seen)
            values = [3.0 if seen[n] is None else seen[n] for n in sizes]
            axes.plot(sizes, values, "-", color=_COLORS[k], marker=_MARKS[k], ms=5, lw=1.4,
                      label=name, alpha=0.85)  # fmt: skip
        axes.axhline(1, color="#999999", lw=0.8, ls=":")
        axes.set(xscale="log", yscale="log", ylim=(3e-14, 10), title=f"error in {title}")
        axes.grid(alpha=0.2)
        _bare(axes)
    for axes in grid.ravel()[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[-1]:
        axes.set_xlabel("entries of the gradient")
    for axes in grid[:, 0]:
        axes.set_ylabel("smallest relative error seen")
    handles = {
        label: handle
        for axes in grid.ravel()
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    fig.tight_layout()
    fig.legend(handles.values(), handles.keys(), frameon=False, ncols=3, loc="upper center",
               bbox_to_anchor=(0.5, 0.0), fontsize=9)  # fmt: skip
    caption = (
        "The smallest error, in powers of ten, that fails while the right rule passes; lower is "
        "better. Above the dotted line: not even 10 % is seen, or the right rule is blamed. Full "
        "Jacobians are left out beyond 2,000 entries of the arguments, five points beyond 20,000."
    )
    _kept(out, "power", fig, caption, panels)


def times(out, ratios):
    """Time of each level over that of check_grads, function by function."""
    fig, axes = plt.subplots(figsize=(6.5, 3.4))
    rng = np.random.default_rng(0)
    for k, (level, values) in enumerate(ratios.items()):
        shifts = rng.uniform(-0.12, 0.12, len(values))
        axes.plot(k + shifts, values, "o", color=_COLORS[k], ms=5, alpha=0.6)
        axes.plot([k - 0.22, k + 0.22], [np.median(values)] * 2, color=_COLORS[k], lw=2.5)
        if level in MOST_RATIO:
            axes.plot([k - 0.32, k + 0.32], [MOST_RATIO[level]] * 2, color="#555555", lw=1, ls="--")
    axes.set(yscale="log", ylabel="time over that of check_grads", xlim=(-0.5, len(ratios) - 0.5))
    axes.set_xticks(range(len(ratios)), list(ratios))
    low, high = axes.get_ylim()
    ticks = [t for t in (1, 2, 3, 5, 10, 15, 30, 60, 120) if low <= t <= high]
    axes.set_yticks(ticks, [f"{t}×" for t in ticks])
    axes.minorticks_off()
    axes.grid(axis="y", alpha=0.2)
    _bare(axes)
    fig.tight_layout()
    caption = (
        "Each point is a function, nothing compiled before; the bar is the median, the dashed line "
        "what was aimed at at most"
    )
    _kept(out, "times", fig, caption, ratios)
