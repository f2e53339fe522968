"""What does a convolutional network lose when the prior built into it is wrong?

What the source claims (B7): convolution and pooling are dense layers under an infinitely strong
prior; where the prior is wrong, the network underfits. The test: shuffle the pixels of all images
by one fixed permutation. That hurts a convolutional network and not a dense one.

What was found on 16×16 MNIST digits (4,000 to train on), mean of 3 seeds, 3 permutations:

- The dense network does not notice. With the rows of its first weights permuted as the pixels are,
  1,875 steps of Adam run the same to rounding (9e-16 in float64); so for random initial weights
  the accuracies have one distribution. Measured changes: +0.2, +1.1 and 0.0 points.
- The convolutional network loses 9.1, 3.9 and 4.0 points of test accuracy, with 906, 3,898 and
  18,378 parameters. Transposing the images, a permutation that keeps neighbours, changes −0.8 …
  +0.2 points. What is lost is the neighbourhood.
- Underfitting is half of the truth. Training accuracy falls from 95.6 to 88.2 % in the smallest
  network and from 99.6 to 97.9 % in the middle one. The largest fits all shuffled training digits,
  and only its test accuracy falls, from 97.5 to 93.5 %: it is then as good as the dense network of
  its size (93.7 %). With enough maps the wrong prior costs generalisation, not the fit.
"""

from dataclasses import dataclass
from math import prod
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdl
from experiments.framework.run import Run
from experiments.framework.settings import Above0, Checked, Count
from experiments.pixel_permutation import pictures
from jaxdl.data import digits8, mnist5k
from jaxdl.models import mlp
from jaxdl.train import evaluate, init_state, make_epoch, make_step, train

DATA = {"mnist5k": mnist5k, "digits8": digits8}
LOSS = jaxdl.softmax_cross_entropy()
HE = jax.nn.initializers.he_normal()
ORDERS = ("as they are", "transposed", "shuffled")
NETS = ("convolutional", "dense")
ROUNDING = 1e-9  # relative, in float64, behind a whole training


