"""Breaks the checker in one place after another and sees whether its own tests notice.

    python -m tests.gradcheck.mutate_gradcheck [--only TEXT] [--part K/N] [--jobs N]

Each check is dropped once, and each reducer's contract; the outcomes of each, of the vote and of
the report are swapped. The sentinels run first, the other tests of the checker only where no
sentinel has noticed. The exit code is 1 if a mutation survived, or if a test fails without one.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.gradcheck._gradcheck_mutation import CHECKS, VARIABLE, mutations, part_of

HERE = Path(__file__).parent
SENTINELS = HERE / "checks" / "test_gradcheck_sentinels.py"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m tests.gradcheck.mutate_gradcheck",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", help="mutations whose names hold this text")
    parser.add_argument("--part", default="0/1", help="every N-th mutation, from the K-th on")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    options = parser.parse_args(arguments)
    chosen = [name for name in mutations() if options.only in name]
    first, of = map(int, options.part.split("/"))
    chosen = chosen[first % of :: of]
    if not chosen:
        print(f"no mutation holds {options.only!r}; there are {', '.join(mutations())}")
        return 2
    failed = _run("", [SENTINELS])
    if failed:
        print(f"without a mutation {failed} fails: mend it first")
        return 1
    width = max(map(len, chosen))
    survived = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for name, by in zip(chosen, pool.map(caught_by, chosen), strict=True):
            print(f"{name:{width}}  {f'caught    {by}' if by else 'SURVIVED'}", flush=True)
            if not by:
                survived.append(name)
    print(f"{len(chosen)} mutations, {len(survived)} survived")
    return 1 if survived else 0


def caught_by(mutation: str) -> str:
    """The first test that fails with the checker broken; '' if none does."""
    corpus = HERE / "corpus"  # tests of the set of functions and its score, not of the checker
    others = [
        path
        for path in sorted(HERE.rglob("test_gradcheck*.py"))
        if path != SENTINELS and corpus not in path.parents
    ]
    alone = part_of(mutation) in CHECKS or part_of(mutation) in ("power", "vote", "report")
    return (alone and _run(mutation, [SENTINELS])) or _run(mutation, others)


def _run(mutation: str, files: Sequence[Path]) -> str:
    plugin = "tests.gradcheck._gradcheck_mutation"
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", plugin, "-p",
               "no:cacheprovider", *map(str, files)]  # fmt: skip
    done = subprocess.run(
        command, cwd=HERE.parents[1], env=os.environ | {VARIABLE: mutation}, encoding="utf-8",
        capture_output=True,
    )  # fmt: skip
    if done.returncode == 0:
        return ""
    found = re.search(r"^(?:FAILED|ERROR) (\S+::\S+)", done.stdout, re.MULTILINE)
    if done.returncode != 1 or not found:
        raise RuntimeError(f"mutate_gradcheck: pytest could not run:\n{done.stdout}{done.stderr}")
    return found.group(1)


if __name__ == "__main__":
    sys.exit(main())
