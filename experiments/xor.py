"""Does a 2-5-1 sigmoid network learn XOR from one random example a step?

The source (A7) trains such a network for 10,000 steps at learning rate 0.5, weights drawn from
[0, 1), and says nothing of how often it works. Here a hundred of them are trained together, each
from its own seed, in one program made with `jax.vmap`. A network has solved XOR when all four
outputs are on the right side of 0.5.

Found, with the default settings (those of the source): 98 of 100 seeds solve it, and in 93 of 100
every output is within 0.1 of its target. With learning rate 1 all hundred do both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax import Array

import jaxdl
from experiments.framework.run import Run
from experiments.framework.settings import Bound, Checked, Count

INPUTS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
TARGETS = np.array([[0], [1], [1], [0]], np.float32)
POINTS = 100  # of each learning curve
WHOLE_CURVE = Bound(
    f"must be a multiple of {POINTS} (the points of a curve)",
    lambda steps: steps >= POINTS and steps % POINTS == 0,
    "e.g. 10000",
)


@dataclass(frozen=True)
class Settings(Checked):
    """The network, its training, and how many of them."""

    seeds: Count = 100
    """Networks, each with its own initial weights and order of examples."""
    steps: Annotated[int, WHOLE_CURVE] = 10_000
    """Training steps, one random example each; a multiple of 100."""
    hidden: Count = 5
    """Hidden units."""
    learning_rate: float = 0.5
    """Of plain gradient descent on ½(y − t)²."""
    init: Literal["uniform", "normal"] = "uniform"
    """Initial weights: uniform in [0, 1) as in the source, or normal with standard deviation 1."""
    path: Literal["manual", "autodiff"] = "manual"
    """Whose backward pass: written by hand, or jax.grad of the same forward."""


class Outcome(NamedTuple):
    """What became of the networks; the first axis counts seeds."""

    params: Any
    errors: Array
    """½Σ(y − t)² over the four examples, along the run: (seeds, POINTS)."""
    outputs: Array
    """(seeds, 4)"""


def build(settings: Settings) -> jaxdl.Layer:
    """The 2-hidden-1 network."""
    initial = jax.nn.initializers.uniform(1.0)
    if settings.init == "normal":
        initial = jax.nn.initializers.normal(1.0)
    return jaxdl.serial(
        jaxdl.dense(settings.hidden, w_init=initial, b_init=initial),
        jaxdl.sigmoid(),
        jaxdl.dense(1, w_init=initial, b_init=initial),
        jaxdl.sigmoid(),
    )


def train_all(settings: Settings) -> Outcome:
    """Train every seed, all in one compiled program."""
    model, loss = build(settings), jaxdl.half_squared_error()
    value_and_grad = jaxdl.value_and_grad(model, loss, path=settings.path)
    tx = optax.sgd(settings.learning_rate)
    x, target = jnp.asarray(INPUTS), jnp.asarray(TARGETS)

    def step(carry, key):
        params, opt_state = carry
        row = jax.random.randint(key, (1,), 0, len(x))
        _, gradient = value_and_grad(params, x[row], target[row])
        updates, opt_state = tx.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    def stretch(carry, keys):
        carry, _ = jax.lax.scan(step, carry, keys)
        return carry, loss(model.apply(carry[0], x), target)

    def one_seed(key):
        init_key, run_key = jax.random.split(key)
        params = model.init(init_key, x)
        keys = jax.random.split(run_key, (POINTS, settings.steps // POINTS))
        (params, _), errors = jax.lax.scan(stretch, (params, tx.init(params)), keys)
        return Outcome(params, errors, model.apply(params, x)[:, 0])

    return jax.jit(jax.vmap(one_seed))(jax.random.split(jax.random.key(0), settings.seeds))


def run(settings: Settings, out: Run) -> None:
    """Train, count, draw."""
    done = jax.device_get(train_all(settings))
    right = (done.outputs > 0.5) == (TARGETS[:, 0] > 0.5)
    solved = right.all(axis=1)
    close = (np.abs(done.outputs - TARGETS[:, 0]) < 0.1).all(axis=1)
    out.result("fraction_solved", solved.mean())
    out.result("fraction_within_0.1", close.mean())
    out.result("final_error_median", np.median(done.errors[:, -1]))
    out.claim(
        "A7",
        f"a 2-{settings.hidden}-1 sigmoid network learns XOR from most seeds in "
        f"{settings.steps:,} single-example steps",
        "at least 95 % of seeds",
        f"{solved.sum()} of {settings.seeds} seeds",
        solved.mean() >= 0.95,
    )
    out.table(
        "XOR",
        ["seeds", "solved", "every output within 0.1", "median error ½Σ(y − t)²"],
        [
            [
                settings.seeds,
                int(solved.sum()),
                int(close.sum()),
                float(np.median(done.errors[:, -1])),
            ]
        ],
    )
    for seed in np.flatnonzero(~solved):
        out.text(
            f"Seed {seed} failed: outputs {', '.join(f'{y:.3f}' for y in done.outputs[seed])}."
        )
    out.figure(
        "curves",
        draw_curves(done.errors, solved, settings.steps),
        "The error of every network over its run, those that failed in red. The long plateau at "
        "½ is where every output is near 0.5: the network has learnt the mean, and not yet XOR.",
    )
    best = int(np.argmin(done.errors[:, -1]))
    out.figure(
        "surface",
        draw_surface(build(settings), jax.tree.map(lambda p: p[best], done.params)),
        "The output of the best network over the unit square, with the four examples.",
    )


def draw_curves(errors: np.ndarray, solved: np.ndarray, steps: int):
    """Error against step for every seed, on a logarithmic axis."""
    fig, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    at = np.linspace(steps / POINTS, steps, POINTS)
    for curve, good in zip(errors, solved, strict=True):
        axes.semilogy(at, curve, color="#3b6ea5" if good else "#c0392b", alpha=0.35, linewidth=0.9)
    axes.set(xlabel="step", ylabel="½Σ(y − t)² over the four examples", xlim=(0, steps))
    axes.grid(alpha=0.3)
    return fig


def draw_surface(model: jaxdl.Layer, params: Any):
    """The output over the unit square."""
    fig, axes = plt.subplots(figsize=(5, 4.2), layout="constrained")
    side = np.linspace(-0.25, 1.25, 121, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), axis=-1)
    surface = axes.contourf(side, side, model.apply(params, grid)[..., 0], 20, cmap="RdBu_r")
    axes.contour(side, side, model.apply(params, grid)[..., 0], [0.5], colors="black", linewidths=1)
    axes.scatter(*INPUTS.T, c=TARGETS[:, 0], cmap="RdBu_r", edgecolors="black", s=90, zorder=3)
    axes.set(xlabel="first input", ylabel="second input", aspect="equal")
    fig.colorbar(surface, label="output (line: 0.5)")
    return fig
