"""Steps of two solvers, and a race in which they take turns.

Natural gradient, with the residuals r, their Jacobian J (N, P), and a damping λ:

    p ← p − η Jᵀ(JJᵀ + λI)⁻¹ r

JJᵀ is `jaxdl.gram` of the residuals as examples, and Jᵀ of a vector is their gradients summed with
its entries for weights. Both come of one backward pass: a reducer of two passes, as clipping is.
"""

from dataclasses import dataclass, field
from time import perf_counter, process_time
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.scipy.linalg import solve

import jaxdl


def direction(residual, params, x, inside, damping):
    """(r, Jᵀ(JJᵀ + λI)⁻¹ r), without J."""
    r = jax.vmap(residual, (None, 0, 0))(params, x, inside)

    def weights(products):
        k = jaxdl.total(products, axes=2)
        return solve(k + damping * jnp.eye(len(k), dtype=k.dtype), r, assume_a="pos")

    natural = jaxdl.TwoPass("natural_gradient", jaxdl.gram, weights, jaxdl.grads)
    return r, jaxdl.value_and_reduce(residual, natural)(params, x, inside)[1]


def half_square(residual, params, x, inside):
    return 0.5 * jnp.sum(jax.vmap(residual, (None, 0, 0))(params, x, inside) ** 2)


@dataclass
class Solver:
    """One that takes part in a race: its parameters, and what was seen of it."""

    params: Any
    state: Any
    advance: Any
    """(params, state, share of the time that is gone) -> (params, state, loss)"""
    steps: int = 1
    """Of one call of `advance`."""
    rate: float = 1.0
    seconds: float = 0.0
    """Of processor time."""
    wall: float = 0.0
    seen: dict[str, list] = field(
        default_factory=lambda: {
            "seconds": [], "wall": [], "steps": [], "loss": [], "error": []
        }
    )  # fmt: skip


def natural_gradient(residual, params, x, inside, halvings):
    """A full step, or the best of its halvings. λ falls threefold after a full one, and rises
    twofold after one of less than a half: where the quadratic model holds, it may go further."""

    @jax.jit
    def advance(params, damping, gone):
        _, way = direction(residual, params, x, inside, damping)

        def after(length):
            return jax.tree.map(lambda p, d: p - length * d, params, way)

        lengths = 0.5 ** jnp.arange(halvings + 1, dtype=x.dtype)
        losses = jax.lax.map(lambda n: half_square(residual, after(n), x, inside), lengths)
        best = jnp.nanargmin(losses)
        length = lengths[best]
        factor = jnp.where(length == 1, 1 / 3, jnp.where(length < 0.5, 2.0, 0.7))
        return after(length), jnp.maximum(damping * factor, 1e-15), losses[best]

    return Solver(params, jnp.ones((), x.dtype), advance)


def adam(residual, params, x, inside, rate, steps):
    """Adam whose rate falls to zero as a cosine does, by the share of the time that is gone."""
    tx = optax.scale_by_adam()

    @jax.jit
    def advance(params, state, gone):
        now = rate * 0.5 * (1 + jnp.cos(jnp.pi * gone))

        def step(carry, _):
            params, state = carry
            loss, gradient = jax.value_and_grad(half_square, 1)(residual, params, x, inside)
            updates, state = tx.update(gradient, state)
            return (jax.tree.map(lambda p, u: p - now * u, params, updates), state), loss

        (params, state), losses = jax.lax.scan(step, (params, state), length=steps)
        return params, state, losses[-1]

    return Solver(params, tx.init(params), advance, steps, rate)


def race(solvers, budget, error):
    """All advance until each has used its seconds of processor time, which count also where
    others work on the machine. Who has used least is next. Compiling and judging are not counted.
    """
    for solver in solvers:
        jax.block_until_ready(solver.advance(solver.params, solver.state, 0.0))
    while (solver := min(solvers, key=lambda s: s.seconds)).seconds < budget:
        start, wall = process_time(), perf_counter()
        new = solver.advance(solver.params, solver.state, min(solver.seconds / budget, 1.0))
        solver.params, solver.state, loss = jax.block_until_ready(new)
        solver.seconds += process_time() - start
        solver.wall += perf_counter() - wall
        done = solver.seen["steps"][-1] if solver.seen["steps"] else 0
        for name, value in (
            ("seconds", solver.seconds), ("wall", solver.wall), ("steps", done + solver.steps),
            ("loss", float(loss)), ("error", float(error(solver.params))),
        ):  # fmt: skip
            solver.seen[name].append(value)
