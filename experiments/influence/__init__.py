"""Do products of gradients find the training examples that are labelled wrong?

What the sources claim: an example with a wrong label has a large influence on its own loss, the
product of its gradient with itself summed over checkpoints (TracIn, Pruthi et al. 2020,
arXiv:2002.08484, who rank by it what to check). Who has made a mistake worse is told by products
between examples, which random projections keep (LoGra, Choe et al. 2024, arXiv:2405.13954), better
so of vectors of one length, corrected for what all gradients share (TrackStar, Chang et al. 2024,
arXiv:2410.17413).

What was found, with 8 % of the labels of 8,000 images of Fashion-MNIST changed, at random or among
shirt, T-shirt, pullover and coat, and a small convolutional network of Flax; average precision,
mean of 3 seeds, 0.08 for a ranking at random:

- Self-influence finds labels changed at random (0.76) and few of the confusable ones (0.36). The
  loss summed over the same checkpoints, for which forward passes are enough, is better in both
  (0.90 and 0.73); the loss at the end is worse in one and better in the other (0.67 and 0.60). A
  gradient is large where the label is unlikely, and larger still where the network is sure: at the
  same loss (½ to 1½ on average, first seed) the median of ‖∇‖² in sum is 1,400 for boots and
  sandals that are labelled right, and 250 for pullovers and coats.
- Opponents of held-out mistakes are little better than chance (0.13 and 0.14). Opponents of all
  1,000 held-out images, by cosine, come to 0.83 and 0.60. But the right labels of these images
  alone do more: the loss under a network trained on nothing else gives 0.86 and 0.69.
- Length 1 helps where all held-out images are asked together (0.69 to 0.83, 0.34 to 0.60), and
  spoils what single mistakes say: of their ten worst opponents 57 and 42 % are changed, by cosine
  18 and 18 %, normalised as TrackStar does 9 and 12 %. Length is what gives wrong labels away;
  TrackStar looks for facts in text, where it is in the way. Of the ten of highest loss with the
  label that the image was taken for, alike or not, 98 and 67 % are changed.
- Left out and trained again, test accuracy rises from 81.9 % (at random) and 82.7 % (confusable) to
  84.7 and 84.4 % by summed loss, 84.5 and 83.2 % by opponents, 84.1 and 83.2 % by self-influence.
  Without all changed labels, and no others, it is 85.4 and 84.7 %; as many left out at random give
  81.2 and 82.6 %.
- Norms and projections of every example take 1.6 times as long as the plain gradient: four
  checkpoints cost 6.3 epochs of gradients, where the training has 8.

It takes about 7 minutes of processor time. Precision counts only what was changed here, and
Fashion-MNIST has wrong labels of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np

import jaxdl
from experiments.framework import timing
from experiments.framework.run import Run
from experiments.framework.settings import (
    Above0,
    Bound,
    Checked,
    Count,
    CountOr0,
    NoMoreThan,
    Share,
    at_least,
)
from experiments.influence import pictures, scores, training
from experiments.influence.training import Task

KINDS = ("at random", "confusable")
PARTS = (0.25, 0.5, 1.0)  # of the number of changed labels: the k of precision at k
LEFT_OUT = (scores.RANDOM, scores.LOSSES, scores.SELF, scores.COSINE)
NOTHING, TRUTH = "nothing left out", "all changed labels"
SHOWN = 5  # mistakes in the picture


@dataclass(frozen=True)
class Settings(Checked):
    data: Literal["fashion", "digits"] = "fashion"
    """Fashion-MNIST, or the 1,437 digits of 8×8 pixels."""
    images: Annotated[int, at_least(64)] = 8000
    """Training images drawn."""
    held_out: Count = 1000
    """Further images, whose labels are right: their mistakes are asked about."""
    share: Annotated[Share, Bound("must be above 0", lambda v: v > 0)] = 0.08
    """Share of the training labels that is changed."""
    epochs: Count = 8
    """Passes over the training images."""
    checkpoints: Annotated[Count, NoMoreThan("epochs")] = 4
    """Points of the training, evenly spaced, at which gradients are taken."""
    learning_rate: Above0 = 0.05
    """Of plain SGD with momentum 0.9 and batches of 64."""
    projections: Count = 64
    """Numbers kept of each parameter's gradient, for each of 8 parameters."""
    seeds: Count = 3
    """Draws of images, changed labels and first weights."""
    retrained: Annotated[CountOr0, NoMoreThan("seeds")] = 3
    """Seeds for which the network is trained again without what was found."""
    timings: CountOr0 = 10
    """Rounds of timing; 0: none."""


class Found(NamedTuple):
    """What one seed gave."""

    task: Task
    params: Any
    taken_for: np.ndarray
    """The classes that the held-out images were taken for."""
    suspicion: dict[str, np.ndarray]
    culprits: dict[str, np.ndarray]
    """Of each held-out mistake."""


