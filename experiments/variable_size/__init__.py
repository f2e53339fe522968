"""Can one network read images of any size, if its pooling regions grow with them?

What the source claims (B14): dense layers behind the maps want images of one size; pooling regions
that scale with the image give them a fixed number of features, 576, at every size; averaging one
map for each class needs no dense layer, and takes any size.

What was found, on digits of 28×28 pixels resized to 20 … 48, mean of 3 seeds:

- All of that holds. The fixed network takes the sizes that leave as many places in its last maps,
  24 and 28; the variable one takes all from 24 on, always with 576 features; averaging takes any.
  At 28×28 the variable network is the fixed one, to the last bit.
- To take a size is NOT to read it. Trained at 28×28 alone, the variable network gets 96.7 % there
  and 42 to 66 % at other sizes, averaging 92.8 % and 35 to 71 %: their kernels know one scale.
- Batches of 24, 28 or 36 pixels teach these sizes, 95.5 to 96.3 % (averaging: 86.5 to 89.7 %), but
  less well what lies between, 91.4 % at 32 (83.2 %), and what lies above, 79.0 % at 48 (50.0 %).
- The plain way is the best: the fixed network reads every size with 96.3 to 96.7 % if its images
  are first brought back to 28×28.
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

import jaxdl
from experiments.framework.layers import first_layers
from experiments.framework.run import Run
from experiments.framework.settings import Above0, Checked, Count, within
from experiments.variable_size import pictures
from jaxdl.data import Dataset, mnist5k
from jaxdl.models import (
    fixed_size_classifier,
    global_average_classifier,
    variable_size_classifier,
)
from jaxdl.train import epoch_indices, init_state, jit_step, make_step, predict
from jaxdl.train.loop import check_finite

ONE = 28  # pixels: the size of the fixed network, and of training at one size
FEATURES, GRID = 576, 3
ALONE = f"{ONE}×{ONE}"
LEAST = 24  # pixels that leave 3×3 places behind three stages
NETS = ("variable", "global average")
LOSS = jaxdl.softmax_cross_entropy()


@dataclass(frozen=True)
class Settings(Checked):
    mixed: tuple[int, ...] = (24, 28, 36)
    """Sides of the images of mixed training, in pixels."""
    unseen: tuple[int, ...] = (20, 32, 40, 48)
    """Sides on which the networks are tested and never trained."""
    widths: tuple[int, ...] = (8, 16, 64)
    """Maps in each stage of the trunk; the last times 3×3 regions makes the 576 features."""
    epochs: Count = 8
    """Passes over the 4,000 training digits."""
    batch: Annotated[int, within(1, 4000, "the number of training digits")] = 50
    """Digits a step, all of one size."""
    learning_rate: Above0 = 2e-3
    """Of Adam, at the top of a cosine."""
    seeds: Count = 3
    """Runs of each network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.mixed, default=0) < LEAST or min(self.unseen, default=LEAST) < 8:
            self.refuse(
                f"mixed must name sides of at least {LEAST} pixels, and unseen of "
                f"at least 8, got {self.mixed} and {self.unseen}; smaller images have no place or "
                "less than 3×3 places left"
            )
        if len(self.widths) != 3 or self.widths[-1] * GRID**2 != FEATURES or min(self.widths) < 1:
            self.refuse(
                f"widths must be of three stages, the last {FEATURES // GRID**2} "
                f"wide so that 3×3 regions make {FEATURES} features, got {self.widths}; the "
                f"default is {Settings.widths}"
            )


def sizes_of(settings):
    """All sides at which networks are tested."""
    return sorted({ONE, *settings.mixed, *settings.unseen})


def build(widths):
    return {
        "fixed": fixed_size_classifier(10, widths=widths),
        "variable": variable_size_classifier(10, FEATURES, widths=widths),
        "global average": global_average_classifier(10, widths=widths),
    }


def resized(images, size):
    """Whole images of another size, linearly interpolated, with antialiasing where it shrinks."""
    if size == images.shape[1]:
        return images
    shape = (len(images), size, size, 1)
    return np.asarray(jax.image.resize(images, shape, "linear", antialias=True))


