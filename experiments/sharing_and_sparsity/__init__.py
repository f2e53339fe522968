"""What do sparse connections and shared weights save, and what does a deep unit see?

What the sources claim: connections within a window make a layer of k·n connections out of m·n,
and units in deeper layers see more of the input (B3); sharing leaves 100 weights of 10⁸, and 10¹²
in a dense layer, on an image of 1000 × 1000, and a shared weight's gradient is the sum over the
places where it is used (B4).

What was found:

- The counts are those of the layers' own `init`: 10¹² dense, 10⁸ locally connected, 100 for one
  map, 10⁴ for 100 maps, and 100 × 100 units a map at stride 10. Sharing saves weights alone: one
  map multiplies as often as the locally connected layer.
- Of 24 inputs and outputs a dense layer has 576 connections, a kernel of 3 has 70, 72 less the two
  that the borders cut off. Forwards, by jvp, and backwards, by `bwd`, they are the same ones.
- The gradient of a convolution is the sum over places of that of a locally connected layer with
  the same kernel everywhere, to 7e-16. Before any training the places disagree: the sum has 9
  to 52 % of the length that its terms have together.
- In five stacks, at every depth, the support of dx has the size and the place of the formula.
  Four kernels of 3 × 3 see 9 × 9 inputs, 31 × 31 with stride 2 or dilation 1, 2, 4, 8. With relu
  and max pooling one image shows a part of the field: 87 to 99 %.
- The part that counts grows slower than the field, as n^0.52 with n layers: the squared gradient
  spreads as a random walk does, √(2n/3) pixels. Behind 32 layers 99.9 % of it lies in the middle
  quarter of a field of 65 × 65.
"""

from dataclasses import dataclass
from functools import partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np

import jaxdl
from experiments.framework.precision import EXACT, relative
from experiments.framework.run import Run
from experiments.framework.settings import Checked, Count
from experiments.sharing_and_sparsity import pictures
from experiments.sharing_and_sparsity.receptive_fields import CHANNELS, effective, fields
from jaxdl.data import digits8

IMAGE = (1000, 1000)  # of the counts in the source
UNITS = 10**6  # hidden units, as many as pixels
LOSS = jaxdl.softmax_cross_entropy()


@dataclass(frozen=True)
class Settings(Checked):
    images: Count = 64
    """Random images over which a receptive field is collected."""
    depths: tuple[int, ...] = (4, 8, 16, 32)
    """Layers of the stacks whose effective receptive field is measured, in rising order."""
    draws: Count = 64
    """Draws of the weights for that."""
    digits: Count = 128
    """Digits behind the gradient of a shared weight."""
    seed: int = 0
    """Of weights and images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rising = list(self.depths) == sorted(set(self.depths))
        if len(self.depths) < 2 or min(self.depths) < 1 or not rising:
            self.refuse(
                "depths must be at least two positive numbers in rising order, got "
                f"{self.depths}; e.g. 5 10 20"
            )


def run(settings: Settings, out: Run) -> None:
    counts(out)
    with jax.enable_x64(True):  # so that 1e-16 can be told from an error
        connections(settings, out)
        shared_gradient(settings, out)
    with jax.enable_x64(False):  # a zero is a zero in float32 too
        fields(settings, out)
        effective(settings, out)


def counts(out):
    """The weights of the text's layers, from their own `init`, which is never run."""
    x = jax.ShapeDtypeStruct((1, *IMAGE, 1), jnp.float32)
    flat = jax.ShapeDtypeStruct((1, prod(IMAGE)), jnp.float32)
    cases = [
        ("dense", jaxdl.dense(UNITS, use_bias=False), flat, 10**12),
        ("locally connected, 10 × 10",
         jaxdl.locally_connected(1, 10, padding="same", use_bias=False), x, 10**8),
        ("convolution, one map",
         jaxdl.conv(1, 10, padding="same", use_bias=False), x, 100),
        ("convolution, 100 maps",
         jaxdl.conv(100, 10, padding="same", use_bias=False), x, 10**4),
        ("convolution, 100 maps, stride 10",
         jaxdl.conv(100, 10, strides=10, use_bias=False), x, 10**4),
    ]  # fmt: skip
    rows, found = [], {}
    for name, layer, sample, expected in cases:
        params = jax.eval_shape(layer.init, jax.random.key(0), sample)
        y = jax.eval_shape(layer.apply, params, sample)
        weights = params["w"].size
        places = " × ".join(map(str, y.shape[1:-1])) or f"{UNITS:,} units"
        incoming = sample.size if name == "dense" else 100
        rows.append([name, places, y.shape[-1] if y.ndim > 2 else 1, f"{weights:,}",
                     f"{incoming * y.size:,}"])  # fmt: skip
        found[name] = {"weights": weights, "places": list(y.shape[1:-1]), "units": y.size}
        claim = f"Weights on a 1000 × 1000 image: {name}"
        out.claim("B4", claim, f"{expected:,}", f"{weights:,}", weights == expected)
    out.heading("Weights and work on an image of 1000 × 1000")
    out.text(
        "Sizes are those of the layers' own `init` and `apply`, which are traced and not run: the "
        "dense layer alone would take 4 TB. Sharing saves weights and not work: 'one map' "
        "multiplies as often as the locally connected layer, 10,000 times less than the dense one."
    )
    out.table("Layers", ["layer", "places", "maps", "weights", "multiplications"], rows)
    out.result("counts", found)
    strided = found["convolution, 100 maps, stride 10"]["places"]
    out.claim("B4", "Stride 10 gives 100 × 100 units a map", [100, 100], strided,
              strided == [100, 100])  # fmt: skip


