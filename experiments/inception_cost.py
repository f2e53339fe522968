"""What does an Inception module cost with its 1×1 reductions, and what without them?

What the source claims (D13): kernels of 1×1, 3×3 and 5×5 and a pooling stand side by side and are
joined; at full width that is expensive, and a 1×1 convolution that first reduces the 192 maps of
28×28 to 64 makes it affordable.

What was found:

- The reduction to 64 leaves 43 % of the multiply-adds of the module (131.7 of 308.3 million for an
  image) and 43 % of its weights. With the widths of GoogLeNet 42 % is left of module 3a and 35 % of
  3b, and their counts are those of the paper.
- Time follows, not quite as far: on two shared CPU cores about 51 % of the forward and 64 % of the
  backward pass is left by the reduction to 64. Of GoogLeNet's 3a 52 and 59 % are left, of 3b 41
  and 45 %.
- Memory does not: the reduced maps are kept for the backward pass, and nothing else goes. With
  the reduction to 64 module 3a keeps 2.56 MB of an image instead of 2.16, 19 % more.
- It is paid in rank. Of the 192 numbers at a position a branch behind r maps sees r combinations:
  64 behind the reduction, in GoogLeNet 96 for 3×3 and 16 for 5×5, measured by the backward pass;
  relu passes half of them at any one input. All four branches together still see all 192.
- A reduction to more than 164 of 192 maps (3×3) or 154 (5×5) costs more than it saves.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import pyplot as plt

import jaxdl
from experiments.framework.drawing import open_graphs
from experiments.framework.run import Run
from experiments.framework.settings import Checked, Count
from experiments.framework.timing import interleave, milliseconds, ratio, show
from jaxdl.models import GOOGLENET_3A, GOOGLENET_3B, inception_module
from jaxdl.numerics.pytree import pack_unique, unpack_unique

MAPS = 192  # that reach module 3a; 3b is given the 256 that 3a makes
# Arguments of inception_module: ones, reduce3, threes, reduce5, fives, pooled; and the maps given.
MODULES = {
    "3a, not reduced": ((64, None, 128, None, 32, 32), MAPS),
    "3a, to 64": ((64, 64, 128, 64, 32, 32), MAPS),
    "3a of GoogLeNet": (GOOGLENET_3A, MAPS),
    "3b, not reduced": ((128, None, 192, None, 96, 64), 256),
    "3b of GoogLeNet": (GOOGLENET_3B, 256),
}
BRANCHES = ("1×1", "3×3", "5×5", "pooling")
COLORS = ("#8a8a8a", "#2b5c8a", "#a3331c", "#2f7d4f")
WAYS = ("forward", "backward")
SIDE = 28
# Szegedy et al. (2015), table 1: thousands of weights (a K of theirs is 1024), millions of
# multiply-adds of one image.
PUBLISHED = {"3a of GoogLeNet": (159, 128), "3b of GoogLeNet": (380, 304)}
PROBES = 256  # random cotangents: more than the 192 dimensions they may span
CUT = 1e-4  # singular values below this share of the largest are rounding of float32


@dataclass(frozen=True)
class Settings(Checked):
    examples: Count = 8
    """Images of 28 × 28 in the batch that is timed."""
    repetitions: Count = 15
    """Rounds in which every module is timed once, forward and backward."""
    rank_inputs: Count = 16
    """Random inputs at which the rank of the map is measured."""
    seed: int = 0
    """Of weights, inputs and cotangents."""


def convolutions(spec, maps):
    """(size, maps in, maps out) of the convolutions of each branch."""
    ones, reduce3, threes, reduce5, fives, pooled = spec

    def reduced(size, reduce, features):
        if reduce is None:
            return [(size, maps, features)]
        return [(1, maps, reduce), (size, reduce, features)]

    parts = [(1, maps, ones)], reduced(3, reduce3, threes), reduced(5, reduce5, fives)
    return dict(zip(BRANCHES, (*parts, [(1, maps, pooled)]), strict=True))


def formula(spec, maps):
    """({branch: multiply-adds of one image}, parameters, biases among them), by hand."""
    parts = convolutions(spec, maps)
    products = {
        branch: SIDE**2 * sum(k * k * c * f for k, c, f in convs) for branch, convs in parts.items()
    }
    biases = sum(f for convs in parts.values() for _, _, f in convs)
    return products, sum(products.values()) // SIDE**2 + biases, biases


def kept_bytes(model, x):
    """Bytes the backward pass of one image needs beside the parameters, each array once."""
    params = jax.eval_shape(lambda key: model.init(key, x), jax.random.key(0))
    kept = jax.eval_shape(lambda p, x: pack_unique(model.fwd(p, x)[1]), params, x)
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(kept))


def run(settings: Settings, out: Run) -> None:
    models = {name: (inception_module(*spec), maps) for name, (spec, maps) in MODULES.items()}
    cost = count(models, out)
    times = measure(models, cost, settings, out)
    ranks = measure_ranks(models, settings, out)
    draw_cost(cost, times, out)
    draw_trade(ranks, out)


def count(models, out):
    """Parameters, multiply-adds and memory, by formula and from the traced program."""
    cost, rows, equal = {}, [], True
    for name, (model, maps) in models.items():
        image = jax.ShapeDtypeStruct((1, SIDE, SIDE, maps), jnp.float32)
        table = jaxdl.summary(model, image)
        products, parameters, biases = formula(*MODULES[name])
        adds = sum(products.values())
        equal &= table.params == parameters and table.flops == 2 * adds
        cost[name] = {
            "multiply_adds": adds,
            "by_branch": products,
            "parameters": parameters,
            "weights": parameters - biases,
            "kept_bytes": kept_bytes(model, image),
        }
        made = sum(MODULES[name][0][i] or 0 for i in (0, 2, 4, 5))
        by_branch = [f"{products[branch] / 1e6:.1f}" for branch in BRANCHES]
        rows.append([name, f"{maps} → {made}", f"{parameters:,}", *by_branch, f"{adds / 1e6:.1f}",
                     f"{cost[name]['kept_bytes'] / 1e6:.2f}"])  # fmt: skip
    out.heading("What the modules cost")
    out.text(
        'Without reductions the 3×3 and 5×5 kernels see all maps that come in. "To 64" reduces '
        "them to 64 before both kernels, the last rows of each kind by the figures of GoogLeNet. "
        "The pooled maps go through a 1×1 convolution in all of them, so that modules of one kind "
        "make the same number of maps. Kept is what the backward pass needs of one image beside "
        "the parameters, every array counted once."
    )
    columns = ["module", "maps", "parameters", *BRANCHES, "million multiply-adds", "kept, MB"]
    out.table("One image of 28 × 28", columns, rows)
    out.result("cost", cost)
    claim = "Parameters and multiply-adds by formula are those counted in the traced program"
    out.claim("D13", claim, "equal", "equal" if equal else "they differ", equal)
    for name, (thousands, millions) in PUBLISHED.items():
        found = cost[name]["weights"] / 1024, cost[name]["multiply_adds"] / 1e6
        claim = f"{name}: 1024s of weights and millions of multiply-adds are those of the paper"
        holds = abs(found[0] - thousands) < 1.5 and abs(found[1] - millions) < 1
        out.claim("D13", claim, f"{thousands} and {millions}", "{:.1f} and {:.1f}".format(*found),
                  holds)  # fmt: skip
    share = cost["3a, to 64"]["multiply_adds"] / cost["3a, not reduced"]["multiply_adds"]
    claim = "Reducing 192 maps to 64 leaves this share of the module's multiply-adds"
    out.claim("D13", claim, "< 0.5", f"{share:.3f}", share < 0.5)
    more = cost["3a, to 64"]["kept_bytes"] - cost["3a, not reduced"]["kept_bytes"]
    maps = SIDE**2 * 2 * 64 * 4  # bytes; relu and the kernel behind it keep the same array
    claim = "It saves no memory: bytes that the backward pass keeps of an image more than without"
    out.claim("D13", claim, f"{maps:,}, both reduced maps", f"{more:,}", more == maps)
    return cost


def measure(models, cost, settings, out):
    """Seconds of the forward and of the hand-written backward pass, modules taking turns."""
    sides = {}
    for name, (model, maps) in models.items():
        keys = jax.random.split(jax.random.key(settings.seed), 3)
        x = jax.random.normal(keys[0], (settings.examples, SIDE, SIDE, maps))
        params = model.init(keys[1], x)
        # Each array that is kept goes into the backward program once, as within one step.
        forward = jax.jit(model.apply)
        kept = jax.jit(lambda p, x, f=model.fwd: pack_unique(f(p, x)[1]))(params, x)
        backward = jax.jit(lambda p, kept, dy, b=model.bwd: b(p, unpack_unique(kept), dy))
        dy = jax.random.normal(keys[2], jax.eval_shape(forward, params, x).shape)
        sides[f"{name}, forward"] = lambda f=forward, a=(params, x): f(*a)
        sides[f"{name}, backward"] = lambda f=backward, a=(params, kept, dy): f(*a)
    times = interleave(sides, settings.repetitions, out)
    rows, ratios = [], {}
    for name in models:
        plain = f"{name[:2]}, not reduced"
        shares = {way: ratio(times, f"{name}, {way}", f"{plain}, {way}") for way in WAYS}
        ratios[name] = shares
        adds = cost[name]["multiply_adds"] / cost[plain]["multiply_adds"]
        cells = [milliseconds(times, f"{name}, {way}") for way in WAYS]
        rows.append([name, f"{adds:.3f}", *cells, *(show(shares[way]) for way in WAYS)])
    out.heading("What they take")
    out.text(
        f"{settings.examples} images, float32; all modules take turns in one process, and the "
        "ratios are medians of neighbours (quartiles). The backward pass is the module's own "
        "bwd: gradients of all parameters and of the input."
    )
    columns = ["module", "multiply-adds", *WAYS, *(f"{way}, share" for way in WAYS)]
    out.table("Time, and shares of the module that is not reduced", columns, rows)
    out.result("time_shares", ratios)
    out.result("seconds", times)
    for way in WAYS:
        found = ratios["3a, to 64"][way]["median"]
        claim = f"Reducing 192 maps to 64 lowers the time of the {way} pass: share that remains"
        out.claim("D13", claim, "< 1", f"{found:.2f}", found < 1)
    return times


def cotangents_at_centre(model, params, x, key):
    """(PROBES, 192): dx at the middle of one 5×5 input, for random cotangents of the output.

    They span what the module, linear around this input, can tell of that position's numbers.
    """
    y, kept = model.fwd(params, x[None])
    dys = jax.random.normal(key, (PROBES, *y.shape))
    back = jax.vmap(lambda dy: model.bwd(params, kept, dy, jaxdl.none)[1])
    return back(dys)[:, 0, 2, 2]


def rank(rows):
    values = np.linalg.svd(np.asarray(rows, np.float64), compute_uv=False)
    return int(np.sum(values > CUT * values[0]))


def measure_ranks(models, settings, out):
    """How many directions of a position's 192 numbers get through each branch."""
    rows, found = [], {}
    x_key, params_key, dy_key = jax.random.split(jax.random.key(settings.seed + 1), 3)
    xs = jax.random.normal(x_key, (settings.rank_inputs, 5, 5, MAPS))
    keys = jax.random.split(dy_key, len(xs))
    names = [name for name in models if name.startswith("3a")]
    for name in out.progress(names, "ranks"):
        module = models[name][0]
        params = module.init(params_key, xs)
        inside = dict(zip(module.names, module.children, strict=True))
        branches = (("3×3", "threes"), ("5×5", "fives"))
        parts = {what: (inside[branch], params[branch]) for what, branch in branches}
        for what, (model, p) in {**parts, "module": (module, params)}.items():
            probe = jax.jit(lambda p, x, key, model=model: cotangents_at_centre(model, p, x, key))
            seen = [probe(p, x, key) for x, key in zip(xs, keys, strict=True)]
            alone = [rank(spans) for spans in seen]
            found[f"{name}, {what}"] = {"one": alone, "all": rank(np.concatenate(seen))}
        here = [found[f"{name}, {what}"] for what in (*parts, "module")]
        rows.append([name, *(f"{np.median(ranks['one']):g} / {ranks['all']}" for ranks in here)])
    out.heading("What the reduction costs in expressiveness")
    out.text(
        "A kernel behind a reduction to r maps learns r linear combinations of a position's 192 "
        "numbers and nothing else of them: its map has rank r at most. Measured with the backward "
        f"pass: the dx that arrive at one position for {PROBES} random dy span as many "
        "dimensions as get through. First at one input (median), where relu lets about half of "
        f"the reduced maps through, then over {settings.rank_inputs} inputs together."
    )
    columns = ["module", "3×3 branch", "5×5 branch", "all four"]
    out.table("Rank at one position, one input / all inputs", columns, rows)
    out.result("ranks", found)
    for what, index in (("3×3", 1), ("5×5", 3)):
        reduced = {name: MODULES[name][0][index] or MAPS for name in names}
        ranks = [found[f"{name}, {what}"]["all"] for name in names]
        claim = f"Rank of the {what} branch per position is the number of maps it is reduced to"
        expected = ", ".join(map(str, reduced.values()))
        holds = ranks == list(reduced.values())
        out.claim("D13", claim, expected, ", ".join(map(str, ranks)), holds)
    return found


