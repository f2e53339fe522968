"""What does a very small convolutional network make of traffic signs, stage by stage?

What the sources say: the network for traffic signs is 4 kernels 5×5, pooling, 10 kernels 5×5,
pooling, a dense layer and softmax (D12). Postprocessing, such as non-maximum suppression, is one
of the parts of a system (A1).

What was found. Every image is generated (_traffic_signs.py): nothing here says how well photographs
of signs are read.

- 32×32 pixels become 28×28×4, 14×14×4, 10×10×10, 5×5×10 and 9 logits. Of the 3,573 parameters 2,259
  are the dense layer's, of the operations 68 % the first kernels'.
- Trained on 16,000 images it reads 95.4 % of 3,000 others (mean of 3 runs); the dense layer alone,
  with 7.7 times the parameters, 64.6 %. Nearly half of the errors are stop for no entry or the
  reverse: octagon or disc, which 32×32 pixels with noise hardly show.
- Slid over 100 scenes, by convolution with 68 MFLOP each in place of 1,857 for the 1,025 windows
  one by one, it proposes 6.4 boxes for each of the 500 signs, and suppression leaves one to 498 of
  them. 474 have a box of the right class. 352 boxes on no sign remain, 3.5 in a scene.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdl
from experiments.framework.layers import first_layers, params_of
from experiments.framework.run import Run
from experiments.framework.settings import Above0, Checked, Count, NoMoreThan, within
from experiments.traffic_sign import pictures, signs
from jaxdl.detect import box_iou, nms
from jaxdl.models import traffic_sign_net
from jaxdl.train import evaluate, init_state, make_epoch, make_step, predict, train

LOSS = jaxdl.softmax_cross_entropy()
STAGES = (  # what the source lists, for 32×32 pixels, and the shape behind it
    ("4 kernels 5×5", 2, (28, 28, 4)),
    ("pooling", 3, (14, 14, 4)),
    ("10 kernels 5×5", 5, (10, 10, 10)),
    ("pooling", 6, (5, 5, 10)),
    ("dense layer", 8, (len(signs.NAMES),)),
)
STRIDE = 4  # two poolings by 2: how far the windows of neighbouring features are apart
HALF = sum(signs.RADII) / 2  # half the side of a proposed box: signs of the middle size
SCENE = (128, 192)  # pixels of a scene
TEST, SCENES = 10**6, 2 * 10**6  # seeds of the generator, apart from those of training
FOUND = 0.3  # overlap with a sign from which a box counts as on it


@dataclass(frozen=True)
class Settings(Checked):
    train_images: Count = 16_000
    """Generated images to train on, two thirds of them with a sign."""
    test_images: Count = 3000
    """Generated images to test on, from another seed."""
    epochs: Count = 20
    """Passes over the training images."""
    batch: Annotated[Count, NoMoreThan("train_images")] = 50
    """Images a step."""
    learning_rate: Above0 = 4e-3
    """Of Adam, with a cosine decay to 0."""
    seeds: Count = 3
    """Runs, each with its own initial weights and order of the images."""
    scenes: Count = 100
    """Generated scenes of 128×192 pixels in which signs are to be found."""
    signs_per_scene: Count = 5
    """At most; they do not overlap."""
    score: Annotated[float, within(0, 1)] = 0.7
    """Probability from which a window proposes a box."""
    iou: Annotated[float, within(0, 1)] = 0.2
    """Overlap with a better box from which suppression drops a box."""


def run(settings: Settings, out: Run) -> None:
    model = traffic_sign_net(len(signs.NAMES))
    x_train, y_train = signs.draw_windows(0, settings.train_images)
    x_test, y_test = signs.draw_windows(TEST, settings.test_images)
    params = learn(settings, out, model, x_train, y_train, x_test, y_test)
    stages(out, model, params, x_test)
    confusion(out, model, params, x_test, y_test)
    detection(settings, out, model, params)


def learn(settings, out, model, x_train, y_train, x_test, y_test):
    """Train with every seed; the parameters of the first."""
    with_sign = y_test != signs.NOTHING
    x_train, y_train, x_test = jnp.asarray(x_train), jnp.asarray(y_train), jnp.asarray(x_test)
    linear = jaxdl.serial(jaxdl.flatten(), jaxdl.dense(len(signs.NAMES)))
    rows, runs = [], []
    for name, net, seeds in (("network", model, settings.seeds), ("linear", linear, 1)):
        fit = trainer(settings, out, net, x_train, y_train)
        for seed in range(seeds):
            params = fit(seed, f"{name}, seed {seed}")
            hits = np.asarray(predict(net, params, x_test).argmax(axis=-1)) == y_test
            found = [float(evaluate(net, LOSS, params, x_train, y_train).accuracy),
                     float(hits.mean()), float(hits[with_sign].mean())]  # fmt: skip
            size = jaxdl.summary(net, x_test[:1]).params
            rows.append([name, f"{size:,}", seed, *(f"{value:.1%}" for value in found)])
            runs.append((params, *found))
    out.heading("Reading generated signs")
    out.text(
        f"{len(x_train):,} images to train on and {len(x_test):,} to test on, of 32×32 pixels in "
        f"three colours, {len(signs.SIGNS)} signs and “no sign”. All are generated: place, size, "
        "rotation, light, blur, noise and clutter are drawn at random, for the test images from "
        "another seed. How well the network reads photographs of signs is not known from this. "
        "Linear is the dense layer alone, on the pixels, trained in the same way."
    )
    pictures.examples(out, np.asarray(x_train), np.asarray(y_train))
    columns = ["", "parameters", "seed", "training accuracy", "test accuracy", "… with a sign"]
    out.table("Accuracy", columns, rows)
    *accuracy, line = [found[2] for found in runs]
    out.result("test_accuracy", {"network": accuracy, "linear": line})
    out.result("sign_accuracy", {"network": [r[3] for r in runs[:-1]], "linear": runs[-1][3]})
    text = "The network reads (generated) signs, better than the dense layer alone: test accuracy"
    mean = float(np.mean(accuracy))
    out.claim("D12", text, f"> {line:.1%}", f"{mean:.1%}", mean > line)
    return runs[0][0]


def trainer(settings, out, model, x, y):
    """A function (seed, description) -> parameters behind all epochs."""
    steps = settings.epochs * (len(x) // settings.batch)
    tx = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, steps))
    epoch_fn = make_epoch(make_step(model, LOSS, tx), batch=settings.batch)

    def fit(seed, description):
        state = init_state(model, tx, x[:1], seed)
        params = state.params
        bar = out.progress(settings.epochs, description)
        course = train(epoch_fn, state, x, y, settings.epochs)
        for epoch, (state, metrics) in zip(bar, course, strict=True):
            out.log(run=description, epoch=epoch + 1, loss=float(metrics["loss"].mean()))
            params = jax.device_get(state.params)
        return params

    return fit


def activations(model, params, x):
    """Behind each layer, from one forward pass."""
    seen = []
    for name, layer in zip(model.names, model.children, strict=True):
        x = layer.apply(params.get(name, {}), x)
        seen.append(np.asarray(x))
    return seen


def stages(out, model, params, x_test):
    summary = jaxdl.summary(model, x_test[:1])
    seen = activations(model, params, x_test[:1])
    rows, start = [["image", "32 × 32 × 3", "", ""]], 0
    for name, end, _ in STAGES:
        part = summary.rows[start:end]
        shape = " × ".join(map(str, seen[end - 1].shape[1:]))
        rows.append([name, shape, f"{sum(r.params for r in part):,}",
                     f"{sum(r.flops for r in part) / 1e3:,.0f}"])  # fmt: skip
        start = end
    rows.append(["all", "", f"{summary.params:,}", f"{summary.flops / 1e3:,.0f}"])
    out.heading("Stage by stage")
    out.text("A stage of kernels is a convolution and its relu. The softmax belongs to the loss.")
    out.table("The network", ["stage", "output", "parameters", "kFLOP"], rows)
    out.result("parameters", {row.path: row.params for row in summary.rows})
    shapes = [seen[end - 1].shape[1:] for _, end, _ in STAGES]
    words = " → ".join("×".join(map(str, shape)) for shape in shapes)
    expected = " → ".join("×".join(map(str, shape)) for _, _, shape in STAGES)
    text = "4 kernels 5×5, pooling, 10 kernels 5×5, pooling, dense layer: shapes for 32×32 pixels"
    out.claim("D12", text, expected, words, words == expected)
    pictures.stages(out, params, x_test[0], [seen[end - 1][0] for _, end, _ in STAGES])


def confusion(out, model, params, x_test, y_test):
    predicted = np.asarray(predict(model, params, jnp.asarray(x_test)).argmax(axis=-1))
    count = np.zeros((len(signs.NAMES),) * 2, int)
    np.add.at(count, (y_test, predicted), 1)
    out.result("confusion", count)
    pictures.confusion(out, count)


def slide(model, params, scenes):
    """Class probabilities of every 32×32 window at stride 4, (N, rows, columns, classes).

    Convolution and pooling run once over the whole scene; the dense layer, as a convolution of
    5×5 features, then reads the features of every window.
    """
    features, dense = first_layers(model, -2), params["dense"]
    maps = features.apply(params_of(features, params), scenes)
    size = STAGES[3][2]
    read = jaxdl.conv(dense["b"].size, size[:2])
    return jax.nn.softmax(read.apply(dense | {"w": dense["w"].reshape(*size, -1)}, maps))


def propose(probabilities):
    """(boxes, scores, classes) of all windows; the score is −1 where none sees a sign."""
    classes = probabilities.argmax(axis=-1).ravel()
    scores = np.where(classes == signs.NOTHING, -1, probabilities.max(axis=-1).ravel())
    y, x = signs.SIDE / 2 + STRIDE * np.indices(probabilities.shape[:2]).reshape(2, -1)
    boxes = np.stack([y - HALF, x - HALF, y + HALF, x + HALF], axis=-1)
    return boxes.astype(np.float32), scores.astype(np.float32), classes


def match(boxes, classes, true_boxes, true_classes):
    """For each box the sign it lies on, −1 for none, and whether its class is that sign's."""
    overlap = np.asarray(box_iou(boxes, true_boxes))
    on = np.where(overlap.max(axis=1) >= FOUND, overlap.argmax(axis=1), -1)
    return on, (on >= 0) & (true_classes[on] == classes)


