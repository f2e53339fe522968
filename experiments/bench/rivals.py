"""Norms and clipped sums beside the libraries that are made for them: jax_privacy and Opacus.

The same models, weights and batches: an MLP, a convolutional net, an LSTM and a transformer, one by
one and scanned. In JAX `jaxdl.value_and_reduce`, `vmap(grad)` and `jax_privacy.clipped_grad`; in
PyTorch Opacus with a gradient for each example (hooks, functorch, ExpandedWeights) and with ghost
clipping. Frameworks differ in speed, so each side is given in absolute time and as a multiple of
the plain gradient of its own framework. All take turns in one process, with as many threads: on a
machine that is busy otherwise, those of PyTorch wait for each other, and its times mean nothing.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from experiments.bench import _torch_models, programs
from experiments.bench._linen import Program
from experiments.bench._torch_models import Found
from experiments.bench.programs import CLIPPED, NORMS, PLAIN, VMAP_CLIPPED, VMAP_NORMS, difference
from experiments.framework.run import Run
from experiments.framework.timing import interleave, milliseconds, ratio, show, temporary_bytes

MODELS = ("mlp", "cnn", "lstm", "transformer, one by one", "transformer, scanned")
BOUND = 1.0
PRIVACY, MICROBATCHES = "jax_privacy, clipped sum", "jax_privacy, clipped sum, microbatches of {}"
TORCH = "PyTorch, backward"
TORCH_LAYERS = "PyTorch, backward, Opacus's layers"
FOREIGN = ("PyTorch", "Opacus")
"""How the names of sides begin that are not of JAX."""
WAYS = {"hooks": "hooks", "functorch": "functorch", "ew": "ExpandedWeights"}


@dataclass(frozen=True)
class Settings:
    """The models and the number of rounds; sizes are those of `bench.programs`."""

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
    microbatch: int = 8
    """Examples that jax_privacy takes at a time, on a side of its own."""
    pause: float = 0.02
    """Seconds between two sides, in which threads that wait busily fall asleep."""
    threads: int = 0
    """Threads of PyTorch; 0 for one for each core, as JAX has them."""
    repetitions: int = 10
    """Counted rounds."""


def run(settings: Settings, out: Run) -> None:
    """Compile every side, check that they agree, time them in turn."""
    unknown = [name for name in settings.only if name not in MODELS]
    if unknown:
        raise ValueError(f"only: the models are {list(MODELS)}, got {unknown}")
    missing = [name for name in ("jax_privacy", "torch", "opacus") if not _installed(name)]
    if missing:
        out.text(f"Not installed, and left out: {', '.join(missing)}.")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = cores or 1
    said = f"JAX {jax.__version__} with the {threads} cores of this process"
    for name in ("jax_privacy", "opacus"):
        if _installed(name):
            said += f", {name} {importlib.metadata.version(name)}"
    if "torch" not in missing:
        said += ", " + _torch_models.load(settings.threads or threads)
    out.text(said + ".")
    out.result("versions", said)
    made = programs.programs(
        programs.Settings(
            images=settings.images, sequences=settings.sequences, positions=settings.positions,
            width=settings.width, blocks=settings.blocks,
        )
    )  # fmt: skip
    for name in settings.only or MODELS:
        _compare(name, made[name](), settings, out, missing)


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


# --- JAX ----------------------------------------------------------------------------------------


def jax_sides(program: Program, settings: Settings, missing: list[str]) -> dict[str, Any]:
    """``(params, *batch) -> (losses, result)`` for every side."""
    made = programs.sides(program, BOUND)
    chosen = {side: made[side] for side in (PLAIN, NORMS, CLIPPED, VMAP_NORMS, VMAP_CLIPPED)}
    if "jax_privacy" in missing:
        return chosen
    clipped_grad = importlib.import_module("jax_privacy").clipped_grad

    def privacy(microbatch: int | None) -> Callable[..., Any]:
        # nan_safe=False leaves out a pass over all gradients that the others do not make
        clipped = clipped_grad(
            program.loss, l2_clip_norm=BOUND, keep_batch_dim=False, nan_safe=False,
            batch_argnums=tuple(range(1, 1 + len(program.batch))), return_grad_norms=True,
            return_values=True, microbatch_size=microbatch,
        )  # fmt: skip

        def side(params, *batch):
            found, more = clipped(params, *batch)
            return more.values, (found, more.grad_norms)

        return side

    chosen[PRIVACY] = privacy(None)
    examples = len(program.batch[0])
    if settings.microbatch < examples and examples % settings.microbatch == 0:
        chosen[MICROBATCHES.format(settings.microbatch)] = privacy(settings.microbatch)
    return chosen


def _jax_found(side: str, result: Any) -> tuple[Any, list[Any] | None]:
    """(norms or None, the clipped sum's arrays or None) of a side's result."""
    if side in (NORMS, VMAP_NORMS):
        return np.sqrt(np.asarray(result)), None
    if side in (CLIPPED, VMAP_CLIPPED):
        return None, jax.tree.leaves(result)
    clipped, norms = result
    return np.asarray(norms), jax.tree.leaves(clipped)


# --- PyTorch ------------------------------------------------------------------------------------


def torch_sides(
    name: str, program: Program, missing: list[str]
) -> dict[str, Callable[[], Found] | str]:
    """Every side, or why it does not run."""
    kind = name.split(",")[0]

    def model(layers: str) -> _torch_models.Model:
        return _torch_models.model(kind, program.params, program.batch, layers)

    sides: dict[str, Callable[[], Found] | str] = {}
    sides[TORCH] = _torch_models.plain(model("torch"))
    if "opacus" in missing:
        return sides
    if kind in ("lstm", "transformer"):  # Opacus refuses PyTorch's own layers there
        sides[TORCH_LAYERS] = _torch_models.plain(model("opacus"))
    for what, clip in (("norms", False), ("clipped sum", True)):
        for way, words in WAYS.items():
            sides[f"Opacus {words}, {what}"] = _torch_models.why_not(
                lambda way=way, clip=clip: _torch_models.per_example(
                    model("opacus"), way, BOUND, clip
                )
            )
        sides[f"Opacus ghost clipping, {what}"] = _torch_models.why_not(
            lambda clip=clip: _torch_models.ghost(model("opacus"), BOUND, clip)
        )
    return sides


# --- all of them --------------------------------------------------------------------------------


def _compare(name: str, program: Program, settings: Settings, out: Run, missing: list[str]) -> None:
    calls: dict[str, Callable[[], Any]] = {}
    memory, compile_seconds, found = {}, {}, {}
    for side, f in jax_sides(program, settings, missing).items():
        start = time.perf_counter()
        compiled = jax.jit(f).lower(program.params, *program.batch).compile()
        compile_seconds[side] = time.perf_counter() - start
        memory[side] = temporary_bytes(compiled)
        calls[side] = lambda c=compiled: c(program.params, *program.batch)
        if side != PLAIN:
            found[side] = _jax_found(side, calls[side]()[1])
    refused, plain = {}, {}
    if "torch" not in missing and name != "transformer, scanned":  # PyTorch has no scan
        for side, call in torch_sides(name, program, missing).items():
            if isinstance(call, str):
                refused[side] = call
                continue
            calls[side] = call
            if side in (TORCH, TORCH_LAYERS):  # of the sum, not of the mean
                plain[side] = _norm(_torch_found(call())[1] or []) / len(program.batch[0])
            else:
                found[side] = _torch_found(call())
    gradient = _norm(jax.tree.leaves(calls[PLAIN]()[1]))
    differences = _differences(found) | {s: abs(n / gradient - 1) for s, n in plain.items()}
    # PyTorch's threads wait busily: see `interleave`
    others = TORCH in calls
    times = interleave(
        calls, settings.repetitions, out,
        pause=settings.pause * others, lead=int(others),
    )  # fmt: skip
    own = {side: TORCH if side.startswith(FOREIGN) else PLAIN for side in calls}
    ratios = {side: ratio(times, side, own[side]) for side in calls}
    rows = [
        [
            side, milliseconds(times, side), show(ratios[side]),
            f"{memory[side] / 1e6:.1f} MB" if side in memory else "–",
            f"{differences[side]:.1e}" if side in differences else "–",
        ]
        for side in calls
    ]  # fmt: skip
    out.table(
        f"{name}: {len(program.batch[0])} examples",
        ["side", "time", "against the framework's plain gradient", "temporary memory",
         "difference from JAX"],
        rows,
    )  # fmt: skip
    for side, why in refused.items():
        out.text(f"{side} does not run: {why}")
    out.result(
        name,
        {
            "seconds": times, "time_ratios": ratios, "temporary_bytes": memory,
            "seconds_to_compile": compile_seconds, "differences": differences,
            "refused": refused,
        },
    )  # fmt: skip


def _torch_found(found: Found) -> tuple[Any, list[Any] | None]:
    norms = None if found.norms is None else found.norms.detach().numpy()
    return norms, [g.detach().numpy() for g in found.gradients] or None


def _differences(found: Mapping[str, tuple[Any, list[Any] | None]]) -> dict[str, float]:
    """From `vmap(grad)`: of the norms, and of the clipped sum.

    The order and the layout of parameters differ between frameworks: there, of its norm.
    """
    true_norms, true_sum = found[VMAP_NORMS][0], found[VMAP_CLIPPED][1]
    assert true_sum is not None
    differences = {}
    for side, (norms, arrays) in found.items():
        off = [0.0]
        if norms is not None:
            off.append(float(np.max(np.abs(norms - true_norms) / true_norms)))
        if arrays is not None:
            foreign = side.startswith(FOREIGN)
            off.append(
                abs(_norm(arrays) / _norm(true_sum) - 1)
                if foreign
                else difference(arrays, true_sum)
            )
        differences[side] = max(off)
    return differences


def _norm(arrays: Iterable[Any]) -> float:
    return float(np.sqrt(sum(np.sum(np.square(np.asarray(a, np.float64))) for a in arrays)))