def draw_cost(cost, times, out):
    fig, panels = plt.subplots(
        1, 3, figsize=(11, 3.6), sharey=True, width_ratios=(2, 1, 1), layout="tight"
    )
    names = list(cost)[::-1]
    left = np.zeros(len(names))
    for branch, color in zip(BRANCHES, COLORS, strict=True):
        values = np.array([cost[name]["by_branch"][branch] / 1e6 for name in names])
        panels[0].barh(names, values, left=left, color=color, label=branch)
        left += values
    panels[0].set(xlabel="million multiply-adds of one image")
    panels[0].legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
    for i, (way, color) in enumerate(zip(WAYS, ("#9ab3cc", "#3f3f3f"), strict=True)):
        seconds = [1e3 * np.median(times[f"{name}, {way}"]) for name in names]
        panels[1].barh(np.arange(len(names)) + 0.2 - 0.4 * i, seconds, 0.4, color=color, label=way)
    panels[1].set(xlabel="milliseconds")
    panels[1].legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    panels[2].barh(names, [cost[name]["kept_bytes"] / 1e6 for name in names], color="#b58a3c")
    panels[2].set(xlabel="MB kept for one image")
    open_graphs(*panels)
    caption = (
        "Five modules. The reductions take most of the 3×3 and 5×5 products away, and the time "
        "with them; what must be kept for the backward pass grows by the reduced maps."
    )
    out.figure("cost", fig, caption)


