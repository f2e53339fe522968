"""Drawings for the page of reports: error maps, curves on logarithmic axes, bars. Plain SVG.

Colours are classes of the page's style sheet, so that they follow its light and dark scheme.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby

_EDGES = (-14, -12, -10, -8, -6, -4, -2, 0)  # of the colours of an error map, log10
_LABELS = ("below 1e-14", *(f"1e{a} to 1e{a + 2}" for a in _EDGES[:-2]), "0.01 to 1", "1 and more")
_SAME, _NO_NUMBER = "same", "nan"
_GUIDE = "step"  # curves over this have a line of slope 2 beside them
_WEAKEST = -16  # log10, where bars of power begin


def number(value: float) -> str:
    """A figure in a few digits."""
    return f"{value:.4g}"


def heat_map(errors: Sequence[Sequence[float]], worst: tuple[int, int], words: str) -> str:
    """An error map with one cell in a frame, and its legend.

    Args:
      errors: log10 of relative errors, in rows of equal length.
      worst: row and column of the cell to frame.
      words: what is drawn, for those who cannot see it.
    """
    rows, columns = len(errors), len(errors[0])
    side = int(max(6, min(26, 560 // columns, 420 // rows)))
    levels = [[_level(value) for value in row] for row in errors]
    shapes: dict[str, list[str]] = {}
    for r, row in enumerate(levels):
        c = 0
        for level, run in groupby(row):
            length = len(list(run))
            shapes.setdefault(level, []).append(
                f"M{c * side} {r * side}h{length * side}v{side}h-{length * side}z"
            )
            c += length
    body = "".join(f'<path class="e-{level}" d="{"".join(shapes[level])}"/>' for level in shapes)
    if side >= 12:
        lines = [f"M0 {r * side}h{columns * side}" for r in range(1, rows)]
        lines += [f"M{c * side} 0v{rows * side}" for c in range(1, columns)]
        body += f'<path class="lattice" d="{"".join(lines)}"/>' if lines else ""
    crosses = "".join(
        f"M{c * side} {r * side}l{side} {side}m0-{side}l-{side} {side}"
        for r, row in enumerate(levels) for c, level in enumerate(row) if level == _NO_NUMBER
    )  # fmt: skip
    body += f'<path class="cross" d="{crosses}"/>' if crosses else ""
    width, height = columns * side, rows * side
    body += f'<rect class="edge" width="{width}" height="{height}"/>'
    y, x = (k * side for k in worst)
    body += "".join(
        f'<rect class="{name}" x="{x}" y="{y}" width="{side}" height="{side}"/>'
        for name in ("halo", "frame")
    )
    found = {level for row in levels for level in row}
    counts = {level: sum(row.count(level) for row in levels) for level in sorted(found)}
    legend = "".join(
        f'<li><svg class="key" viewBox="0 0 12 12" aria-hidden="true"><rect class="e-{level}" '
        f'width="12" height="12"/></svg>{_label(level)} <span class="soft">({counts[level]})'
        "</span></li>"
        for level in (_SAME, *map(str, range(len(_EDGES) + 1)), _NO_NUMBER) if level in found
    )  # fmt: skip
    return (
        f'<svg class="map" viewBox="-2 -2 {width + 4} {height + 4}" width="{width + 4}" '
        f'role="img"><title>{escape(words)}</title><desc>'
        f"{'; '.join(f'{_label(level)}: {n} cells' for level, n in counts.items())}</desc>{body}"
        f'</svg><ul class="legend">{legend}</ul>'
    )


def _level(value: float) -> str:
    if value == -math.inf:
        return _SAME
    return str(bisect_right(_EDGES, value)) if math.isfinite(value) else _NO_NUMBER


def _label(level: str) -> str:
    return {_SAME: "no error", _NO_NUMBER: "no number"}.get(level) or _LABELS[int(level)]


_LEFT, _TOP, _WIDE, _HIGH = 46, 8, 290, 190  # of the box that curves are drawn in


def curves(series: Mapping[str, Sequence[float]]) -> str:
    """The first row of numbers along, the others up, both logarithmic; nothing if none can be."""
    (over, along), *others = series.items()
    points = {
        name: [(math.log10(x), math.log10(y)) for x, y in zip(along, row, strict=False)
               if 0 < x < math.inf and 0 < y < math.inf]
        for name, row in others
    }  # fmt: skip
    drawn = [point for row in points.values() for point in row]
    left_out = sum(min(len(along), len(row)) for _, row in others) - len(drawn)
    note = f"{left_out} points that are zero or no numbers are not drawn." if left_out else ""
    if not drawn:
        return f'<p class="soft">{escape(over)}: {note or "no points."}</p>'
    across, up = _Axis([x for x, _ in drawn]), _Axis([y for _, y in drawn])

    def at(x: float, y: float) -> str:
        return f"{_LEFT + _WIDE * across(x):.1f} {_TOP + _HIGH * (1 - up(y)):.1f}"

    body, keys = "", ""
    for tick in across.ticks:
        body += f'<path class="grid" d="M{at(tick, up.low)}V{_TOP}"/>'
        x, y = at(tick, up.low).split()
        body += f'<text x="{x}" y="{float(y) + 16:.1f}" text-anchor="middle">1e{tick}</text>'
    for tick in up.ticks:
        body += f'<path class="grid" d="M{at(across.low, tick)}H{_LEFT + _WIDE}"/>'
        y = float(at(across.low, tick).split()[1])
        body += f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">1e{tick}</text>'
    if over == _GUIDE:
        x, y = max(next(iter(row for row in points.values() if row)))
        end = max(across.low, x - (y - up.low) / 2)
        body += f'<path class="guide" d="M{at(x, y)}L{at(end, y - 2 * (x - end))}"/>'
        sample = _key('<path class="guide" d="M0 6H26"/>')
        keys += f"<li>{sample}slope 2</li>"
    for i, (name, row) in enumerate(points.items()):
        kind = f"s{i % 4}"
        body += f'<path class="line {kind}" d="M{"L".join(at(*point) for point in row)}"/>'
        body += "".join(_mark(i, *map(float, at(*point).split())) for point in row)
        sample = f'<path class="line {kind}" d="M0 6H26"/>{_mark(i, 13, 6)}'
        keys += f"<li>{_key(sample)}{escape(name)}</li>"
    wide, high = _LEFT + _WIDE + 16, _TOP + _HIGH + 40
    body += (
        f'<text x="{_LEFT + _WIDE / 2}" y="{high - 6}" text-anchor="middle">{escape(over)}</text>'
    )
    told = "; ".join(
        f"{name} from {number(10 ** row[0][1])} to {number(10 ** row[-1][1])}"
        for name, row in points.items() if row
    )  # fmt: skip
    names = ", ".join(points)
    return (
        f'<figure><svg class="plot" viewBox="0 0 {wide} {high}" width="{wide}" role="img">'
        f"<title>{escape(f'{names} over {over}')}</title><desc>{escape(told)}</desc>{body}</svg>"
        f'<figcaption><ul class="legend">{keys}</ul>{note}</figcaption></figure>'
    )


class _Axis:
    """Whole decades around some logarithms; calling it gives the place between 0 and 1."""

    def __init__(self, values: Sequence[float]):
        self.low, high = math.floor(min(values) + 1e-9), math.ceil(max(values) - 1e-9)
        self.length = max(1, high - self.low)
        step = -(-self.length // 7)
        self.ticks = range(self.low, self.low + self.length + 1, step)

    def __call__(self, value: float) -> float:
        return (value - self.low) / self.length


def _mark(i: int, x: float, y: float) -> str:
    """Series differ by the form of their points too."""
    d = (
        f"M{x - 4} {y}a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
        f"M{x - 3.5} {y - 3.5}h7v7h-7z",
        f"M{x} {y - 5}l5 5l-5 5l-5-5z",
        f"M{x} {y - 5}l5 9h-10z",
    )[i % 4]
    return f'<path class="mark s{i % 4}" d="{d}"/>'


def _key(body: str) -> str:
    return f'<svg class="key long" viewBox="0 0 26 12" aria-hidden="true">{body}</svg>'


def bar(value: float) -> str:
    """Of a power between 1e-16 and 1 on a logarithmic axis: the longer, the less was seen."""
    share = 1.0
    if math.isfinite(value):
        share = (math.log10(max(value, 10.0**_WEAKEST)) - _WEAKEST) / -_WEAKEST
    length = 160 * min(1.0, max(0.01, share))
    weak = " weak" if not value < 1e-2 else ""
    return (
        '<svg class="bar" viewBox="0 0 160 10" aria-hidden="true"><path class="rail" d="M0 9.5H160"'
        f'/><rect class="power{weak}" width="{length:.1f}" height="9"/></svg>'
    )
