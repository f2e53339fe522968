"""What a check found, and how it is told."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

Outcome = Literal["pass", "fail", "inconclusive"]

_MOST_CELLS = 48  # rows and columns of an error map
_MOST_LEAVES = 8  # of so many the power is told one by one
_MOST_SAMPLES = 4  # so many are named


@dataclass(frozen=True)
class Finding:
    """One check at one sample."""

    name: str
    """Of the check, such as 'dot'."""
    outcome: Outcome | Literal["skipped"]
    sample: str = "given"
    """At which arguments."""
    leaf: str = ""
    """The argument leaf, or output, that is wrong."""
    index: tuple[int, ...] = ()
    """The worst entry of the leaf."""
    text: str = ""
    """What was expected and what came, in one or more lines."""
    figures: Mapping[str, float] = field(default_factory=dict)
    diagnosis: str = ""
    """What the wrong gradient looks like; empty where nothing fits."""
    replay: str = ""
    """The arguments of `check` that repeat it, beside those that were given."""
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Numbers to plot: the first over which the others are drawn, such as step and remainder."""
    errors: Sequence[Sequence[float]] = ()
    """log10 of |got − want| over the gradient's root mean square, in rows and columns: the leaf
    folded to two axes, the largest of each block where there are more than 48 rows or columns
    (`error_map`)."""

    @property
    def path(self) -> str:
        """Of the leaf, without its dtype and shape."""
        return self.leaf.split("  ")[0]


