"""When is it better not to share weights between places?

What the source claims (B8): a locally connected layer, which looks through the windows of a
convolution with a kernel of its own at every place, suits data whose statistics differ by place,
such as faces that were cropped to one frame.

What was found, with 4 kernels at each place and 4,000 training images, mean of 3 seeds:

- It holds for data made that way. Where every place has parts of its own, not sharing gets 65 % of
  the test images right, a convolution of as many maps 33 %, one of as many parameters 55 %, a
  hidden layer of as many parameters 48 %.
- On centred digits of 16×16 it holds by halves: 94.2 %, which is 1.9 points more than with as many
  shared maps, and 2.2 points less than with as many parameters in 43 shared maps (96.4 %). They
  cost 26 times the work.
- Digits moved by up to 2 pixels are for sharing: 91.1 against 83.2 % at as many parameters. Trained
  on centred digits and tested on moved ones no network is left above half: 33 % without sharing,
  44 % with, 27 % dense.
- Where all places have the same parts sharing gains NOTHING here: at as many parameters it comes
  to the same, 63.9 against 64.6 %, and 4 shared maps are 7 points worse than 4 at each place. They
  fit only 65 % of their training images, where the others fit 91 to 97 %.
"""

from dataclasses import dataclass
from typing import Annotated

import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import pyplot as plt

import jaxdl
from experiments.framework.drawing import open_graphs, show_image
from experiments.framework.run import Run
from experiments.framework.settings import Above0, Checked, Count, NoMoreThan, within
from jaxdl.data import Dataset, mnist5k
from jaxdl.train import evaluate, init_state, make_epoch, make_step, train

LOSS = jaxdl.softmax_cross_entropy()
SIDE, MARGIN = 16, 2  # of the images, and around what is centred in them, pixels
CELL = 4  # side of a part in the generated images
NETS = ("locally connected", "conv, same maps", "conv, same parameters", "dense")
COLORS = dict(zip(NETS, ("#2f7d4f", "#d9a441", "#a3331c", "#2b5c8a"), strict=True))
CENTRED, MOVED, OWN, SAME = "centred", "moved", "own parts", "same parts"
WORDS = {
    CENTRED: "real images, centred",
    MOVED: "real images, each moved",
    OWN: "generated, parts of its own at each place",
    SAME: "generated, the same parts at every place",
}


@dataclass(frozen=True)
class Settings(Checked):
    maps: Count = 4
    """Kernels of the locally connected layer at each place."""
    size: Annotated[int, within(1, SIDE - 1, "so that pooling by 2 fits behind")] = 5
    """Side of the kernels."""
    train_images: Annotated[int, within(1, 4000)] = 4000
    """Images to train on, 4,000 at most."""
    epochs: Count = 12
    """Passes over them."""
    batch: Annotated[Count, NoMoreThan("train_images")] = 50
    """Images a step."""
    learning_rate: Above0 = 3e-3
    """Of Adam, with a cosine decay to 0; the same for all networks."""
    seeds: Count = 3
    """Runs, each with its own initial weights and order of the images."""


def networks(settings, x):
    """The four networks: one stage, pooling and a dense layer, or one hidden layer."""

    def behind(layer):
        return jaxdl.serial(
            layer, jaxdl.relu(), jaxdl.max_pool(2), jaxdl.flatten(), jaxdl.dense(10)
        )

    def conv(maps):
        return behind(jaxdl.conv(maps, settings.size))

    local = behind(jaxdl.locally_connected(settings.maps, settings.size))
    target, inputs = count(local, x), x[0].size
    a_map = count(conv(2), x) - count(conv(1), x)
    maps = max(1, round((target - 10) / a_map))
    hidden = max(1, round((target - 10) / (inputs + 11)))
    wide = jaxdl.serial(jaxdl.flatten(), jaxdl.dense(hidden), jaxdl.relu(), jaxdl.dense(10))
    return dict(zip(NETS, (local, conv(settings.maps), conv(maps), wide), strict=True))


def count(model, x):
    return jaxdl.summary(model, x).params


def real_images():
    """12×12 pixels, in the middle of 16×16."""
    data = mnist5k(SIDE - 2 * MARGIN, images=True)
    edge = ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0))
    return data._replace(x_train=np.pad(data.x_train, edge), x_test=np.pad(data.x_test, edge))


