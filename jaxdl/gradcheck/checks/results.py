"""What a check returns: findings, remarks, and what it saw that later checks need to know."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from jaxdl.gradcheck.report.findings import Finding


class Note(NamedTuple):
    """A remark for the report."""

    text: str


@dataclass(frozen=True)
class Seen:
    """What is known about the gradients at the given arguments."""

    power: Mapping[str, float] = field(default_factory=dict)
    """By leaf, the smallest relative error that would have been seen."""
    sizes: Sequence[float] = ()
    """Of the gradients, leaf by leaf."""
    wrong: frozenset[str] = frozenset()
    """Leaves whose gradient is wrong, or may be."""
    doubtful: frozenset[str] = frozenset()
    """Leaves about which the vote was open: the reference says nothing."""
    loose: bool = False
    """Whether f iterates, and ends before it has come to rest: its rule gives the limit's gradient,
    which is not to be compared to the last digit."""

    def __or__(self, other: Seen) -> Seen:
        """Both together: the best power, the largest sizes."""
        power = dict(self.power)
        for name, value in other.power.items():
            power[name] = min(power.get(name, np.inf), value)
        both = self.sizes and other.sizes
        return Seen(
            power,
            list(map(max, self.sizes, other.sizes)) if both else self.sizes or other.sizes,
            self.wrong | other.wrong,
            self.doubtful | other.doubtful,
            self.loose or other.loose,
        )


Result = Finding | Note | Seen


def findings_of(results: Iterable[Result]) -> Iterator[Finding]:
    """The findings among what a check returns."""
    return (result for result in results if isinstance(result, Finding))


@dataclass(frozen=True)
class Found:
    """What checks have returned, by kind."""

    findings: Sequence[Finding] = ()
    notes: Sequence[str] = ()
    seen: Seen = field(default_factory=Seen)

    def and_then(self, results: Iterable[Result]) -> Found:
        """This, and what another check returned."""
        findings, notes, seen = list(self.findings), list(self.notes), self.seen
        for result in results:
            if isinstance(result, Finding):
                findings.append(result)
            elif isinstance(result, Note):
                notes.append(result.text)
            else:
                seen = seen | result
        return Found(findings, notes, seen)