@dataclass(frozen=True)
class Report:
    """All findings of one call of `check`."""

    function: str
    rules: Sequence[str]
    """Functions with a hand-written rule that were found in it."""
    oracle: str
    """What the gradients were compared with."""
    level: str
    findings: Sequence[Finding]
    power: Mapping[str, float]
    """Smallest relative error of a leaf's gradient that would have been seen."""
    notes: Sequence[str] = ()
    """What the samples could not have shown, and other remarks."""
    seconds: float | None = None
    """How long the checks took, where somebody looked at the clock."""

    @property
    def outcome(self) -> Outcome:
        """'fail' if a check failed, else 'inconclusive' if one was, else 'pass'."""
        outcomes = {finding.outcome for finding in self.findings}
        if "fail" in outcomes:
            return "fail"
        return "inconclusive" if "inconclusive" in outcomes else "pass"

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts, numbers and strings; numbers that are not finite as text."""
        return {"outcome": self.outcome} | {f.name: _plain(getattr(self, f.name))
                                            for f in fields(self)}  # fmt: skip

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Report:
        """The inverse of `to_dict`; what it does not know is left out.

        Raises:
          ValueError: a field is missing.
        """
        known = {f.name for f in fields(cls)}
        missing = {"function", "rules", "oracle", "level", "findings", "power"} - record.keys()
        if missing:
            raise ValueError(
                f"gradcheck: a report must be a dict as Report.to_dict gives, got one without "
                f"{', '.join(sorted(missing))}; write it with to_dict or to_json"
            )
        values = {name: value for name, value in record.items() if name in known}
        values["findings"] = [_finding(each) for each in record["findings"]]
        values["power"] = {name: float(value) for name, value in record["power"].items()}
        return cls(**values)

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict` to a file."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1), encoding="utf-8")

    def to_html(self, path: str | Path) -> None:
        """Write it as a page that needs no other file; `write_html` puts several on one."""
        from jaxdl.gradcheck._html import write_html  # which imports this file

        write_html([self], path)

    def text(self, color: bool = False, width: int | None = None) -> str:
        """For people: what is wrong first, the same at other samples in one line.

        Args:
          color: whether heads are bold, and outcomes coloured, by ANSI sequences.
          width: of the terminal, at which long lines are broken; not at all by default.
        """
        lines = [f"gradcheck {self.outcome.upper()}  {self.function}   level: {self.level}"]
        lines.append(f"  rules   {', '.join(self.rules) or 'none by hand'}   against {self.oracle}")
        bad = [f for f in self.findings if f.outcome in ("fail", "inconclusive")]
        for head, others in folded(bad):
            title = f"  {head.outcome.upper()}  check: {head.name}   sample: {head.sample}"
            lines.append(f"{title}   replay: {head.replay}" if head.replay else title)
            lines += [f"    leaf    {head.leaf}"] if head.leaf else []
            lines += [f"    {line}" for line in head.text.splitlines()]
            lines += [f"    looks like  {head.diagnosis}"] if head.diagnosis else []
            lines += [f"    also    {also(head, others)}"] if others else []
        lines += [f"  power   {line}" for line in _power(self.power)]
        lines += [f"  note    {_continued(note)}" for note in self.notes]
        skipped = [f for f in self.findings if f.outcome == "skipped"]
        lines += list(dict.fromkeys(f"  skipped {f.name}: {_continued(f.text)}" for f in skipped))
        passed = {f.name for f in self.findings if f.outcome == "pass"} - {f.name for f in bad}
        count = len({f.name for f in skipped})
        checks = f"{'other ' if bad else ''}check{'' if len(passed) == 1 else 's'}"
        lines.append(f"  {len(passed)} {checks} passed, {count} skipped")
        lines = printable("\n".join(lines)).split("\n")
        text = "\n".join(wrapped(line, width) for line in lines)
        return painted(text) if color else text

    def __str__(self) -> str:
        return self.text()


def folded(findings: Iterable[Finding]) -> list[tuple[Finding, list[Finding]]]:
    """Findings that say the same as the first one and the others; failures first.

    The same are those of one check at one leaf, whatever the sample, unless their diagnoses
    differ; and those of any check at one leaf with one diagnosis, whatever the numbers in it.
    """
    groups: list[tuple[Finding, list[Finding]]] = []
    for finding in sorted(findings, key=lambda f: f.outcome != "fail"):
        same = next(
            (others for head, others in groups if _says_the_same(finding, head, others)), None
        )
        if same is None:
            groups.append((finding, []))
        else:
            same.append(finding)
    return groups


def _says_the_same(finding: Finding, head: Finding, others: Sequence[Finding]) -> bool:
    if (finding.outcome, finding.path) != (head.outcome, head.path):
        return False
    this, that = (re.sub(r"[\d.]+", "#", f.diagnosis) for f in (finding, head))
    if this:
        return this == that
    return any(finding.name == f.name for f in (head, *others))


def also(head: Finding, others: Sequence[Finding]) -> str:
    """Where the finding came again, in a few words."""
    said = []
    for name in dict.fromkeys(f.name for f in others):
        samples = [f.sample for f in others if f.name == name]
        again = samples.count(head.sample) if name == head.name else 0
        if again:
            said.append(f"{again} {'time' if again == 1 else 'times'} more at this sample")
        samples = list(dict.fromkeys(s for s in samples if name != head.name or s != head.sample))
        if not samples:
            continue
        more = len(samples) - _MOST_SAMPLES
        named = "; ".join(samples[:_MOST_SAMPLES]) + (f"; {more} more" if more > 0 else "")
        which = "other " if name == head.name else ""
        plural = "" if len(samples) == 1 else "s"
        check = "" if name == head.name else f"check {name} "
        said.append(f"{check}at {len(samples)} {which}sample{plural} ({named})")
    return ", ".join(said)


def brief(report: Report) -> str:
    """The worst finding in a few words; empty for a pass."""
    bad = folded(f for f in report.findings if f.outcome in ("fail", "inconclusive"))
    if not bad:
        return ""
    head, _ = bad[0]
    first = re.sub(r"^\w+ {2,}", "", (head.text.splitlines() or [""])[0])
    where = f"{head.name}, {head.path}" if head.path else head.name
    return printable(f"{where}: {head.diagnosis or first}").replace("\n", " ")


def weakest_power(report: Report) -> float | None:
    """The largest power of a leaf that has one."""
    return max(filter(math.isfinite, report.power.values()), default=None)


def weakest(reports: Mapping[str, Report] | Iterable[tuple[str, Report]]) -> str:
    """The largest power among all leaves, and whose; or that there is none."""
    pairs = reports.items() if isinstance(reports, Mapping) else reports
    all_ = [(value, leaf, name) for name, report in pairs for leaf, value in report.power.items()]
    finite = [row for row in all_ if math.isfinite(row[0])]
    if not finite:
        return "none"
    value, leaf, name = max(finite, key=lambda row: row[0])
    without = len(all_) - len(finite)
    more = f"; {without} {'leaf' if without == 1 else 'leaves'} without" if without else ""
    return printable(f"{value:.0e}, {leaf} of {name}{more}")


def error_map(got: Any, want: Any) -> list[list[float]]:
    """`Finding.errors` of a leaf: +inf where either is no number, -inf where they are the same.

    The last axis is that of the columns, the others are folded into the rows; a vector is a row.
    """
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if not got.size:
        return []
    sizes = np.abs(np.where(np.isfinite(want), want, 0))
    largest = float(sizes.max()) or 1.0
    size = largest * float(np.sqrt(np.mean(np.square(sizes / largest))))  # squares may overflow
    with np.errstate(all="ignore"):
        error = np.abs(got - want) / (size or 1.0)
        error = np.where(np.isfinite(error), error, np.inf)
        error = np.where((got == want) | (np.isnan(got) & np.isnan(want)), 0.0, error)
        table = np.log10(error).reshape(-1, got.shape[-1] if got.ndim else 1)
    for axis, length in enumerate(table.shape):
        table = np.maximum.reduceat(table, range(0, length, _block(length)), axis=axis)
    return table.tolist()


def cell_of(index: Sequence[int], shape: Sequence[int]) -> tuple[int, int]:
    """Row and column of an entry in the `error_map` of a leaf of that shape."""
    rows, columns = map_shape(shape)
    flat = int(np.ravel_multi_index(tuple(index), tuple(shape))) if len(shape) else 0
    return flat // columns // _block(rows), flat % columns // _block(columns)


def map_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a leaf, before blocks of them are put together."""
    return math.prod(shape[:-1]), shape[-1] if len(shape) else 1