@dataclass(frozen=True)
class Settings(Checked):
    data: Literal["mnist5k", "digits8"] = "mnist5k"
    """5,000 MNIST digits of 16×16 pixels, or scikit-learn's 8×8 digits."""
    widths: tuple[int, ...] = (2, 6, 16)
    """Maps of the first convolution; the second has twice as many."""
    size: Count = 5
    """Side of the kernels."""
    epochs: Count = 15
    """Passes over the training data, the same for all networks."""
    batch: Count = 32
    """Examples a step."""
    learning_rate: Above0 = 3e-3
    """Of Adam, with a cosine decay to 0; the same for all networks."""
    seeds: Count = 3
    """Runs, each with its own initial weights, order of examples and permutation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.widths or min(self.widths) < 1:
            self.refuse(
                "widths must name at least one number of maps, each at least 1, "
                f"got {self.widths}; e.g. {Settings.widths}"
            )


def convolutional(width, size, classes=10):
    """Two blocks of convolution, relu and max pooling, and a dense layer."""
    layers = []
    for features in (width, 2 * width):
        conv = jaxdl.conv(features, size, padding="same", w_init=HE)
        layers += [conv, jaxdl.relu(), jaxdl.max_pool(2)]
    return jaxdl.serial(*layers, jaxdl.flatten(), jaxdl.dense(classes))


def dense(hidden, classes=10):
    """One hidden layer; an image goes in as a row of pixels."""
    return jaxdl.serial(jaxdl.flatten(), mlp=mlp([hidden, classes], w_init=HE))


def count(model, x):
    return jaxdl.summary(model, x).params


def pair(width, settings, x, classes):
    """The convolutional network of this width and the dense one nearest in parameters."""
    conv = convolutional(width, settings.size, classes)
    inputs = prod(x.shape[1:])
    hidden = max(1, round((count(conv, x) - classes) / (inputs + 1 + classes)))
    return {"convolutional": conv, "dense": dense(hidden, classes)}


def order_of(name, side, seed):
    """For each place of the new image, the place of the old one that its pixel comes from."""
    places = np.arange(side * side)
    if name == "transposed":
        return places.reshape(side, side).T.ravel()
    return np.random.default_rng(seed).permutation(places) if name == "shuffled" else places


def rearrange(x, order):
    return x.reshape(len(x), -1)[:, order].reshape(x.shape)


def trainer(model, settings, x, y):
    """A function (x, seed) -> the parameters behind all epochs, and the loss of every step."""
    steps = settings.epochs * (len(x) // settings.batch)
    tx = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, steps))
    epoch_fn = make_epoch(make_step(model, LOSS, tx), batch=settings.batch)

    def fit(x, seed, change=lambda params: params):
        """Train from the initial weights of this seed, changed by `change`."""
        state = init_state(model, tx, x[:1], seed)
        params = change(state.params)
        state = state._replace(params=params, opt_state=tx.init(params))
        losses = []
        course = train(epoch_fn, state, x, y, settings.epochs)
        for state, metrics in course:
            params = state.params
            losses.append(metrics["loss"])
        return params, np.concatenate(losses)

    return fit


def run(settings: Settings, out: Run) -> None:
    data = DATA[settings.data](images=True)
    if settings.batch > len(data.x_train):
        raise ValueError(
            f"pixel_permutation: batch must be at most {len(data.x_train)}, the number of training "
            f"examples, got {settings.batch}; take a smaller one"
        )
    out.result("data_sha256", data.fingerprint)
    identity(settings, out, data)
    scores, sizes = compare(settings, out, data)
    report(settings, out, scores, sizes)
    side, shown = data.x_train.shape[1], data.x_train[:8]
    rows = {order: rearrange(shown, order_of(order, side, 0)) for order in ORDERS}
    pictures.images(out, rows)
    pictures.errors(out, scores, sizes, NETS, ORDERS)
    claims(settings, out, scores, sizes)


def identity(settings, out, data):
    """The dense network does not see a permutation: permute its first weights too."""
    x = data.x_train[:1]
    with jax.enable_x64(True):  # so that a whole training stays within rounding
        model = pair(settings.widths[0], settings, x, data.classes)["dense"]
        x_train, x_test = (jnp.asarray(part, jnp.float64) for part in (data.x_train, data.x_test))
        order = order_of("shuffled", data.x_train.shape[1], 0)
        fit = trainer(model, settings, x_train, data.y_train)

        def permute(params):
            first = params["mlp"]["dense"]
            return {"mlp": params["mlp"] | {"dense": first | {"w": first["w"][order]}}}

        plain, losses = fit(x_train, 0)
        shuffled, losses_shuffled = fit(rearrange(x_train, order), 0, permute)
        y = model.apply(plain, x_test)
        y_shuffled = model.apply(shuffled, rearrange(x_test, order))
        pairs = zip(jax.tree.leaves(permute(plain)), jax.tree.leaves(shuffled), strict=True)
        errors = {
            "losses of all steps": _relative(losses_shuffled, losses),
            "weights at the end, permuted": max(_relative(b, a) for a, b in pairs),
            "outputs for the test images": _relative(y_shuffled, y),
        }
        same = bool(jnp.all(y.argmax(axis=-1) == y_shuffled.argmax(axis=-1)))
    out.heading("A dense network does not know which pixels are neighbours")
    out.text(
        "Shuffle the pixels of every image by one permutation, and the rows of the first weight "
        "matrix by the same: each unit gets the same products in another order. It stays so "
        "through the whole training, as each step moves each weight by its own gradient alone. "
        f"Here are {len(losses):,} steps of Adam in float64, once with and once without."
    )
    rows = [[what, f"{error:.1e}"] for what, error in errors.items()]
    rows += [["classes of the test images", "all equal" if same else "not equal"]]
    out.table("Shuffled against plain, largest relative difference", ["", "difference"], rows)
    out.result("permuted_dense_difference", errors | {"same_classes": same})
    worst = max(errors.values())
    out.claim("B7", "A dense network with permuted first weights trains on shuffled pixels as "
              "without both, to rounding: largest relative difference", f"< {ROUNDING:.0e}",
              f"{worst:.1e}", worst < ROUNDING and same)  # fmt: skip


def _relative(found, truth):
    return float(np.max(np.abs(found - truth)) / np.max(np.abs(truth)))


def compare(settings, out, data):
    """Accuracies (training, test) by network, width, order and seed; and parameter counts."""
    side, scores, sizes = data.x_train.shape[1], {}, {}
    y_train, y_test = jnp.asarray(data.y_train), jnp.asarray(data.y_test)
    for width in settings.widths:
        models = pair(width, settings, data.x_train[:1], data.classes)
        for net, model in models.items():
            sizes[net, width] = count(model, data.x_train[:1])
            fit = trainer(model, settings, data.x_train, y_train)
            work = [(order, seed) for order in ORDERS for seed in range(settings.seeds)]
            for order, seed in out.progress(work, f"{net}, {sizes[net, width]:,} parameters"):
                where = order_of(order, side, seed)
                x_train, x_test = (
                    jnp.asarray(rearrange(x, where)) for x in (data.x_train, data.x_test)
                )
                params, losses = fit(x_train, seed)
                found = [
                    evaluate(model, LOSS, params, x, y)
                    for x, y in ((x_train, y_train), (x_test, y_test))
                ]
                accuracy = [float(s.accuracy) for s in found]
                scores.setdefault((net, width, order), []).append(accuracy)
                out.log(net=net, width=width, order=order, seed=seed, train_accuracy=accuracy[0],
                        test_accuracy=accuracy[1], train_loss=float(found[0].loss),
                        last_losses=float(losses[-50:].mean()))  # fmt: skip
    return {key: np.array(values) for key, values in scores.items()}, sizes


def report(settings, out, scores, sizes):
    out.heading("A convolutional network does")
    out.text(
        "Each network is trained on the images as they are, transposed (rows become columns: the "
        "pixels move but neighbours stay neighbours), and shuffled. Training and test images are "
        "rearranged alike, so that no information is lost. A dense network is given about as many "
        "parameters as each convolutional one. "
        f"Mean ± standard deviation over {settings.seeds} seeds, after {settings.epochs} epochs."
    )
    rows = [
        [net, f"{sizes[net, width]:,}", order,
         *(f"{100 * m:.1f} ± {100 * s:.1f} %"
           for m, s in zip(found.mean(axis=0), found.std(axis=0), strict=True))]
        for (net, width, order), found in scores.items()
    ]  # fmt: skip
    out.table("Accuracy", ["network", "parameters", "pixels", "training", "test"], rows)
    out.result("accuracy", {
        f"{net}, {width}, {order}": {"parameters": sizes[net, width], "train": found[:, 0],
                                     "test": found[:, 1]}
        for (net, width, order), found in scores.items()
    })  # fmt: skip


def claims(settings, out, scores, sizes):
    smallest, largest = min(settings.widths), max(settings.widths)

    def change(net, width, which, order="shuffled"):
        """Mean difference of accuracy to the plain pixels, and its standard error over seeds."""
        d = scores[net, width, order][:, which] - scores[net, width, ORDERS[0]][:, which]
        return float(d.mean()), float(d.std() / max(len(d) - 1, 1) ** 0.5)

    def words(values):
        return ", ".join(f"{100 * mean:+.1f} ± {100 * error:.1f}" for mean, error in values)

    def claim(text, expected, values, holds):
        out.claim("B7", text, expected, words(values), holds)

    few, many = (f"{sizes['convolutional', w]:,} parameters" for w in (smallest, largest))
    hurt = [change("convolutional", w, 1) for w in settings.widths]
    claim("Shuffling costs the convolutional network test accuracy (points, by width)",
          "below 0 at every width, by more than 2 standard errors", hurt,
          all(mean + 2 * error < 0 for mean, error in hurt))  # fmt: skip
    kept = [change("dense", w, 1) for w in settings.widths]
    claim("Shuffling does not cost the dense network test accuracy (points, by width)",
          "not below 0 by more than a point and 2 standard errors", kept,
          all(mean + 2 * error > -0.01 for mean, error in kept))  # fmt: skip
    turned = [change("convolutional", w, 1, "transposed") for w in settings.widths]
    claim("A permutation that keeps neighbours costs the convolutional network nothing (points, "
          "by width)", "not below 0 by more than a point and 2 standard errors", turned,
          all(mean + 2 * error > -0.01 for mean, error in turned))  # fmt: skip
    for width, name in {smallest: few, largest: many}.items():
        mean, error = change("convolutional", width, 0)
        claim(f"Where the prior is wrong the network underfits: training accuracy of the one with "
              f"{name} falls (points)", "below −1", [(mean, error)], mean < -0.01)  # fmt: skip
