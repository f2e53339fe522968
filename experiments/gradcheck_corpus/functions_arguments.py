"""Arguments and results of all kinds: pytrees, integers, masks, None, static, keyword, empty."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gradcheck_corpus.functions_draw import from_inputs, integers, normal, of, positive
from experiments.gradcheck_corpus.kinds import Function


class Weights(NamedTuple):
    """Of a layer."""

    w: Any
    b: Any


@jax.custom_vjp
def network(params, x):
    """A dict of named tuples; one bias is None."""
    h = jnp.tanh(x @ params["in"].w + params["in"].b)
    return h @ params["out"].w


def _network_fwd(params, x):
    h = jnp.tanh(x @ params["in"].w + params["in"].b)
    return h @ params["out"].w, (params, x, h)


def _network_bwd(kept, g):
    params, x, h = kept
    dz = g @ params["out"].w.T * (1 - h * h)
    gradients = {"in": Weights(x.T @ dz, dz.sum(0)), "out": Weights(h.T @ g, None)}
    return gradients, dz @ params["in"].w.T


network.defvjp(_network_fwd, _network_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0, 2))
def by_name(kind, x, power):
    """Static arguments before and after."""
    return {"sine": jnp.sin(x) ** power, "plain": x**power}[kind]


by_name.defvjp(
    lambda kind, x, power: (by_name(kind, x, power), x),
    lambda kind, power, x, g: (
        g
        * power
        * {"sine": jnp.sin(x) ** (power - 1) * jnp.cos(x), "plain": x ** (power - 1)}[kind],
    ),
)


@jax.custom_vjp
def _scaled(x, bias, gain):
    return gain * x if bias is None else gain * x + bias


def _scaled_bwd(kept, g):
    x, has_bias, gain = kept
    return gain * g, g.sum(0) if has_bias else None, jnp.sum(g * x).astype(gain.dtype)


_scaled.defvjp(lambda x, b, k: (_scaled(x, b, k), (x, b is not None, jnp.asarray(k))), _scaled_bwd)


def scaled(x, *, bias=None, gain):
    """Keyword arguments, one of them optional."""
    return _scaled(x, bias, gain)


@jax.custom_vjp
def statistics(xs):
    """A list in, a dict out, one entry of it an integer."""
    total = sum(x.sum() for x in xs)
    return {"total": total, "squares": [jnp.sum(x * x) for x in xs],
            "count": jnp.asarray(sum(x.size for x in xs), jnp.int32)}  # fmt: skip


statistics.defvjp(
    lambda xs: (statistics(xs), xs),
    lambda xs, g: ([g["total"] + 2 * x * s for x, s in zip(xs, g["squares"], strict=True)],),
)


@jax.custom_vjp
def graph(nodes, edges, weights):
    """Messages along edges: an integer argument between two others, its tangent spelled out."""
    return jnp.zeros_like(nodes).at[edges[:, 1]].add(weights[:, None] * nodes[edges[:, 0]])


def _graph_bwd(kept, g):
    nodes, edges, weights = kept
    d = jnp.zeros_like(nodes).at[edges[:, 0]].add(weights[:, None] * g[edges[:, 1]])
    dw = (nodes[edges[:, 0]] * g[edges[:, 1]]).sum(-1)
    return d, np.zeros(edges.shape, jax.dtypes.float0), dw


graph.defvjp(lambda *args: (graph(*args), args), _graph_bwd)


@partial(jax.custom_vjp, nondiff_argnames=("axis", "keep"))
def summed(x, axis, keep):
    """Static arguments by name."""
    return jnp.sum(x, axis, keepdims=keep)


def _summed_fwd(x, axis, keep):
    return summed(x, axis, keep), x


def _summed_bwd(axis, keep, x, g):
    return (jnp.broadcast_to(g if keep else jnp.expand_dims(g, axis), x.shape),)


summed.defvjp(_summed_fwd, _summed_bwd)


def _outer_sum_bwd(g, a, b, c):
    """Axes of size 1 that broadcast."""
    return g.sum((1, 2))[:, None, None], g.sum((0, 2))[None, :, None], g.sum((0, 1))


def _unused_bwd(g, x, unused):
    """The second argument has no effect, and zeros for a gradient."""
    return 3 * x * x * g, jnp.zeros_like(unused)


def _joined(parts):
    return jnp.concatenate([parts["a"], parts["nothing"], parts["b"]])


def _joined_bwd(g, parts):
    n, m = parts["a"].size, parts["nothing"].size
    return ({"a": g[:n], "nothing": g[n : n + m], "b": g[n + m :]},)


def _split_bwd(g, x):
    return (jnp.concatenate([g["head"], jnp.zeros_like(x[2:3]), g["tail"][0]]),)


def _swapped(pair):
    """The same structure out as in."""
    (a, b), c = pair
    return (b * c, a * c), a.sum() + b.sum()


def _swapped_bwd(g, pair):
    (gb, ga), gs = g
    (a, b), c = pair
    return (((ga * c + gs, gb * c + gs), (gb * b + ga * a).sum()),)


def _chosen(x, mask, fallback):
    return jnp.where(mask, x, fallback)


def _chosen_bwd(g, x, mask, fallback):
    return jnp.where(mask, g, 0), None, jnp.where(mask, 0, g).sum()


def _graph_args(rng, dtype):
    return normal(rng, dtype, 5, 2), integers(rng, 5, 8, 2), positive(rng, dtype, 8)


def _network_args(rng, dtype):
    first = Weights(normal(rng, dtype, 3, 4), normal(rng, dtype, 4))
    return {"in": first, "out": Weights(normal(rng, dtype, 4, 2), None)}, normal(rng, dtype, 5, 3)


def _joined_args(rng, dtype):
    return (
        {"a": normal(rng, dtype, 3), "nothing": jnp.zeros(0, dtype), "b": normal(rng, dtype, 4)},
    )


def _weekday(x, table, day):
    return x * table[day]


ARGUMENTS: tuple[Function, ...] = (
    Function("a network in a pytree", network, _network_args),
    Function("static by name and power", lambda x: by_name("sine", x, 3), of((7,))),
    Function("keyword arguments", lambda x, b, k: scaled(x, bias=b, gain=k), of((4, 3), (3,), ())),
    Function("keyword arguments, no bias", lambda x, k: scaled(x, gain=k), of((5,), ())),
    Function(
        "keyword arguments of the call",
        scaled,
        of((4, 2)),
        settings={"kwargs": {"gain": 1.5, "bias": None}},
    ),
    Function(
        "list in, dict out",
        statistics,
        lambda rng, dtype: ([normal(rng, dtype, 3), normal(rng, dtype, 2, 2)],),
    ),
    Function("messages on a graph", graph, _graph_args),
    Function("static axis", lambda x: summed(x, axis=1, keep=False), of((3, 4, 2))),
    Function(
        "axes of size 1",
        from_inputs(lambda a, b, c: a + b + c, _outer_sum_bwd),
        of((3, 1, 1), (1, 4, 1), (2,)),
    ),
    Function(
        "an argument without effect",
        from_inputs(lambda x, unused: x**3, _unused_bwd),
        of((5,), (3,)),
    ),
    Function("an empty array among others", from_inputs(_joined, _joined_bwd), _joined_args),
    Function(
        "nested results",
        from_inputs(lambda x: {"head": x[:2], "tail": (x[3:],)}, _split_bwd),
        of((7,)),
    ),
    Function(
        "nested pairs",
        from_inputs(_swapped, _swapped_bwd),
        lambda rng, dtype: (((normal(rng, dtype, 4), normal(rng, dtype, 4)), normal(rng, dtype)),),
    ),
    Function(
        "where with a fallback",
        from_inputs(_chosen, _chosen_bwd),
        lambda rng, dtype: (
            normal(rng, dtype, 3, 4),
            jnp.asarray(rng.random((3, 4)) < 0.5),
            normal(rng, dtype),
        ),
    ),
    Function(
        "scalar of a scalar",
        from_inputs(lambda x: jnp.sin(x) * x, lambda g, x: (g * (jnp.sin(x) + x * jnp.cos(x)),)),
        of(()),
    ),
    Function(
        "a python float",
        from_inputs(
            lambda x, c: c * x**2,
            lambda g, x, c: (2 * c * x * g, (g * x**2).sum().astype(jnp.asarray(c).dtype)),
        ),
        lambda rng, dtype: (normal(rng, dtype, 4), 0.75),
    ),
    Function(
        "a table and an index",
        from_inputs(
            _weekday,
            lambda g, x, t, i: (g * t[i], jnp.zeros_like(t).at[i].add((g * x).sum()), None),
        ),
        lambda rng, dtype: (normal(rng, dtype, 5), normal(rng, dtype, 7), 3),
    ),
)
