"""What does pooling do to a map, to its gradient, and to a network that has it?

What the sources claim (B9-B13, B15, D11): convolution, detector and pooling are three stages; max
pooling is nearly invariant to a shift by one place; pooling over filters learns an invariance;
regions may be given as data, or learned once; larger regions save memory.

What was found:

- Where every value of a row changes by a shift of one place, half of the maxima of width 3 do
  (49.9 %). The gradient is not invariant: it moves with the input, exactly.
- Three filters under one maximum read a 5 in three rotations at 87.9 %, one filter at 80.1 %. In
  the run with the lowest loss each filter wins one rotation (60 % of it or more), but only 4 of 10
  runs put all three filters to use.
- Larger regions keep less (16.4 kB at 1×1, 0.13 kB at 16×16); accuracy on 16×16 digits stays at
  96 % up to 4×4 and falls to 75 % at 16×16. Pooling gains nothing over 1×1 here.
- Regions that follow the digit through a larger image beat fixed ones (89.5 against 48.2 %).
  Regions learned once beat the fixed grid of as many: 87.8 against 84.4 % with 4, 92.0 against
  91.0 % with 9.
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

import jaxdl
from experiments.framework.run import Run
from experiments.framework.settings import Checked, Count, CountOr0, at_least
from experiments.pooling import networks, pictures, regions
from jaxdl.data import mnist5k

POOLS = {
    "max": jaxdl.max_pool,
    "average": jaxdl.average_pool,
    "L2": jaxdl.lp_pool,
    "centre-weighted": jaxdl.weighted_pool,
}
BELL = np.exp([[-(r**2 + c**2) / 2 for c in (-1, 0, 1)] for r in (-1, 0, 1)])  # 3×3 places
FORMULAS = {
    "max": np.max,
    "average": lambda window: np.sum(window) / window.size,
    "L2": lambda window: np.sqrt(np.sum(window**2)),
    "centre-weighted": lambda window: np.sum(window * BELL) / np.sum(BELL),
}
WIDTHS = (1, 2, 3, 5, 9)  # of the windows of which a shift is seen


FEWER = "shares of fewer places say little, the default is {default}"


@dataclass(frozen=True)
class Settings(Checked):
    length: Annotated[int, at_least(100, FEWER)] = 100_000
    """Places of the random row that is shifted."""
    filters_seeds: Count = 10
    """Runs of the network that pools over three filters."""
    filters_epochs: Count = 15
    """Passes over the turned digits."""
    sizes_seeds: Count = 3
    """Runs of the network for each size of its pooling regions."""
    sizes_epochs: CountOr0 = 8
    """Passes over the digits for each of them; 0: neither train them nor learn regions."""
    seed: int = 0
    """Of the random rows and splits."""


def run(settings: Settings, out: Run) -> None:
    digits = mnist5k(28, images=True)
    digit = digits.x_test[digits.y_test == 5][3:4]
    stages(out, digit)
    kinds(out, digit)
    shift(settings, out)
    smaller_last_region(out)
    networks.filters(settings, out)
    regions.given(out, digit)
    if settings.sizes_epochs:
        networks.sizes(settings, out)
        regions.moving(out, settings.seed)
        regions.learned(out, settings.seed)


def stages(out, digit):
    """Convolution, detector, pooling: forward and backward, one after the other."""
    block = jaxdl.serial(jaxdl.conv(regions.FILTERS, 5), jaxdl.relu(), jaxdl.max_pool(2))
    params = {"conv": regions.edge_filters()}
    seen, kept = [jnp.asarray(digit)], []
    for name, layer in zip(block.names, block.children, strict=True):
        y, residuals = layer.fwd(params.get(name, {}), seen[-1])
        seen.append(y)
        kept.append(residuals)
    back = [jnp.ones_like(seen[-1])]
    passed = zip(block.names, block.children, kept, strict=True)
    for name, layer, residuals in reversed(list(passed)):
        back.insert(0, layer.bwd(params.get(name, {}), residuals, back[0])[1])
    whole, residuals = block.fwd(params, seen[0])
    dx = block.bwd(params, residuals, back[-1])[1]
    error = max(largest(whole - seen[-1]), largest(dx - back[0]))
    swapped = {}
    for name, pool in POOLS.items():
        first = jaxdl.serial(jaxdl.relu(), pool(2))
        last = jaxdl.serial(pool(2), jaxdl.relu())
        swapped[name] = largest(first.apply({}, seen[1]) - last.apply({}, seen[1]))
    out.heading("Three stages")
    out.text(
        "Eight edge filters, one every 45°, are convolved with a digit; the detector (relu) keeps "
        "where they answer; max pooling keeps the best answer in each 2×2 region. Backwards, from "
        "ones on the pooled maps, only the winner of each region passes a gradient on, and only "
        "if it is positive."
    )
    rows = [
        [name, "×".join(map(str, y.shape[1:])), f"{jnp.mean(y > 0):.1%}", f"{jnp.mean(d != 0):.1%}"]
        for name, y, d in zip(
            ("digit", "convolution", "detector", "pooling"), seen, back, strict=True
        )
    ]
    out.table("Stage by stage", ["stage", "shape", "positive", "with a gradient"], rows)
    out.text(
        "Detector and pooling may change places without any change of the result if pooling takes "
        "the maximum, and for no other kind: largest differences "
        + ", ".join(f"{name} {value:.2g}" for name, value in swapped.items())
        + "."
    )
    out.result("stages_swapped", swapped)
    pictures.stages(out, seen)
    out.claim("B9", "Stage by stage and as one layer, forward and backward: difference", "0",
              f"{error:.1g}", error == 0)  # fmt: skip
    out.claim("B9", "Max pooling before the detector gives what it gives after: difference", "0",
              f"{swapped['max']:.1g}", swapped["max"] == 0)  # fmt: skip


def largest(array):
    return float(jnp.max(jnp.abs(array)))


def by_loops(formula, x, size, stride):
    """The formula at every place and channel, with nothing but loops."""
    space = [(n - size) // stride + 1 for n in x.shape[1:3]]
    y = np.zeros((len(x), *space, x.shape[-1]))
    for n, i, j, c in np.ndindex(y.shape):
        y[n, i, j, c] = formula(x[n, i * stride :, j * stride :, c][:size, :size])
    return y


def kinds(out, digit):
    """Max, mean, L2 norm and weighted mean: against loops, and what their gradients look like."""
    out.heading("Four kinds of pooling")
    out.text(
        "Windows of 3×3. Values are held against plain loops over the formula, stride 2; gradients "
        "of a random sum of the outputs against central differences of those loops, in float64."
    )
    rng = np.random.default_rng(0)
    pooled, shares, rows = {}, {}, []
    bump = np.array([[1, 2, 1], [2, 5, 3], [1, 2, 1]], np.float32)[None, :, :, None] / 5
    with jax.enable_x64(True):
        maps = regions.detect(jnp.asarray(digit, jnp.float64))[..., :1]
        x = rng.normal(size=(2, 7, 7, 3))  # of NumPy, for the loops
        for name, pool in POOLS.items():
            layer, formula = pool(3, strides=2), FORMULAS[name]
            y, residuals = layer.fwd({}, jnp.asarray(x))
            dy = rng.normal(size=y.shape)
            dx = layer.bwd({}, residuals, jnp.asarray(dy))[1]
            slopes = np.zeros(x.shape)
            for place in np.ndindex(x.shape):
                step = np.zeros(x.shape)
                step[place] = 1e-6
                up, down = (by_loops(formula, x + s * step, 3, 2) for s in (1, -1))
                slopes[place] = np.sum(dy * (up - down)) / 2e-6
            pooled[name] = layer.apply({}, maps)
            on_digit = largest(pooled[name] - by_loops(formula, np.asarray(maps), 3, 2))
            error = max(largest(y - by_loops(formula, x, 3, 2)), on_digit)
            slope_error = largest(dx - slopes)
            y, residuals = pool(3).fwd({}, jnp.asarray(bump))
            shares[name] = np.asarray(pool(3).bwd({}, residuals, jnp.ones_like(y))[1])[0, ..., 0]
            rows.append([name, f"{y.item():.3f}", f"{error:.0e}", f"{slope_error:.0e}"])
            out.result(f"{name}_error", {"forward": error, "backward": slope_error})
            holds = error < 1e-12 and slope_error < 1e-7
            out.claim("B10", f"{name} pooling and its gradient follow the formula", "< 1e-12, 1e-7",
                      f"{error:.0e}, {slope_error:.0e}", holds)  # fmt: skip
    columns = ["pooling", "of the window in the picture", "error, forward", "error, gradient"]
    out.table("Against loops", columns, rows)
    pictures.kinds(out, maps[0, ..., 0], pooled, bump[0, ..., 0], shares)


def pool_row(pool, row, width, padding="valid"):
    """A row of numbers pooled with stride 1, and the gradient of the sum of the outputs."""
    layer = pool(width, rank=1, strides=1, padding=padding)
    y, residuals = layer.fwd({}, jnp.asarray(row)[None, :, None])
    dx = layer.bwd({}, residuals, jnp.ones_like(y))[1]
    return np.asarray(y)[0, :, 0], np.asarray(dx)[0, :, 0]


def shift(settings, out):
    """Every input changes, half of the maxima do; the gradient moves with its input."""
    before = np.array([0.1, 1.0, 0.2, 0.1], np.float32)
    after = np.array([0.3, 0.1, 1.0, 0.2], np.float32)
    pooled = [pool_row(jaxdl.max_pool, row, 3, "same") for row in (before, after)]
    out.heading("A shift by one place")
    names = ("detector", "max of 3", "gradient")
    rows = [
        [f"{name}, {when}", *(f"{v:g}" for v in values)]
        for when, row, (y, dx) in zip(("before", "after"), (before, after), pooled, strict=True)
        for name, values in zip(names, (row, y, dx), strict=True)
    ]
    out.table("Four places, width 3, stride 1", ["", "1", "2", "3", "4"], rows)
    small = [int(np.sum(a != b)) for a, b in ((before, after), (pooled[0][0], pooled[1][0]))]

    row = np.random.default_rng(settings.seed).random(settings.length + 1, np.float32)
    old, new = row[1:], row[:-1]  # everything one place to the right
    found, rows = {}, []
    for width in WIDTHS:
        shares, sizes = {}, {}
        for name in ("max", "average"):
            (y, dx), (y_new, dx_new) = (pool_row(POOLS[name], r, width) for r in (old, new))
            shares[name] = float(np.mean(y != y_new))
            sizes[name] = float(np.linalg.norm(y_new - y) / np.linalg.norm(y))
            if name == "max":
                inner = slice(width, -width)  # rows end, and the windows with them
                moved = bool(np.array_equal(dx_new[1:][inner], dx[:-1][inner]))
                wins = np.bincount(dx[inner].astype(int), minlength=width + 1) / len(dx[inner])
        found[width] = shares | {"gradient_moves": moved, "windows_won": wins, "size": sizes}
        rows.append([
            width, f"{np.mean(old != new):.1%}", f"{shares['max']:.1%}", f"{2 / (width + 1):.1%}",
            f"{shares['average']:.1%}", f"{sizes['max']:.3f}", f"{sizes['average']:.3f}",
            f"{wins[0]:.1%}",
        ])  # fmt: skip
    out.text(
        f"A row of {settings.length:,} random numbers, stride 1. Of the width + 1 numbers that a "
        "window sees before or after, all but two are seen both times, and any of them is equally "
        "likely to be the largest: 2/(width + 1) of the maxima should change. The relative change "
        "is ‖y′ − y‖/‖y‖."
    )
    columns = ["width", "inputs changed", "maxima changed", "2/(width+1)", "means changed",
               "change, max", "change, mean", "inputs without gradient"]  # fmt: skip
    out.table("A random row, one place to the right", columns, rows)
    wins = found[3]["windows_won"]
    out.text(
        "Where the gradient goes, from the backward pass, at width 3: an input wins none of its "
        f"three windows in {wins[0]:.1%} of the places, one in {wins[1]:.1%}, two in "
        f"{wins[2]:.1%}, all in {wins[3]:.1%} (expected: 1/2, 1/5, 1/10, 1/5). The gradient is not "
        "invariant at all: it moves with the winner, so that the gradient after the shift is the "
        "shifted gradient."
    )
    out.result("shift_small", small)
    out.result("shift", {str(width): values for width, values in found.items()})
    pictures.shift(out, before, after, pooled, found)
    out.claim("B11", "Four places, width 3: inputs and maxima that change", "4 and 2",
              f"{small[0]} and {small[1]}", small == [4, 2])  # fmt: skip
    share, slack = found[3]["max"], 5 / settings.length**0.5
    out.claim("B11", "A random row, width 3: share of maxima that change", f"0.5 ± {slack:.3f}",
              f"{share:.3f}", abs(share - 0.5) < slack)  # fmt: skip
    moves = all(values["gradient_moves"] for values in found.values())
    out.claim("B11", "The gradient is not invariant: it moves with the input, exactly", "at "
              "every width", "yes" if moves else "no", moves)  # fmt: skip


def smaller_last_region(out):
    """Width 3, stride 2: `ceil` keeps the region that is cut off by the end of the row."""
    row = np.array([0.1, 1.0, 0.2, 0.1, 0.0, 0.1], np.float32)
    rows, unseen = [], {}
    for n in range(4, 10):
        x = jnp.asarray(np.resize(row, n))[None, :, None]
        cells = [n]
        for ceil in (False, True):
            layer = jaxdl.average_pool(3, rank=1, strides=2, ceil=ceil)
            y, residuals = layer.fwd({}, x)
            dx = layer.bwd({}, residuals, jnp.ones_like(y))[1]
            unseen[n, ceil] = int(jnp.sum(dx == 0))
            cells += [y.shape[1], unseen[n, ceil]]
        rows.append(cells)
    x, options = jnp.asarray(row)[None, :, None], {"rank": 1, "strides": 2}
    kept, cut = (
        np.asarray(jaxdl.max_pool(3, ceil=ceil, **options).apply({}, x)).ravel()
        for ceil in (True, False)
    )
    out.heading("Fewer pooling units than detector units: width 3, stride 2")
    out.text(
        f"The row {', '.join(f'{v:g}' for v in row)} has the maxima "
        f"{', '.join(f'{v:g}' for v in kept)} with the smaller last region, "
        f"{', '.join(f'{v:g}' for v in cut)} without. An input that no region sees gets no "
        "gradient (counted with average pooling, where every input in a region gets some)."
    )
    columns = ["inputs", "regions", "inputs unseen", "regions, ceil", "inputs unseen, ceil"]
    out.table("Rows of any length", columns, rows)
    out.result("ceil", {"kept": kept, "cut": cut})
    holds = np.allclose(kept, [1, 0.2, 0.1]) and not any(v for (_, c), v in unseen.items() if c)
    out.claim("B13", "Width 3, stride 2 over six places, the last region of two places kept",
              "maxima 1, 0.2, 0.1; no input unseen at any length",
              f"{', '.join(f'{v:g}' for v in kept)}; "
              f"{max(v for (_, c), v in unseen.items() if c)} unseen", holds)  # fmt: skip