def against_windows(model, params, image, slid):
    """Largest difference of the sliding network from windows cut out, and MFLOP of both ways."""
    side = signs.SIDE
    cut = np.lib.stride_tricks.sliding_window_view(image, (side, side), axis=(0, 1))
    windows = np.moveaxis(cut[::STRIDE, ::STRIDE], 2, -1).reshape(-1, side, side, 3)
    one_by_one = jax.nn.softmax(predict(model, params, jnp.asarray(windows)))
    apart = jaxdl.summary(model, windows[:1])
    shared = jaxdl.summary(first_layers(model, -2), image[None]).flops
    flops = shared + apart.rows[-1].flops * len(windows), apart.flops * len(windows)
    difference = np.abs(slid.reshape(one_by_one.shape) - one_by_one).max()
    return {"difference": float(difference), "mflop": [f / 1e6 for f in flops]}


def detection(settings, out, model, params):
    rng = np.random.default_rng(SCENES)
    scenes = [signs.draw_scene(rng, *SCENE, settings.signs_per_scene)
              for _ in range(settings.scenes)]  # fmt: skip
    images = jnp.asarray(np.stack([image for image, *_ in scenes]))
    slid = np.asarray(jax.jit(lambda x: slide(model, params, x))(images))
    same = against_windows(model, params, scenes[0][0], slid[0])
    number = Counter()
    for i, (image, true_boxes, true_classes) in enumerate(scenes):
        boxes, scores, classes = propose(slid[i])
        kept = nms(boxes, scores, max_out=len(boxes), iou=settings.iou, score=settings.score)
        rows = np.asarray(kept.indices)[np.asarray(kept.valid)]
        proposed = np.flatnonzero(scores >= settings.score)
        on, right = match(boxes, classes, true_boxes, true_classes)
        of_sign = np.bincount(on[rows][on[rows] >= 0], minlength=len(true_classes))
        number.update({
            "signs": len(true_classes),
            "boxes on signs before suppression": int((on[proposed] >= 0).sum()),
            "boxes on no sign before": int((on[proposed] < 0).sum()),
            "boxes on signs after suppression": int((on[rows] >= 0).sum()),
            "boxes on no sign after": int((on[rows] < 0).sum()),
            "signs with a box": int((of_sign > 0).sum()),
            "signs with exactly one": int((of_sign == 1).sum()),
            "signs with a box of the right class": len(set(on[rows][right[rows]])),
        })  # fmt: skip
        if i == 0:
            pictures.scene(out, image, boxes, proposed, rows, scores, classes)
    once, apart = same["mflop"]
    out.heading("Finding signs in a scene")
    out.text(
        f"The network is slid over {len(scenes)} generated scenes of {SCENE[0]}×{SCENE[1]} pixels "
        f"with {number['signs']} signs: {slid[0, ..., 0].size:,} windows a scene, {STRIDE} pixels "
        f"apart. Convolution and pooling run once over a scene and every window shares them: "
        f"{once:.0f} MFLOP in place of {apart:.0f}, and probabilities as with windows cut out one "
        f"by one, to {same['difference']:.0e}. A window in which a sign has a probability of at "
        f"least {settings.score:g} proposes a box of {2 * HALF:g} pixels. Non-maximum suppression "
        f"keeps the best and drops what overlaps it by more than {settings.iou:g} (intersection "
        f"over union). A box is on a sign if it overlaps it by {FOUND:g}."
    )
    out.table("Boxes", ["", "number"], list(number.items()))
    out.result("detection", dict(number))
    out.result("slid_against_windows", same)
    found, single = number["signs with a box"], number["signs with exactly one"]
    before, after = (number[f"boxes on signs {when} suppression"] / max(found, 1)
                     for when in ("before", "after"))  # fmt: skip
    text = "Postprocessing: non-maximum suppression leaves one box to a sign found, on average"
    words = f"{after:.2f}, {before:.1f} before it; {single} of {found} have exactly one"
    out.claim("A1", text, "1.0", words, abs(after - 1) < 0.05 < before - 1)
    text = "Slid over generated scenes, the network finds the signs: share with the right class"
    share = number["signs with a box of the right class"] / number["signs"]
    out.claim("D12", text, "> 90 %", f"{share:.1%}", share > 0.9)
