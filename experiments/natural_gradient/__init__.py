"""Does a physics-informed network find a solution sooner by natural gradient than by Adam?

What the sources claim (energy natural gradients: Müller & Zeinhofer 2023, arXiv:2302.13163; the
same solve among samples instead of parameters in variational Monte Carlo: Chen & Heyl 2024,
arXiv:2302.01941): with the right geometry errors are orders of magnitude below those of Adam; and
with fewer residuals than parameters the step is Jᵀ(JJᵀ + λI)⁻¹r, a solve of the smaller size.

The Poisson equation on the unit square, a tanh network in plain JAX, every residual an example of
`jaxdl.value_and_reduce`. One reducer of two passes makes a direction: `gram` is JJᵀ, the solve
makes weights, and their sum of gradients is Jᵀ of it. Damping follows the line search. All of it in
float64, in `jax.enable_x64(True)`.

What was found, with 4,417 parameters, 320 residuals and 30 s of processor time for each solver:

- The claim on errors holds: a relative L2 error of 2.7e-5 after 302 steps, and 1.6e-2 after 6,850
  of Adam, whose rate (of four tried, falling as a cosine) was the best in shorter runs: 590 times
  as much, in another run 300 times. After 29 steps, 5.9 s, the natural gradient is below that for
  good; until its 16th Adam is ahead. One draw of weights, one smooth solution: expect less of it
  on hard ones.
- A step, line search included, takes as long as 23 of Adam: 99 ms of processor time to 4.4.
- JJᵀ from factors is that of the dense Jacobian to 2e-15, with the Laplacian by `jax.hessian`, by
  jvp of jvp, or carried forward (which is four times as fast as the Hessian). Time against dense
  Jacobians: 1.8 at width 32, 0.8 at 64, 0.2 at 128 (17,025 parameters); temporary memory there 15
  MB against 87, and at 264,705 parameters 58 MB against 1,355.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxdl
from experiments.framework.run import Run
from experiments.framework.settings import Above0, Checked, Count, Counts
from experiments.framework.timing import interleave, milliseconds, ratio, show, temporary_bytes
from experiments.natural_gradient import pictures
from experiments.natural_gradient.problem import (
    WAYS,
    error_of,
    grid,
    network,
    points,
    residual_of,
    solution,
    value,
)
from experiments.natural_gradient.solvers import adam, natural_gradient, race

NATURAL, ADAM = pictures.COLORS
FORWARD = next(iter(WAYS))
LARGEST = 2e8
"""Bytes of the largest Jacobian that is made to be timed."""


@dataclass(frozen=True)
class Settings(Checked):
    width: Count = 64
    """Units of each hidden layer."""
    layers: Count = 2
    """Hidden layers."""
    inside: Count = 256
    """Points at which the equation must hold; a power of two."""
    edge: Count = 64
    """Points at which the solution must vanish."""
    seconds: Above0 = 30.0
    """Of processor time that each of the two solvers has."""
    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    """Learning rates of Adam from which it begins; each is tried for a quarter of the time."""
    adam_steps: Count = 50
    """Steps of Adam between two looks at its error."""
    halvings: Count = 10
    """How often a step of the natural gradient may be halved."""
    widths: Counts = (32, 128, 512)
    """Widths at which the inner products are timed against dense Jacobians."""
    repetitions: Count = 5
    """Rounds of that timing."""
    side: Count = 65
    """Points along a side of the grid on which solutions are judged."""
    seed: int = 0
    """Of weights and points."""

    def __post_init__(self):
        super().__post_init__()
        if self.inside & (self.inside - 1):
            self.refuse(
                f"inside must be a power of two, as Sobol's points come, got {self.inside}; e.g. "
                f"{2 ** self.inside.bit_length()}"
            )
        if not self.rates or min(self.rates) <= 0:
            self.refuse(f"rates must be above 0, and at least one, got {self.rates}; e.g. 0.001")


def run(settings: Settings, out: Run) -> None:
    with jax.enable_x64(True):  # JJᵀ has half the digits of J
        ways(settings, out)
        widths(settings, out)
        solve(settings, out)


def dense(residual):
    """JJᵀ from J itself."""

    def products(params, x, inside):
        rows = jax.vmap(jax.grad(residual), (None, 0, 0))(params, x, inside)
        j = jnp.concatenate([a.reshape(len(x), -1) for a in jax.tree.leaves(rows)], axis=1)
        return j @ j.T

    return products


def lean(residual):
    """The same from factors, one matrix after the other."""
    reduced = jaxdl.value_and_reduce(residual, jaxdl.gram)
    return lambda *given: jaxdl.total(reduced(*given)[1], axes=2)


def compared(settings, out, way, width):
    """gram and the dense Jacobian of one network: difference, times, memory."""
    residual = residual_of(way, settings.inside, settings.edge)
    params = network(width, settings.layers, jax.random.key(settings.seed))
    given = params, *points(settings.inside, settings.edge, settings.seed)
    compiled = {
        name: jax.jit(f(residual)).lower(*given).compile()
        for name, f in (("gram", lean), ("dense", dense))
    }
    numbers = sum(a.size for a in jax.tree.leaves(params))
    found = {
        "way": way, "width": width, "parameters": numbers,
        "bytes": {name: temporary_bytes(f) for name, f in compiled.items()},
    }  # fmt: skip
    if 8 * numbers * len(given[1]) > LARGEST:
        compiled.pop("dense")
    else:
        k, truth = (compiled[name](*given) for name in ("gram", "dense"))
        found["difference"] = float(jnp.max(jnp.abs(k - truth)) / jnp.max(jnp.abs(truth)))
    sides = {name: partial(f, *given) for name, f in compiled.items()}
    found["seconds"] = interleave(sides, settings.repetitions, out)
    return found


def row(found):
    times = found["seconds"]
    both = "dense" in times
    return [
        f"{found['parameters']:,}", f"{found['difference']:.0e}" if both else "–",
        milliseconds(times, "gram"), milliseconds(times, "dense") if both else "not run",
        show(ratio(times, "gram", "dense")) if both else "–",
        *(f"{found['bytes'][name] / 1e6:.1f} MB" for name in ("gram", "dense")),
    ]  # fmt: skip


COLUMNS = ["parameters", "difference", "gram", "dense", "ratio (quartiles)", "memory, gram",
           "memory, dense"]  # fmt: skip


def ways(settings, out):
    found = [compared(settings, out, way, settings.width) for way in WAYS]
    out.heading("Inner products of residuals with second derivatives inside")
    out.text(
        "JJᵀ of the residuals by `jaxdl.gram` against J Jᵀ with J from `vmap(grad)`: the largest "
        "difference over the largest entry, time, and temporary memory, for three ways of writing "
        "the Laplacian. The forward Laplacian meets each matrix in one product of four rows, a "
        "Hessian in several."
    )
    out.table(f"{settings.inside + settings.edge} residuals, width {settings.width}",
              ["Laplacian", *COLUMNS], [[f["way"], *row(f)] for f in found])  # fmt: skip
    out.result("ways", found)


def widths(settings, out):
    found = [compared(settings, out, FORWARD, width) for width in settings.widths]
    out.table(f"{FORWARD}, by width", ["width", *COLUMNS], [[f["width"], *row(f)] for f in found])
    out.result("widths", found)


def solve(settings, out):
    residual = residual_of(FORWARD, settings.inside, settings.edge)
    x, inside = points(settings.inside, settings.edge, settings.seed)
    params, at = network(settings.width, settings.layers, jax.random.key(settings.seed)), grid(
        settings.side
    )  # fmt: skip
    error = jax.jit(partial(error_of, at=at))

    def by_adam(rate):
        return adam(residual, params, x, inside, rate, settings.adam_steps)

    tried = [by_adam(rate) for rate in settings.rates]
    race(tried, settings.seconds / 4, error)
    best = min(tried, key=lambda s: np.nan_to_num(s.seen["error"][-1], nan=np.inf)).rate
    solvers = {
        NATURAL: natural_gradient(residual, params, x, inside, settings.halvings),
        ADAM: by_adam(best),
    }
    race(list(solvers.values()), settings.seconds, error)
    seen = {name: solver.seen for name, solver in solvers.items()}
    numbers = sum(a.size for a in jax.tree.leaves(params))
    out.heading("The two solvers")
    out.table(
        f"Adam's first learning rate, {settings.seconds / 4:g} s each",
        ["rate", "steps", "loss", "relative error"],
        [[f"{s.rate:g}", s.seen["steps"][-1], f"{s.seen['loss'][-1]:.1e}",
          f"{s.seen['error'][-1]:.1e}"] for s in tried],
    )  # fmt: skip
    out.table(
        f"{numbers:,} parameters, {len(x)} residuals, {settings.seconds:g} s of the processor each",
        ["solver", "steps", "ms a step", "by the clock", "loss", "relative error", "lowest error"],
        [[name, s["steps"][-1], f"{1e3 * s['seconds'][-1] / s['steps'][-1]:.2f}",
          f"{s['wall'][-1]:.0f} s",
          f"{s['loss'][-1]:.1e}", f"{s['error'][-1]:.1e}", f"{min(s['error']):.1e}"]
         for name, s in seen.items()],
    )  # fmt: skip
    last = {name: s["error"][-1] for name, s in seen.items()}
    sooner = np.flatnonzero(np.array(seen[NATURAL]["error"]) <= last[ADAM])
    if len(sooner):
        i = sooner[0]
        when = seen[NATURAL]["seconds"][i]
        out.text(
            f"At the end the error of Adam is {last[ADAM] / last[NATURAL]:.1f} times that of the "
            f"natural gradient, which was below it after {seen[NATURAL]['steps'][i]} steps and "
            f"{when:.1f} s of processor time."
        )
    else:
        when = None
        out.text("The natural gradient did not come as near to the solution as Adam.")
    out.result("adam_tried", {f"{s.rate:g}": s.seen["error"][-1] for s in tried})
    out.result("parameters", numbers)
    out.result("courses", seen)
    out.result("error", last)
    out.result("error_adam_over_natural", last[ADAM] / last[NATURAL])
    out.result("seconds_to_the_error_of_adam", when)
    pictures.errors(out, seen)
    on_grid = jax.vmap(jax.vmap(value, (None, 0)), (None, 0))
    pictures.maps(out, np.asarray(solution(at)), {
        name: np.asarray(on_grid(s.params, at)) for name, s in solvers.items()
    })  # fmt: skip
