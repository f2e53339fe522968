"""Indexing, moving and sorting with rules by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.gradcheck_corpus.functions_draw import (
    distinct,
    from_inputs,
    integers,
    normal,
    of,
    ruled,
)
from experiments.gradcheck_corpus.kinds import Function


@jax.custom_vjp
def embedding(table, ids):
    return table[ids]


embedding.defvjp(
    lambda table, ids: (table[ids], (ids, jnp.zeros_like(table))),
    lambda kept, g: (kept[1].at[kept[0]].add(g), None),
)


@jax.custom_vjp
def padded_embedding(table, ids):
    """Ids of −1 stand for padding: a row of zeros, and no gradient."""
    return jnp.where((ids >= 0)[..., None], table[jnp.maximum(ids, 0)], 0)


def _padded_embedding_bwd(kept, g):
    table, ids = kept
    g = jnp.where((ids >= 0)[..., None], g, 0)
    zeros = np.zeros(ids.shape, jax.dtypes.float0)
    return jnp.zeros_like(table).at[jnp.maximum(ids, 0)].add(g), zeros


padded_embedding.defvjp(
    lambda table, ids: (padded_embedding(table, ids), (table, ids)), _padded_embedding_bwd
)


def _take_clipped(x, ids):
    return jnp.take(x, ids, axis=1, mode="clip")


def _take_clipped_bwd(g, x, ids):
    return jnp.zeros_like(x).at[:, jnp.clip(ids, 0, x.shape[1] - 1)].add(g), None


def _along_bwd(g, x, ids):
    rows = jnp.arange(x.shape[0])[:, None]
    return jnp.zeros_like(x).at[rows, ids].add(g), None


def _scatter_add(x, ids, updates):
    return x.at[ids].add(updates)


def _scatter_set(x, updates, ids):
    """Ids without duplicates: who wins among them is not defined."""
    return x.at[ids].set(updates)


def _segment_sum(x, ids):
    return jax.ops.segment_sum(x, ids, num_segments=4)


def _segment_max(x, ids):
    """Empty segments give 0."""
    top = jax.ops.segment_max(x, ids, num_segments=5)
    return jnp.where(jnp.isfinite(top), top, 0)


def _segment_max_bwd(g, x, ids):
    """Every tied maximum its share."""
    top = jax.ops.segment_max(x, ids, num_segments=5)
    winner = (x == top[ids]).astype(x.dtype)
    shares = jnp.maximum(jax.ops.segment_sum(winner, ids, num_segments=5), 1)
    return winner * (g / shares)[ids], None


def _sort_bwd(order, g):
    return (jnp.zeros_like(g).at[jnp.arange(g.shape[0])[:, None], order].set(g),)


def _sort_fwd(x):
    order = jnp.argsort(x, -1)
    return jnp.take_along_axis(x, order, -1), order


def _top(x):
    return lax.top_k(x, 3)[0]


def _top_fwd(x):
    values, places = lax.top_k(x, 3)
    return values, (places, x)


def _top_bwd(kept, g):
    places, x = kept
    return (jnp.zeros_like(x).at[jnp.arange(x.shape[0])[:, None], places].add(g),)


INDEXING: tuple[Function, ...] = (
    Function(
        "embedding",
        embedding,
        lambda rng, dtype: (normal(rng, dtype, 6, 3), integers(rng, 6, 2, 7)),
    ),
    Function(
        "embedding with padding",
        padded_embedding,
        lambda rng, dtype: (normal(rng, dtype, 5, 2), integers(rng, 6, 9) - 1),
    ),
    Function(
        "take, clipped",
        from_inputs(_take_clipped, _take_clipped_bwd),
        lambda rng, dtype: (normal(rng, dtype, 3, 5), integers(rng, 9, 6) - 2),
    ),
    Function(
        "take along an axis",
        from_inputs(lambda x, i: jnp.take_along_axis(x, i, 1), _along_bwd),
        lambda rng, dtype: (normal(rng, dtype, 4, 5), integers(rng, 5, 4, 3)),
    ),
    Function(
        "scatter add",
        from_inputs(_scatter_add, lambda g, x, i, u: (g, None, g[i])),
        lambda rng, dtype: (
            normal(rng, dtype, 5, 2),
            integers(rng, 5, 7),
            normal(rng, dtype, 7, 2),
        ),
    ),
    Function(
        "scatter set",
        from_inputs(_scatter_set, lambda g, x, u, i: (g.at[i].set(0), g[i], None)),
        lambda rng, dtype: (
            normal(rng, dtype, 8),
            normal(rng, dtype, 3),
            jnp.asarray(rng.permutation(8)[:3]),
        ),
    ),
    Function(
        "segment sum",
        from_inputs(_segment_sum, lambda g, x, i: (g[i], None)),
        lambda rng, dtype: (normal(rng, dtype, 9, 2), jnp.sort(integers(rng, 4, 9))),
    ),
    Function(
        "segment max",
        from_inputs(_segment_max, _segment_max_bwd),
        lambda rng, dtype: (normal(rng, dtype, 11), integers(rng, 4, 11)),
    ),
    Function("sort", ruled(lambda x: jnp.sort(x, -1), _sort_fwd, _sort_bwd), of((3, 7))),
    Function(
        "top 3", ruled(_top, _top_fwd, _top_bwd), lambda rng, dtype: (distinct(rng, dtype, 2, 8),)
    ),
)
