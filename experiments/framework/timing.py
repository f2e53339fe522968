"""Interleaved timing: several sides in turn, in one process, compared pair by pair.

Machines are shared and their speed drifts; two sides that take turns drift together, so the ratio
of neighbours means something where two absolute times do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from experiments.framework.run import Run

Times = Mapping[str, np.ndarray]


def interleave(
    sides: Mapping[str, Callable[[], Any]],
    repetitions: int,
    out: Run,
    *,
    warmup: int = 2,
    lead: int = 0,
    pause: float = 0.0,
) -> Times:
    """Seconds of every side, one array each; results are waited for.

    The order is drawn anew for each round: a side that leaves threads or caches busy troubles
    another one each time. Libraries whose threads wait busily need `pause` seconds between the
    sides to fall asleep, and then `lead` uncounted calls of each side to wake up again.
    """
    if repetitions < 1:
        raise ValueError(f"bench: repetitions must be at least 1, got {repetitions}; 20 is usual")
    names = list(sides)
    times: dict[str, list[float]] = {name: [] for name in names}
    rng = np.random.default_rng(0)
    for _ in out.progress(warmup + repetitions, "rounds"):
        for name in rng.permutation(names):
            time.sleep(pause)
            for _ in range(lead):
                jax.block_until_ready(sides[name]())
            start = time.perf_counter()
            jax.block_until_ready(sides[name]())
            times[name].append(time.perf_counter() - start)
    return {name: np.array(seconds[warmup:]) for name, seconds in times.items()}


def ratio(times: Times, side: str, against: str) -> dict[str, float]:
    """Median and quartiles of the pairwise ratio side / against."""
    low, middle, high = np.percentile(times[side] / times[against], [25, 50, 75])
    return {"median": float(middle), "lower_quartile": float(low), "upper_quartile": float(high)}


def show(ratio: Mapping[str, float]) -> str:
    """A ratio for a table: median, and the quartiles behind it."""
    return (
        f"{ratio['median']:.3f}  ({ratio['lower_quartile']:.3f} to {ratio['upper_quartile']:.3f})"
    )


def milliseconds(times: Times, side: str) -> str:
    """Median time of a side for a table."""
    return f"{1e3 * float(np.median(times[side])):.2f} ms"


def temporary_bytes(compiled: Any) -> int:
    """What the compiled program allocates between its arguments and its results."""
    return int(compiled.memory_analysis().temp_size_in_bytes)
