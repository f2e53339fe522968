"""What do the units of a convolutional network look for, layer by layer?

What the source claims (D3): layers learn a hierarchy, edges first, then parts, then whole objects.

What was found, in three networks of three convolutions and a dense layer, 32 units each, trained on
4,000 MNIST digits (95.8 % of the test digits right; figures move by some tenths of a point from run
to run, since the order of sums in float32 is not fixed):

- A unit sees 5×5 pixels in the first layer, 14×14 in the second, 24×24 in the third and all 28×28
  in the dense layer: places at which its cotangent of the input is not zero.
- The pictures show the hierarchy. In the first layer many filters, and what excites them most, are
  edges and ends of strokes; in the second bends, corners and crossings; in the third most of a
  digit, often of two or three kinds that share a part; in the dense layer mostly one digit.
- So do numbers. A single unit tells 0.20 bits about the class in the first layer, then 0.31, 0.38
  and 0.55. Softmax regression on a layer's 32 units reads 70.0 % of the digits, then 88.6, 93.1 and
  95.8 %. In the same networks before training it is 0.19 to 0.17 bits, and 69.2 to 75.3 %: depth
  alone does little, and the first layer is about as good untrained.
- Gradient ascent on the input finds images that excite a unit up to 1.6 times as much as the best
  test image does, in the layers that see most. They show the parts found, but nobody would write
  such digits.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdl
from experiments.framework.layers import first_layers, params_of
from experiments.framework.run import Run
from experiments.framework.settings import Checked, Count, NoMoreThan
from experiments.hierarchical_features import pictures
from experiments.hierarchical_features.units import (
    BINS,
    CHUNK,
    LAYERS,
    ascend,
    cut,
    mutual_information,
    net_inputs,
    network,
    one_hot_backward,
    peaks,
    receptive_fields,
    stray,
)
from jaxdl.data import fashion_mnist, mnist5k
from jaxdl.models import mlp
from jaxdl.train import evaluate, init_state, make_epoch, make_step, train

LOSS = jaxdl.softmax_cross_entropy()
PATCHES = 9  # shown of each unit
PROBED = 10_000  # training images at most, for the probes
PROBED_LAYERS = tuple(name for name in LAYERS if name != "classes")


@dataclass(frozen=True)
class Settings(Checked):
    data: Literal["mnist5k", "fashion_mnist"] = "mnist5k"
    """28×28 digits that come with a package, or Fashion-MNIST, which is fetched once."""
    units: Count = 32
    """In each layer: the same number, so that layers can be compared."""
    epochs: Count = 12
    """Passes over the training data."""
    seeds: Count = 3
    """Networks; figures are means over them, pictures are of the first."""
    shown: Annotated[Count, NoMoreThan("units")] = 8
    """Units of each layer in the pictures, at most `units`."""
    ascent_steps: Count = 200
    """Of gradient ascent on the input."""


def load(name):
    data = mnist5k(28, images=True) if name == "mnist5k" else fashion_mnist()
    if data.x_train.dtype == np.uint8:
        scaled = {k: getattr(data, k).astype(np.float32) / 255 for k in ("x_train", "x_test")}
        data = data._replace(**scaled)
    return data


def trainer(model, data, settings, out):
    """A function: seed -> parameters before and after training."""
    steps = settings.epochs * (len(data.x_train) // 64)
    tx = optax.adamw(optax.cosine_decay_schedule(2e-3, steps))
    epoch = make_epoch(make_step(model, LOSS, tx), batch=64)

    def train_network(seed):
        state = init_state(model, tx, data.x_train[:1], seed)
        before = jax.device_get(state.params)
        course = train(epoch, state, data.x_train, data.y_train, settings.epochs)
        bar = out.progress(settings.epochs, f"network {seed}")
        for _, (now, metrics) in zip(bar, course, strict=True):
            out.log(seed=seed, loss=float(metrics["loss"].mean()))
            state = now
        return before, jax.device_get(state.params)

    return train_network


# --- how much a unit says about the class -------------------------------------------------------


def prober(examples):
    """A function: a layer's units -> test accuracy of softmax regression on them."""
    model, epochs = mlp([10]), 20
    tx = optax.adam(optax.cosine_decay_schedule(0.03, epochs * (examples // 100)))
    epoch = make_epoch(make_step(model, LOSS, tx), batch=100)

    def probe(train_values, y_train, test_values, y_test):
        mean, deviation = train_values.mean(axis=0), train_values.std(axis=0) + 1e-6
        x_train, x_test = ((v - mean) / deviation for v in (train_values, test_values))
        state = init_state(model, tx, x_train[:1])
        for now, _ in train(epoch, state, x_train, y_train, epochs):
            state = now
        return float(evaluate(model, LOSS, state.params, x_test, y_test).accuracy)

    return probe


def measure(model, params, data, probe):
    """Probe accuracy and mean mutual information of each layer, its activation included."""
    found = {}
    x_train, x_test = whole_chunks(data.x_train[:PROBED]), whole_chunks(data.x_test)
    y_train, y_test = data.y_train[: len(x_train)], data.y_test[: len(x_test)]
    for name in PROBED_LAYERS:
        part = first_layers(model, LAYERS[name] + 1)
        some = params_of(part, params)
        train_values, test_values = (peaks(part, some, x)[0] for x in (x_train, x_test))
        found[name] = {
            "probe": probe(train_values, y_train, test_values, y_test),
            "bits": float(mutual_information(test_values, y_test, data.classes).mean()),
        }
    return found


def whole_chunks(x):
    return x[: len(x) // CHUNK * CHUNK]


# --- the run ------------------------------------------------------------------------------------


def run(settings: Settings, out: Run) -> None:
    data = load(settings.data)
    model = network(settings.units)
    train_network = trainer(model, data, settings, out)
    probe = prober(len(whole_chunks(data.x_train[:PROBED])))
    x, y = jnp.asarray(data.x_test), jnp.asarray(data.y_test)
    networks, accuracy, selective = [], [], {"trained": [], "untrained": []}
    for seed in range(settings.seeds):
        before, after = train_network(seed)
        networks.append(after)
        accuracy.append(float(evaluate(model, LOSS, after, x, y).accuracy))
        for which, params in (("untrained", before), ("trained", after)):
            selective[which].append(measure(model, params, data, probe))
    out.result("test_accuracy", accuracy)
    out.text(
        f"{data.name}: {len(data.x_train):,} images to train on, {len(data.x_test):,} to test "
        f"with. Test accuracy of {settings.seeds} networks: {np.mean(accuracy):.1%} on average."
    )
    fields = receptive_fields(settings.units, data.x_train.shape[1:])
    report_fields(out, fields)
    report_pictures(settings, out, model, networks[0], data, fields)
    check_ascent(settings, out, model, networks[0], data)
    report_selectivity(settings, out, selective)


def report_fields(out, fields):
    # The largest, in the middle of the map: fields at a border are no smaller, without padding.
    sizes = {name: int(np.max(f[:, 1] - f[:, 0] + 1)) for name, f in fields.items()}
    maps = {name: round(len(f) ** 0.5) for name, f in fields.items()}
    out.heading("What a unit can see")
    out.text(
        "Receptive fields, read off the hand-written backward pass: the places of the input at "
        "which the cotangent of one unit is not zero."
    )
    rows = [[n, f"{maps[n]}×{maps[n]}", f"{sizes[n]}×{sizes[n]}"] for n in fields]
    out.table("Receptive field of a unit", ["layer", "places", "field"], rows)
    out.result("receptive_field", sizes)
    found = [sizes[name] for name in PROBED_LAYERS]  # dense: the whole image
    out.claim("D3", "Deeper units see more: side of the receptive field by layer", "rises",
              found, all(np.diff(found) > 0))  # fmt: skip


def report_pictures(settings, out, model, params, data, fields):
    out.heading("What a unit looks for")
    out.text(
        f"Of each layer the first {settings.shown} units that any test image excites. Left, an "
        "image made by gradient ascent on the input, with the hand-written backward pass and no "
        "gradient for any weight; then the parts of test images that excite the unit most, one "
        "from an image, the strongest first. All are as large as the receptive field."
    )
    pictures.filters(out, np.asarray(params["conv_1"]["w"])[:, :, 0])
    x = whole_chunks(data.x_test)
    rows, strays = [], []
    for name, n in LAYERS.items():
        part, field = first_layers(model, n), fields[name]
        some = params_of(part, params)
        value, place = peaks(part, some, x)
        alive = np.flatnonzero(value.max(axis=0) > 0)
        alive = alive[: data.classes if name == "classes" else settings.shown]
        best = (-value[:, alive]).argsort(axis=0)[:PATCHES].T  # (units, images)
        places = place[best, alive[:, None]]
        strays.append(stray(part, some, x[best], places, alive, field[places]))
        side = round(len(field) ** 0.5)
        middle = side // 2 * (side + 1)
        made = ascend(part, some, x.shape[1:], middle, alive, settings.ascent_steps)
        reached = net_inputs(part, some, made, middle, alive)
        rows.append([name, len(alive), np.median(reached / value[best[:, 0], alive])])
        cuts = [
            [cut(image, box) for image, box in zip(*unit, strict=True)]
            for unit in zip(x[best], field[places], strict=True)
        ]
        pictures.units(out, name, [cut(image, field[middle]) for image in made], cuts)
    columns = ["layer", "units", "net input, made over best found (median)"]
    out.table("The images made, against the best of the test images", columns, [
        [name, count, f"{ratio:.2f}"] for name, count, ratio in rows
    ])  # fmt: skip
    out.result("made_over_found", {name: ratio for name, _, ratio in rows})
    out.result("cotangent_outside_the_field", max(strays))


def check_ascent(settings, out, model, params, data):
    """Against jax.grad, and where the best image is known: at a unit of the first layer."""
    x, units = data.x_test[:CHUNK], np.arange(settings.units)
    w, b = (np.asarray(params["conv_1"][k]) for k in "wb")
    known = np.maximum(w, 0).sum(axis=(0, 1, 2)) + b  # white where the weight is above 0
    side = x.shape[1] - w.shape[0] + 1
    middle = side // 2 * (side + 1)
    first = first_layers(model, LAYERS["conv 1"])
    part = first, params_of(first, params)
    made = ascend(*part, x.shape[1:], middle, units, settings.ascent_steps, regularised=False)
    share = np.min(net_inputs(*part, made, middle, units) / known)
    out.result("ascent_over_known_maximum", share)

    images, classes = jnp.asarray(x), jnp.arange(CHUNK) % 10
    ours = one_hot_backward(model, params, images, jnp.zeros(CHUNK, int), classes)
    scores = lambda x: model.apply(params, x)[jnp.arange(CHUNK), classes].sum()  # noqa: E731
    theirs = jax.jit(jax.grad(scores))(images)
    difference = float(jnp.abs(ours - theirs).max() / jnp.abs(theirs).max())
    out.result("input_gradient_against_autodiff", difference)
    out.text(
        "Two checks. Where the best image is known, at the first layer, ascent without blur and "
        f"moves reaches {share:.2%} of its net input, at the worst unit. And the cotangents of the "
        f"input differ from those of jax.grad by {difference:.0e} of the largest."
    )


def report_selectivity(settings, out, selective):
    layers = PROBED_LAYERS
    table = {
        (which, what): np.array([[one[name][what] for name in layers] for one in found])
        for which, found in selective.items()
        for what in ("probe", "bits")
    }
    out.heading("What a unit says about the class")
    out.text(
        f"Every layer has {settings.units} units, and each counts with its largest activation in "
        "an image. Probe: test accuracy of softmax regression on these numbers. Information: of "
        f"one unit with the class, in bits, the mean over the units, the activation in {BINS} bins "
        "of equal counts, less what labels in random order seem to give. Untrained is the same "
        "network before training: what depth alone does."
    )
    columns = ["layer", "probe, trained", "untrained", "information, trained", "untrained"]
    means = {key: values.mean(axis=0) for key, values in table.items()}
    out.table(f"Selectivity for classes, means of {settings.seeds} networks", columns, [
        [name, f"{means['trained', 'probe'][i]:.1%}", f"{means['untrained', 'probe'][i]:.1%}",
         f"{means['trained', 'bits'][i]:.3f}", f"{means['untrained', 'bits'][i]:.3f}"]
        for i, name in enumerate(layers)
    ])  # fmt: skip
    out.result("selectivity", {f"{what}, {which}": dict(zip(layers, values.tolist(), strict=True))
                               for (which, what), values in means.items()})  # fmt: skip
    for what, words, form in (
        ("bits", "A unit says more about the class from layer to layer: bits", "{:.2f}"),
        ("probe", "Classes are read better from each layer than from the one below", "{:.1%}"),
    ):
        values = means["trained", what]
        out.claim("D3", words, "rises at every layer", ", ".join(map(form.format, values)),
                  all(np.diff(values) > 0))  # fmt: skip
    gain, chance = (means[which, "bits"][-1] - means[which, "bits"][0] for which in selective)
    out.claim("D3", "Learning makes it so, not depth: first to last layer, bits, trained and not",
              "trained rises more", f"{gain:+.2f}, {chance:+.2f}", gain > chance)  # fmt: skip
    pictures.selectivity(out, layers, table)
