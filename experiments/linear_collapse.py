"""Are a thousand linear layers one linear layer, and a thousand non-linear ones not?

What the source claims (D4): without a non-linear activation depth is worth nothing, since 1000
linear layers are one linear layer; a non-linear stack is not.

What was found, in float64, at width 16 with orthogonal weights that keep the size of what passes:

- The 272,000 parameters of 1000 linear layers make one dense layer of 272. Outputs agree to 5e-15,
  and the backward pass collapses with the forward pass, to 6e-15.
- The best affine fit to the linear stack misses 1e-14 of the variation of its output, at any depth.
  Of a relu stack's it misses 53 % behind one layer and 82 % behind 16; of a tanh stack's 35 %, and
  99 % behind 1000. Only in the linear stack does a mixture of inputs give the mixture of outputs.
- Not being linear is not enough to make depth useful: behind 1000 relu layers all inputs give the
  same output to 14 digits. What keeps a deep stack alive is its initialisation (see
  vanishing_gradients).
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

import jaxdl
from experiments.framework.drawing import open_graphs
from experiments.framework.run import Run
from experiments.framework.settings import Checked, Count

# Activation and gain of the orthogonal weights: relu lets half of the energy through, and tanh
# takes a little off whatever passes.
STACKS = {
    "linear": (None, 1.0),
    "relu": (jaxdl.relu, 2**0.5),
    "tanh": (jaxdl.tanh, 1.5),
}
COLORS = {"linear": "#2b5c8a", "relu": "#a3331c", "tanh": "#2f7d4f"}
DEPTHS = (1, 4, 16, 64, 250, 1000)
BIAS_STD = 0.1
ROUNDING = 1e-12  # relative; float64 has 2e-16, and a thousand layers add up
ALIVE = 1e-6  # an output that varies less with the input says nothing about its shape


@dataclass(frozen=True)
class Settings(Checked):
    layers: Count = 1000
    """Depth of the deepest stack."""
    width: Count = 16
    """Units in each layer."""
    inputs: int = 1000
    """Random inputs on which the stacks are compared."""
    seed: int = 0
    """Of the weights and inputs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inputs < 4 * self.width:
            self.refuse(
                f"inputs must be at least 4 × width ({4 * self.width}) so that no affine map can "
                f"fit them by chance, got {self.inputs}; give more"
            )


def stack(kind, depth, width):
    """`depth` dense layers, each followed by the activation of this kind, if it has one."""
    activation, gain = STACKS[kind]
    block = jaxdl.dense(
        width,
        w_init=jax.nn.initializers.orthogonal(gain),
        b_init=jax.nn.initializers.normal(BIAS_STD),
    )
    if activation is not None:
        block = jaxdl.serial(block, activation())
    return jaxdl.repeat(block, depth)


def collapse(params):
    """The one dense layer that a stack of dense layers is: w = w₁w₂…wₙ, and b likewise."""
    w, b = np.eye(params["w"].shape[-1]), np.zeros(params["w"].shape[-1])
    for w_k, b_k in zip(np.asarray(params["w"]), np.asarray(params["b"]), strict=True):
        w, b = w @ w_k, b @ w_k + b_k
    return {"w": jnp.asarray(w), "b": jnp.asarray(b)}


def relative(found, truth):
    return float(jnp.linalg.norm(found - truth) / jnp.linalg.norm(truth))


def variation(y):
    """‖y − its mean over the inputs‖: what of the output depends on the input."""
    return np.linalg.norm(y - y.mean(axis=0))


def affine_residual(x, y):
    """(share of the variation that the best affine map x·A + c misses, rank of [x 1 y])."""
    design = np.column_stack([x, np.ones(len(x))])
    fit = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    rank = np.linalg.matrix_rank(np.column_stack([design, y]), rtol=1e-9)
    return np.linalg.norm(y - fit) / variation(y), int(rank)


def mixing_error(f, x, key):
    """How far f(αx + (1 − α)x′) is from αf(x) + (1 − α)f(x′), over the variation of f."""
    a = jax.random.uniform(key, (len(x), 1), minval=-1.0, maxval=2.0)
    other = x[::-1]
    mixed = f(a * x + (1 - a) * other)
    return float(jnp.linalg.norm(mixed - (a * f(x) + (1 - a) * f(other))) / variation(mixed))


def run(settings: Settings, out: Run) -> None:
    with jax.enable_x64(True):  # so that 1e-14 can be told from 0
        one_layer(settings, out)
        shapes(settings, out)


def one_layer(settings, out):
    model, one = stack("linear", settings.layers, settings.width), jaxdl.dense(settings.width)
    keys = jax.random.split(jax.random.key(settings.seed), 3)
    x, dy = (jax.random.normal(key, (settings.inputs, settings.width)) for key in keys[:2])
    params = model.init(keys[2], x)
    y, residuals = jax.jit(model.fwd)(params, x)
    _, dx = jax.jit(lambda *args: model.bwd(*args, jaxdl.none))(params, residuals, dy)
    single = collapse(params)
    y_one, residuals_one = one.fwd(single, x)
    _, dx_one = one.bwd(single, residuals_one, dy)
    errors = relative(y, y_one), relative(dx, dx_one)
    sizes = [sum(p.size for p in jax.tree.leaves(tree)) for tree in (params, single)]
    n = f"{settings.layers:,}"
    out.heading(f"{n} linear layers, and the one they make")
    out.text(
        "Weights and biases are multiplied out once, by NumPy, into one matrix and one vector: "
        "w = w₁w₂…wₙ. The stack and this single layer are then given the same inputs, and the "
        "same cotangents to bring back."
    )
    rows = [
        ["parameters", f"{sizes[0]:,}", f"{sizes[1]:,}", None],
        ["output, norm", *(f"{np.linalg.norm(a):.12f}" for a in (y, y_one)), f"{errors[0]:.0e}"],
        ["dx, norm", *(f"{np.linalg.norm(a):.12f}" for a in (dx, dx_one)), f"{errors[1]:.0e}"],
    ]
    out.table("Stack against layer", ["", f"{n} layers", "1 layer", "relative error"], rows)
    out.result("parameters", sizes)
    out.result("collapse_error", {"forward": errors[0], "backward": errors[1]})
    for what, error in zip(("output", "backward pass"), errors, strict=True):
        claim = f"{n} linear layers have the {what} of one dense layer: relative error"
        out.claim("D4", claim, f"< {ROUNDING:.0e}", f"{error:.1e}", error < ROUNDING)