def column(model, params, x, one):
    """∂outputs/∂x in the direction of one input, by a forward derivative."""
    return jax.jvp(lambda v: model.apply(params, v), (x,), (one.reshape(x.shape),))[1].ravel()


def row(model, params, residuals, shape, one):
    """∂y/∂inputs of one output, by the backward pass."""
    return model.bwd(params, residuals, one.reshape(shape), jaxdl.none)[1].ravel()


def connections(settings, out):
    """Who touches whom, in one dimension: forwards by jvp, backwards by `bwd`."""
    n, k = 24, 3
    block = jaxdl.conv(1, k, rank=1, padding="same")
    models = {
        "dense": jaxdl.serial(jaxdl.flatten(), jaxdl.dense(n)),
        "conv, kernel 3": block,
        "2 × conv": jaxdl.serial(block, block),
        "4 × conv": jaxdl.serial(block, block, block, block),
    }
    x = jax.random.normal(jax.random.key(settings.seed), (1, n, 1))
    rows, jacobians, touched = [], {}, {}
    for name, model in models.items():
        params = model.init(jax.random.key(1), x)
        y, residuals = model.fwd(params, x)
        ones = jnp.eye(n)
        # A jvp for each input gives a column, a backward pass for each output a row.
        push = partial(column, model, params, x)
        pull = partial(row, model, params, residuals, y.shape)
        forward, back = jax.vmap(push, out_axes=1)(ones), jax.vmap(pull)(ones)
        error = relative(back, forward)
        middle = n // 2
        touches = int(np.count_nonzero(forward[:, middle]))
        behind = int(np.count_nonzero(back[middle]))
        total = int(np.count_nonzero(back))
        weights = sum(p.size for p in jax.tree.leaves(params))
        rows.append([name, total, touches, behind, weights, f"{error:.1g}"])
        jacobians[name], touched[name] = np.asarray(back), (touches, behind, total)
    out.heading("Which outputs one input touches, and which inputs lie behind one output")
    columns = ["layer", "connections", "outputs of an input", "inputs of an output", "parameters",
               "difference"]  # fmt: skip
    out.table(f"{n} inputs, {n} outputs", columns, rows)
    out.text(
        "Counted where the derivative is not zero: forwards by jax.jvp with one input moved, "
        "backwards by `bwd` with one output asked; the last column is the relative difference of "
        f"the two Jacobians. The convolution has k·n = {k * n} connections less the {k - 1} that "
        "the border cuts off."
    )
    out.result("connections", {name: list(v) for name, v in touched.items()})
    dense, sparse, deep = (touched[m] for m in ("dense", "conv, kernel 3", "4 × conv"))
    out.claim("B3", "Dense: m·n connections, every input touches every output", [n, n, n * n],
              list(dense), dense == (n, n, n * n))  # fmt: skip
    expected = (k, k, k * n - (k - 1))
    out.claim("B3", "Kernel of k = 3: an input touches k outputs; k·n connections less the border",
              list(expected), list(sparse), sparse == expected)  # fmt: skip
    out.claim("B3", "Deeper units see more: inputs behind a unit of the fourth layer", 9, deep[1],
              deep[1] == 9)  # fmt: skip
    pictures.draw_connections(out, jacobians)