def moved(x, seed):
    """Every image shifted by up to MARGIN pixels in each direction; nothing is cut off."""
    rng = np.random.default_rng(seed)
    shifts = rng.integers(-MARGIN, MARGIN + 1, (len(x), 2))
    return np.stack([np.roll(image, s, axis=(0, 1)) for image, s in zip(x, shifts, strict=True)])


def parts(own, seed=0):
    """Two patterns of ±1 for each of the 16 cells, (16, 2, 4, 4); the same ones unless `own`."""
    patterns = np.random.default_rng(seed).choice([-1.0, 1.0], (16, 2, CELL, CELL))
    return patterns if own else np.broadcast_to(patterns[:1], patterns.shape)


def generated(own, noise=1.0, flip=0.2):
    """Images of 4×4 cells, each showing one of its two parts, in either contrast, in noise.

    A class is a random choice of one part for each cell; in every image each cell shows the other
    part with probability `flip`. No pixel alone says anything, as either contrast is as frequent.
    """
    patterns = parts(own)
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 2, (10, 16))
    y = rng.integers(0, 10, 5000).astype(np.int32)
    shown = codes[y] ^ (rng.uniform(size=(5000, 16)) < flip)
    cells = patterns[np.arange(16), shown] * rng.choice([-1.0, 1.0], (5000, 16, 1, 1))
    images = cells.reshape(5000, 4, 4, CELL, CELL).swapaxes(2, 3).reshape(5000, SIDE, SIDE, 1)
    images = (images + noise * rng.normal(size=images.shape)).astype(np.float32)
    return Dataset("generated", images[:4000], y[:4000], images[4000:], y[4000:], 10)


def run(settings: Settings, out: Run) -> None:
    real = real_images()
    data = {
        CENTRED: real,
        MOVED: real._replace(x_train=moved(real.x_train, 0), x_test=moved(real.x_test, 1)),
        OWN: generated(True),
        SAME: generated(False),
    }
    few = slice(None, settings.train_images)
    data = {k: d._replace(x_train=d.x_train[few], y_train=d.y_train[few]) for k, d in data.items()}
    out.result("data_sha256", {name: part.fingerprint for name, part in data.items()})
    models = networks(settings, data[CENTRED].x_train[:1])
    scores = compare(settings, out, models, data)
    report(settings, out, models, data, scores)
    claims(out, scores)
    draw_images(out, data)
    draw(out, scores)


def compare(settings, out, models, data):
    """Accuracies (training, test) by network and data, one for each seed.

    The networks of the centred images are tested on the moved ones as well.
    """
    scores = {}
    steps = settings.epochs * (settings.train_images // settings.batch)
    tx = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, steps))
    for net, model in models.items():
        epoch_fn = make_epoch(make_step(model, LOSS, tx), batch=settings.batch)
        work = [(name, seed) for name in data for seed in range(settings.seeds)]
        for name, seed in out.progress(work, net):
            x, y = jnp.asarray(data[name].x_train), jnp.asarray(data[name].y_train)
            state = init_state(model, tx, x[:1], seed)
            params = state.params
            for last, _ in train(epoch_fn, state, x, y, settings.epochs):
                params = last.params

            def accuracy(x, y, params=params, model=model):
                return float(evaluate(model, LOSS, params, x, jnp.asarray(y)).accuracy)

            found = [accuracy(x, y), accuracy(jnp.asarray(data[name].x_test), data[name].y_test)]
            if name == CENTRED:
                found.append(accuracy(jnp.asarray(data[MOVED].x_test), data[MOVED].y_test))
            scores.setdefault((name, net), []).append(found)
            out.log(data=name, net=net, seed=seed, train_accuracy=found[0], test_accuracy=found[1])
    return {key: np.array(values) for key, values in scores.items()}