def run(settings: Settings, out: Run) -> None:
    data, nets = mnist5k(ONE, images=True), build(settings.widths)
    everywhere = sizes_of(settings)
    train = {s: jnp.asarray(resized(data.x_train, s)) for s in {ONE, *settings.mixed}}
    test = {size: jnp.asarray(resized(data.x_test, size)) for size in everywhere}
    out.result("data_sha256", data.fingerprint)
    look(out, nets, data, everywhere)
    refusals(out, nets, test)

    scores, trained = {}, {}
    steps = {name: jit_step(make_step(nets[name], LOSS, optimiser(settings))) for name in NETS}
    plans = [(name, sizes) for name in NETS for sizes in ((ONE,), settings.mixed)]
    for name, sizes in out.progress(plans, "networks"):
        kind = ALONE if sizes == (ONE,) else "mixed sizes"
        runs = [learn(settings, nets[name], steps[name], train, data.y_train, sizes, seed)
                for seed in range(settings.seeds)]  # fmt: skip
        trained[name, kind] = runs
        for size in everywhere:
            if not error_of(nets[name], runs[0], test[size]):
                scores[name, kind, size] = [accuracy(nets[name], p, test[size], data) for p in runs]
    same(out, nets, trained["variable", ALONE][0], test)
    for size in everywhere:
        back = jnp.asarray(resized(np.asarray(test[size]), ONE))
        scores["fixed", "resized", size] = [
            accuracy(nets["fixed"], p, back, data) for p in trained["variable", ALONE]
        ]
    report(settings, out, scores)
    pictures.accuracy(out, scores, settings.mixed, everywhere)


