"""One item of gradcheck_score: one checker on one function, or on one twin of a pair."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from experiments.gradcheck_corpus import baselines
from experiments.gradcheck_corpus.kinds import Mistake, ruled
from jaxdl import gradcheck
from jaxdl.gradcheck.checks.levels import LEVELS

Record = dict[str, Any]

STANDARD, QUICK = "gradcheck", "gradcheck, quick"
OURS = {STANDARD: "standard", QUICK: "quick"}
"""Our checkers, and their levels."""
EPSILONS = tuple(10.0**-k for k in range(1, 14))


@dataclass(frozen=True)
class Item:
    """One call of one checker."""

    part: str
    """'functions', 'pairs', 'mutants', 'list', 'power' or 'time'."""
    name: str
    """Of the function, the pair or the layer; 'dense' or 'single' of the power curve."""
    twin: str = ""
    """The mistake; '' is the right twin."""
    checker: str = ""
    dtype: str = "float32"
    seed: int = 0
    size: int = 0
    """Mutants of a layer, entries of the gradient on the power curve, repetitions of a time."""

    @property
    def key(self) -> str:
        """One line that names it."""
        return json.dumps(list(asdict(self).values()), ensure_ascii=False)

    def rng(self) -> np.random.Generator:
        """Of the arguments."""
        return np.random.default_rng(self.seed)

    def float_dtype(self) -> Any:
        """Of the arguments."""
        return getattr(jnp, self.dtype)


def load(corpus: str, what: str) -> Any:
    """`FUNCTIONS` and `PAIRS` by name, or the module `mutants`: of a package, or of one module."""
    module = importlib.import_module(corpus)
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{corpus}.{what.lower()}")
    if what == "mutants":
        return module
    found = getattr(module, what)
    return {
        entry.name: entry for entry in (found.values() if isinstance(found, Mapping) else found)
    }


def evaluate(item: Item, corpus: str) -> Record:
    """What came of an item: its outcome, its seconds, and what is to be known about it."""
    start = time.perf_counter()
    try:
        with _mode(item):
            found = _PARTS[item.part](item, corpus)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        found = {"outcome": "refused", "text": f"{type(error).__name__}: {lines[0]}"[:300]}
    return found | {"seconds": round(time.perf_counter() - start, 3)}


@contextlib.contextmanager
def _mode(item: Item) -> Iterator[None]:
    """float64 where it is asked for; for baselines in all threads, so that callbacks have it."""
    if item.dtype != "float64":
        yield
        return
    before = jax.config.read("jax_enable_x64")
    try:
        if item.checker not in OURS:
            jax.config.update("jax_enable_x64", True)
        with jax.enable_x64(True):
            yield
    finally:
        jax.config.update("jax_enable_x64", before)


def _judge(item: Item, f: Any, args: Any, settings: Any, mistake: Mistake | None = None) -> Record:
    if item.checker not in OURS:
        return baselines.judge(item.checker, f, args, settings)
    asked: dict[str, Any] = {**settings, "level": OURS[item.checker], "seed": item.seed}
    report = gradcheck.check(f, *args, **asked, raises=False)
    found: Record = {"outcome": report.outcome}
    if report.outcome == "pass":
        return found
    bad = [finding for finding in report.findings if finding.outcome == report.outcome]
    text = str(report)
    found |= {"checks": sorted({finding.name for finding in bad}), "text": text[:3000]}
    if report.outcome == "fail" and mistake is not None:
        if mistake.leaf:
            found["named"] = all(finding.leaf.startswith(mistake.leaf) for finding in bad)
        if mistake.diagnosis is not None:
            found["diagnosed"] = bool(re.search(mistake.diagnosis, text))
    return found


def _function(item: Item, corpus: str) -> Record:
    function = load(corpus, "FUNCTIONS")[item.name]
    args = function.make_args(item.rng(), item.float_dtype())
    return _judge(item, function.f, args, function.settings)


def _pair(item: Item, corpus: str) -> Record:
    pair = load(corpus, "PAIRS")[item.name]
    args = pair.make_args(item.rng(), item.float_dtype())
    mistake = pair.mistakes[item.twin] if item.twin else None
    return _judge(item, mistake.f if mistake else pair.f, args, pair.settings, mistake)


@cache
def _sieved(corpus: str, layer: str, most: int) -> Any:
    return load(corpus, "mutants").sieved(layer, most)


def _list(item: Item, corpus: str) -> Record:
    """The mutants of a layer."""
    sieved = _sieved(corpus, item.name, item.size)
    dropped = (sieved.equivalents, sieved.at_kinks, sieved.twins)
    return {
        "outcome": "pass", "mutants": [[mutant.name, mutant.kind] for mutant in sieved.kept],
        "dropped": list(map(len, dropped)),
    }  # fmt: skip


def _mutant(item: Item, corpus: str) -> Record:
    kept = _sieved(corpus, item.name, item.size).kept
    mutant = next(m for m in kept if m.name == item.twin) if item.twin else kept[0]
    args = jax.tree.map(
        lambda a: a.astype(item.float_dtype()) if jnp.issubdtype(a.dtype, jnp.floating) else a,
        mutant.args,
    )
    return _judge(item, mutant.f if item.twin else mutant.right, args, {})


def _power(item: Item, corpus: str) -> Record:
    """Relative errors in a dense layer's weight gradient, ever smaller, until one is not seen."""
    columns = max(k for k in range(1, int(0.8 * item.size**0.5) + 1) if item.size % k == 0)
    shape = (item.size // columns, columns)  # never square
    rng, dtype = item.rng(), item.float_dtype()
    args = tuple(jnp.asarray(rng.normal(size=s), dtype) for s in ((4, shape[0]), shape))
    right = _judge(item, _dense(item.name, 0.0), args, {})
    if right["outcome"] != "pass":
        return right
    seen = []
    for epsilon in EPSILONS:
        if _judge(item, _dense(item.name, epsilon), args, {})["outcome"] != "fail":
            break
        seen.append(epsilon)
    return {"outcome": "pass", "seen": seen}


def _dense(kind: str, epsilon: float) -> Callable[..., Any]:
    """x·w; the gradient of w times 1 + epsilon, in all entries or in one in the middle."""

    def bwd(kept: Any, g: jax.Array) -> Any:
        x, w = kept
        dw = x.T @ g
        middle = dw.shape[0] // 2, dw.shape[1] // 2
        dw = dw * (1 + epsilon) if kind == "dense" else dw.at[middle].multiply(1 + epsilon)
        return g @ w.T, dw

    return ruled(lambda x, w: x @ w, lambda x, w: (x @ w, (x, w)), bwd)


def _time(item: Item, corpus: str) -> Record:
    """Seconds of `check_grads` and of every level, in turn, nothing compiled before."""
    function = load(corpus, "FUNCTIONS")[item.name]
    args = function.make_args(item.rng(), item.float_dtype())

    def of_jax() -> None:
        with contextlib.suppress(AssertionError):  # a false alarm
            check_grads(function.f, args, order=1, modes=("rev",))

    levels: dict[str, Any] = {level: {"level": level} for level in LEVELS}
    sides: dict[str, Callable[[], Any]] = {"check_grads": of_jax} | {
        level: lambda asked=asked: gradcheck.check(function.f, *args, **asked, raises=False)
        for level, asked in levels.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    order = item.rng()
    for _ in range(item.size):
        for name in order.permutation(list(sides)):
            jax.clear_caches()
            start = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - start)
    return {"outcome": "pass", "times": seconds}


_PARTS = {"functions": _function, "pairs": _pair, "mutants": _mutant, "list": _list,
          "power": _power, "time": _time}  # fmt: skip
