"""Runs the items of gradcheck_score in worker processes, each of which computes on one thread.

Each has two devices, without which some mistakes are none. Programs that run once are compiled
without optimisation; those that are timed are compiled as usual.

Items come in groups that share code (all of one function, of one layer): a worker takes a whole
group, so that what is compiled for one item is there for the next. An item that takes too long
ends its process and counts as 'not finished'; the group goes on in a new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from experiments.gradcheck_corpus.items import Item, Record, evaluate

_ROOT = Path(__file__).resolve().parents[2]
_START_LIMIT = 300.0  # seconds until a new process must be ready
_MOST_ITEMS = 300  # of one process: what it has compiled stays in memory
# XLA reads no flag after a word that is none
FLAGS = "--xla_cpu_multi_thread_eigen=false --xla_force_host_platform_device_count=2"


def work(
    groups: Sequence[Sequence[Item]],
    corpus: str,
    folder: Path,
    *,
    workers: int,
    limit: float,
    cached: bool = True,
) -> Generator[tuple[Item, Record]]:
    """Every item and what came of it, in the order in which they end.

    Args:
      groups: of items that one worker shall do one after another.
      corpus: a package with the modules functions, pairs and mutants, or one module with all.
      folder: for what the processes print, and for compiled programs.
      workers: how many processes.
      limit: seconds for one item.
      cached: whether compiled programs are kept on disk.

    Raises:
      RuntimeError: a process could not be started.
    """
    waiting: queue.SimpleQueue[Sequence[Item]] = queue.SimpleQueue()
    for group in groups:
        waiting.put(group)
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()
    places, stopped = cores(), threading.Event()
    compiled = folder.resolve() / "compiled" if cached else None
    pool = [_Worker(corpus, places[i % len(places)], compiled, folder / "workers.log")
            for i in range(min(workers, len(groups)))]  # fmt: skip

    def serve(worker: _Worker) -> None:
        try:
            while True:
                for item in waiting.get_nowait():
                    if stopped.is_set():
                        return
                    found.put((item, worker.ask(item, limit)))
        except queue.Empty:
            return
        except Exception as error:
            found.put(error)

    threads = [threading.Thread(target=serve, args=(worker,), daemon=True) for worker in pool]
    for thread in threads:
        thread.start()
    try:
        for _ in range(sum(map(len, groups))):
            answer = found.get()
            if isinstance(answer, Exception):
                raise answer
            yield answer
    finally:
        stopped.set()
        for worker in pool:
            worker.kill()
        for thread in threads:
            thread.join()
        for worker in pool:
            worker.close()


def cores() -> list[int]:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


class _Worker:
    """A process that is started when it is needed, and again after it was ended."""

    def __init__(self, corpus: str, core: int, compiled: Path | None, log: Path):
        self._command = [sys.executable, "-m", "experiments.gradcheck_corpus.harness", corpus,
                         str(core), str(compiled or "")]  # fmt: skip
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self._done = 0
        self._ended = False

    def ask(self, item: Item, limit: float) -> Record:
        """What came of an item."""
        if self._process is None or self._done >= _MOST_ITEMS:
            self.close()
            self._start()
        self._done += 1
        line, late = self._exchange(limit, json.dumps(asdict(item)))
        if line:
            return json.loads(line)
        self.close()
        if late:
            return {"outcome": "not finished", "seconds": limit}
        return {"outcome": "refused", "text": f"its process ended, see {self._log.name}"}

    def kill(self) -> None:
        """End the process at once, whoever waits for it, and start no other."""
        self._ended = True
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the process and let go of it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if stream is not None:
                        stream.close()

    def _start(self) -> None:
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip(),
            "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
        }  # fmt: skip
        with open(self._log, "a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                self._command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, text=True, encoding="utf-8",
            )  # fmt: skip
        self._done = 0
        if self._ended:
            self._process.kill()
        if not self._exchange(_START_LIMIT)[0]:
            self.close()
            raise RuntimeError(f"gradcheck_score: no worker could be started; see {self._log}")

    def _exchange(self, limit: float, question: str = "") -> tuple[str, bool]:
        """The next line that it writes, and whether it was ended for taking too long."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(limit, end)
        timer.start()
        try:
            if question:
                process.stdin.write(question + "\n")
                process.stdin.flush()
            return process.stdout.readline(), late.is_set()
        except OSError:
            return "", late.is_set()
        finally:
            timer.cancel()


def _serve(corpus: str, core: str, compiled: str) -> None:
    """Answer items, one in a line, until there are no more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a function prints must not come among the answers
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core)})
    if compiled:
        jax.config.update("jax_compilation_cache_dir", compiled)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.devices()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(evaluate(Item(**json.loads(line)), corpus)), file=answers, flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