def optimiser(settings):
    steps = settings.epochs * (4000 // settings.batch)
    return optax.adam(optax.cosine_decay_schedule(settings.learning_rate, steps))


def learn(settings, model, step, train, labels, sizes, seed):
    """Parameters after training with batches of one size each, the sizes in random order."""
    labels, rng = jnp.asarray(labels), np.random.default_rng(seed)
    state = init_state(model, optimiser(settings), train[ONE][:1], seed)
    for epoch in range(settings.epochs):
        rows = epoch_indices(state.key, epoch, len(labels), settings.batch)
        drawn, losses = rng.choice(sizes, len(rows)), []
        for row, size in zip(rows, drawn, strict=True):
            state, metrics = step(state, train[int(size)][row], labels[row])
            losses.append(metrics["loss"])
        check_finite(np.asarray(losses), epoch)
    return jax.device_get(state.params)


def accuracy(model, params, images, data: Dataset):
    return float(np.mean(np.asarray(predict(model, params, images)).argmax(axis=1) == data.y_test))


def error_of(model, params, images):
    """What the network says to images of this size; nothing if it takes them."""
    try:
        jax.eval_shape(model.apply, params, images[:1])
    except ValueError as error:
        return str(error)
    return ""


def look(out, nets, data, everywhere):
    """The maps of each size and the regions that cut them into 3×3."""
    rows, sizes = [], [size for size in everywhere if size >= LEAST][::2]
    digit = data.x_test[data.y_test == 5][3:4]
    fig, panels = plt.subplots(1, len(sizes), figsize=(10, 3), layout="constrained", squeeze=False)
    for size in everywhere:
        image = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
        trunk = nets["variable"].children[0]
        params = jax.eval_shape(trunk.init, jax.random.key(0), image)
        n = jax.eval_shape(trunk.apply, params, image).shape[1]
        bins = [(i * n // GRID, -(-(i + 1) * n // GRID)) for i in range(GRID)]
        spans = ", ".join(f"{a + 1}–{b}" if b - a > 1 else str(b) for a, b in bins)
        rows.append([f"{size}×{size}", f"{n}×{n}", spans if n >= GRID else "refused", n * n])
        if size in sizes:
            axes = panels[0, sizes.index(size)]
            axes.imshow(resized(digit, size)[0, ..., 0], cmap="gray_r", extent=(0, n, n, 0))
            for i, (top, bottom) in enumerate(bins):
                for j, (left, right) in enumerate(bins):
                    color = ("#2b5c8a", "#a3331c", "#2f7d4f")[(i + j) % 3]
                    d = 0.03 * ((i + 2 * j) % 3 + 1)  # regions overlap: keep their lines apart
                    box = (right - left - 2 * d, bottom - top - 2 * d)
                    axes.add_patch(Rectangle((left + d, top + d), *box, fill=False, ec=color, lw=2))
            axes.set(xticks=range(n + 1), yticks=range(n + 1))
            axes.set_title(f"{size}×{size} pixels, {n}×{n} places", fontsize=10)
            axes.tick_params(labelbottom=False, labelleft=False)
    out.heading("Regions that grow with the image")
    out.text(
        "Three stages of convolution and pooling leave one place of the maps for every 8×8 pixels. "
        "The variable network cuts these places into 3×3 regions, whatever their number, and takes "
        f"the maximum in each: 64 maps make {FEATURES} features. The fixed network gives each "
        "place weights of its own. The third has one map for each digit and averages it."
    )
    columns = ["image", "places of the maps", "of the regions, along a side", "places averaged"]
    out.table("Sizes", columns, rows)
    caption = (
        "One digit in several sizes, with the 3×3 pooling regions over the places of the last maps "
        "(ticks). Where 3 does not divide the number of places, regions overlap."
    )
    out.figure("regions", fig, caption)


def refusals(out, nets, test):
    """What the networks say to sizes that they cannot take."""
    params = {name: net.init(jax.random.key(0), test[ONE][:1]) for name, net in nets.items()}
    said = {(name, size): error_of(nets[name], params[name], test[size])
            for name in nets for size in test}  # fmt: skip
    for name in nets:
        refused = [size for size in test if said[name, size]]
        if refused:
            out.text(f"The {name} network, {ALONE} at first, given {refused[-1]}×{refused[-1]}:")
            out.text(said[name, refused[-1]], mono=True)
            out.result(f"refusal_{name}", said[name, refused[-1]])
    takes = {name: [size for size in test if not said[name, size]] for name in nets}
    out.result("sizes_taken", takes)
    expected = {
        "fixed": [size for size in test if size // 8 == ONE // 8],
        "variable": [size for size in test if size >= LEAST],
        "global average": list(test),
    }
    words = "; ".join(f"{name} {', '.join(map(str, sizes))}" for name, sizes in takes.items())
    out.claim("B14", "Sizes taken by the three networks, of " + ", ".join(map(str, test)),
              f"fixed: those with the maps of {ONE}; variable: {LEAST} and above; global average: "
              "all", words, takes == expected)  # fmt: skip


def same(out, nets, params, test):
    """At 28×28 each region is one place, and the variable network is the fixed one.

    Pooling has no parameters: those of the one network are those of the other.
    """
    fixed, variable = (nets[name].apply(params, test[ONE]) for name in ("fixed", "variable"))
    apart = float(jnp.max(jnp.abs(fixed - variable)))
    trunk, head = nets["variable"].children
    features = jaxdl.serial(trunk=trunk, head=first_layers(head, -1))
    shapes = (jax.eval_shape(features.apply, {"trunk": params["trunk"]}, images).shape
              for size, images in test.items() if size >= LEAST)  # fmt: skip
    widths = {shape[1] for shape in shapes}
    out.claim("B14", "A fixed number of features reaches the dense layer at every size",
              FEATURES, ", ".join(map(str, sorted(widths))), widths == {FEATURES})  # fmt: skip
    out.claim("B14", "At 28×28 the variable network is the fixed one: difference of logits",
              "0", f"{apart:.1g}", apart == 0)  # fmt: skip


def report(settings, out, scores):
    kinds = list(dict.fromkeys((name, kind) for name, kind, _ in scores))
    means = {key: float(np.mean(values)) for key, values in scores.items()}
    everywhere = sizes_of(settings)
    out.heading("Accuracy by size")
    out.text(
        "Whole digits of 28×28 pixels, resized. Mixed sizes: every batch has one of "
        f"{', '.join(map(str, settings.mixed))}, drawn at random. The fixed network reads other "
        f"sizes only after they have been brought back to {ALONE}. Mean and deviation over "
        f"{settings.seeds} seeds, on 1,000 test digits."
    )
    rows = [
        [name, kind, *(
            f"{100 * means[key]:.1f} ± {100 * np.std(scores[key]):.1f}" if key in means else "–"
            for key in ((name, kind, size) for size in everywhere)
        )]
        for name, kind in kinds
    ]  # fmt: skip
    marks = [str(s) if s in settings.mixed else f"{s}, unseen" for s in everywhere]
    out.table("Test accuracy in % by side of the image", ["network", "trained at", *marks], rows)
    out.result("accuracy", {f"{n}, {k}, {s}": v for (n, k, s), v in scores.items()})
    low, high = min(settings.mixed), max(settings.mixed)
    for words, kind, seen, asked in (
        ("mixed sizes: unseen sizes between these", "mixed sizes", settings.mixed,
         [size for size in settings.unseen if low < size < high]),
        ("mixed sizes: unseen sizes above these", "mixed sizes", settings.mixed,
         [size for size in settings.unseen if size > high]),
        (f"{ALONE} alone: larger sizes", ALONE, (ONE,), [s for s in everywhere if s > ONE]),
    ):  # fmt: skip
        if asked:
            bars = [float(np.mean([means[n, kind, s] for s in seen])) - 0.02 for n in NETS]
            least = [min(means[n, kind, size] for size in asked) for n in NETS]
            claim = f"Trained at {words} ({', '.join(map(str, asked))}) are read to within 2 "
            out.claim("B14", f"{claim}points of that: least accuracy, {' and '.join(NETS)}",
                      " and ".join(f"> {bar:.1%}" for bar in bars),
                      " and ".join(f"{value:.1%}" for value in least),
                      all(value > bar for value, bar in zip(least, bars, strict=True)))  # fmt: skip