def blocks(shape: Sequence[int]) -> tuple[int, int]:
    """How many rows and columns of a leaf are in one cell of its `error_map`."""
    rows, columns = map_shape(shape)
    return _block(rows), _block(columns)


def _block(length: int) -> int:
    return max(1, -(-length // _MOST_CELLS))


def printable(text: str) -> str:
    """Control characters, which a terminal would obey, as escapes."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )


def wrapped(line: str, width: int | None) -> str:
    """A line broken at a width; what follows stands under the text, not under its label."""
    if width is None or len(line) <= width:
        return line
    label = re.match(r" *(looks like  |\S+ {2,}|skipped )?", line)
    hang = min(len(label.group()) if label else 0, width // 3)
    return "\n".join(textwrap.wrap(
        line, width, subsequent_indent=" " * hang, break_long_words=False, break_on_hyphens=False
    ))  # fmt: skip


_COLORS = {"pass": "32", "fail": "31", "inconclusive": "33"}
_HEAD = re.compile(r"^(gradcheck |  )(PASS|FAIL|INCONCLUSIVE)(  .*)?$", re.MULTILINE)


def painted(text: str) -> str:
    """A report with bold heads and coloured outcomes for a terminal."""
    return _HEAD.sub(
        lambda m: f"\x1b[1m{m[1]}{paint(m[2], m[2].lower())}\x1b[1m{m[3] or ''}\x1b[0m", text
    )


def paint(text: str, outcome: str) -> str:
    """Text in the colour of an outcome; as it is for others."""
    code = _COLORS.get(outcome)
    return f"\x1b[1;{code}m{text}\x1b[0m" if code else text


def _power(power: Mapping[str, float]) -> list[str]:
    leaves = list(power.items())
    if len(leaves) > _MOST_LEAVES:
        leaves = sorted(leaves, key=lambda row: -row[1])[: _MOST_LEAVES - 1]
    lines = [
        f"{leaf}: a relative error of {value:.0e} would have been seen"
        if math.isfinite(value) else f"{leaf}: no error would have been seen"
        for leaf, value in leaves
    ]  # fmt: skip
    more = len(power) - len(leaves)
    return [*lines, f"{more} other leaves: smaller errors"] if more else lines


def _continued(text: str) -> str:
    return text.replace("\n", "\n    ")


def _plain(value: Any) -> Any:
    if isinstance(value, Finding):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, str | bool | None):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        value = float(value)
        return value if math.isfinite(value) else str(value)
    return [_plain(each) for each in value]


def _finding(record: Mapping[str, Any]) -> Finding:
    known = {f.name for f in fields(Finding)}
    values = {name: value for name, value in record.items() if name in known}
    values["figures"] = {key: float(value) for key, value in values.get("figures", {}).items()}
    values["curves"] = {
        key: [float(value) for value in row] for key, row in values.get("curves", {}).items()
    }
    values["errors"] = [[float(value) for value in row] for row in values.get("errors", ())]
    values["index"] = tuple(values.get("index", ()))
    return Finding(**values)