def run(settings: Settings, out: Run) -> None:
    data = training.SOURCES[settings.data]()
    there, wanted = len(data.x_train), settings.images + settings.held_out
    if wanted > there:
        raise ValueError(
            f"influence: images + held_out must be at most {there}, the training images of "
            f"{settings.data}, got {wanted}; take fewer"
        )
    out.result("data_sha256", data.fingerprint)
    observe = training.observer(settings.projections)
    found, accuracy = {}, {}
    for kind in KINDS:
        for seed in out.progress(settings.seeds, f"labels changed: {kind}"):
            this = find(settings, data, kind, seed, observe)
            found.setdefault(kind, []).append(this)
            if seed < settings.retrained:
                for name, value in train_again(settings, this, seed).items():
                    accuracy.setdefault(kind, {}).setdefault(name, []).append(value)
                    out.log(kind=kind, seed=seed, left_out=name, test_accuracy=value)
    describe(settings, out, found)
    report_ranking(settings, out, found)
    report_culprits(settings, out, found)
    if settings.retrained:
        report_training(out, accuracy)
    if settings.timings:
        report_cost(settings, out, found[KINDS[0]][0])


def find(settings: Settings, data, kind: str, seed: int, observe) -> Found:
    """Train, take everyone's gradients at the checkpoints, and rank."""
    task = training.make_task(data, kind, settings.images, settings.held_out, settings.share, seed)
    everyone = np.arange(settings.images)
    kept = fit(settings, task, everyone, seed, settings.checkpoints)
    ours = [observe(params, task.x, task.labels) for params in kept]
    theirs = [observe(params, task.x_held_out, task.y_held_out) for params in kept]
    taken_for = training.guesses(kept[-1], task.x_held_out)
    mistakes = taken_for != task.y_held_out
    influence = scores.influence(ours, theirs)
    alone = fit(settings, task._replace(x=task.x_held_out, labels=task.y_held_out),
                np.arange(settings.held_out), seed)[0]  # fmt: skip
    alone_losses = observe(alone, task.x, task.labels).losses
    suspicion = scores.suspicion(ours, influence, mistakes, alone_losses, seed)
    asked = {name: of[mistakes] for name, of in influence.items()}
    culprits = scores.culprits(asked, suspicion[scores.LOSSES], task.labels, taken_for[mistakes])
    return Found(task, kept[-1], taken_for, suspicion, culprits)


def fit(settings: Settings, task: Task, rows: np.ndarray, seed: int, checkpoints: int = 1):
    steps = settings.epochs * settings.images // 64  # also on fewer rows: nobody learns longer
    return training.train(task, rows, steps, settings.learning_rate, seed, checkpoints)


def train_again(settings: Settings, found: Found, seed: int) -> dict[str, float]:
    """Test accuracy from the same first weights, without as many examples as were changed."""
    task = found.task
    left_out = {name: scores.ranked(found.suspicion[name]) for name in LEFT_OUT}
    left_out[TRUTH] = np.flatnonzero(task.changed)
    accuracy = {NOTHING: training.accuracy(found.params, task)}
    for name, rows in left_out.items():
        stay = np.delete(np.arange(settings.images), rows[: task.changed.sum()])
        accuracy[name] = training.accuracy(fit(settings, task, stay, seed)[0], task)
    return accuracy


def spread(values) -> str:
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values):.1f}"


def describe(settings: Settings, out: Run, found: dict[str, list[Found]]) -> None:
    changed = {kind: int(runs[0].task.changed.sum()) for kind, runs in found.items()}
    out.text(
        f"{settings.images:,} images of {settings.data}, of which {changed['at random']:,} have "
        "another label than the data set: drawn among all and given any other class (at random), "
        f"or, {changed['confusable']:,}, drawn among four classes that look alike and given "
        f"another of the four (confusable). {settings.held_out:,} held-out images keep their right "
        "labels. Labels that the data set itself has wrong count as right here."
    )
    out.result("changed", changed)


