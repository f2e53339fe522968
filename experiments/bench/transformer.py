"""The hand-written backward against jax.grad, time and memory, on a stack of transformer blocks.

One training step's gradient (value, parameter gradients) of a pre-norm causal stack under
`lax.scan`, the same forward on both sides; then squared gradient norms of every example, against
the hand-written backward and against `vmap(grad)`. All in one process, taking turns. The matrix
products of the step are also set against what this machine does on one large product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdl
from experiments.framework.run import Run
from experiments.framework.timing import interleave, milliseconds, ratio, show, temporary_bytes
from jaxdl.models import transformer_stack


@dataclass(frozen=True)
class Settings:
    """The stack and the number of rounds."""

    blocks: int = 6
    """Transformer blocks."""
    features: int = 256
    """Width of the stream."""
    heads: int = 8
    """Attention heads."""
    examples: int = 8
    """Examples in the batch."""
    positions: int = 128
    """Positions of an example."""
    repetitions: int = 20
    """Counted rounds."""


def run(settings: Settings, out: Run) -> None:
    """Compile every side, check that they agree, time them in turn."""
    model = transformer_stack(settings.blocks, settings.features, settings.heads)
    loss = jaxdl.half_squared_error()
    keys = jax.random.split(jax.random.key(0), 3)
    shape = (settings.examples, settings.positions, settings.features)
    x, target = (jax.random.normal(key, shape) for key in keys[:2])
    params = model.init(keys[2], x)

    def vmap_grad(params, x, target):
        def one(x, target):
            gradient = jax.grad(lambda p: loss(model.apply(p, x[None]), target[None]))(params)
            return sum(jnp.sum(g * g) for g in jax.tree.leaves(gradient))

        return jax.vmap(one)(x, target)

    def norms(params, x, target):
        reduce = jaxdl.example_sq_norms
        return jaxdl.total(jaxdl.value_and_grad(model, loss, reduce=reduce)(params, x, target)[1])

    programs = {
        "manual": jaxdl.value_and_grad(model, loss),
        "autodiff": jaxdl.value_and_grad(model, loss, path="autodiff"),
        "example_sq_norms": norms,
        "vmap(grad)": vmap_grad,
        "forward": lambda params, x, target: loss(model.apply(params, x), target),
    }
    compiled = {
        name: jax.jit(program).lower(params, x, target).compile()
        for name, program in programs.items()
    }
    results = {name: call(params, x, target) for name, call in compiled.items()}
    gradients_differ = _difference(results["manual"][1], results["autodiff"][1])
    norms_differ = _difference(results["example_sq_norms"], results["vmap(grad)"])

    side = 2048
    square = jax.random.normal(keys[0], (side, side))
    product = jax.jit(jnp.matmul).lower(square, square).compile()
    sides: dict[str, Callable[[], Any]] = {
        name: lambda c=call: c(params, x, target) for name, call in compiled.items()
    }
    sides["matrix product"] = lambda: product(square, square)
    times = interleave(sides, settings.repetitions, out)

    memory = {name: temporary_bytes(call) for name, call in compiled.items()}
    ratios = {
        "manual / autodiff": ratio(times, "manual", "autodiff"),
        "example_sq_norms / manual": ratio(times, "example_sq_norms", "manual"),
        "vmap(grad) / manual": ratio(times, "vmap(grad)", "manual"),
    }
    memory_ratios = {
        pair: memory[pair.split(" / ")[0]] / memory[pair.split(" / ")[1]] for pair in ratios
    }
    peak = 2 * side**3 / np.median(times["matrix product"])
    reached = 3 * jaxdl.summary(model, x).flops / np.median(times["manual"])

    out.table(
        "Time and temporary memory",
        ["side", "median time", "temporary memory"],
        [[name, milliseconds(times, name), f"{memory[name] / 1e6:.1f} MB"] for name in compiled],
    )
    out.table(
        "Ratios: median of neighbouring rounds (quartiles)",
        ["sides", "time", "temporary memory"],
        [[pair, show(value), f"{memory_ratios[pair]:.3f}"] for pair, value in ratios.items()],
    )
    out.table(
        "Agreement and limit",
        ["what", "figure"],
        [
            ["gradient, manual against autodiff: largest relative difference", gradients_differ],
            ["example_sq_norms against vmap(grad): largest relative difference", norms_differ],
            [f"one {side} × {side} float32 matrix product", f"{peak / 1e9:.0f} GFLOP/s"],
            ["matrix products of the manual step", f"{reached / 1e9:.0f} GFLOP/s"],
            ["share of the limit", f"{reached / peak:.2f}"],
        ],
    )
    out.result("time_ratios", ratios)
    out.result("memory_ratios", memory_ratios)
    out.result("seconds", times)
    out.result("temporary_bytes", memory)
    out.result("gradient_difference", gradients_differ)
    out.result("norm_difference", norms_differ)
    out.result("share_of_matrix_product_rate", float(reached / peak))


def _difference(a, b) -> float:
    """Largest difference of any array, relative to the largest entry of that array."""
    return max(
        float(jnp.max(jnp.abs(p - q)) / jnp.max(jnp.abs(q)))
        for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
