"""What a check found, and how it is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["pass", "fail", "inconclusive"]


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
    figures: dict[str, float] = field(default_factory=dict)
    diagnosis: str = ""
    """What the wrong gradient looks like; empty where nothing fits."""
    replay: str = ""
    """The arguments of `check` that repeat it, beside those that were given."""


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
    power: dict[str, float]
    """Smallest relative error of a leaf's gradient that would have been seen."""
    notes: Sequence[str] = ()
    """What the samples could not have shown, and other remarks."""

    @property
    def outcome(self) -> Outcome:
        """'fail' if a check failed, else 'inconclusive' if one was, else 'pass'."""
        outcomes = {finding.outcome for finding in self.findings}
        if "fail" in outcomes:
            return "fail"
        return "inconclusive" if "inconclusive" in outcomes else "pass"

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts, numbers and strings; numbers that are not finite as text."""
        findings = [
            asdict(finding)
            | {"index": list(finding.index)}
            | {"figures": {name: _finite(value) for name, value in finding.figures.items()}}
            for finding in self.findings
        ]
        return asdict(self) | {
            "outcome": self.outcome,
            "rules": list(self.rules),
            "findings": findings,
            "power": {name: _finite(value) for name, value in self.power.items()},
            "notes": list(self.notes),
        }

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict` to a file."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1), encoding="utf-8")

    def __str__(self) -> str:
        bad = [f for f in self.findings if f.outcome in ("fail", "inconclusive")]
        passed = {f.name for f in self.findings if f.outcome == "pass"} - {f.name for f in bad}
        skipped = [f for f in self.findings if f.outcome == "skipped"]
        lines = [f"gradcheck {self.outcome.upper()}  {self.function}   level: {self.level}"]
        lines.append(f"  rules   {', '.join(self.rules) or 'none by hand'}   against {self.oracle}")
        shown: set[tuple[str, str, str]] = set()
        for finding in bad:
            if (finding.name, finding.leaf, finding.diagnosis) in shown:
                continue  # the same at another sample
            shown.add((finding.name, finding.leaf, finding.diagnosis))
            head = f"  {finding.outcome.upper()}  check: {finding.name}   sample: {finding.sample}"
            lines.append(f"{head}   replay: {finding.replay}" if finding.replay else head)
            if finding.leaf:
                lines.append(f"    leaf    {finding.leaf}")
            lines += [f"    {line}" for line in finding.text.splitlines()]
            if finding.diagnosis:
                lines.append(f"    looks like  {finding.diagnosis}")
        for leaf, value in self.power.items():
            lines.append(f"  power   {leaf}: a relative error of {value:.0e} would have been seen")
        lines += [f"  note    {note}" for note in self.notes]
        lines += [f"  skipped {finding.name}: {finding.text}" for finding in skipped]
        lines.append(f"  {len(passed)} checks passed, {len(skipped)} skipped")
        return "\n".join(lines)


def _finite(value: float) -> float | str:
    return value if value == value and abs(value) != float("inf") else str(value)
