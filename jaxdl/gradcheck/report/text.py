"""How a report is told to people: in full, in a few words, and in the colours of a terminal."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from jaxdl.gradcheck.report.findings import Finding, Findings

_MOST_LEAVES = 8  # of so many the power is told one by one
_MOST_SAMPLES = 4  # so many are named


def told(report: Findings, color: bool, width: int | None) -> str:
    """What `Report.text` gives."""
    lines = [f"gradcheck {report.outcome.upper()}  {report.function}   level: {report.level}"]
    lines.append(f"  rules   {', '.join(report.rules) or 'none by hand'}   against {report.oracle}")
    bad = [f for f in report.findings if f.outcome in ("fail", "inconclusive")]
    for head, others in folded(bad):
        title = f"  {head.outcome.upper()}  check: {head.name}   sample: {head.sample}"
        lines.append(f"{title}   replay: {head.replay}" if head.replay else title)
        lines += [f"    leaf    {head.leaf}"] if head.leaf else []
        lines += [f"    {line}" for line in head.text.splitlines()]
        lines += [f"    looks like  {head.diagnosis}"] if head.diagnosis else []
        lines += [f"    also    {also(head, others)}"] if others else []
    lines += [f"  power   {line}" for line in _power(report.power)]
    lines += [f"  note    {_continued(note)}" for note in report.notes]
    skipped = [f for f in report.findings if f.outcome == "skipped"]
    lines += list(dict.fromkeys(f"  skipped {f.name}: {_continued(f.text)}" for f in skipped))
    passed = {f.name for f in report.findings if f.outcome == "pass"} - {f.name for f in bad}
    count = len({f.name for f in skipped})
    checks = f"{'other ' if bad else ''}check{'' if len(passed) == 1 else 's'}"
    lines.append(f"  {len(passed)} {checks} passed, {count} skipped")
    lines = printable("\n".join(lines)).split("\n")
    text = "\n".join(wrapped(line, width) for line in lines)
    return painted(text) if color else text


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


def brief(report: Findings) -> str:
    """The worst finding in a few words; empty for a pass."""
    bad = folded(f for f in report.findings if f.outcome in ("fail", "inconclusive"))
    if not bad:
        return ""
    head, _ = bad[0]
    first = re.sub(r"^\w+ {2,}", "", (head.text.splitlines() or [""])[0])
    where = f"{head.name}, {head.path}" if head.path else head.name
    return printable(f"{where}: {head.diagnosis or first}").replace("\n", " ")


def weakest_power(report: Findings) -> float | None:
    """The largest power of a leaf that has one."""
    return max(filter(math.isfinite, report.power.values()), default=None)


def weakest(reports: Iterable[tuple[str, Findings]]) -> str:
    """The largest power among all leaves of reports by name, and whose; or that there is none."""
    all_ = [(value, leaf, name) for name, report in reports for leaf, value in report.power.items()]
    finite = [row for row in all_ if math.isfinite(row[0])]
    if not finite:
        return "none"
    value, leaf, name = max(finite, key=lambda row: row[0])
    without = len(all_) - len(finite)
    more = f"; {without} {'leaf' if without == 1 else 'leaves'} without" if without else ""
    return printable(f"{value:.0e}, {leaf} of {name}{more}")


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
