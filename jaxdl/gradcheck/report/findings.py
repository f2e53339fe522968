"""What a check found, as data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

import numpy as np

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
class Findings:
    """All findings of one call of `check`, and what they were found with."""

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
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
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