def report_ranking(settings: Settings, out: Run, found: dict[str, list[Found]]) -> None:
    numbers, drawn, n = {}, {}, 0
    out.heading("Who is found")
    out.text(
        "Precision among the first k, in per cent, for k a quarter, a half and all of the number "
        "of changed labels, and average precision; mean and deviation over the seeds. Opponents "
        "and “by the held-out alone” use the right labels of the held-out images, the others do "
        "not."
    )
    for kind, runs in found.items():
        rows = []
        for method in scores.METHODS:
            pairs = [(this.suspicion[method], this.task.changed) for this in runs]
            curves = [scores.precisions(*pair) for pair in pairs]
            n = int(pairs[0][1].sum())
            at = {part: [curve[round(part * n) - 1] for curve in curves] for part in PARTS}
            average = [scores.average_precision(*pair) for pair in pairs]
            rows.append([method, *map(spread, at.values()), spread(average)])
            numbers.setdefault(kind, {})[method] = {
                "average_precision": average,
                **{f"precision_at_{round(part * n)}": values for part, values in at.items()},
            }
            hits = [curve[changed[scores.ranked(score)]]
                    for curve, (score, changed) in zip(curves, pairs, strict=True)]  # fmt: skip
            drawn.setdefault(kind, {})[method] = hits
        columns = [f"first {round(part * n)}" for part in PARTS]
        out.table(f"Labels changed: {kind}", ["ranked by", *columns, "average precision"], rows)
    out.result("ranking", numbers)
    pictures.curves(out, drawn)
    this = found["confusable"][0]
    norms = scores.norms_at_like_loss(this.suspicion, this.task, settings.checkpoints)
    names = training.NAMES[settings.data]
    by_class = {names[k]: {"examples": n, "median": norm} for k, (n, norm) in norms.items()}
    out.table(
        "Labelled right, with a mean loss of ½ … 1½ (confusable, first seed)",
        ["class", "examples", "median ‖∇‖², summed"],
        [[name, of["examples"], f"{of['median']:.0f}"] for name, of in by_class.items()],
    )
    out.result("sq_norm_at_like_loss", by_class)


def report_culprits(settings: Settings, out: Run, found: dict[str, list[Found]]) -> None:
    """Of the ten training examples that opposed a mistake most, how many are changed?"""
    shares: dict[str, dict[str, list[float]]] = {}
    for kind, runs in found.items():
        for this in runs:
            for name, rows in this.culprits.items():
                share = float(this.task.changed[rows].mean())
                shares.setdefault(name, {}).setdefault(kind, []).append(share)
    labels = {scores.LOSSES: "highest loss, of the label the image was taken for"}
    rows = [
        [labels.get(name, name), *(spread(values) for values in of.values())]
        for name, of in shares.items()
    ]
    out.heading("Who made a mistake worse")
    out.text("Ten training examples for each held-out mistake: how many have a changed label, %.")
    out.table("Share of changed labels among ten culprits", ["culprits by", *KINDS], rows)
    out.result("changed_among_ten_culprits", shares)
    this = found["confusable"][0]
    mistakes = np.flatnonzero(this.taken_for != this.task.y_held_out)
    if mistakes.size:
        pictures.mistakes(
            out, this.task, np.array(training.NAMES[settings.data]), mistakes[:SHOWN],
            this.taken_for[mistakes[:SHOWN]], this.culprits[scores.PLAIN][:SHOWN],
        )  # fmt: skip


def report_training(out: Run, accuracy: dict[str, dict[str, list[float]]]) -> None:
    out.heading("What it is worth to leave them out")
    rows = [
        [name, *(spread(accuracy[kind][name]) for kind in KINDS)] for name in accuracy[KINDS[0]]
    ]
    out.table("Test accuracy, %, trained again", ["left out", *KINDS], rows)
    out.result("test_accuracy", accuracy)
    pictures.accuracies(out, accuracy)


def report_cost(settings: Settings, out: Run, found: Found) -> None:
    """Norms and projections of a batch, over the plain gradient of its mean loss."""
    batch = found.task.x[: training.BATCH], found.task.labels[: training.BATCH]
    norms = jax.jit(jaxdl.value_and_reduce(training.loss, jaxdl.example_sq_norms))
    both = training.reductions(settings.projections)
    gradient = jax.jit(jax.grad(lambda params, x, y: training.loss(params, x, y).mean()))
    times = timing.interleave(
        {
            "gradient": lambda: gradient(found.params, *batch),
            "norms": lambda: norms(found.params, *batch),
            "both": lambda: both(found.params, *batch),
        },
        settings.timings,
        out,
    )
    ratios = {name: timing.ratio(times, name, "gradient") for name in ("norms", "both")}
    out.heading("What it costs")
    size = both(found.params, *batch)[2].shape[-1]
    out.table(
        f"Time for {len(batch[0])} examples over that of the gradient of their mean loss",
        ["of every example, at one checkpoint", "median (quartiles)"],
        [
            ["squared gradient norm", timing.show(ratios["norms"])],
            [f"the same, and {size} projections", timing.show(ratios["both"])],
        ],
    )
    epochs = settings.checkpoints * ratios["both"]["median"]
    out.text(
        f"All {settings.checkpoints} checkpoints cost as much as the gradients of {epochs:.1f} "
        f"epochs; the training had {settings.epochs}. Summed losses cost only forward passes."
    )
    out.result("time_over_gradient", ratios)