def shapes(settings, out):
    """How affine each kind of stack is, at each depth."""
    depths = sorted({d for d in DEPTHS if d < settings.layers} | {settings.layers})
    x_key, key, mix_key, line_key = jax.random.split(jax.random.key(settings.seed + 1), 4)
    x = jax.random.normal(x_key, (settings.inputs, settings.width))
    start, direction = jax.random.normal(line_key, (2, settings.width))
    t = np.linspace(-1, 1, 800)
    rows, residual, lines = [], {}, {}
    deepest = {k: stack(k, settings.layers, settings.width).init(key, x) for k in STACKS}
    for kind, depth in out.progress([(k, d) for k in STACKS for d in depths], "stacks"):
        apply = jax.jit(stack(kind, depth, settings.width).apply)
        f = partial(apply, jax.tree.map(lambda p, depth=depth: p[:depth], deepest[kind]))
        y = np.asarray(f(x))
        moves = variation(y) / np.linalg.norm(y)
        missed, rank = affine_residual(x, y)
        alive = moves > ALIVE
        mixing = mixing_error(f, x, mix_key) if alive else None
        if alive:
            residual[kind, depth] = float(missed)
            lines[kind, depth] = f(start + jnp.asarray(t)[:, None] * direction)
        cells = [f"{missed:.2g}", f"{mixing:.2g}", rank] if alive else ["–"] * 3
        rows.append([kind, depth, f"{moves:.1e}", *cells])
        out.log(kind=kind, depth=depth, variation=moves, affine_residual=missed, mixing=mixing)
    affine_rank = settings.width + 1
    out.heading("How far from affine each stack is")
    out.text(
        "Variation is the share of the output that depends on the input at all. Of that, the best "
        "affine fit (least squares) misses the given share: 0 for an affine map, 1 for one that "
        "no affine map resembles. The mixing error is the distance of f(αx + (1 − α)x′) from "
        "αf(x) + (1 − α)f(x′). The rank of the columns x, 1 and f(x) together is "
        f"{affine_rank} if f is affine, and up to {2 * settings.width + 1} if not. Where the "
        f"variation is below {ALIVE:.0e} there is nothing left to fit."
    )
    columns = ["stack", "layers", "variation", "missed by affine fit", "mixing error", "rank"]
    out.table("Three stacks", columns, rows)
    draw_lines(out, t, lines, depths)
    draw_residuals(out, residual)
    out.result("affine_residual", {f"{kind}, {depth}": v for (kind, depth), v in residual.items()})
    for kind in STACKS:
        found = {depth: v for (k, depth), v in residual.items() if k == kind}
        most = max(found)
        claim = f"Best affine fit to {most:,} {kind} layers misses this share"
        found_there = f"{found[most]:.2g}"
        if kind == "linear":
            out.claim("D4", claim, f"< {ROUNDING:.0e}", found_there, max(found.values()) < ROUNDING)
        else:
            out.claim("D4", claim, "> 0.1", found_there, min(found.values()) > 0.1)


def draw_lines(out, t, lines, depths):
    shown = [d for d in depths if d <= 64] or depths[:1]
    fig, panels = plt.subplots(1, 3, figsize=(11, 4), sharex=True, sharey=True, layout="tight")
    for axes, kind in zip(panels, STACKS, strict=True):
        for height, depth in enumerate(shown):
            if (kind, depth) in lines:
                y = np.asarray(lines[kind, depth])
                main = np.linalg.svd(y - y.mean(axis=0), full_matrices=False)[0][:, 0]
                main = (main - main.min()) / np.ptp(main)
                axes.plot(t, 0.8 * main - 1.1 * height, color=COLORS[kind], lw=1.5)
        axes.set(title=kind, xlabel="place on the line", xticks=[-1, 0, 1])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(left=False)
    names = [f"{depth} layer{'s' * (depth > 1)}" for depth in shown]
    panels[0].set_yticks([0.4 - 1.1 * height for height in range(len(shown))], names)
    caption = (
        "The output, along the direction in which it varies most and scaled to one height, while "
        "the input moves along one straight line. Linear layers give a straight line at every "
        "depth; relu and tanh layers bend it more and more."
    )
    out.figure("along_a_line", fig, caption)


def draw_residuals(out, residual):
    fig, axes = plt.subplots(figsize=(7, 3.8))
    for kind in STACKS:
        found = {depth: v for (k, depth), v in residual.items() if k == kind}
        axes.loglog(list(found), list(found.values()), "o-", color=COLORS[kind], label=kind)
    axes.set(xlabel="layers", ylabel="share missed by\nthe best affine fit", ylim=(1e-16, 9))
    open_graphs(axes, grid=True)
    axes.legend(frameon=False, loc="center left")
    caption = "A linear stack is affine to rounding at every depth; no other stack is at any depth"
    out.figure("affine_residual", fig, caption)
