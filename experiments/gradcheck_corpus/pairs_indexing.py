"""Rules of gathering, scattering, segments, masks and noise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.gradcheck_corpus.kinds import Mistake, Pair, normal, ruled
from experiments.gradcheck_corpus.pairs_tools import integers, kept, normals, of


def _embedding(table, ids):
    return table[ids]


def _embedding_with(dtable):
    return kept(_embedding, lambda table, ids, g: (dtable(jnp.zeros_like(table), ids, g), None))


EMBEDDING = Pair(
    "embedding", _embedding_with(lambda zeros, ids, g: zeros.at[ids].add(g)),
    lambda rng, dtype: (normal(rng, dtype, 10, 3), integers(rng, 10, 8)),
    {
        "set for add": Mistake(_embedding_with(lambda zeros, ids, g: zeros.at[ids].set(g))),
        "mean of repeated ids": Mistake(
            _embedding_with(lambda zeros, ids, g: zeros.at[ids].add(g) / jnp.maximum(
                jnp.zeros_like(zeros[:, :1]).at[ids].add(1), 1))
        ),
        "row of padding left out": Mistake(  # as if 0 were padding
            _embedding_with(lambda zeros, ids, g: zeros.at[ids].add(g).at[0].set(0)),
            diagnosis=r"\[0:1\] of axis 0.*exactly 0",
        ),
        "id one too large": Mistake(
            _embedding_with(lambda zeros, ids, g: zeros.at[ids + 1].add(g))
        ),
    },
)  # fmt: skip


def _filled(x, ids):
    """x[ids], 0 where an id is past the end."""
    return x.at[ids].get(mode="fill", fill_value=0)


def _filled_with(mode, **other):
    return kept(_filled, lambda x, ids, g: (jnp.zeros_like(x).at[ids].add(g, mode=mode), None))


FILLED = Pair(
    "gather that fills", _filled_with("drop"),
    lambda rng, dtype: (normal(rng, dtype, 6), integers(rng, 8, 10)),
    {
        "mode forgotten in the scatter": Mistake(
            _filled_with("clip"), diagnosis=r"\[5:6\] of axis 0", source="jax#40626"
        ),
    },
)  # fmt: skip


def _segments(x, ids):
    """Means of the rows of each of 4 segments; 0 of an empty one."""
    total = jnp.zeros((4, x.shape[1]), x.dtype).at[ids].add(x)
    count = jnp.zeros((4, 1), x.dtype).at[ids].add(1)
    return total / jnp.maximum(count, 1)


def _segments_with(floor=1.0, divide=True):
    def bwd(x, ids, g):
        count = jnp.zeros((4, 1), x.dtype).at[ids].add(1)
        dx = (g / jnp.maximum(count, floor) if divide else g)[ids]
        return dx, None

    return kept(_segments, bwd)


SEGMENTS = Pair(
    "means of segments", _segments_with(),
    lambda rng, dtype: (normal(rng, dtype, 9, 2), integers(rng, 4, 9)),
    {"sum for mean": Mistake(_segments_with(divide=False))},
)  # fmt: skip


def _normalised(x, weights, ids):
    """Σ wx / Σ w in each of 5 groups; 0 of an empty one."""
    total = jnp.zeros(5, x.dtype).at[ids].add(weights * x)
    mass = jnp.zeros(5, x.dtype).at[ids].add(weights)
    return jnp.where(mass > 0, total / jnp.where(mass > 0, mass, 1), 0)


def _normalised_with(guard=True, subtract=True):
    def bwd(x, weights, ids, g):
        mass = jnp.zeros(5, x.dtype).at[ids].add(weights)
        share = g / (jnp.where(mass > 0, mass, 1) if guard else mass)
        # a matrix product over all groups: what an empty one holds reaches every row
        member = jax.nn.one_hot(ids, 5, dtype=x.dtype)
        mean = _normalised(x, weights, ids)[ids]
        return weights * (member @ share), (x - subtract * mean) * (member @ share), None

    return kept(_normalised, bwd)


GROUPS = Pair(
    "weighted means of groups", _normalised_with(),
    lambda rng, dtype: (normal(rng, dtype, 7), jnp.asarray(rng.uniform(0.2, 1, 7), dtype),
                        integers(rng, 5, 7)),
    {
        "empty group unguarded": Mistake(
            _normalised_with(guard=False), "args", "NaN", "tokamax#887"
        ),
        "normaliser's part missing": Mistake(_normalised_with(subtract=False), "args[1]"),
    },
)  # fmt: skip


def _written(x, y, start):
    """x with the rows y written at a place."""
    return lax.dynamic_update_slice_in_dim(x, y, start, 0)


def _written_with(cleared=True, at=lambda start: start):
    def bwd(x, y, start, g):
        dx = lax.dynamic_update_slice_in_dim(g, jnp.zeros_like(y), start, 0) if cleared else g
        return dx, lax.dynamic_slice_in_dim(g, at(start), len(y)), None

    return kept(_written, bwd)


WRITTEN = Pair(
    "rows written over", _written_with(),
    lambda rng, dtype: (normal(rng, dtype, 8, 2), normal(rng, dtype, 3, 2),
                        jnp.asarray(rng.integers(1, 5), jnp.int32)),
    {
        "rows that are gone get a gradient": Mistake(_written_with(cleared=False), "args[0]"),
        "first rows for the written": Mistake(
            _written_with(at=lambda start: 0), "args[1]"
        ),
    },
)  # fmt: skip


def _kept_rows(x, mask):
    return jnp.where(mask, x, 0) * 2


MASKED = Pair(
    "masked rows", kept(_kept_rows, lambda x, m, g: (jnp.where(m, 2 * g, 0), None)),
    lambda rng, dtype: (normal(rng, dtype, 5, 4), jnp.asarray(rng.random((5, 4)) < 0.6)),
    {
        "mask not in the backward": Mistake(kept(_kept_rows, lambda x, m, g: (2 * g, None))),
        "mask turned over": Mistake(
            kept(_kept_rows, lambda x, m, g: (jnp.where(m, 0, 2 * g), None))
        ),
    },
)  # fmt: skip


def _block_sum(x, w):
    """A sum over blocks of 4 rows: w has a factor for each block."""
    return x * jnp.repeat(w, 4)[: len(x), None]


def _block_with(dx=lambda dx: dx, whole=False):
    def bwd(x, w, g):
        blocks = len(x) // 4 if whole else -(-len(x) // 4)
        rows = jnp.pad((x * g).sum(1), (0, 4))[: 4 * blocks]
        dw = jnp.zeros_like(w).at[:blocks].set(rows.reshape(-1, 4).sum(1))
        return dx(g * jnp.repeat(w, 4)[: len(x), None]), dw

    return kept(_block_sum, bwd)


BLOCKS = Pair(
    "factors of blocks", _block_with(), normals((14, 3), (4,)),
    {
        "rest of the last block": Mistake(
            _block_with(whole=True), "args[1]", r"\[3:4\] of axis 0.*exactly 0", "FlagGems#5392"
        ),
        "tail zero": Mistake(
            _block_with(dx=lambda dx: dx.at[len(dx) // 4 * 4 :].set(0)), "args[0]",
            r"\[12:14\] of axis 0; 14 % 4.*exactly 0", "FlagGems#5392",
        ),
    },
)  # fmt: skip

# --- noise --------------------------------------------------------------------------------------


def _mask(key, shape):
    return jax.random.bernoulli(key, 0.7, shape)


def _dropout(x, key):
    return jnp.where(_mask(key, x.shape), x / 0.7, 0)


def _dropout_with(key=lambda key: key, rate=0.7):
    return kept(_dropout, lambda x, k, g: (
        jnp.where(_mask(key(k), x.shape), g / rate, 0), None))  # fmt: skip


DROPOUT = Pair(
    "dropout", _dropout_with(),
    lambda rng, dtype: (normal(rng, dtype, 5, 6), jax.random.key(int(rng.integers(1000)))),
    {
        "mask drawn again": Mistake(_dropout_with(key=lambda key: jax.random.split(key)[0])),
        "not rescaled": Mistake(
            _dropout_with(rate=1.0), diagnosis=r"0\.(7|699999\d+) times the right gradient"
        ),
        "rate for its rest": Mistake(
            _dropout_with(rate=0.3), diagnosis=r"2\.3333\d+ times the right gradient"
        ),
    },
)  # fmt: skip


def _sampled(mean, width, key):
    return mean + width * jax.random.normal(key, mean.shape, mean.dtype)


def _sampled_with(noise):
    return kept(_sampled, lambda m, w, k, g: (g, g * noise(m, w, k), None))


SAMPLED = Pair(
    "reparametrised noise",
    _sampled_with(lambda m, w, key: jax.random.normal(key, m.shape, m.dtype)),
    lambda rng, dtype: (normal(rng, dtype, 9), jnp.asarray(rng.uniform(0.5, 2, 9), dtype),
                        jax.random.key(int(rng.integers(1000)))),
    {
        "noise forgotten": Mistake(
            _sampled_with(lambda m, w, key: 1.0), "args[1]", r"the gradient of args\[0\]"
        ),
        "fresh noise": Mistake(
            _sampled_with(
                lambda m, w, key: jax.random.normal(jax.random.fold_in(key, 1), m.shape, m.dtype)
            ),
            "args[1]",
        ),
    },
)  # fmt: skip


def _binned(x):
    """The integral part and the rest; the rest alone has a gradient."""
    return jnp.floor(x), x - jnp.floor(x)


BINNED = Pair(
    "integral part and rest", kept(_binned, lambda x, g: (g[1],)), normals((8,), scale=3.0),
    {"through the integral part": Mistake(
        kept(_binned, lambda x, g: (g[0] + g[1],)), diagnosis="output 0")},
)  # fmt: skip


def _checker(x):
    """Alternating signs along the last axis, from a table that is made once."""
    return x * jnp.asarray(np.where(np.arange(x.shape[-1]) % 2, -1, 1), x.dtype)


ALTERNATING = Pair(
    "alternating signs", of(_checker, lambda x, g: _checker(g)), normals((3, 7)),
    {
        "turned round": Mistake(  # right where the length is odd
            ruled(lambda x: _checker(x), lambda x: (_checker(x), None),
                  lambda _, g: (_checker(g[..., ::-1])[..., ::-1],)),
            diagnosis="the sign",
        ),
    },
)  # fmt: skip

PAIRS = (
    EMBEDDING, FILLED, SEGMENTS, GROUPS, WRITTEN, MASKED, BLOCKS, DROPOUT, SAMPLED, BINNED,
    ALTERNATING,
)  # fmt: skip
