"""What norms and clipped sums cost by jaxdl and by `vmap(grad)`, over models of the zoo.

    python -m tests.program.zoo_cost [--only TEXT ...] [--every K/N] [--all] [--out DIR]

Both are compiled for each model, checked against each other and timed in turn; what is listed in
the end are the models where jaxdl is slower or takes more temporary memory. The zoo's models are
small, as all of them are compiled in the tests: the examples of a batch are repeated, but times are
mostly those of many small operations, and where a gradient has some hundred entries to form one for
each example is cheap. `experiments/bench` has models of the usual sizes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxdl
from experiments.framework.run import Run
from experiments.framework.timing import interleave, milliseconds, ratio, show, temporary_bytes
from tests.program.programs import PROGRAMS
from tests.program.record import N, Program
from tests.program.reference import as_usual, mapped_axes, of_one_example

KINDS = {
    "linen": (
        "mlp", "cnn", "conv_depthwise", "conv_transpose", "resnet_group_norm", "unet",
        "weight_norm", "lstm", "lstm_optimized", "gru", "minimal_gated_unit", "conv_lstm",
        "state_space", "state_space_parallel", "transformer", "transformer_tied",
        "transformer_remat", "transformer_scanned", "transformer_scanned_remat_tied",
        "transformer_bfloat16", "transformer_bfloat16_scanned_remat", "cross_attention_masked",
        "vision_transformer", "experts_dense", "experts_gathered",
    ),
    "nnx": (
        "mlp", "cnn", "resnet", "lstm", "lstm_optimized", "gru_reversed", "transformer_tied",
        "transformer_scanned_remat", "low_rank_adapter", "weight_norm",
    ),
    "equinox": (
        "mlp", "cnn", "lstm", "gru", "transformer_tied_scanned_checkpoint", "physics_informed",
        "normalising_flow", "neural_ode",
    ),
    "haiku": (
        "mlp", "cnn", "resnet_group_norm", "lstm", "transformer_tied", "transformer_layer_stack",
        "variational_autoencoder",
    ),
    "plain": (
        "low_rank_adapter", "graph_segment_sum", "graph_shared_adjacency", "embedding_bag",
        "selective_state_space", "linear_attention", "wavenet",
    ),
}  # fmt: skip
"""Models of every family, by library."""
BOUND = 1.0
PAIRS = {"norms": "vmap(grad), norms", "clipped sum": "vmap(grad), clipped sum"}
"""Ours, and what it is held against."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 1 if two results differ, or a model fails."""
    parser = argparse.ArgumentParser(
        "python -m tests.program.zoo_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", nargs="*", default=[], help="models whose names hold any of these"
    )
    parser.add_argument("--every", default="0/1", help="every N-th model, from the K-th on")
    parser.add_argument("--all", action="store_true", help="all programs of the zoo")
    parser.add_argument("--examples", type=int, default=12 * N, help=f"a multiple of {N}")
    parser.add_argument("--repetitions", type=int, default=40, help="counted rounds")
    parser.add_argument("--out", type=Path, help="folder for this run; runs/zoo_cost/... if none")
    options = parser.parse_args(arguments)
    if options.examples < N or options.examples % N:
        parser.error(f"--examples must be a multiple of {N}, got {options.examples}")
    chosen = _chosen(options.all, options.only, options.every)
    if not chosen:
        parser.error(f"no model holds any of {options.only}")
    with Run("zoo_cost", vars(options), options.out, doc=__doc__ or "") as out:
        found, failed = {}, []
        for program in out.progress(chosen, "models"):
            try:
                one = measure(program, options.examples, options.repetitions, out)
            except Exception as error:  # the others are still worth their time
                failed.append(f"{program.name}: {type(error).__name__}: {error}"[:300])
                continue
            found[program.name] = one
            out.result(program.name, one)
        behind = _report(found, options.examples, out) | {"failed": failed}
        if failed:
            out.text("\n".join(["Not measured:", *failed]), mono=True)
        out.result("behind", behind)
    print(f"Report: {out.report}")
    return int(bool(behind["differs"] or failed))


def _chosen(everything: bool, only: Sequence[str], every: str) -> list[Program]:
    names = {f"{library}-{kind}" for library, kinds in KINDS.items() for kind in kinds}
    unknown = names - {program.name for program in PROGRAMS}
    assert not unknown, f"not in the zoo: {unknown}"
    chosen = [
        program
        for program in PROGRAMS
        if (everything or program.name in names)
        and (not only or any(text in program.name for text in only))
    ]
    first, of = map(int, every.split("/"))
    return chosen[first % of :: of]


def measure(program: Program, examples: int, repetitions: int, out: Run) -> dict[str, Any]:
    """Times, temporary memory and the differences of both sides of one model."""
    with as_usual():
        loss, params, batch = program.make(jnp.float32)
        batch = _repeated(program, batch, examples // N)
        compiled = {
            side: jax.jit(f).lower(params, *batch).compile()
            for side, f in sides(program, loss, batch).items()
        }
        calls = {side: lambda c=c: c(params, *batch) for side, c in compiled.items()}
        results = {side: call() for side, call in calls.items()}
        times = interleave(calls, repetitions, out)
    memory = {side: temporary_bytes(c) for side, c in compiled.items()}
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params) if hasattr(leaf, "size")),
        "times": {side: milliseconds(times, side) for side in calls},
        "seconds": times,
        "time_ratios": {ours: ratio(times, ours, theirs) for ours, theirs in PAIRS.items()},
        "temporary_bytes": memory,
        "memory_ratios": {
            ours: memory[ours] / max(memory[theirs], 1) for ours, theirs in PAIRS.items()
        },
        "differences": {
            ours: _difference(results[ours], results[theirs]) for ours, theirs in PAIRS.items()
        },
        "allowed": program.rtol or 1e-4,
    }


