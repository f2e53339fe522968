"""Do gradients vanish in deep sigmoid stacks, and do ReLU and good initialisation prevent it?

What the source claims (D6): in deep sigmoid networks the gradient shrinks from layer to layer on
its way back, so that the first layers do not learn; ReLU and a good initialisation change that.

What was found, for 30 layers of 64 units and one softmax layer, on real digits, with three common
initialisations (normal with standard deviation 0.01; Glorot: variance 1/n; He: variance 2/n):

- Sigmoid stacks vanish under all three: δ at the first layer is 5e-50, 5e-19 and 3e-15 of δ at
  the last. The slope of a sigmoid is at most ¼, and no usual initialisation makes up for it.
- ReLU with He keeps δ (first over last: 0.9). ReLU alone does not: 5e-37 at 0.01, 4e-5 with
  Glorot. And tanh needs no ReLU: 0.14 with Glorot, 3.0 with He. What decides is the product of
  slope and weights at each layer, which √n · deviation · slope foretells.
- That the gradients of all layers are of one size proves nothing: for tanh and relu at 0.01 they
  are, at 1e-33 and 1e-38, since the activations shrink forwards as δ does backwards. In float32
  relu's are exactly zero in all 30 layers, and the sigmoid's in the lowest 10.
- Trained for 1,000 steps of plain SGD, only the stacks whose δ survives read the digits: tanh with
  Glorot (94 %) and He (91 %), ReLU with He (93 %). ReLU with Glorot reaches 18 %, all others stay
  at chance.
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import pyplot as plt

import jaxdl
from experiments.framework.drawing import open_graphs
from experiments.framework.run import Run
from experiments.framework.settings import Checked, Count, CountOr0, NoMoreThan, at_least
from jaxdl.data import digits8

ACTIVATIONS = {"sigmoid": jaxdl.sigmoid, "tanh": jaxdl.tanh, "relu": jaxdl.relu}
INITIALISERS = {
    "normal 0.01": jax.nn.initializers.normal(0.01),  # what was usual before anyone measured this
    "Glorot": jax.nn.initializers.glorot_normal(),  # keeps δ where the slope is 1: tanh near 0
    "He": jax.nn.initializers.he_normal(),  # keeps δ where half of the slopes are 1: relu
}
COLORS = {"sigmoid": "#2b5c8a", "tanh": "#2f7d4f", "relu": "#a3331c"}
# The factor of δ from one layer to the one below is about (slope) · √n · (deviation of weights).
SLOPES = {"sigmoid": 0.25, "tanh": 1.0, "relu": 0.5**0.5}
WIDTH = 64  # that of the images, so that all layers are alike
LOSS = jaxdl.softmax_cross_entropy()


@dataclass(frozen=True)
class Settings(Checked):
    layers: Annotated[int, at_least(2)] = 30
    """Depth of the stacks, without the softmax layer on top."""
    seeds: Count = 20
    """Weights drawn; norms are geometric means over them."""
    batch: Count = 128
    """Digits behind each gradient."""
    train_steps: CountOr0 = 1000
    """Steps of SGD with batches of 64, to see what the gradients are worth; 0: do not train."""
    learning_rate: float = 0.01
    """Of that training."""
    train_seeds: Annotated[Count, NoMoreThan("seeds")] = 3
    """Draws of the weights to train, at most `seeds`."""


def stack(activation, initialiser, layers):
    block = jaxdl.serial(net=jaxdl.dense(WIDTH, w_init=initialiser), out=activation())
    return jaxdl.serial(
        stack=jaxdl.repeat(block, layers), classes=jaxdl.dense(10, w_init=initialiser)
    )


def layer_norms(stacked):
    """L2 norm of each layer's part of an array with a leading axis of layers."""
    return jax.vmap(jaxdl.l2_norm)(stacked)


def measure(model):
    """A function (params with an axis of seeds, x, labels) -> what one backward pass sees."""

    def one(params, x, labels):
        seen = jaxdl.backprop_trace(model, LOSS)(params, x, labels)
        dw = seen.reduced["stack"]["net"]["w"]
        return {
            "delta": layer_norms(seen.deltas["stack"]["net"]),
            "gradient": layer_norms(dw),
            "activation": layer_norms(seen.activations["stack"]["out"]),
            "zero": jnp.all(dw == 0, axis=(1, 2)).sum(),
        }

    return jax.jit(jax.vmap(one, in_axes=(0, None, None)))