def draw_trade(ranks, out):
    fig, axes = plt.subplots(figsize=(7, 4))
    spec = MODULES["3a, not reduced"][0]
    r = np.arange(1, MAPS + 1)
    for i, (k, features) in enumerate(((3, spec[2]), (5, spec[4])), start=1):
        what, color = BRANCHES[i], COLORS[i]
        slope = (MAPS + k * k * features) / (k * k * MAPS * features)
        axes.plot(r, r * slope, color=color, label=f"{what} branch")
        for name, marker in (("3a, to 64", "s"), ("3a of GoogLeNet", "o")):
            there = ranks[f"{name}, {what}"]["all"]
            axes.plot(there, there * slope, marker, color=color, ms=8)
    axes.axhline(1, color="#3f3f3f", lw=1, ls=":")
    axes.text(2, 1.02, "not reduced: rank 192", va="bottom", color="#3f3f3f")
    axes.plot([], [], "s", color="#3f3f3f", label="to 64")
    axes.plot([], [], "o", color="#3f3f3f", label="GoogLeNet")
    axes.set(xlabel="maps behind the reduction = rank at one position", xlim=(0, MAPS))
    axes.set(ylabel="multiply-adds, share of\nthe branch that is not reduced", ylim=(0, 1.3))
    open_graphs(axes, grid=True)
    axes.legend(frameon=False, loc="lower right")
    caption = (
        "Cost of a branch of module 3a against its rank: a straight line through 0, r·(C + k²·K) "
        "over k²·C·K. Marks stand at measured ranks. Above the dotted line a reduction costs more "
        "than it saves."
    )
    out.figure("trade", fig, caption)
