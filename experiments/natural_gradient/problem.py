"""The Poisson equation on the unit square as a sum of squared residuals of a network.

    −Δu = f inside, u = 0 on the edge        u = sin πx sin πy, f = 2π² u

A residual is an example: at a point inside √(1/N)·(Δu + f), at one of the edge √(1/M)·u. The loss
½Σ r² is then half the mean of the squares inside plus half that on the edge.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import qmc


def solution(x):
    return jnp.sin(jnp.pi * x[..., 0]) * jnp.sin(jnp.pi * x[..., 1])


def source(x):
    return 2 * jnp.pi**2 * solution(x)


def network(width, layers, key):
    """Parameters of a tanh network from the square to a number, in float64."""
    sizes = [2, *[width] * layers, 1]
    keys = jax.random.split(key, len(sizes))
    return [
        {"w": jax.random.normal(k, (m, n), jnp.float64) / m**0.5, "b": jnp.zeros(n, jnp.float64)}
        for k, m, n in zip(keys, sizes, sizes[1:], strict=False)
    ]


def value(params, x):
    for layer in params[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return (x @ params[-1]["w"] + params[-1]["b"])[0]


def by_hessian(params, x):
    return value(params, x), jnp.trace(jax.hessian(value, argnums=1)(params, x))


def by_jvp(params, x):
    def second(d):
        def first(x):
            return jax.jvp(lambda x: value(params, x), (x,), (d,))[1]

        return jax.jvp(first, (x,), (d,))[1]

    return value(params, x), jax.vmap(second)(jnp.eye(2, dtype=x.dtype)).sum()


def forward_laplacian(params, x):
    """u, ∂u/∂x, ∂u/∂y and Δu carried from layer to layer: four rows of one product.

    Δ tanh z = (1 − v²)Δz − 2v(1 − v²)|∇z|² with v = tanh z (Li et al. 2023, arXiv:2307.08214).
    """
    rows = jnp.concatenate([x[None], jnp.eye(2, dtype=x.dtype), jnp.zeros((1, 2), x.dtype)])
    for layer in params[:-1]:
        z, slopes, bent = jnp.split(rows @ layer["w"], (1, 3))
        v = jnp.tanh(z + layer["b"])
        s = 1 - v * v
        bent = s * bent - 2 * v * s * jnp.sum(slopes**2, axis=0)
        rows = jnp.concatenate([v, s * slopes, bent])
    out = rows @ params[-1]["w"]
    return out[0, 0] + params[-1]["b"][0], out[3, 0]


WAYS = {
    "forward Laplacian": forward_laplacian,
    "jvp of jvp": by_jvp,
    "jax.hessian": by_hessian,
}  # fmt: skip


def residual_of(way, inside, edge):
    """(params, x, whether x lies inside) -> the residual: the loss of one example."""

    def residual(params, x, is_inside):
        u, laplacian = WAYS[way](params, x)
        return jnp.where(is_inside, (laplacian + source(x)) / inside**0.5, u / edge**0.5)

    return residual


def points(inside, edge, seed):
    """(points, whether they lie inside): of a Sobol sequence inside, evenly along the edge."""
    within = qmc.Sobol(2, rng=seed).random(inside)
    along = (np.arange(edge) // 4 + 0.5) / -(-edge // 4)
    zero, one = np.zeros(edge), np.ones(edge)
    sides = np.array([[along, zero], [along, one], [zero, along], [one, along]])
    on_edge = sides[np.arange(edge) % 4, :, np.arange(edge)]
    x = jnp.asarray(np.concatenate([within, on_edge]), jnp.float64)
    return x, jnp.arange(inside + edge) < inside


def grid(side):
    """The points at which a solution is judged: (side, side, 2)."""
    ticks = jnp.linspace(0, 1, side, dtype=jnp.float64)
    return jnp.stack(jnp.meshgrid(ticks, ticks, indexing="ij"), axis=-1)


def error_of(params, at):
    """‖u − solution‖/‖solution‖ on a grid."""
    found = jax.vmap(jax.vmap(value, (None, 0)), (None, 0))(params, at)
    return jnp.linalg.norm(found - solution(at)) / jnp.linalg.norm(solution(at))