def run(settings: Settings, out: Run) -> None:
    data = digits8()
    mean, deviation = data.x_train.mean(), data.x_train.std()
    data = data._replace(
        x_train=(data.x_train - mean) / deviation, x_test=(data.x_test - mean) / deviation
    )
    drawn = {rule: draw_weights(settings, rule) for rule in INITIALISERS}
    seen, accuracy = {}, {}
    x, labels = data.x_train[: settings.batch], data.y_train[: settings.batch]
    for name in ACTIVATIONS:
        model = stack(ACTIVATIONS[name], INITIALISERS["He"], settings.layers)
        run_measure, run_training = measure(model), training(model, data, settings)
        for rule, params in out.progress(drawn.items(), f"{name} stacks"):
            # Norms down to 1e-53, whose squares float32 does not have; then what float32 sees.
            with jax.enable_x64(True):
                norms = run_measure(params, x.astype(np.float64), labels)
                found = {k: np.exp(jnp.log(v).mean(axis=0)) for k, v in norms.items()}
            with jax.enable_x64(False):
                params = jax.tree.map(lambda p: np.asarray(p, np.float32), params)
                found["zero"] = np.mean(run_measure(params, x, labels)["zero"])
                if settings.train_steps:
                    few = jax.tree.map(lambda p: p[: settings.train_seeds], params)
                    accuracy[name, rule] = np.asarray(run_training(few))
            seen[name, rule] = found
    report(settings, out, seen)
    draw(out, seen)
    if settings.train_steps:
        report_training(settings, out, accuracy)


def draw_weights(settings, rule):
    """Weights in float64, for every seed; activations have none, so one draw does for all."""
    model = stack(jaxdl.identity, INITIALISERS[rule], settings.layers)
    with jax.enable_x64(True):
        x = jax.ShapeDtypeStruct((1, WIDTH), jnp.float64)
        keys = jax.random.split(jax.random.key(0), settings.seeds)
        return jax.device_get(jax.jit(jax.vmap(lambda key: model.init(key, x)))(keys))


def training(model, data, settings):
    """A function (params with an axis of seeds) -> accuracy on the test digits after plain SGD."""
    objective = jaxdl.value_and_grad(model, LOSS)
    tx = optax.sgd(settings.learning_rate)

    def train(params):
        x, labels = jnp.asarray(data.x_train), jnp.asarray(data.y_train)

        def step(carry, key):
            params, state = carry
            rows = jax.random.randint(key, (64,), 0, len(labels))
            _, gradient = objective(params, x[rows], labels[rows])
            updates, state = tx.update(gradient, state)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(jax.random.key(1), settings.train_steps)
        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), keys)
        return (model.apply(params, data.x_test).argmax(axis=-1) == data.y_test).mean()

    return jax.jit(jax.vmap(train))


