"""Does the noise scale, measured in training, foretell the batch size beyond which more is wasted?

What the source claims (McCandlish et al. 2018, arXiv:1812.06162): to one loss a batch of B takes
S_min (1 + B_crit/B) steps and E_min (1 + B/B_crit) examples, and the gradient noise scale
tr Σ/|G|², averaged over the training, foretells B_crit. (The theory has SGD, and a Hessian that is
a multiple of the identity.)

What was found, for a Flax network of 32 hidden units on 8×8 digits, to a training loss of 0.1, the
learning rate chosen for every batch size among ten, means of three seeds:

- The hyperbola holds: from 2 to 1024 examples it is within a factor of 1.08 of the steps of SGD
  (S_min 90, E_min 3,039), 1.15 of those of Adam.
- SGD has B_crit 34 (31 … 36 by seed), Adam 131 (126 … 138): it takes as many examples at small
  batches and a quarter of the steps at large ones. One noise scale cannot foretell both.
- The noise scale grows in training, from 16 to 20 up to 42 to 102 in the last of eight stretches
  of steps, and unevenly. What it foretells is as uncertain as its mean: over the stretches that is
  33 in a run of batch 16, 63 at 128 and 133 at 1024, 1.0 to 3.9 times the B_crit of SGD (0.3 to 1.0
  times that of Adam); the larger ones come from a few stretches, one of which has 367. As the ratio
  of the means over all steps, which early steps govern, it is 20 to 25 in all three, 0.6 to 0.7
  times. An order of magnitude it is.
- The Hessian, which the noise scale leaves out, does not settle it: tr HΣ/GᵀHG, for one seed at
  eight moments, has means of 57, 58 and 142, and fluctuates as much.
- A step that measures its noise takes 1.3 (batch 1024) to 1.6 times (batch 16) as long as the
  plain one, medians of 300 rounds on two shared cores: the network is so small that a step is
  0.2 to 0.6 ms.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import least_squares

from experiments.framework.run import Run
from experiments.framework.settings import Above0, Checked, Count, Counts, at_least
from experiments.framework.timing import interleave, milliseconds, ratio, show
from experiments.noise_scale import pictures
from experiments.noise_scale.training import (
    exact_scale,
    mean_of,
    network,
    noise_through_training,
    step_and_noise,
    steps_to_target,
    windows,
)
from jaxdl.data import digits8

HIGHEST = {"SGD": 2.0, "Adam": 0.128}
"""The largest learning rate of each grid; each next one is smaller by √2."""


@dataclass(frozen=True)
class Settings(Checked):
    target: Above0 = 0.1
    """The loss over all training digits to which every run trains."""
    batch_sizes: Annotated[Counts, at_least(1)] = (2, 8, 16, 32, 64, 128, 256, 1024)
    """Examples of a step, drawn with replacement as the theory has it."""
    rates: Count = 10
    """Learning rates that are tried at every batch size, from the highest down by √2 each."""
    seeds: Count = 3
    """First weights and draws of batches; every rate is tried with each."""
    adam: bool = True
    """Whether to train with Adam too."""
    hidden: Count = 32
    """Hidden units of the network."""
    windows: Count = 8
    """Stretches of steps over which the noise scale is averaged."""
    measured: Annotated[Counts, at_least(2)] = (16, 128, 1024)
    """Batch sizes of the runs in which the noise scale is measured."""
    hessian_examples: Count = 64
    """Gradients by which tr HΣ is estimated."""
    most: Annotated[int, at_least(20)] = 12000
    """Steps after which a run that has not reached the target is given up."""
    repetitions: Count = 60
    """Rounds of timing a step with and without the noise."""

    def __post_init__(self):
        super().__post_init__()
        if len(set(self.batch_sizes)) < 2:
            self.refuse(
                f"batch_sizes must be at least two, got {self.batch_sizes}; S_min and E_min are two"
            )
        if not set(self.measured) <= set(self.batch_sizes):
            self.refuse(
                f"measured must be among batch_sizes, got {self.measured} and {self.batch_sizes}; "
                "they train at the rate that was best for their size"
            )


def run(settings: Settings, out: Run) -> None:
    digits = digits8()
    data = jnp.asarray(digits.x_train), jnp.asarray(digits.y_train)
    init, loss = network(settings.hidden)
    found = {}
    for name in ("SGD", "Adam")[: 1 + settings.adam]:
        found[name] = train(settings, out, name, init, loss, data)
    courses = measure(settings, out, found["SGD"], init, loss, data)
    compare(settings, out, found, courses)
    cost(settings, out, init, loss, data)


def train(settings, out, name, init, loss, data):
    """Steps to the target for every batch size, each at its best rate; and the fit."""
    rates = HIGHEST[name] * 2 ** (-np.arange(settings.rates) / 2)
    best, steps, inner = [], [], []
    for batch in out.progress(settings.batch_sizes, f"{name}, batch sizes"):
        taken = steps_to_target(
            init, loss, data, name, batch, rates, settings.seeds, settings.target, settings.most
        )
        mean = taken.mean(axis=1)  # NaN where a seed does not arrive: such a rate is not chosen
        if np.isnan(mean).all():
            raise ValueError(
                f"noise_scale: some rate must reach the target {settings.target:g} with all seeds, "
                f"got none at batch size {batch} ({name}); allow more steps (--most), or more rates"
            )
        i = int(np.nanargmin(mean))
        best.append(rates[i])
        steps.append(taken[i])
        inner.append(0 < i < len(rates) - 1)
        out.log(optimiser=name, batch=batch, rates=rates, steps=taken)
    steps, sizes = np.array(steps), np.array(settings.batch_sizes)
    of_seeds = [fit(sizes, s) for s in steps.T]
    least_steps, least_examples = fit(sizes, steps.mean(axis=1))
    critical = [examples / count for count, examples in of_seeds]
    out.table(
        f"{name}: steps to a training loss of {settings.target:g}, mean of {settings.seeds} seeds",
        ["batch", "learning rate", "steps", "lowest … highest", "examples", "fitted steps"],
        [
            [b, f"{r:.3g}{'' if within else ' (end of the grid)'}", f"{s.mean():.0f}",
             f"{s.min():.0f} … {s.max():.0f}", f"{b * s.mean():,.0f}",
             f"{least_steps + least_examples / b:.0f}"]
            for b, r, s, within in zip(sizes, best, steps, inner, strict=True)
        ],
    )  # fmt: skip
    values = {
        "batch_sizes": sizes, "rates": np.array(best), "inside_grid": inner, "steps": steps,
        "S_min": least_steps, "E_min": least_examples, "B_crit": least_examples / least_steps,
        "B_crit_of_seeds": critical,
    }  # fmt: skip
    out.result(name, values)
    return values


def fit(sizes, steps):
    """(S_min, E_min) of S = S_min + E_min/B, by least squares of the logarithms."""

    def off(logs):
        return np.log(np.exp(logs[0]) + np.exp(logs[1]) / sizes) - np.log(steps)

    first = np.log([steps.min(), (sizes * steps).min()])
    return tuple(float(v) for v in np.exp(least_squares(off, first).x))


def measure(settings, out, sgd, init, loss, data):
    """The noise scale through training at some batch sizes, estimated and exact."""
    exact, courses, rows = exact_scale(loss, data, settings.hessian_examples), {}, []
    for batch in out.progress(settings.measured, "noise scale"):
        i = settings.batch_sizes.index(batch)
        most = int(1.5 * sgd["steps"][i].max()) + 1
        course = noise_through_training(
            init, loss, data, batch, float(sgd["rates"][i]), settings.target, most
        )
        of_seeds, at_once = [], []
        for seed in reversed(range(settings.seeds)):  # the course shown is that of the first
            losses, noise, params = course(seed)
            ends, estimated = windows(noise, settings.windows)
            weights = np.diff(ends) / ends[-1]
            of_seeds.append(float(weights @ estimated))
            at_once.append(windows(noise, 1)[1][0])
        middles = (ends[:-1] + ends[1:]) // 2
        at = [exact(jax.tree.map(lambda a, m=m: a[m], params)) for m in middles]
        simple, hessian = np.array(at, float).T
        courses[batch] = {
            "steps": ends[-1], "ends": ends, "loss": losses[middles], "estimated": estimated,
            "exact": simple, "with_hessian": hessian, "mean_of_seeds": of_seeds,
            "at_once_of_seeds": at_once,
            "mean": {
                "estimated": float(np.mean(of_seeds)), "exact": weights @ simple,
                "with_hessian": weights @ hessian,
            },
        }  # fmt: skip
        rows.append([
            batch, ends[-1], f"{estimated[0]:.0f} … {estimated[-1]:.0f}",
            f"{np.mean(of_seeds):.0f} ({min(of_seeds):.0f} … {max(of_seeds):.0f})",
            f"{np.mean(at_once):.0f}",
            f"{weights @ simple:.0f}", f"{weights @ hessian:.0f}",
        ])  # fmt: skip
    out.heading("The noise scale through training")
    out.text(
        "tr Σ/|G|² from the norms of the examples of each step's own batch, as "
        f"`jaxdl.critical_batch_size` has it for {settings.windows} stretches of steps, their mean "
        f"over the steps, and over {settings.seeds} seeds; then from all steps at once. Beside it, "
        "for one seed, at the middle of each stretch, the same over all training digits at once, "
        "and with the Hessian as the theory has it before it takes H for a multiple of the "
        "identity: tr HΣ/GᵀHG."
    )
    columns = ["batch", "steps", "first … last stretch", "mean (lowest … highest seed)",
               "steps at once", "mean, all digits", "mean, with the Hessian"]  # fmt: skip
    out.table("Noise scale of a run of SGD to the target", columns, rows)
    out.result("noise_scale", {str(batch): course for batch, course in courses.items()})
    pictures.courses(out, courses)
    return courses


def compare(settings, out, found, courses):
    """The batch size that the runs show, beside those that were foretold."""
    rows, factors, off = [], {}, {}
    for name, values in found.items():
        low, high = min(values["B_crit_of_seeds"]), max(values["B_crit_of_seeds"])
        rows.append([f"{name}, fitted E_min/S_min", f"{values['B_crit']:.1f}",
                     f"{low:.1f} … {high:.1f} by seed", ""])  # fmt: skip
        fitted = values["S_min"] + values["E_min"] / values["batch_sizes"]
        logs = np.log(fitted / values["steps"].mean(axis=1))
        off[name] = float(np.exp(np.abs(logs).max()))
    for batch, course in courses.items():
        scale = course["mean"]["estimated"]
        factors[str(batch)] = {
            name: float(scale / values["B_crit"]) for name, values in found.items()
        }
        rows.append([f"noise scale in a run of batch {batch}", f"{scale:.0f}", *(
            f"{factor:.1f} × that of {name}" for name, factor in factors[str(batch)].items()
        ), *[""] * (2 - len(found))])  # fmt: skip
    out.heading("Foretold and found")
    columns = ["", "batch size", "", ""]
    out.table(f"Critical batch size, to a loss of {settings.target:g}", columns, rows)
    out.text("; ".join(
        f"{name}: the fitted hyperbola is within a factor of {factor:.2f} of every batch size"
        for name, factor in off.items()
    ) + ".")  # fmt: skip
    out.result("measured_over_fitted", factors)
    out.result("largest_factor_off_the_fit", off)
    pictures.hyperbolas(out, found, [c["mean"]["estimated"] for c in courses.values()])


def cost(settings, out, init, loss, data):
    """What the noise costs beside the plain step, the two taking turns."""
    step, tx = step_and_noise(loss, "SGD", 0.1)
    params, rows, kept = init(jax.random.key(0)), [], {}
    mean = jax.value_and_grad(mean_of(loss))

    def plain(params, state, x, labels):
        value, gradient = mean(params, x, labels)
        updates, state = tx.update(gradient, state, params)
        return jax.tree.map(jnp.add, params, updates), state, value

    for batch in settings.measured:
        rows_of = jnp.arange(batch) % len(data[1])
        given = params, tx.init(params), data[0][rows_of], data[1][rows_of]
        sides = {
            name: partial(jax.jit(f).lower(*given).compile(), *given)
            for name, f in (("plain", plain), ("noise", step))
        }
        times = interleave(sides, settings.repetitions, out)
        kept[str(batch)] = ratio(times, "noise", "plain")
        rows.append([batch, milliseconds(times, "plain"), milliseconds(times, "noise"),
                     show(kept[str(batch)])])  # fmt: skip
    out.heading("What it costs")
    out.table("A step of SGD, and one that measures its noise", ["batch", "plain", "with noise",
              "ratio (quartiles)"], rows)  # fmt: skip
    out.result("time_ratio", kept)
