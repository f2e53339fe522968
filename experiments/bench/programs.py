"""Per-example reducers of unmodified Flax models, against jax.grad and vmap(grad).

Models of Flax Linen's own layers, read by `jaxdl.value_and_reduce`: squared gradient norms of every
example, sums clipped by the whole norm and by parameter. Each beside the plain gradient of the mean
loss, and beside `vmap(grad)`, in time, temporary memory, and the time to trace and compile. All in
one process, taking turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

import jaxdl
from experiments.bench import _linen
from experiments.bench._linen import Program
from experiments.framework.run import Run
from experiments.framework.timing import interleave, milliseconds, ratio, show, temporary_bytes

PLAIN = "jax.grad of the mean"
NORMS, CLIPPED, BY_PARAMETER = "norms", "clipped sum", "clipped by parameter"
VMAP_NORMS, VMAP_CLIPPED = "vmap(grad), norms", "vmap(grad), clipped sum"


@dataclass(frozen=True)
class Settings:
    """The models and the number of rounds."""

    only: tuple[str, ...] = ()
    """Some of the models, by name; all if none is named."""
    images: int = 64
    """Examples of the MLP (twice as many) and of the convolutional net."""
    sequences: int = 16
    """Examples of the recurrent net and of the transformers."""
    positions: int = 128
    """Positions of the transformers."""
    width: int = 256
    """Width of the transformers and of the recurrent net; half of the MLP's."""
    blocks: int = 6
    """Transformer blocks."""
    repetitions: int = 20
    """Counted rounds."""


def programs(settings: Settings) -> dict[str, Callable[[], Program]]:
    """Each model by name, made when it is called."""
    s = settings

    def normal(*shape: int) -> jax.Array:
        return jax.random.normal(jax.random.key(0), shape)

    def transformer(way: str) -> Program:
        model = _linen.Transformer(s.width, s.blocks, way)
        return _linen.language_model(model, s.sequences, s.positions)

    return {
        "mlp": lambda: _linen.classifier(_linen.Mlp(2 * s.width), normal(2 * s.images, 784)),
        "cnn": lambda: _linen.classifier(_linen.Cnn(s.width // 8), normal(s.images, 28, 28, 1)),
        "lstm": lambda: _linen.classifier(_linen.Lstm(s.width), normal(s.sequences, 40, 128)),
        "transformer, one by one": lambda: transformer("one by one"),
        "transformer, scanned": lambda: transformer("scanned"),
        "transformer, scanned and rematerialised": lambda: transformer("remat"),
    }


def sides(program: Program, bound: float = 1.0) -> dict[str, Callable[..., Any]]:
    """``(params, *batch) -> (losses, result)`` for every side."""
    loss = program.loss
    axes = (None,) + (0,) * len(program.batch)

    def mean(params, *batch):
        return jnp.mean(jax.vmap(loss, axes)(params, *batch))

    def gradients(params, *batch):
        values, found = jax.vmap(jax.value_and_grad(loss), axes)(params, *batch)
        flat = [g.reshape(len(g), -1) for g in jax.tree.leaves(found)]
        return values, found, sum(jnp.sum(jnp.square(g), axis=1) for g in flat)

    def vmap_norms(params, *batch):
        values, _, sq_norms = gradients(params, *batch)
        return values, sq_norms

    def vmap_clipped(params, *batch):
        values, found, sq_norms = gradients(params, *batch)
        weights = jnp.minimum(1, bound / jnp.sqrt(sq_norms))
        return values, jax.tree.map(lambda g: jnp.einsum("n,n...->...", weights, g), found)

    def norms(params, *batch):
        values, found = jaxdl.value_and_reduce(loss, jaxdl.example_sq_norms)(params, *batch)
        return values, jaxdl.total(found)

    return {
        PLAIN: jax.value_and_grad(mean),
        NORMS: norms,
        CLIPPED: jaxdl.value_and_reduce(loss, jaxdl.clipped_sum(bound)),
        BY_PARAMETER: jaxdl.value_and_reduce(loss, jaxdl.clipped_sum(bound, per="parameter")),
        VMAP_NORMS: vmap_norms,
        VMAP_CLIPPED: vmap_clipped,
    }


def run(settings: Settings, out: Run) -> None:
    """Compile every side, check that they agree, time them in turn."""
    chosen = programs(settings)
    unknown = [name for name in settings.only if name not in chosen]
    if unknown:
        raise ValueError(f"only: the models are {list(chosen)}, got {unknown}")
    for name, make in chosen.items():
        if not settings.only or name in settings.only:
            _compare(name, make(), settings, out)


def _compare(name: str, program: Program, settings: Settings, out: Run) -> None:
    compiled, seconds_to_compile = {}, {}
    for side, f in sides(program).items():
        start = time.perf_counter()
        compiled[side] = jax.jit(f).lower(program.params, *program.batch).compile()
        seconds_to_compile[side] = time.perf_counter() - start
    made = {side: call(program.params, *program.batch)[1] for side, call in compiled.items()}
    differences = {
        NORMS: difference(made[NORMS], made[VMAP_NORMS]),
        CLIPPED: difference(made[CLIPPED], made[VMAP_CLIPPED]),
    }
    times = interleave(
        {side: lambda c=c: c(program.params, *program.batch) for side, c in compiled.items()},
        settings.repetitions,
        out,
    )
    memory = {side: temporary_bytes(call) for side, call in compiled.items()}
    ratios = {side: ratio(times, side, PLAIN) for side in compiled}
    worst = max(differences.values())
    out.table(
        f"{name}: {len(program.batch[0])} examples; largest difference {worst:.1e}",
        ["side", "time", "against jax.grad", "temporary memory", "to trace and compile"],
        [
            [
                side, milliseconds(times, side), show(ratios[side]),
                f"{memory[side] / 1e6:.1f} MB", f"{seconds_to_compile[side]:.1f} s",
            ]
            for side in compiled
        ],
    )  # fmt: skip
    out.result(
        name,
        {
            "seconds": times, "time_ratios": ratios, "temporary_bytes": memory,
            "seconds_to_compile": seconds_to_compile, "differences": differences,
        },
    )  # fmt: skip


def difference(a: Any, b: Any) -> float:
    """Largest difference of any entry, relative to the largest entry of all."""
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    most = max(float(jnp.max(jnp.abs(y))) for y in b)
    return max(float(jnp.max(jnp.abs(x - y))) for x, y in zip(a, b, strict=True)) / most
