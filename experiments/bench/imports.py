"""The time of `import jaxdl` against `import jax, optax`, each in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

from experiments.framework.run import Run
from experiments.framework.timing import interleave, milliseconds, ratio, show

SIDES = ("import jax, optax", "import jaxdl")


@dataclass(frozen=True)
class Settings:
    """The number of rounds."""

    repetitions: int = 20
    """Counted rounds; one new interpreter of every side each."""


def run(settings: Settings, out: Run) -> None:
    """Start interpreters in turn."""
    sides = {code: lambda code=code: _start(code) for code in SIDES}
    times = interleave(sides, settings.repetitions, out)
    value = ratio(times, SIDES[1], SIDES[0])
    out.table("Import", ["side", "median time"], [[s, milliseconds(times, s)] for s in SIDES])
    out.table("Ratio: median (quartiles)", ["import jaxdl / import jax, optax"], [[show(value)]])
    out.result("time_ratio", value)
    out.result("seconds", times)


def _start(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)
