"""The two pictures of `backprop_by_hand`: the network with all its values, the training curves."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import Circle
from matplotlib.ticker import PercentFormatter

from experiments.framework.drawing import open_graphs


def draw_network(out, seen, x, target, edges, biases):
    """Units with outputs and δ, edges (name, "i1 → h1", weight, gradient) with their values."""
    spots = {f"{unit}{k}": (4.0 * i, -2.6 * k) for i, unit in enumerate("iho") for k in (1, 2)}
    values = jnp.concatenate([x[0], seen.activations["h"][0], seen.activations["o"][0]])
    deltas = [jnp.zeros(2), seen.deltas["hidden"][0], seen.deltas["output"][0]]
    deltas = jnp.concatenate(deltas)
    fig, axes = plt.subplots(figsize=(10, 5))
    axes.set(xlim=(-0.8, 10.2), ylim=(-6.6, -1.5), aspect="equal")
    axes.axis("off")
    center: dict[str, Any] = {"ha": "center", "va": "center"}
    for name, edge, w, dw in edges:
        start, end = (np.array(spots[unit]) for unit in edge.split(" → "))
        axes.plot(*zip(start, end, strict=True), color="#b8c0c8", lw=1.5, zorder=1)
        slope = end - start
        place = start + slope * (0.3 if slope[1] else 0.5)  # the diagonals cross in the middle
        turned: dict[str, Any] = {
            "rotation": np.degrees(np.arctan2(slope[1], slope[0])),
            "rotation_mode": "anchor",
        }
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        words = f"{name} = {w:.2f}\n∂ {dw:+.6f}".replace("-", "−")
        axes.text(place[0], place[1], words, **center, **turned, bbox=box, fontsize=8.5)
    for (unit, (left, up)), value, delta in zip(spots.items(), values, deltas, strict=True):
        axes.add_patch(Circle((left, up), 0.58, fc="#e8f0f8", ec="#2b5c8a", zorder=2))
        axes.text(left, up, f"{unit}\n{value:.6f}", **center, fontsize=9)
        if unit[0] != "i":
            words = f"δ {delta:+.6f}".replace("-", "−")
            axes.text(left, up - 0.82, words, **center, color="#a3331c")
    for k in (1, 2):
        left, up = spots[f"o{k}"]
        axes.text(left + 0.75, up, f"target {target[0, k - 1]:.2f}", va="center")
        axes.text(4.0 * k, -1.75, f"bias {biases[k - 1]:.2f}, held", **center, color="#5d6770")
    caption = "Units with their outputs and δ; edges with the weight and its gradient ∂E/∂w"
    out.figure("network", fig, caption)


def draw_curves(out, curves):
    """E of two training runs by name, the right one first: both, and how far they are apart."""
    (name, right), (wrong_name, wrong) = curves.items()
    steps = np.arange(1, len(right))
    fig, (top, bottom) = plt.subplots(2, 1, figsize=(8, 6), sharex=True, height_ratios=(3, 2))
    top.loglog(steps, right[1:], lw=4, color="#9cc3e6", label=name)
    top.loglog(steps, wrong[1:], lw=1.2, color="#a3331c", label=wrong_name)
    top.set(ylabel="E")
    top.legend(frameon=False)
    bottom.semilogx(steps, wrong[1:] / right[1:] - 1, color="#a3331c")
    bottom.axhline(0, color="#b8c0c8", lw=1)
    bottom.yaxis.set_major_formatter(PercentFormatter(1, decimals=2))
    bottom.set(xlabel="step", ylabel=f"E {wrong_name},\nrelative to {name}")
    open_graphs(top, bottom, grid=True)
    caption = "Both train the network: the curves coincide (above) and differ by little (below)"
    out.figure("curves", fig, caption)
