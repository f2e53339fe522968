"""The same function at other sizes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax
import numpy as np

from jaxdl.gradcheck.checks.case import Case
from jaxdl.gradcheck.checks.judge import as_found_elsewhere, judge
from jaxdl.gradcheck.checks.results import Note, findings_of
from jaxdl.gradcheck.oracles.probe import to_numpy
from jaxdl.gradcheck.problem.sizes import Axis, dimensions, entries, length_of, resized, single_axes
from jaxdl.gradcheck.report.findings import Finding

_MOST_ENTRIES = 2**18  # of all arguments together: beyond, lengths stay close to the given ones
_MOST_COLUMNS = 2**8  # the same where the derivative is taken entry by entry
_MOST_ONES = 3  # lengths that are set to 1, one at a time
_MOST_ALONE = 6  # sizes that are changed one at a time where f takes no others
_ALONE, _SINGLE = 100, 200  # first numbers of those, and of axes of length 1, for random numbers


def _other_lengths(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Lengths beside powers of two, pairwise distinct; and a few set to 1.

    One above a power is odd; below it the length is even where the given one is odd, so that every
    axis has both parities. Axes of one length become 1 together: if f needs them equal and does
    not say so, broadcasting would hide it.
    """
    for above in (True, False):
        found: list[int] = []
        for n in lengths:
            power = max(4, 1 << (n - 1).bit_length())
            side = 1 if above else -1 - n % 2
            while (m := power + side) in (*found, *lengths, 1):
                power *= 2
            found.append(m)
        yield found
    for length in list(dict.fromkeys(lengths))[:_MOST_ONES]:
        yield [1 if n == length else n for n in lengths]


def shapes(case: Case) -> Iterator[Finding | Note]:
    """The check 'dot', or 'differences', for arguments of other sizes, where f takes them.

    Where nothing can be said of arguments of which all sizes are others, one is changed at a time.
    Axes of length 1 grow alone: a batch of one hides what a batch does.
    """
    groups = dimensions(case.problem)
    lengths = [length_of(case.problem, group) for group in groups]
    all_others = list(_other_lengths(lengths)) if groups else []
    crashed: list[str] = []
    tried = False
    for number, others in enumerate(all_others):
        found = _apart_or_together(case, groups, others, number, crashed)
        tried = tried or bool(found)
        yield from found
        if number == 1 and not tried and len(groups) > 1:
            for alone in range(min(len(groups), _MOST_ALONE)):
                one = [
                    n if i == alone else m
                    for i, (m, n) in enumerate(zip(lengths, all_others[0], strict=True))
                ]
                found = _apart_or_together(case, groups, one, _ALONE + alone, crashed)
                tried = tried or bool(found)
                yield from found
    longer, single = single_axes(case.problem)
    for number, group in enumerate(single, start=_SINGLE):
        found = list(_at_lengths(case, [group], [longer], number, crashed))
        tried = tried or bool(found)
        yield from found
    if crashed:
        most = f", and {len(crashed) - 1} more such" if len(crashed) > 1 else ""
        yield Note(f"for sizes {crashed[0]}{most} the rule raises an error, and f does not")
    if not tried:
        why = "f takes no other sizes, or its rule none" if groups else "no axis can be longer"
        yield Finding("shapes", "skipped", text=why)


def _apart_or_together(
    case: Case,
    groups: Sequence[Sequence[Axis]],
    others: Sequence[int],
    number: int,
    crashed: list[str],
) -> list[Finding | Note]:
    """Axes of one length may belong together though f takes them apart, as an array and indices
    into it do: where only such sizes fail, a note is all.
    """
    lengths = [length_of(case.problem, group) for group in groups]
    found = list(_at_lengths(case, groups, others, number, crashed))
    failed = any(f.outcome == "fail" for f in found)
    for tied in _tied(groups, lengths, others, failed) if failed or not found else ():
        together = list(_at_lengths(case, groups, tied, number, crashed))
        if not failed and together:
            return [*together]
        outcomes = {f.outcome for f in together}
        if failed and "pass" in outcomes and not outcomes & {"fail", "inconclusive"}:
            note = Note(
                f"axes of equal length that become {_told(lengths, others)}: f takes them, but "
                "its gradient is that of equal lengths alone; let f refuse others"
            )
            return [note, *together]
    return [*found]


def _tied(
    groups: Sequence[Sequence[Axis]], lengths: Sequence[int], others: Sequence[int], failed: bool
) -> Iterator[list[int]]:
    """The other lengths, but the same where the given ones are.

    After a failure those of one array stay apart, and the others take after each of them.
    """
    choices = []
    for length in dict.fromkeys(lengths):
        same = [i for i, n in enumerate(lengths) if n == length]
        leaves = [leaf for i in same for leaf in {leaf for leaf, _ in groups[i]}]
        apart = [i for i in same if any(leaves.count(leaf) > 1 for leaf, _ in groups[i])]
        apart = apart if failed else []
        free = [i for i in same if i not in apart]
        anchors = [i for i in apart or same if others[i] != length]
        anchors = anchors if apart else anchors[:1]
        if anchors:
            choices.append([{i: others[anchor] for i in free} for anchor in anchors])
    for number in range(max(map(len, choices), default=0)):
        tied = list(others)
        for choice in choices:
            for i, length in choice[number % len(choice)].items():
                tied[i] = length
        if tied != list(others):
            yield tied


def _at_lengths(
    case: Case,
    groups: Sequence[Sequence[Axis]],
    others: Sequence[int],
    number: int,
    crashed: list[str],
) -> Iterator[Finding]:
    """Nothing where f, its rule or what it is held against refuses these lengths; crashed: where
    the rule alone does.

    A rule that raises an error where f does not is none the worse for it: f may take more than it
    means to, as a convolution takes a kernel that is longer than its input.
    """
    problem = case.problem
    lengths = [length_of(problem, group) for group in groups]
    most = max(_MOST_COLUMNS if case.forward_mode else _MOST_ENTRIES, entries(problem))
    if np.prod([n / o for n, o in zip(others, lengths, strict=True)]) * entries(problem) > most:
        others = [n + 1 if m > n else m for n, m in zip(lengths, others, strict=True)]
    try:
        moved = resized(problem, groups, others, case.rng(24, number))
        again = case.elsewhere(moved)
        with _quiet_callbacks():
            y = again.probe.value(*again.at(moved.inputs))
        if case.reference:
            jax.eval_shape(again.probe.truth, again.at(moved.inputs), y)
    except Exception:
        return
    if not all(np.all(np.isfinite(a)) for a in to_numpy(y)):
        return
    try:
        jax.eval_shape(again.probe.rule, again.at(moved.inputs), y)
    except Exception:
        crashed.append(_told(lengths, others))
        return
    sample = f"sizes {_told(lengths, others)}"
    changed = [(g, m) for g, m, n in zip(groups, lengths, others, strict=True) if m != n]
    if len(changed) == 1 and (changed[0][1] == 1 or lengths.count(changed[0][1]) > 1):
        leaf, axis = changed[0][0][0]  # which of those of that length
        sample += f" of axis {axis} of {problem.names[leaf]}"
    for finding in findings_of(judge(again, sample)):
        yield as_found_elsewhere(case, finding, "shapes", held=True)


@contextmanager
def _quiet_callbacks() -> Iterator[None]:
    """Without JAX's report of a callback that raises: it may refuse the sizes."""
    log = logging.getLogger("jax._src.callback")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _told(lengths: Sequence[int], others: Sequence[int]) -> str:
    return ", ".join(f"{n}→{m}" for n, m in zip(lengths, others, strict=True) if n != m)