def shared_gradient(settings, out):
    """dw of a convolution, against the sum of dw over the places of the same layer unshared."""
    data = digits8(images=True)
    x = jnp.asarray(data.x_train[: settings.digits], jnp.float64)
    labels = jnp.asarray(data.y_train[: settings.digits])
    key = jax.random.key(settings.seed + 3)
    cases = {
        "3 × 3": (3, {"padding": "same"}),
        "3 × 3, stride 2": (3, {"strides": 2}),
        "2 × 2, dilation 2": (2, {"dilation": 2, "padding": "full"}),
    }
    rows, worst, shown = [], 0.0, {}
    for name, (size, options) in cases.items():

        def network(kind, size=size, options=options):
            layer = getattr(jaxdl, kind)(CHANNELS, size, **options)
            behind = {"relu": jaxdl.relu(), "flatten": jaxdl.flatten(), "dense": jaxdl.dense(10)}
            return jaxdl.serial(window=layer, **behind)

        shared, local = network("conv"), network("locally_connected")
        params = shared.init(key, x)
        conv, sizes = params["window"], jax.eval_shape(local.init, key, x)["window"]
        copies = {  # the same kernel and bias at every place
            "w": jnp.broadcast_to(conv["w"].reshape(-1, CHANNELS), sizes["w"].shape),
            "b": jnp.broadcast_to(conv["b"], sizes["b"].shape),
        }
        both = (jax.jit(jaxdl.value_and_grad(model, LOSS)) for model in (shared, local))
        (value, grads), (value_local, grads_local) = (
            f(p, x, labels)
            for f, p in zip(both, (params, params | {"window": copies}), strict=True)
        )
        grads, grads_local = grads["window"], grads_local["window"]
        dw = np.asarray(grads["w"])
        by_place = np.asarray(grads_local["w"])
        summed = by_place.sum(axis=0).reshape(dw.shape)
        errors = (
            relative(value_local, value),
            relative(summed, dw),
            relative(grads_local["b"].sum(axis=(0, 1)), grads["b"]),
        )
        worst = max(worst, *errors)
        lengths = np.linalg.norm(by_place, axis=(1, 2))
        rows.append([name, len(by_place), conv["w"].size, sizes["w"].size,
                     f"{np.linalg.norm(dw) / lengths.sum():.2f}",
                     *(f"{error:.1g}" for error in errors)])  # fmt: skip
        shown[name] = lengths.reshape(sizes["b"].shape[:-1]), dw[..., 0, 0], summed[..., 0, 0]
    out.heading("The gradient of a shared weight")
    out.text(
        f"A convolution, relu and a dense layer on {settings.digits} digits, against the same "
        "network with a locally connected layer that holds a copy of the kernel at every place. "
        "Sum: the length of the summed gradient over the sum of the lengths; below 1 the places "
        "disagree on where the weight should go."
    )
    columns = ["kernel", "places", "weights", "unshared", "sum", "loss", "dw", "db"]
    out.table("Relative errors of the loss, dw and db", columns, rows)
    out.result("shared_gradient_error", worst)
    out.claim("B4", "A shared weight's gradient is the sum over the places of use: relative error",
              f"< {EXACT:.0e}", f"{worst:.1e}", worst < EXACT)  # fmt: skip
    pictures.draw_gradient_by_place(out, x[..., 0].mean(axis=0), *shown["3 × 3"])
