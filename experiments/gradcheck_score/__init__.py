"""How good is the gradient checker: what does it miss, whom does it blame, what does it cost?

`jaxdl.gradcheck` is measured on functions whose gradients are right and on rules with one mistake
each, made by hand (after rules that were shipped) and automatically (one equation of a layer's
backward pass changed). A mistake counts as killed only if the checker fails it and passes the right
twin at the same arguments. Other checkers are measured on the same items: `check_grads` of JAX, the
criteria of PyTorch's gradcheck, five-point differences.

What was found (JAX 0.10.2, two cores, 95 minutes):

- Level standard blamed none of 357 right functions in 5,155 runs over three dtypes, 9 of which were
  inconclusive, and it found all 331 mistakes by hand and all 123 automatic ones; 322 of 323 reports
  named only the wrong leaves, 145 of 149 the mistake. The best of the others found 280 of 325 by
  hand (check_grads in float64). At our stress points they blame a third or more of what is right,
  so giving them better arguments does not help.
- The table joins one run with two resumptions: what mistakes of the checker concerned (ids taken
  for pointers; integers that a function refuses by an error) was run again once mended, as
  were an iteration at arguments where it has no limit, and rules over devices with two of them.
- Some of what was taken for right was not: attention where nothing is visible, a determinant's rule
  at singular matrices, Planck's and Hill's slopes for large and zero arguments. Those rules were
  mended; functions that were only right on a part of their arguments say now where they are.
- Inconclusive are a rule whose rounding does not move with its arguments (attention where one score
  is far above the rest), and points at which autodiff of the primal has lost its digits.
- Checks at more sizes and at more zeros were added after that. With those, `--parts functions pairs
  mutants --seeds 1`: 0 of 1,031 runs blamed or inconclusive, all mistakes found.
- The mistakes were known while the checker was written. Rules that others write to deceive it do
  better; the README lists what it cannot see.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from experiments.framework.run import Run
from experiments.gradcheck_corpus import harness
from experiments.gradcheck_corpus.baselines import BASELINES
from experiments.gradcheck_corpus.items import OURS, QUICK, STANDARD, Item, Record, load
from experiments.gradcheck_score import pictures, tables

PARTS = ("functions", "pairs", "mutants", "baselines", "power", "time")
_SLOW = 5  # times the limit, where an item has many parts
REASONS: dict[str, str] = {}
"""Why a mistake is not seen: of a mutant by its name, else by 'pair: mistake'."""


@dataclass(frozen=True)
class Settings:
    parts: tuple[str, ...] = PARTS
    """What to measure; 'baselines' are the other checkers, on the parts that are named beside."""
    seeds: int = 5
    """Of the right functions: each gives other arguments and other random directions."""
    baseline_seeds: int = 1
    """The same for the other checkers, and for the level quick."""
    dtypes: tuple[str, ...] = ("float32", "float64", "bfloat16")
    """Of the right functions, for our checker."""
    mutants: int = 4
    """Automatic mutants of each layer, at most."""
    every: int = 1
    """Take only every so many-th function, pair and layer."""
    entries: tuple[int, ...] = (10, 100, 1000, 10_000, 100_000, 1_000_000)
    """Of the gradient, along the power curve."""
    time_functions: int = 8
    """Functions on which the time is compared."""
    repetitions: int = 3
    """Of each time."""
    workers: int = 0
    """Processes, one thread each; 0: as many as there are cores."""
    limit: float = 120.0
    """Seconds for one item; what takes longer is 'not finished'. Five times this for a point of the
    power curve, with all its errors, and for the times of a function."""
    resume: Path | None = None
    """Folder of an earlier run of the same settings: what it has finished is taken from there."""
    corpus: str = "experiments.gradcheck_corpus"
    """Package with the modules functions, pairs and mutants, or one module with all."""

    def __post_init__(self):
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise ValueError(f"parts: must be some of {', '.join(PARTS)}, got {self.parts}")
        known = ("float32", "float64", "bfloat16", "float16")
        if not self.dtypes or any(dtype not in known for dtype in self.dtypes):
            raise ValueError(f"dtypes: must be some of {', '.join(known)}, got {self.dtypes}")
        counts = ("seeds", "baseline_seeds", "mutants", "every", "time_functions", "repetitions")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if not self.entries or min(self.entries) < 10:
            raise ValueError(f"entries: must be some numbers from 10 up, got {self.entries}")
        if self.workers < 0:
            raise ValueError(f"workers: must be 0 (all cores) or more, got {self.workers}")
        if self.limit <= 0:
            raise ValueError(f"limit: must be a positive number of seconds, got {self.limit}")
        if self.resume is not None and not (self.resume / "items.jsonl").is_file():
            raise ValueError(
                f"resume: must be the folder of an earlier run, with its items.jsonl, got "
                f"{self.resume}; leave it out to begin anew"
            )


# --- what there is to do ------------------------------------------------------------------------


def checkers(settings: Settings) -> dict[str, str]:
    """Names, and the dtype of the arguments that each is given for mistakes."""
    found = dict.fromkeys(OURS, "float32")
    if "baselines" in settings.parts:
        found |= {name: baseline.dtype for name, baseline in BASELINES.items()}
    return found


def of_functions(settings: Settings) -> list[list[Item]]:
    groups = []
    for function in list(load(settings.corpus, "FUNCTIONS").values())[:: settings.every]:
        groups.append([
            Item("functions", function.name, checker=checker, dtype=dtype, seed=seed)
            for checker, own in checkers(settings).items()
            for dtype in (settings.dtypes if checker == STANDARD else (own,))
            if dtype in function.dtypes
            for seed in range(settings.seeds if checker == STANDARD else settings.baseline_seeds)
        ])  # fmt: skip
    return groups


def of_pairs(settings: Settings) -> list[list[Item]]:
    pairs = list(load(settings.corpus, "PAIRS").values())[:: settings.every]
    return [_twins(settings, "pairs", pair.name, list(pair.mistakes)) for pair in pairs]


def of_layers(settings: Settings) -> list[list[Item]]:
    layers = list(load(settings.corpus, "mutants").SUBJECTS)[:: settings.every]
    return [[Item("list", layer, size=settings.mutants)] for layer in layers]


def _twins(settings: Settings, part: str, name: str, mistakes: Sequence[str], size: int = 0):
    return [
        Item(part, name, twin, checker, dtype, size=size)
        for checker, dtype in checkers(settings).items()
        for twin in ("", *mistakes)
    ]


def of_power(settings: Settings) -> list[list[Item]]:
    """Our level quick, and what else looks at the given arguments and the first order alone."""
    others = [
        (name, (baseline.dtype,))
        for name, baseline in BASELINES.items()
        if "baselines" in settings.parts and not baseline.everywhere and "order 2" not in name
    ]
    return [
        [
            Item("power", kind, checker=checker, dtype=dtype, size=size)
            for kind in ("dense", "single")
        ]
        for size in sorted(settings.entries, reverse=True)
        for checker, dtypes in [(QUICK, ("float32", "float64")), *others]
        for dtype in dtypes
        if size <= (BASELINES[checker].most if checker in BASELINES else size)
    ]


def of_time(settings: Settings) -> list[list[Item]]:
    """Functions of floating-point arrays alone, spread over the corpus."""
    plain = []
    for function in load(settings.corpus, "FUNCTIONS").values():
        if "float32" in function.dtypes and not function.settings:
            args = function.make_args(np.random.default_rng(0), np.float32)
            if all(getattr(a, "dtype", None) == np.float32 for a in jax.tree.leaves(args)):
                plain.append(function.name)
    places = np.linspace(0, len(plain) - 1, min(settings.time_functions, len(plain)))
    return [[Item("time", plain[int(i)], size=settings.repetitions)] for i in places]


# --- doing it -----------------------------------------------------------------------------------


def answers(
    settings: Settings,
    out: Run,
    groups: list[list[Item]],
    title: str,
    *,
    slow: int = 1,
    alone: bool = False,
) -> dict[Item, Record]:
    """What came of the items: from the earlier run, or found now; kept in items.jsonl."""
    known = _earlier(settings)
    found: dict[Item, Record] = {}
    with open(out.folder / "items.jsonl", "a", encoding="utf-8") as file:

        def keep(item: Item, record: Record) -> None:
            found[item] = record
            line = {"item": item.key} | record
            print(json.dumps(line, ensure_ascii=False), file=file, flush=True)

        for group in groups:
            for item in group:
                if item.key in known:
                    keep(item, known[item.key])
        left = [[item for item in group if item not in found] for group in groups]
        left = [group for group in left if group]
        work = harness.work(
            left, settings.corpus, out.folder, cached=not alone, limit=settings.limit * slow,
            workers=1 if alone else settings.workers or len(harness.cores()),
        )  # fmt: skip
        with contextlib.closing(work):
            for _ in out.progress(sum(map(len, left)), title):
                keep(*next(work))
    return found


def _earlier(settings: Settings) -> dict[str, Record]:
    found = {}
    if settings.resume is not None:
        for line in (settings.resume / "items.jsonl").read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # cut off when the run was
                continue
            found[record.pop("item")] = record
    return found


# --- the run ------------------------------------------------------------------------------------


def run(settings: Settings, out: Run) -> None:
    parts, shown = settings.parts, tables.Tables(out)
    functions = pairs = mutants = {}
    kinds: dict[str, str] = {}
    if "functions" in parts:
        functions = answers(settings, out, of_functions(settings), "right functions")
    if "pairs" in parts:
        pairs = answers(settings, out, of_pairs(settings), "mistakes by hand")
    if "mutants" in parts:
        listed = answers(settings, out, of_layers(settings), "finding automatic mutants")
        kinds = {name: kind for record in listed.values() for name, kind in record["mutants"]}
        groups = [
            _twins(
                settings, "mutants", item.name, [name for name, _ in record["mutants"]], item.size
            )
            for item, record in listed.items()
            if record["mutants"]
        ]
        mutants = answers(settings, out, groups, "automatic mutants")
        shown.dropped(listed)
    names = list(checkers(settings))
    if functions or pairs or mutants:
        shown.score(names, functions, pairs, mutants)
        pictures.bars(out, tables.rates(names, functions, pairs, mutants))
    if functions:
        shown.alarms(functions)
    if pairs or mutants:
        shown.kinds(names, pairs, mutants, kinds)
        shown.survivors(pairs | mutants, REASONS)
    if pairs:
        shown.localisation(pairs)
    if "power" in parts:
        power = answers(settings, out, of_power(settings), "power curve", slow=_SLOW)
        pictures.power(out, shown.power(power))
    if "time" in parts:
        times = answers(settings, out, of_time(settings), "times", slow=_SLOW, alone=True)
        pictures.times(out, shown.times(times))
    shown.aims()
    shown.write(out.folder / "summary.md", settings)
    shutil.rmtree(out.folder / "compiled", ignore_errors=True)  # hundreds of megabytes
