"""Max pooling, the kernel's gradient and a LeNet step: hand-written against autodiff and others.

Everything in one process, taking turns, on one device:

- max pooling forward and backward against `jax.grad` of `lax.reduce_window`, and PyTorch;
- the gradient of a convolution's kernel against `jax.grad` of `lax.conv_general_dilated`;
- a training step of LeNet (batch 64, Adam) against the same network in Flax NNX, Equinox and
  PyTorch; its per-example gradient norms against its hand-written backward; and the matrix products
  of the step against the rate of one large product.

Equinox and PyTorch are left out where they are not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxdl
from experiments.bench import _lenets
from experiments.framework.run import Run
from experiments.framework.timing import interleave, milliseconds, ratio, show, temporary_bytes
from jaxdl.models import lenet

POOLED = (64, 28, 28, 32)
KERNELS = {
    "64×14×14, 32→64, 5×5": ((64, 14, 14, 32), (5, 5, 32, 64)),
    "32×32×32, 64→64, 3×3": ((32, 32, 32, 64), (3, 3, 64, 64)),
}


@dataclass(frozen=True)
class Settings:
    """The number of rounds; sizes are those of the table in the README."""

    repetitions: int = 30
    """Counted rounds."""
    batch: int = 64
    """Images in a step of LeNet."""


def run(settings: Settings, out: Run) -> None:
    """Time each group of sides in turn."""
    pooling(settings, out)
    for padding in ("valid", "same"):
        for name, shapes in KERNELS.items():
            kernel_gradient(settings, out, f"{name}, {padding}", *shapes, padding)
    training_step(settings, out)


def _in_turn(sides, settings: Settings, out: Run):
    return interleave(sides, settings.repetitions, out, lead=2, pause=0.01)


def _report(out: Run, title: str, times, base: str, memory=None, key: str = "") -> None:
    rows = []
    for name in times:
        cells = [name, milliseconds(times, name), show(ratio(times, name, base))]
        if memory is not None:
            cells.append(f"{memory[name] / 1e6:.2f} MB" if name in memory else None)
        rows.append(cells)
    columns = ["side", "median time", f"time against {base}: median (quartiles)"]
    out.table(title, columns + (["temporary memory"] if memory is not None else []), rows)
    out.result(
        key or title,
        {
            "time_ratios": {name: ratio(times, name, base) for name in times},
            "seconds": times,
            "temporary_bytes": memory,
        },
    )


def pooling(settings: Settings, out: Run) -> None:
    """2 × 2 max pooling, forward and backward."""
    n, h, w, c = POOLED
    x = jax.random.normal(jax.random.key(0), POOLED)
    dy = jax.random.normal(jax.random.key(1), (n, h // 2, w // 2, c))
    layer, window = jaxdl.max_pool(2), (1, 2, 2, 1)

    def manual(x, dy):
        y, residuals = layer.fwd({}, x)
        return y, layer.bwd({}, residuals, dy)[1]

    def autodiff(x, dy):
        def pool(x):
            return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")

        y, pullback = jax.vjp(pool, x)
        return y, pullback(dy)[0]

    programs = {"jaxdl": manual, "jax.grad of reduce_window": autodiff}
    compiled = {name: jax.jit(f).lower(x, dy).compile() for name, f in programs.items()}
    ours, theirs = (np.asarray(f(x, dy)[1]) for f in compiled.values())
    np.testing.assert_array_equal(ours, theirs)
    sides: dict[str, Callable[[], Any]] = {
        name: lambda f=f: f(x, dy) for name, f in compiled.items()
    }
    sides |= _lenets.pytorch_pool(np.asarray(x), np.asarray(dy))
    times = _in_turn(sides, settings, out)
    memory = {name: temporary_bytes(f) for name, f in compiled.items()}
    _report(out, f"2×2 max pooling of {POOLED}", times, "jaxdl", memory)


def kernel_gradient(settings: Settings, out: Run, name: str, x_shape, w_shape, padding) -> None:
    """The weight gradient alone."""
    x = jax.random.normal(jax.random.key(0), x_shape)
    w = jax.random.normal(jax.random.key(1), w_shape)
    layer = jaxdl.conv(w_shape[-1], w_shape[:2], padding=padding, use_bias=False)
    y = jax.eval_shape(layer.apply, {"w": w}, x)
    dy = jax.random.normal(jax.random.key(2), y.shape)

    def manual(x, w, dy):
        _, residuals = layer.fwd({"w": w}, x)
        return layer.bwd({"w": w}, residuals, dy)[0]["w"]

    def autodiff(x, w, dy):
        def convolve(w):
            axes = ("NHWC", "HWIO", "NHWC")
            return lax.conv_general_dilated(x, w, (1, 1), padding.upper(), dimension_numbers=axes)

        return jax.vjp(convolve, w)[1](dy)[0]

    programs = {"jaxdl": manual, "jax.grad": autodiff}
    compiled = {side: jax.jit(f).lower(x, w, dy).compile() for side, f in programs.items()}
    ours, theirs = (np.asarray(f(x, w, dy)) for f in compiled.values())
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
    times = _in_turn({side: lambda f=f: f(x, w, dy) for side, f in compiled.items()}, settings, out)
    memory = {side: temporary_bytes(f) for side, f in compiled.items()}
    _report(out, f"Gradient of a kernel: {name}", times, "jaxdl", memory)


def training_step(settings: Settings, out: Run) -> None:
    """LeNet: forward, backward, Adam."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(settings.batch, 28, 28, 1)).astype(np.float32)
    labels = rng.integers(0, 10, settings.batch)
    sides: dict[str, Callable[[], Any]] = {}
    for make in (_lenets.ours, _lenets.flax_nnx, _lenets.equinox, _lenets.pytorch):
        sides |= make(x, labels)
    times = _in_turn(sides, settings, out)
    _report(out, f"A training step of LeNet, batch {settings.batch}", times, "jaxdl", key="lenet")

    model, loss = lenet(), jaxdl.softmax_cross_entropy()
    images, target = jnp.asarray(x), jnp.asarray(labels)
    params = model.init(jax.random.key(0), images)
    side = 2048
    square = jax.random.normal(jax.random.key(0), (side, side))
    product = jax.jit(jnp.matmul).lower(square, square).compile()
    programs = {
        "manual backward": jaxdl.value_and_grad(model, loss),
        "jax.grad of the same forward": jaxdl.value_and_grad(model, loss, path="autodiff"),
        "per-example norms": jaxdl.value_and_grad(model, loss, reduce=jaxdl.example_sq_norms),
    }
    compiled = {
        name: jax.jit(f).lower(params, images, target).compile() for name, f in programs.items()
    }
    sides = {name: lambda f=f: f(params, images, target) for name, f in compiled.items()}
    sides["matrix product"] = lambda: product(square, square)
    times = _in_turn(sides, settings, out)
    memory = {name: temporary_bytes(f) for name, f in compiled.items()}
    _report(out, "LeNet, gradients alone", times, "manual backward", memory, "lenet_gradients")
    biggest = f"f32[{settings.batch},400,120]"
    text = compiled["per-example norms"].as_text() or ""
    peak = 2 * side**3 / np.median(times["matrix product"])
    products = 3 * jaxdl.summary(model, images).flops / peak
    share = products / np.median(times["manual backward"])
    out.table(
        "LeNet: limits",
        ["what", "figure"],
        [
            [
                "products of the gradient at the rate of one large product",
                f"{1e3 * products:.2f} ms",
            ],
            ["share of the gradient's time", f"{share:.2f}"],
            ["the program of the norms holds examples × parameters", biggest in text],
        ],
    )
    out.result("share_of_matrix_product_rate", float(share))
    out.result("examples_times_parameters_in_norms", biggest in text)
