"""Do features made by hand or features learned read digits better, and with how many examples?

What the source claims (D2): before deep learning people made features by hand, with much care and
knowledge of the task; a network learns its own, and does better.

What was found, on 16×16 MNIST digits, means of three draws of the training examples. Softmax
regression on features made by hand, against networks on pixels; learning rate and weight decay of
each chosen on a fifth of its own examples; 1,000 test digits, so that half a point is little:

- It matters which features. Histograms of gradient directions take softmax regression from 76.2 %
  to 89.1 % with 100 examples, and from 90.6 % to 96.8 % with 4,000. Ink in zones (74.0 and 88.1 %)
  and projections with moments (68.9 and 83.8 %) are worse than plain pixels.
- With few examples the good features made by hand are ahead of the best learned ones: by 2.8 points
  with 100 and 1.2 with 300. With 1,000 and more the convolutional network draws level or passes,
  96.2 against 95.8 % with 1,000 and 97.2 against 96.8 % with 4,000.
- Learning alone is not enough: the dense network, with 34,186 parameters, has 94.9 % with 4,000.
  The convolutional network of 5,682 is told beforehand that places are alike, and neighbours
  belong together; that is knowledge of the task too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import pyplot as plt

import jaxdl
from experiments.feature_engineering.by_hand import gradients, pixels, projections, zones
from experiments.framework.drawing import open_graphs
from experiments.framework.run import Run
from experiments.framework.settings import Checked, Count, at_least
from jaxdl.data import digits8, mnist5k
from jaxdl.models import mlp
from jaxdl.train import init_state, make_step

LOSS = jaxdl.softmax_cross_entropy()
BATCH = 32
SIZES = (100, 300, 1000)  # and as many as there are
HELD_OUT = 0.2  # of the examples at hand, to choose settings by


@dataclass(frozen=True)
class Settings(Checked):
    data: Literal["mnist5k", "digits8"] = "mnist5k"
    """16×16 MNIST digits, at most 4,000 to train on, or scikit-learn's 8×8 digits, 1,437."""
    most: Annotated[int, at_least(100)] = 4000
    """Training examples at the right end of the curves."""
    seeds: Count = 3
    """Draws of the training examples and of initial weights."""
    steps: Count = 2000
    """Of Adam, for every method and number of examples."""


# --- methods ------------------------------------------------------------------------------------


class Method(NamedTuple):
    features: Callable[[np.ndarray], np.ndarray]
    model: jaxdl.Layer
    choices: tuple[tuple[float, float], ...]
    """(learning rate, weight decay) to choose from."""
    color: str


def images_of(images):
    return images[..., None]


def convnet():
    he = jax.nn.initializers.he_normal()
    return jaxdl.serial(
        jaxdl.conv(8, 3, padding="same", w_init=he), jaxdl.relu(), jaxdl.max_pool(2),
        jaxdl.conv(24, 3, padding="same", w_init=he), jaxdl.relu(), jaxdl.max_pool(2),
        jaxdl.flatten(), jaxdl.dropout(0.3), jaxdl.dense(10),
    )  # fmt: skip


REGRESSION = ((3e-3, 0.1), (3e-3, 1.0), (0.01, 1e-3), (0.01, 1.0), (0.03, 1e-2), (0.03, 1.0))
NETWORK = ((4e-3, 1e-2), (4e-3, 1.0), (0.012, 1e-2))
METHODS = {
    "pixels": Method(pixels, mlp([10]), REGRESSION, "#999999"),
    "projections, moments": Method(projections, mlp([10]), REGRESSION, "#c9a227"),
    "zones": Method(zones, mlp([10]), REGRESSION, "#d9722e"),
    "gradient directions": Method(gradients, mlp([10]), REGRESSION, "#a3331c"),
    "dense network": Method(pixels, mlp([128, 10], dropout_rate=0.2), NETWORK, "#5b8fc2"),
    "convolutional network": Method(images_of, convnet(), NETWORK, "#2b5c8a"),
}
BY_HAND = ("projections, moments", "zones", "gradient directions")
LEARNED = ("dense network", "convolutional network")


