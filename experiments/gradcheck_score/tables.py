"""Counting of gradcheck_score, and its tables: in the report, and as Markdown in summary.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from experiments.framework.run import Run
from experiments.framework.values import write_text
from experiments.gradcheck_corpus.items import OURS, STANDARD, Item, Record

Records = Mapping[Item, Record]
MOST_RATIO = {"quick": 3.0, "standard": 15.0, "full": 60.0}


# --- counting -----------------------------------------------------------------------------------


def judged(records: Records) -> dict[Item, str]:
    """Every mistake for every checker: 'killed', 'survived', or why it is neither.

    Killed is only what fails while the right twin passes. An error that another checker raises on
    the wrong twin counts for it as well: its user would have been told.
    """
    right = {(i.part, i.name, i.checker): r["outcome"] for i, r in records.items() if not i.twin}
    found = {}
    for item, record in records.items():
        if not item.twin:
            continue
        outcome, twin = record["outcome"], right.get((item.part, item.name, item.checker))
        if "left out" in (outcome, twin):
            found[item] = "left out"
        elif twin != "pass":
            found[item] = "right twin not passed"
        elif outcome == "fail" or (outcome == "refused" and item.checker not in OURS):
            found[item] = "killed"
        else:
            found[item] = "survived" if outcome == "pass" else outcome
    return found


def share(outcomes: Iterable[str], wanted: str) -> tuple[int, int]:
    """How many are `wanted`, of how many that the checker could be given."""
    given = [outcome for outcome in outcomes if outcome != "left out"]
    return sum(outcome == wanted for outcome in given), len(given)


def rates(
    names: Sequence[str], functions: Records, pairs: Records, mutants: Records
) -> dict[str, dict[str, tuple[int, int]]]:
    """Of every checker: false alarms, and mistakes killed by hand and automatic; (k, of n)."""
    verdicts = judged({**pairs, **mutants})
    return {
        name: {
            "false alarms": share(
                (r["outcome"] for i, r in functions.items() if i.checker == name), "fail"
            ),
            "by hand": share((v for i, v in verdicts.items()
                              if (i.checker, i.part) == (name, "pairs")), "killed"),
            "automatic": share((v for i, v in verdicts.items()
                                if (i.checker, i.part) == (name, "mutants")), "killed"),
        }
        for name in names
    }  # fmt: skip


def _of(pair: tuple[int, int]) -> str | None:
    count, total = pair
    return f"{count} of {total} ({100 * count / total:.3g} %)" if total else None


# --- tables -------------------------------------------------------------------------------------


@dataclass
class Tables:
    """Each method shows a table, records its figures, and keeps it for the summary."""

    out: Run
    lines: list[str] = field(default_factory=list)
    aimed: list[list[Any]] = field(default_factory=list)
    """What was aimed at: aim, bound, found, whether it holds."""

    def add(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Show a table."""
        rows = [["–" if cell is None else str(cell) for cell in row] for row in rows]
        self.out.table(title, columns, rows)
        clean = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
        self.lines += [
            f"### {title}",
            "",
            f"| {' | '.join(columns)} |",
            "|---" * len(columns) + "|",
        ]
        self.lines += [f"| {' | '.join(row)} |" for row in clean] + [""]

    def score(
        self, names: Sequence[str], functions: Records, pairs: Records, mutants: Records
    ) -> None:
        """Ours against the others."""
        found, rows = rates(names, functions, pairs, mutants), []
        for name in names:
            outcomes = Counter(r["outcome"] for i, r in functions.items() if i.checker == name)
            given = sum(outcomes.values()) - outcomes["left out"]
            others = [_of((outcomes[o], given)) for o in ("inconclusive", "refused")]
            rows.append([name, _of(found[name]["false alarms"]), *others,
                         _of(found[name]["by hand"]), _of(found[name]["automatic"])])  # fmt: skip
            if name == STANDARD and given:
                self.aim("false alarms", "0", outcomes["fail"], outcomes["fail"] == 0)
                part = outcomes["inconclusive"] / given
                self.aim(
                    "inconclusive on right functions", "< 2 %", f"{100 * part:.2g} %", part < 0.02
                )
        columns = ["checker", "false alarms", "inconclusive", "could not run",
                   "mistakes by hand found", "automatic mutants found"]  # fmt: skip
        self.add("Score: right functions blamed, wrong rules found", columns, rows)
        self.out.result("score", found)
        for what, bound in (("by hand", 0.97), ("automatic", 0.95)):
            killed, total = found[STANDARD][what]
            if total:
                text = f"mistakes {what} found" if what == "by hand" else "automatic mutants found"
                self.aim(
                    text, f"≥ {100 * bound:.0f} %", _of((killed, total)), killed >= bound * total
                )

    def alarms(self, functions: Records) -> None:
        """Our outcomes on right functions by dtype, and every one that is no pass."""
        ours = {i: r for i, r in functions.items() if i.checker == STANDARD}
        kinds = ("pass", "fail", "inconclusive", "refused", "not finished")
        rows = []
        for dtype in dict.fromkeys(i.dtype for i in ours):
            outcomes = Counter(r["outcome"] for i, r in ours.items() if i.dtype == dtype)
            of_dtype = {i.name for i in ours if i.dtype == dtype}
            rows.append([dtype, len(of_dtype), *(outcomes[kind] for kind in kinds)])
        self.add("Right functions, by dtype", ["dtype", "functions", *kinds], rows)
        self.out.result(
            "right_functions", {row[0]: dict(zip(kinds, row[2:], strict=True)) for row in rows}
        )
        grouped: dict[tuple[str, str, str, str], list[int]] = {}
        for item, record in ours.items():
            if record["outcome"] != "pass":
                why = ", ".join(record.get("checks", [])) or record.get("text", "")[:100]
                grouped.setdefault((item.name, item.dtype, record["outcome"], why), []).append(
                    item.seed
                )
        rows = [[*key, ", ".join(map(str, sorted(seeds)))] for key, seeds in grouped.items()]
        if rows:
            columns = ["function", "dtype", "outcome", "checks", "seeds"]
            self.add("Right functions that did not pass", columns, rows)

    def kinds(
        self, names: Sequence[str], pairs: Records, mutants: Records, kinds: Mapping[str, str]
    ) -> None:
        """Which checker finds which kind of mistake."""
        verdicts = judged({**pairs, **mutants})
        shown = [name for name in names if "our points" not in name]
        groups: dict[str, dict[str, list[str]]] = {}
        for item, verdict in verdicts.items():
            kind = "by hand" if item.part == "pairs" else kinds[item.twin]
            groups.setdefault(kind, {}).setdefault(item.checker, []).append(verdict)
        rows = []
        for kind, by_checker in sorted(groups.items(), key=lambda group: group[0] != "by hand"):
            counts = [share(by_checker.get(name, []), "killed") for name in shown]
            rows.append([kind, len(by_checker[STANDARD]),
                         *(f"{100 * k / n:.0f} %" if n else None for k, n in counts)])  # fmt: skip
        self.add("Share found, by kind of mistake", ["kind", "number", *shown], rows)

    def survivors(self, records: Records, reasons: Mapping[str, str]) -> None:
        """Every mistake that we did not find, and why."""
        rows = []
        for item, verdict in judged(records).items():
            if item.checker == STANDARD and verdict not in ("killed", "left out"):
                name = item.twin if item.part == "mutants" else f"{item.name}: {item.twin}"
                rows.append([name, verdict, reasons.get(name, "not known")])
        if rows:
            self.add("Mistakes not found by gradcheck", ["mistake", "outcome", "reason"], rows)
        self.out.result("survivors", [row[0] for row in rows])

    def localisation(self, pairs: Records) -> None:
        """Whether the right leaf is named, and the right mistake."""
        killed = {i: pairs[i] for i, v in judged(pairs).items()
                  if v == "killed" and i.checker == STANDARD}  # fmt: skip
        rows = []
        for what, text in (("named", "only the wrong leaves are named"),
                           ("diagnosed", "the report names the mistake")):  # fmt: skip
            asked = {i: r[what] for i, r in killed.items() if what in r}
            misses = ", ".join(f"{i.name}: {i.twin}" for i, good in asked.items() if not good)
            rows.append([text, _of((sum(asked.values()), len(asked))), misses or None])
            self.out.result(what, [sum(asked.values()), len(asked)])
        self.add("Of the mistakes found, by hand", ["what is told", "right", "not"], rows)

    def dropped(self, listed: Records) -> None:
        """How the automatic mutants were chosen."""
        kept = sum(len(r["mutants"]) for r in listed.values())
        columns = ["layers", "mutants kept", "equivalent", "only at kinks", "twins of others"]
        dropped = np.sum([r["dropped"] for r in listed.values()], axis=0)
        self.add("Automatic mutants", columns, [[len(listed), kept, *map(int, dropped)]])

    def power(self, records: Records) -> dict[str, dict[str, dict[int, float | None]]]:
        """Panel (kind of error and dtype) → checker → entries → smallest error seen."""
        found: dict[str, dict[str, dict[int, float | None]]] = {}
        for item, record in records.items():
            panel = {"dense": "all entries", "single": "one entry"}[item.name] + f", {item.dtype}"
            name = item.checker.removesuffix(f" {item.dtype}")
            seen = min(record.get("seen", []), default=None)  # none where the right rule is blamed
            found.setdefault(panel, {}).setdefault(name, {})[item.size] = seen
        sizes = sorted({item.size for item in records})

        def cell(seen: Mapping[int, float | None], size: int) -> str | None:
            least = seen.get(size)
            return f"{least:.0e}" if least else "none" if size in seen else None

        rows = [
            [panel, name, *(cell(seen, size) for size in sizes)]
            for panel, curves in sorted(found.items())
            for name, seen in curves.items()
        ]
        columns = ["error in", "checker", *(f"n = {n:,}" for n in sizes)]
        self.add("Smallest relative error seen in a gradient of n entries", columns, rows)
        self.out.result("power", found)
        return {panel: found[panel] for panel in sorted(found)}

    def times(self, records: Records) -> dict[str, list[float]]:
        """Level → ratio to check_grads, function by function."""
        found: dict[str, list[float]] = {}
        for record in records.values():
            for level, seconds in record.get("times", {}).items():
                if level != "check_grads":
                    ratio = np.array(seconds) / np.array(record["times"]["check_grads"])
                    found.setdefault(level, []).append(float(np.median(ratio)))
        rows = []
        for level, ratios in found.items():
            low, middle, high = np.percentile(ratios, [25, 50, 75])
            rows.append([level, len(ratios), f"{middle:.1f}", f"{low:.1f} to {high:.1f}"])
            bound = MOST_RATIO.get(level)
            if bound is not None:
                self.aim(f"time, level {level}", f"≤ {bound:g}", f"{middle:.1f}", middle <= bound)
        columns = ["level", "functions", "median", "quartiles"]
        self.add("Time over that of check_grads, nothing compiled before", columns, rows)
        self.out.result("time_ratio", found)
        return found

    def aim(self, what: str, bound: str, found: Any, holds: bool) -> None:
        """Note what was aimed at and what was found."""
        self.aimed.append([what, bound, str(found), "yes" if holds else "no"])

    def aims(self) -> None:
        """What was aimed at, and what was found."""
        if self.aimed:
            self.add("Aims", ["of gradcheck", "aim", "found", "holds"], self.aimed)
            self.out.result("aims", {row[0]: row[1:] for row in self.aimed})

    def write(self, path: Path, settings: Any) -> None:
        """The summary, with the command that makes it."""
        changed = [
            f"--{f.name.replace('_', '-')} {_argument(getattr(settings, f.name))}"
            for f in fields(settings)
            if f.name != "resume" and f.default is not MISSING
            and getattr(settings, f.name) != f.default
        ]  # fmt: skip
        command = " ".join(["python -m experiments gradcheck_score", *changed])
        text = ["Made by", "", f"    {command}", "", *self.lines]
        write_text(path, "\n".join(text))


def _argument(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
