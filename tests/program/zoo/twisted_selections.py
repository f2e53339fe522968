"""Gathers, scatters, choices, orders, reductions, linear algebra."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.program.record import (
    N,
    Program,
    family,
    half_square,
    integers,
    sequence,
    weights,
)

TWISTED_SELECTIONS: list[Program] = []
program = family("selections", TWISTED_SELECTIONS)


def looked_up(mode, dtype, low=-9, high=9):
    """Ids of both signs, some out of range."""

    def loss(params, ids):
        rows = jnp.take(params["table"], ids, axis=0, mode=mode, fill_value=0)
        return half_square(jnp.sin(rows @ params["w"]) + 0.2)

    ids = integers(high - low, N, 6) + low
    return loss, weights(dtype, table=(7, 6), w=(6, 3)), (ids,)


@program()
def take_fill(dtype):
    return looked_up("fill", dtype)


@program()
def take_clip(dtype):
    return looked_up("clip", dtype)


@program()
def take_wrap(dtype):
    return looked_up("wrap", dtype)


@program()
def index_negative(dtype):
    def loss(params, ids):
        return half_square(params["table"][ids] @ params["w"] - params["table"][-1, 0])

    return loss, weights(dtype, table=(7, 6), w=(6, 3)), (integers(7, N, 4) - 7,)


@program()
def index_in_two_axes(dtype):
    """Single entries, columns, and entries of one axis by those of another."""

    def loss(params, i, j):
        w = params["w"]
        along = jnp.take_along_axis(w, j[None, :] % 6, axis=1)
        return half_square(w[i, j] + w[:, j].sum(0) + w[i[0]][j]) + jnp.sum(jnp.sin(along))

    return loss, weights(dtype, w=(7, 6)), (integers(7, N, 4), integers(6, N, 4, seed=8))


@program()
def dynamic_slice_by_data(dtype):
    def loss(params, x, at):
        window = lax.dynamic_slice(params["w"], (at, jnp.int32(0)), (3, 6))
        row = lax.dynamic_index_in_dim(params["w"], at, keepdims=False)
        return half_square(jnp.tanh(window @ x.T) * row[0])

    return loss, weights(dtype, w=(8, 6)), (*sequence(dtype), integers(8, N))


@program()
def scatter_of_a_parameter(dtype):
    """Written into data, data written into it, and both added at ids of the data."""

    def loss(params, x, at):
        y = x.at[at[0]].set(params["b"]) + x.at[at].add(params["w"][:3])
        z = params["w"].at[at].multiply(x[:3]) + params["w"].at[at[:1]].set(x[:1])
        return half_square(y) + half_square(jnp.sin(z))

    distinct = (integers(4, N, 1) + jnp.arange(3, dtype=jnp.int32)) % 4
    return loss, weights(dtype, w=(4, 6), b=6), (*sequence(dtype), distinct)


@program()
def update_slice_and_pad(dtype):
    """A learned start token before the sequence, and a learned value around it."""

    def loss(params, x):
        y = lax.dynamic_update_slice(x, params["b"][None], (1, 0))
        y = jnp.concatenate([params["b"][None], y, params["w"]])
        return half_square(jnp.sin(lax.pad(y, params["edge"], ((1, 1, 1), (0, 2, 0)))))

    return loss, weights(dtype, w=(2, 6), b=6, edge=()), sequence(dtype)


@program()
def where_between_two_parameters(dtype):
    def loss(params, x):
        return half_square(jnp.where(x > 0, params["a"], params["b"] * x))

    return loss, weights(dtype, a=6, b=6), sequence(dtype)


@program()
def maximum_clip_and_compare(dtype):
    """Thresholds that are learned, and integers that come of comparing with them."""

    def loss(params, x):
        y = jnp.maximum(x, params["a"]) + jnp.clip(x, -(params["b"] ** 2), params["a"] ** 2)
        count = jnp.sum(x > params["a"], axis=-1)
        order = jnp.argsort(params["b"])
        return half_square(y[:, order] * (1 + count)[:, None].astype(dtype))

    return loss, weights(dtype, a=6, b=6), sequence(dtype)


@program()
def order_of_data(dtype):
    """Sorted by data with a parameter carried along, and the greatest picked by argmax."""

    def loss(params, x):
        keys, carried = lax.sort_key_val(x, x * params["b"])
        best = x[jnp.argmax(x[:, 0])]
        top, ids = lax.top_k(x @ params["w"], 2)
        return half_square(keys * carried) + jnp.sum(best @ params["w"]) + jnp.sum(top * ids)

    return loss, weights(dtype, w=(6, 3), b=6), sequence(dtype)


@program()
def top_k_gating(dtype):
    def loss(params, x):
        share, pick = lax.top_k(x @ params["gate"], 2)
        chosen = params["experts"][pick]
        return half_square(jnp.einsum("td,tkde,tk->te", x, chosen, jax.nn.softmax(share)))

    return loss, weights(dtype, gate=(6, 4), experts=(4, 6, 3)), sequence(dtype)


@program()
def cumulative(dtype):
    def loss(params, x):
        y = jnp.cumsum(x * params["b"], 0) + jnp.cumprod(1 + 0.1 * x * params["b"], 0)
        return (
            half_square(y) + lax.cummax(x + params["b"], axis=0).sum() + y.max() * y.prod(0).sum()
        )

    return loss, weights(dtype, b=6), sequence(dtype)


@program()
def normalised_logits(dtype):
    def loss(params, x):
        logits = x @ params["w"]
        entropy = -jnp.sum(jax.nn.softmax(logits) * jax.nn.log_softmax(logits))
        return entropy + jax.nn.logsumexp(logits * params["b"], axis=-1).sum()

    return loss, weights(dtype, w=(6, 3), b=3), sequence(dtype)


@program()
def ragged_mask(dtype):
    """Positions beyond an example's length count for nothing."""

    def loss(params, x, length):
        kept = jnp.arange(4) < length
        y = jnp.where(kept[:, None], jnp.tanh(x @ params["w"] + params["b"]), 0)
        return jnp.sum(y**2) / length.astype(dtype)

    return loss, weights(dtype, w=(6, 3), b=3), (*sequence(dtype), 1 + integers(4, N))


@program()
def random_numbers_scaled_by_a_parameter(dtype):
    def loss(params, x, key):
        noise = jax.random.normal(key, x.shape, dtype)
        return half_square(x + noise * jnp.exp(params["b"]))

    keys = jax.random.split(jax.random.key(2), N)
    return loss, weights(dtype, b=6), (*sequence(dtype), keys)


@program()
def eigenvalues_and_solves(dtype):
    """Linear algebra of matrices in which data and parameters are mixed."""

    def loss(params, x):
        a = jnp.cov(x.T) + jnp.diag(params["b"] ** 2) + jnp.eye(6, dtype=dtype)
        solved = jnp.linalg.solve(a, params["w"])
        return half_square(solved) + jnp.linalg.slogdet(a)[1] + jnp.linalg.eigvalsh(a)[-1]

    return loss, weights(dtype, w=(6, 2), b=6), sequence(dtype)