def report(settings, out, models, data, scores):
    x = data[CENTRED].x_train[:1]
    rows = []
    for net, model in models.items():
        summary = jaxdl.summary(model, x)
        first = str(model.children[net == "dense"]).splitlines()[0]
        rows.append([net, first, f"{summary.params:,}", f"{summary.flops / 1e3:,.0f}"])
    out.heading("Networks")
    out.text(
        "A locally connected layer looks through the same windows as a convolution, with a kernel "
        "of its own at every place. It is compared with a convolution of as many maps, with a "
        "convolution whose network has as many parameters, and with a hidden dense layer of as "
        "many. Behind the first layer all have relu and a dense layer, the first three max pooling "
        "by 2 between them."
    )
    out.table("Sizes", ["network", "first layer", "parameters", "kFLOP"], rows)
    out.heading("Accuracy")
    out.text(
        f"{settings.train_images:,} images to train on and 1,000 to test on. Real images are "
        f"12×12 pixels in the middle of 16×16, or moved from there by up to {MARGIN} pixels in "
        "each direction. The generated ones have 4×4 cells; in each a class shows one of two parts "
        "in either contrast, with noise. Either every cell has two parts of its own, or all "
        f"have the same two. Mean ± standard deviation over {settings.seeds} seeds."
    )

    def cell(values):
        return f"{100 * values.mean():.1f} ± {100 * values.std():.1f} %"

    for which, title in enumerate(("Training accuracy", "Test accuracy")):
        rows = [[net, *(cell(scores[name, net][:, which]) for name in data)] for net in NETS]
        if which:
            rows = [[*row, cell(scores[CENTRED, row[0]][:, 2])] for row in rows]
        extra = ["trained centred, tested moved"] * which
        out.table(title, ["network", *(WORDS[name] for name in data), *extra], rows)
    out.result("accuracy", {
        f"{name}, {net}": {"train": found[:, 0], "test": found[:, 1],
                           "test_moved": found[:, 2] if found.shape[1] > 2 else None}
        for (name, net), found in scores.items()
    })  # fmt: skip


def claims(out, scores):
    def gain(name, better, worse, which=1):
        d = 100 * (scores[name, better][:, which] - scores[name, worse][:, which])
        return float(d.mean()), float(d.std() / max(len(d) - 1, 1) ** 0.5)

    def claim(text, name, pairs):
        found = [gain(name, *pair) for pair in pairs]
        words = "; ".join(
            f"{better} − {worse}: {mean:+.1f} ± {error:.1f}"
            for (better, worse), (mean, error) in zip(pairs, found, strict=True)
        )
        holds = all(mean > 2 * error and mean > 0 for mean, error in found)
        expected = "above 0 by more than 2 standard errors"
        out.claim("B8", f"{text} (points of test accuracy)", expected, words, holds)

    local, same, equal, wide = NETS
    claim("Where each place has parts of its own (generated), not sharing is best", OWN,
          [(local, same), (local, equal), (local, wide)])  # fmt: skip
    claim("On real centred images not sharing is better than as many shared maps", CENTRED,
          [(local, same)])  # fmt: skip
    claim("… and better than as many parameters in shared maps", CENTRED, [(local, equal)])
    claim("Where images are moved, sharing is better, at as many parameters", MOVED,
          [(equal, local)])  # fmt: skip
    claim("Where all places have the same parts (generated), sharing is better, with as few maps",
          SAME, [(same, local)])  # fmt: skip


def draw_images(out, data):
    fig, panels = plt.subplots(len(data), 8, figsize=(9.5, 4.9))
    for line, (name, part) in zip(panels, data.items(), strict=True):
        images = part.x_train[:8]
        if name in (OWN, SAME):
            images = np.concatenate([generated(name == OWN, noise=0, flip=0).x_train[:4], images])
        for axes, image in zip(line, images, strict=False):
            show_image(axes, image[..., 0], cmap="gray_r")
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    fig.tight_layout(pad=0.4)
    caption = (
        "Training images. The two lower rows are generated: four images without noise and "
        "exchanged parts, and four as they are given to the networks."
    )
    out.figure("images", fig, caption)


def draw(out, scores):
    fig, axes = plt.subplots(figsize=(9, 4.2), layout="tight")
    columns = [(CENTRED, 1), (MOVED, 1), (CENTRED, 2), (OWN, 1), (SAME, 1)]
    for i, net in enumerate(NETS):
        found = [100 * (1 - scores[name, net][:, which]) for name, which in columns]
        means, spread = [v.mean() for v in found], [v.std() for v in found]
        places = np.arange(len(columns)) + 0.2 * (i - 1.5)
        axes.bar(places, means, 0.19, yerr=spread, color=COLORS[net], label=net, capsize=2)
    names = ["real,\ncentred", "real,\nmoved", "trained centred,\ntested moved",
             "generated,\nown parts", "generated,\nsame parts"]  # fmt: skip
    axes.set_xticks(range(len(columns)), names)
    axes.set(ylabel="test error, %")
    open_graphs(axes)
    axes.legend(frameon=False, fontsize=9)
    caption = "Test error by data and network; bars are standard deviations over seeds"
    out.figure("errors", fig, caption)