class Digits(NamedTuple):
    """All examples of a data set in one array, the test examples last."""

    images: np.ndarray
    labels: np.ndarray
    train: int
    """How many are for training."""


def load(name):
    data = mnist5k(images=True) if name == "mnist5k" else digits8(images=True)
    images = np.concatenate([data.x_train, data.x_test])[..., 0].astype(np.float64)
    return Digits(images, np.concatenate([data.y_train, data.y_test]), len(data.x_train))


def trainer(model, steps):
    """A compiled ``(x, y, order, n, rate, decay, seed, scored) -> accuracy``.

    It trains on the first `n` rows of `order` and scores the rows where `scored` is 1. Since
    neither is a shape, training on any number of examples is one compiled program.
    """

    @jax.jit
    def fit(x, y, order, n, rate, decay, seed, scored):
        # The rate is a number of the program too: a step of AdamW is proportional to it.
        falling = optax.cosine_decay_schedule(1.0, steps)
        tx = optax.chain(optax.adamw(falling, weight_decay=decay), optax.scale(rate))
        step = make_step(model, LOSS, tx)

        def one(state, key):
            rows = order[jax.random.randint(key, (BATCH,), 0, n)]
            return step(state, x[rows], y[rows])

        state = init_state(model, tx, x[:1], seed)
        keys = jax.random.split(jax.random.fold_in(state.key, 1), steps)
        state, _ = jax.lax.scan(one, state, keys)
        right = model.apply(state.params, x).argmax(axis=-1) == y
        return jnp.sum(scored * right) / jnp.sum(scored)

    return fit


def scaled(x, rows, apart):
    """To mean 0 and deviation 1 over these rows: each feature for itself, or all by one number."""
    axes = 0 if apart else None
    mean, deviation = x[rows].mean(axis=axes), x[rows].std(axis=axes)
    return jnp.asarray((x - mean) / np.maximum(deviation, 1e-2), jnp.float32)


def learning_curve(method, digits, sizes, settings, progress):
    """(sizes, seeds) test accuracies, and the choice made for each size.

    Of the n examples a fifth is held out to choose the rate and the decay by, on the mean over
    the seeds; then all n are trained on. No label beyond them is looked at.
    """
    fit = trainer(method.model, settings.steps)
    features, labels = method.features(digits.images), jnp.asarray(digits.labels)
    apart = method.features not in (pixels, images_of)
    test = np.arange(len(features)) >= digits.train
    accuracy, chosen = np.zeros((len(sizes), settings.seeds)), []
    for i, n in zip(progress, sizes, strict=False):
        held = np.zeros((len(method.choices), settings.seeds))
        orders = [
            np.random.default_rng(seed).permutation(digits.train) for seed in range(settings.seeds)
        ]
        fewer = n - int(HELD_OUT * n)
        for seed, order in enumerate(orders):
            x = scaled(features, order[:fewer], apart)
            scored = np.isin(np.arange(len(features)), order[fewer:n])
            for k, (rate, decay) in enumerate(method.choices):
                held[k, seed] = fit(x, labels, order, fewer, rate, decay, seed, scored)
        rate, decay = method.choices[int(held.mean(axis=1).argmax())]
        chosen.append((rate, decay))
        for seed, order in enumerate(orders):
            x = scaled(features, order[:n], apart)
            accuracy[i, seed] = fit(x, labels, order, n, rate, decay, seed, test)
    return accuracy, chosen


# --- the run ------------------------------------------------------------------------------------