def _repeated(program: Program, batch: tuple[Any, ...], copies: int) -> tuple[Any, ...]:
    """The batch as often, along the axes of its examples."""

    def repeat(axis: int | None, leaf: Any) -> Any:
        return leaf if axis is None else jnp.concatenate([leaf] * copies, axis)

    axes = mapped_axes(program, batch)[1:]
    return tuple(
        jax.tree.map(
            lambda axis, part: jax.tree.map(lambda leaf: repeat(axis, leaf), part),
            of, part, is_leaf=lambda axis: axis is None,
        )
        for of, part in zip(axes, batch, strict=True)
    )  # fmt: skip


def sides(program: Program, loss: Any, batch: tuple[Any, ...]) -> dict[str, Callable[..., Any]]:
    """``(params, *batch) -> result`` for every side."""
    one = jax.grad(of_one_example(program, loss))
    every = jax.vmap(one, in_axes=mapped_axes(program, batch))

    def gradients(params, *batch):
        found = every(params, *batch)
        flat = [g.reshape(len(g), -1).astype(jnp.float32) for g in jax.tree.leaves(found)]
        return found, sum(jnp.sum(jnp.square(g), axis=1) for g in flat)

    def clipped(params, *batch):
        found, sq_norms = gradients(params, *batch)
        weights = jnp.minimum(1, BOUND / jnp.sqrt(sq_norms))
        return jax.tree.map(lambda g: jnp.einsum("n,n...->...", weights, g), found)

    def reduced(reduce):
        return jaxdl.value_and_reduce(
            loss, reduce, in_axes=program.in_axes, keep_batch_dim=program.keep_batch_dim
        )

    norms, clip = reduced(jaxdl.example_sq_norms), reduced(jaxdl.clipped_sum(BOUND))
    return {
        "norms": lambda params, *batch: jaxdl.total(norms(params, *batch)[1]),
        "clipped sum": lambda params, *batch: clip(params, *batch)[1],
        PAIRS["norms"]: lambda params, *batch: gradients(params, *batch)[1],
        PAIRS["clipped sum"]: clipped,
    }


def _difference(a: Any, b: Any) -> float:
    """Largest difference of any entry, relative to the largest entry of all."""
    a, b = ([x.astype(jnp.float32) for x in jax.tree.leaves(tree)] for tree in (a, b))
    most = max(float(jnp.max(jnp.abs(y), initial=0)) for y in b)
    pairs = zip(a, b, strict=True)
    return max(float(jnp.max(jnp.abs(x - y), initial=0)) for x, y in pairs) / (most or 1)


def _report(found: Mapping[str, Any], examples: int, out: Run) -> dict[str, list[str]]:
    """A table, and the models where ours is slower, takes more memory or is not the same."""
    out.table(
        f"jaxdl over vmap(grad), {examples} examples: time with quartiles; temporary memory",
        [
            "model",
            "parameters",
            *(f"{ours}: {what}" for ours in PAIRS for what in ("time", "memory")),
        ],
        [
            [
                name,
                one["parameters"],
                *(
                    text
                    for ours, theirs in PAIRS.items()
                    for text in (
                        f"{one['times'][ours]} {show(one['time_ratios'][ours])}",
                        f"{one['memory_ratios'][ours]:.2f}  "
                        f"({_kilobytes(one, ours)} / {_kilobytes(one, theirs)})",
                    )
                ),
            ]
            for name, one in found.items()
        ],
    )
    behind: dict[str, list[str]] = {"slower": [], "larger": [], "differs": []}
    for name, one in found.items():
        for ours in PAIRS:
            took, more = one["time_ratios"][ours], one["memory_ratios"][ours]
            if took["lower_quartile"] > 1:
                behind["slower"].append(f"{name}, {ours}: {took['median']:.2f}")
            if more > 1:
                behind["larger"].append(f"{name}, {ours}: {more:.2f}")
            if not one["differences"][ours] <= one["allowed"]:
                behind["differs"].append(f"{name}, {ours}: {one['differences'][ours]:.1e}")
    words = {
        "slower": "Slower than vmap(grad) in three rounds of four",
        "larger": "More temporary memory than vmap(grad)",
        "differs": "Results that differ",
    }
    for what, names in behind.items():
        out.text(f"{words[what]}: {len(names)} of {len(PAIRS) * len(found)}")
        if names:
            out.text("\n".join(f"  {name}" for name in names), mono=True)
    return behind


def _kilobytes(one: Mapping[str, Any], side: str) -> str:
    return f"{one['temporary_bytes'][side] / 1e3:.1f} kB"


if __name__ == "__main__":
    sys.exit(main())