def report(settings, out, seen):
    deviations = {"normal 0.01": 0.01, "Glorot": WIDTH**-0.5, "He": (2 / WIDTH) ** 0.5}
    factors, flow, arrived = {}, [], []
    for (name, rule), found in seen.items():
        delta, gradient = found["delta"], found["gradient"]
        ratio = delta[0] / delta[-1]
        factors[name, rule] = float(ratio ** (1 / (settings.layers - 1)))
        expected = SLOPES[name] * WIDTH**0.5 * deviations[rule]
        flow.append([
            name, rule, f"{delta[0]:.1e}", f"{delta[-1]:.1e}", f"{ratio:.1e}",
            f"{factors[name, rule]:.3f}", f"{expected:.3f}",
        ])  # fmt: skip
        arrived.append([
            name, rule, *(f"{v:.1e}" for v in (found["activation"][-1], gradient[0], gradient[-1])),
            f"{gradient[0] / gradient[-1]:.1e}", f"{found['zero']:.1f}",
        ])  # fmt: skip
    n = settings.layers
    out.heading("What the backward pass brings down")
    out.text(
        f"δ is ∂loss/∂net of a layer, its norm taken over the {settings.batch} digits of a batch, "
        f"averaged over {settings.seeds} draws of the weights. The backward pass begins at layer "
        f"{n} and multiplies δ at each layer by the weights and by the slope of the activation. "
        "Expected is √n · (deviation of the weights) · (slope): ¼ at most for sigmoid, 1 at most "
        "for tanh, and √½ for relu, which lets half of the units through."
    )
    columns = ["stack", "weights", "δ, layer 1", f"δ, layer {n}", "ratio", "a layer", "expected"]
    out.table("Norm of δ, and its factor from one layer to the one below", columns, flow)
    out.text(
        "A weight's gradient is δ times what the layer below puts out. Where the outputs shrink on "
        "the way forwards as δ does on the way back, the gradients of all layers have one size, "
        "and all of them have vanished. The last column counts the layers in which every weight "
        "has gradient exactly zero in float32: nothing can be learned there, at any learning rate."
    )
    columns = ["stack", "weights", f"output, layer {n}", "∂w, layer 1", f"∂w, layer {n}", "ratio",
               f"zero, of {n}"]  # fmt: skip
    out.table("Norms of the last output and of the weights' gradients", columns, arrived)
    out.result("factor_of_delta_per_layer", {f"{a}, {i}": v for (a, i), v in factors.items()})
    out.result("delta_first_over_last", {
        f"{a}, {i}": found["delta"][0] / found["delta"][-1] for (a, i), found in seen.items()
    })  # fmt: skip

    def claim(words, expected, keys, holds):
        values = [factors[key] for key in keys]
        out.claim("D6", words, expected, ", ".join(f"{v:.3f}" for v in values), holds(values))

    def vanishes(values):
        return max(values) < 0.5

    claim("Sigmoid stacks vanish, however initialised: factor of δ a layer", "< 0.5",
          [("sigmoid", rule) for rule in INITIALISERS], vanishes)  # fmt: skip
    claim("ReLU with good (He) initialisation keeps δ: factor a layer", "0.9 … 1.1",
          [("relu", "He")], lambda v: 0.9 < v[0] < 1.1)  # fmt: skip
    claim("ReLU without good initialisation vanishes as well: factor a layer", "< 0.5",
          [("relu", "normal 0.01")], vanishes)  # fmt: skip
    claim("Good (Glorot) initialisation without ReLU keeps δ in tanh: factor a layer", "0.9 … 1.1",
          [("tanh", "Glorot")], lambda v: 0.9 < v[0] < 1.1)  # fmt: skip


def report_training(settings, out, accuracy):
    out.heading("What the gradients are worth")
    out.text(
        f"{settings.train_steps:,} steps of plain SGD at learning rate {settings.learning_rate:g}, "
        f"batches of 64; mean accuracy on the test digits over {settings.train_seeds} draws of the "
        "weights, lowest and highest in brackets. Chance is 10 %."
    )
    cells = {key: f"{v.mean():.1%} ({v.min():.1%} … {v.max():.1%})" for key, v in accuracy.items()}
    rows = [[name, *(cells[name, rule] for rule in INITIALISERS)] for name in ACTIVATIONS]
    out.table("Test accuracy", ["stack", *INITIALISERS], rows)
    out.result("test_accuracy", {f"{a}, {i}": v for (a, i), v in accuracy.items()})
    if settings.train_steps >= 1000:
        best = max(accuracy["sigmoid", rule].mean() for rule in INITIALISERS)
        out.claim("D6", "No sigmoid stack learns the digits: best test accuracy", "< 20 %",
                  f"{best:.1%}", best < 0.2)  # fmt: skip
        he = accuracy["relu", "He"].mean()
        out.claim("D6", "The ReLU stack with He does: test accuracy", "> 80 %", f"{he:.1%}",
                  he > 0.8)  # fmt: skip


def draw(out, seen):
    rows = {"delta": "‖δ‖", "gradient": "‖∂loss/∂w‖"}
    fig, panels = plt.subplots(2, 3, figsize=(11, 6.4), sharex=True, sharey=True, layout="tight")
    for line, (quantity, words) in zip(panels, rows.items(), strict=True):
        for axes, rule in zip(line, INITIALISERS, strict=True):
            for name in ACTIVATIONS:
                norms = seen[name, rule][quantity]
                layer = np.arange(1, len(norms) + 1)
                axes.semilogy(layer, norms, color=COLORS[name], lw=2, label=name)
            open_graphs(axes, grid=True)
        line[0].set_ylabel(words)
    for axes, rule in zip(panels[0], INITIALISERS, strict=True):
        axes.set_title(rule)
    for axes in panels[1]:
        axes.set_xlabel("layer (the backward pass goes left)")
    panels[0][0].legend(frameon=False)
    caption = (
        "Norms per layer. Above, δ: flat lines are stacks through which gradients pass. Below, the "
        "gradients of the weights: flat and far below 1 means that all of them have vanished."
    )
    out.figure("norms", fig, caption)