def run(settings: Settings, out: Run) -> None:
    digits = load(settings.data)
    sizes = [n for n in SIZES if n < min(settings.most, digits.train)]
    sizes.append(min(settings.most, digits.train))
    curves, choices, rows = {}, {}, []
    for name, method in METHODS.items():
        bar = out.progress(len(sizes), name)
        curves[name], chosen = learning_curve(method, digits, sizes, settings, bar)
        choices[name] = dict(zip(map(str, sizes), chosen, strict=True))
        struct = jax.ShapeDtypeStruct((1, *method.features(digits.images[:1]).shape[1:]), "float32")
        params = jax.eval_shape(method.model.init, jax.random.key(0), struct)
        count = sum(p.size for p in jax.tree.leaves(params))
        means = curves[name].mean(axis=1)
        rows.append([name, f"{struct.size:,}", f"{count:,}", *(f"{m:.1%}" for m in means)])
        out.log(method=name, accuracy=curves[name])
    out.text(
        f"{settings.data}: {digits.train:,} digits to draw training examples from, "
        f"{len(digits.labels) - digits.train:,} to test with. The first four methods are softmax "
        "regression, on pixels or on features made by hand; the last two learn their features from "
        "pixels. All are given the same examples and the same number of steps, and choose learning "
        f"rate and weight decay on a fifth of their examples, among {len(REGRESSION)} pairs for "
        f"regression and {len(NETWORK)} for networks, which take longer."
    )
    columns = ["method", "inputs", "parameters", *(f"{n:,}" for n in sizes)]
    out.table(f"Test accuracy by number of training examples, mean of {settings.seeds} draws",
              columns, rows)  # fmt: skip
    out.result("sizes", sizes)
    out.result("accuracy", curves)
    out.result("chosen", choices)
    report(out, sizes, curves)
    draw(out, sizes, curves)


def report(out, sizes, curves):
    mean = {name: values.mean(axis=1) for name, values in curves.items()}

    def claim(words, names, others, at):
        best, other = (max(group, key=lambda name: mean[name][at]) for group in (names, others))
        left, right = mean[best][at], mean[other][at]
        out.claim("D2", f"{words}, {sizes[at]:,} examples", f"> {right:.1%} ({other})",
                  f"{left:.1%} ({best})", left > right)  # fmt: skip

    claim("Features made by hand beat pixels", BY_HAND, ("pixels",), 0)
    claim("Features made by hand beat pixels", BY_HAND, ("pixels",), -1)
    claim("Learned features beat those made by hand", LEARNED, BY_HAND, -1)
    claim("With few examples they do not: by hand is better", BY_HAND, LEARNED, 0)
    lead = np.max([mean[n] for n in LEARNED], axis=0) - np.max([mean[n] for n in BY_HAND], axis=0)
    ahead = [n for n, more in zip(sizes, lead, strict=True) if more > 0]
    out.result("learned_minus_by_hand", dict(zip(map(str, sizes), lead.tolist(), strict=True)))
    out.text(
        "The best learned features less the best made by hand, in points of accuracy: "
        + ", ".join(f"{100 * more:+.1f} at {n:,}" for n, more in zip(sizes, lead, strict=True))
        + (f". Learning is ahead at {', '.join(f'{n:,}' for n in ahead)} examples." if ahead else
           ". Learning is ahead nowhere.")
    )  # fmt: skip


def draw(out, sizes, curves):
    fig, axes = plt.subplots(figsize=(8, 4.6))
    for name, values in curves.items():
        error, color = 100 * (1 - values), METHODS[name].color
        style = "o-" if name in LEARNED else "s--"
        axes.loglog(sizes, error.mean(axis=1), style, color=color, lw=2, ms=5, label=name)
        low, high = error.min(axis=1), error.max(axis=1)
        axes.fill_between(sizes, low, high, color=color, alpha=0.12, lw=0)
    axes.set(xlabel="training examples", ylabel="test error, %")
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
    ticks = [v for v in (1, 2, 3, 5, 10, 20, 30, 50) if axes.get_ylim()[0] < v < axes.get_ylim()[1]]
    axes.set_yticks(ticks, map(str, ticks))
    axes.minorticks_off()
    open_graphs(axes, grid=True)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    caption = (
        "Test error: dashed with features made by hand or none and softmax regression, full with "
        "learned features. Bands are the least and the largest of the draws."
    )
    out.figure("learning_curves", fig, caption)
