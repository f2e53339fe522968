"""At which sizes reading the factors pays: batch, positions and width of a transformer.

Squared gradient norms of every example and the clipped sum, of a Flax transformer of two blocks, by
`jaxdl.value_and_reduce` and by `vmap(grad)`: time and temporary memory over those of the plain
gradient, on a grid of sizes. A side that would take more than a stated memory is compiled, which
tells its memory, and not run.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from experiments.bench import _linen
from experiments.bench.programs import (
    CLIPPED,
    NORMS,
    PLAIN,
    VMAP_CLIPPED,
    VMAP_NORMS,
    difference,
    sides,
)
from experiments.framework.drawing import open_graphs
from experiments.framework.run import Run
from experiments.framework.timing import interleave, milliseconds, ratio, temporary_bytes

PAIRS = ((NORMS, VMAP_NORMS), (CLIPPED, VMAP_CLIPPED))
"""What is asked for: by jaxdl, and by vmap(grad)."""


@dataclass(frozen=True)
class Settings:
    """The grid, and what a place of it may take."""

    examples: tuple[int, ...] = (4, 16, 64)
    """Batch sizes B."""
    positions: tuple[int, ...] = (32, 128, 512)
    """Positions T of every example."""
    widths: tuple[int, ...] = (64, 256)
    """Widths of the transformer."""
    blocks: int = 2
    """Transformer blocks."""
    way: str = "one by one"
    """How the blocks are written: "one by one", "scanned" or "remat"."""
    memory: float = 3.0
    """GB: a side with more temporary memory is not run."""
    seconds: float = 5.0
    """For the rounds of one place, of which there are at least 3."""
    repetitions: int = 20
    """Counted rounds of one place, at most."""
    minutes: float = 9.0
    """After them no further place is begun; the large ones come last."""


Place = tuple[int, int, int]
"""Batch, positions, width."""


def grid(settings: Settings) -> Iterator[Place]:
    """The places, small ones first."""
    s = settings
    yield from sorted(itertools.product(s.examples, s.positions, s.widths), key=np.prod)


def run(settings: Settings, out: Run) -> None:
    """Compile and time all sides at every place; a table and a picture of them."""
    if min(*settings.examples, *settings.positions, *settings.widths, settings.blocks) < 1:
        raise ValueError("sizes: batches, positions, widths and blocks must be at least 1")
    found: dict[Place, dict[str, Any]] = {}
    started, left_out = time.monotonic(), []
    for place in out.progress(list(grid(settings)), "places"):
        if found and time.monotonic() - started > 60 * settings.minutes:
            left_out.append(place)
            continue
        found[place] = _at(place, settings, out)
        out.log(place=list(place), **{k: found[place][k] for k in ("time_ratios", "memory_ratios")})
    places = sorted(found, key=lambda place: place[::-1])
    out.table(
        f"Time | temporary memory over the plain gradient's; {settings.blocks} blocks, "
        f"written {settings.way}",
        ["width", "T", "B", "plain gradient", "norms", "… vmap(grad)", "clipped", "… vmap(grad)"],
        [
            [
                place[2], place[1], place[0], found[place]["plain"],
                *(_cell(found[place], side) for pair in PAIRS for side in pair),
            ]
            for place in places
        ],
    )  # fmt: skip
    worst = max((most for one in found.values() for most in one["differences"].values()), default=0)
    _say_where(found, out)
    if left_out:
        out.text(f"Left out after {settings.minutes:g} minutes, as (B, T, width): {left_out}.")
    out.text(f"Where both were run, results differ by at most {worst:.1e} of the largest entry.")
    out.result("largest_difference", worst)
    out.result("places", {"B {} T {} width {}".format(*p): found[p] for p in places})
    out.figure(
        "sizes",
        _picture(found, settings),
        "Time and temporary memory over the plain gradient's: jaxdl solid, vmap(grad) dashed",
    )


def _at(place: Place, settings: Settings, out: Run) -> dict[str, Any]:
    """Times, memories and differences at one place of the grid."""
    examples, positions, width = place
    # heads of 32, but at least two of them
    model = _linen.Transformer(width, settings.blocks, settings.way, heads=max(2, width // 32))
    program = _linen.language_model(model, examples, positions)
    made = sides(program)
    lowered = {
        side: jax.jit(made[side]).lower(program.params, *program.batch)
        for side in (PLAIN, *itertools.chain(*PAIRS))
    }
    with ThreadPoolExecutor(2) as pool:  # to compile is most of the work
        ended = pool.map(lambda side: side.compile(), lowered.values())
        compiled = dict(zip(lowered, ended, strict=True))
    memory = {side: temporary_bytes(call) for side, call in compiled.items()}
    fits = {side: memory[side] <= 1e9 * settings.memory for side in compiled}
    calls = {
        side: lambda c=c: c(program.params, *program.batch)
        for side, c in compiled.items()
        if fits[side] and fits[PLAIN]
    }
    results = {side: jax.block_until_ready(call()) for side, call in calls.items()}
    differences = {
        ours: difference(results[ours][1], results[theirs][1])
        for ours, theirs in PAIRS
        if ours in results and theirs in results
    }
    del results
    times: Mapping[str, np.ndarray] = {}
    if calls:
        start = time.perf_counter()
        for call in calls.values():
            jax.block_until_ready(call())
        fit = int(settings.seconds / (time.perf_counter() - start))
        rounds = min(settings.repetitions, max(3, fit))
        times = interleave(calls, rounds, out, warmup=0)  # every side has run twice
    return {
        "plain": milliseconds(times, PLAIN) if times else "not run",
        "seconds": times,
        "temporary_bytes": memory,
        "time_ratios": {side: ratio(times, side, PLAIN) for side in times},
        "memory_ratios": {side: memory[side] / max(memory[PLAIN], 1) for side in memory},
        "time_of_ours_over_vmap": {
            ours: ratio(times, ours, theirs)
            for ours, theirs in PAIRS
            if ours in times and theirs in times
        },
        "differences": differences,
    }


def _cell(found: Mapping[str, Any], side: str) -> str:
    """Time | memory of a side at a place."""
    memory, took = f"{found['memory_ratios'][side]:.1f}", found["time_ratios"].get(side)
    return f"{took['median']:.2f} | {memory}" if took else f"not run | {memory}"


def _say_where(found: Mapping[Place, Mapping[str, Any]], out: Run) -> None:
    """Name the places where `value_and_reduce` is the slower one, or takes more memory."""
    behind: dict[str, dict[str, list[str]]] = {}
    for ours, theirs in PAIRS:
        slower, larger = [], []
        for place, one in found.items():
            took = one["time_of_ours_over_vmap"].get(ours)
            if took and took["lower_quartile"] > 1:
                slower.append(f"{place} {took['median']:.2f}")
            more = one["temporary_bytes"][ours] / max(one["temporary_bytes"][theirs], 1)
            if more > 1:
                larger.append(f"{place} {more:.2f}")
        behind[ours] = {"slower": slower, "larger": larger}
        out.text(
            f"{ours}, at (B, T, width): slower than vmap(grad) in three rounds of four at "
            f"{'; '.join(slower) or 'none'}. More memory at {'; '.join(larger) or 'none'}."
        )
    out.result("behind_vmap", behind)


def _picture(found: Mapping[Place, Mapping[str, Any]], settings: Settings) -> Any:
    """Small multiples: a column for each width, in each graph a colour for each T, B to the right.

    Rows: time and memory of the norms, of the clipped sum.
    """
    from matplotlib import colormaps, pyplot
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullLocator

    rows = [(pair, what) for pair in PAIRS for what in ("time", "memory")]
    widths = sorted(settings.widths)
    fig, axes = pyplot.subplots(
        len(rows), len(widths), figsize=(3 * len(widths) + 1, 2.3 * len(rows)),
        sharex=True, sharey="row", squeeze=False, layout="constrained",
    )  # fmt: skip
    positions, batches = sorted(settings.positions), sorted(settings.examples)
    colours = colormaps["viridis"](np.linspace(0.0, 0.8, len(positions)))

    def value(place: Place, side: str, what: str) -> float:
        if place not in found:
            return np.nan
        took = found[place][f"{what}_ratios"].get(side, np.nan)
        return took["median"] if isinstance(took, dict) else took

    for row, (pair, what) in zip(axes, rows, strict=True):
        row[0].set_ylabel(f"{pair[0]}\n{what} / plain gradient")
        for graph, width in zip(row, widths, strict=True):
            graph.axhline(1, color="0.6", linewidth=0.8)
            for t, colour in zip(positions, colours, strict=True):
                for side, line, mark in zip(pair, ("-", "--"), ("o", "s"), strict=True):
                    heights = [value((b, t, width), side, what) for b in batches]
                    graph.plot(batches, heights, line, marker=mark, markersize=4, color=colour)
            graph.set_xscale("log", base=2)
            graph.set_yscale("log", base=2)
            graph.set_xticks(batches, [str(b) for b in batches])
            for axis in (graph.xaxis, graph.yaxis):
                axis.set_minor_locator(NullLocator())
            graph.yaxis.set_major_locator(LogLocator(2, subs=(1, 1.5), numticks=12))
            graph.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
            open_graphs(graph, grid=True)
    for graph, width in zip(axes[0], widths, strict=True):
        graph.set_title(f"width {width}", fontsize=10)
    for graph in axes[-1]:
        graph.set_xlabel("examples B")
    handles = [
        *(
            Line2D([], [], color=c, label=f"T = {t}")
            for t, c in zip(positions, colours, strict=True)
        ),
        Line2D([], [], color="0.3", marker="o", markersize=4, label="jaxdl"),
        Line2D([], [], color="0.3", linestyle="--", marker="s", markersize=4, label="vmap(grad)"),
    ]
    fig.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    return fig
