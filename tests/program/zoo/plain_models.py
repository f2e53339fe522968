"""Models in plain JAX: adapters, graphs, tables, fixed points, densities."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from tests.program.record import (
    N,
    Program,
    family,
    half_square,
    integers,
    normal,
    squared_error,
    weights,
)

PLAIN_MODELS: list[Program] = []
program = family("plain", PLAIN_MODELS)


def dense(p, x):
    return x @ p["w"] + p["b"]


def layer(dtype, m, n, seed=3):
    return weights(dtype, seed, w=(m, n), b=n)


@program()
def low_rank_adapter(dtype):
    """The base weight is a constant of the loss; only A and B are parameters."""
    base = normal(dtype, 7, 6, seed=9)

    def apply(params, x):
        return jnp.tanh(x @ (base + 0.5 * params["a"] @ params["b"]))

    return squared_error(
        apply, weights(dtype, a=(7, 2), b=(2, 6)), (normal(dtype, N, 4, 7),), dtype
    )


@program()
def graph_segment_sum(dtype):
    """Messages along edges, twice with the same weights."""

    def apply(params, nodes, senders, receivers):
        h = nodes
        for _ in range(2):
            message = jax.nn.relu(h[senders] @ params["edge"] + h[receivers] @ params["back"])
            gathered = jax.ops.segment_sum(message, receivers, num_segments=len(h))
            h = h + dense(params["node"], gathered)
        return h.mean(0)

    params = weights(dtype, edge=(6, 8), back=(6, 8)) | {"node": layer(dtype, 8, 6)}
    edges = integers(4, N, 7), integers(4, N, 7, seed=8)
    return squared_error(apply, params, (normal(dtype, N, 4, 6), *edges), dtype)


@program(in_axes=(0, None, 0))
def graph_shared_adjacency(dtype):
    """One graph for all examples, with learned weights of its edges."""

    def loss(params, x, adjacency, y):
        a = jax.nn.softmax(jnp.where(adjacency, params["edges"], -1e9), axis=-1)
        return half_square(a @ jnp.tanh(a @ x @ params["w"]) @ params["v"] - y)

    adjacency = (integers(2, 4, 4) == 1) | jnp.eye(4, dtype=bool)
    params = weights(dtype, edges=(4, 4), w=(6, 8), v=(8, 3))
    return loss, params, (normal(dtype, N, 4, 6), adjacency, normal(dtype, N, 4, 3, seed=4))


@program()
def embedding_bag(dtype):
    """The mean of the rows of a ragged bag of ids."""

    def apply(params, ids, length):
        kept = (jnp.arange(len(ids)) < length)[:, None].astype(dtype)
        bag = (params["table"][ids] * kept).sum(0) / jnp.maximum(length, 1).astype(dtype)
        return bag @ params["w"]

    return squared_error(
        apply,
        weights(dtype, table=(9, 6), w=(6, 3)),
        (integers(9, N, 4), integers(5, N)),
        dtype,
    )


@program(zeros=("['two']['b']",))  # a difference does not see it
def siamese_triplet(dtype):
    """One encoder three times, and a distance with a learned temperature."""

    def loss(params, a, b, c):
        def encode(x):
            return dense(params["two"], jnp.tanh(dense(params["one"], x)))

        a, b, c = encode(a), encode(b), encode(c)
        near, far = half_square(a - b), half_square(a - c)
        return jax.nn.softplus((near - far) * jnp.exp(params["temperature"]))

    params = weights(dtype, temperature=()) | {"one": layer(dtype, 7, 8), "two": layer(dtype, 8, 3)}
    return loss, params, tuple(normal(dtype, N, 7, seed=s) for s in (1, 2, 5))


@program()
def fourier_features(dtype):
    """Learned frequencies in a sine and a cosine."""

    def apply(params, x):
        phase = x @ params["frequencies"]
        return dense(params["head"], jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], -1))

    params = weights(dtype, frequencies=(2, 4)) | {"head": layer(dtype, 8, 3)}
    return squared_error(apply, params, (normal(dtype, N, 6, 2),), dtype)


@program()
def equilibrium_unrolled(dtype):
    """A fixed number of steps of z = tanh(Wz + Ux)."""

    def apply(params, x):
        def step(_, z):
            return jnp.tanh(0.3 * z @ params["w"] + x @ params["u"])

        return lax.fori_loop(0, 6, step, jnp.zeros(6, dtype))

    return squared_error(apply, weights(dtype, w=(6, 6), u=(7, 6)), (normal(dtype, N, 7),), dtype)


def towards(params, x, z):
    return jnp.tanh(0.3 * z @ params["w"] + x @ params["u"])


def settle(step, z):
    """A while loop, which no reverse mode goes through."""

    def go_on(s):
        return (s[2] < 200) & (jnp.max(jnp.abs(s[0] - s[1])) > 1e-14)

    return lax.while_loop(go_on, lambda s: (step(s[0]), s[0], s[2] + 1), (step(z), z, 0))[0]


@jax.custom_vjp
def fixed_point(params, x):
    return settle(partial(towards, params, x), jnp.zeros(6, x.dtype))


def fixed_point_fwd(params, x):
    z = fixed_point(params, x)
    return z, (params, x, z)


def fixed_point_bwd(kept, dz):
    params, x, z = kept
    _, pull = jax.vjp(partial(towards, params, x), z)
    u = settle(lambda u: dz + pull(u)[0], dz)
    return jax.vjp(lambda params, x: towards(params, x, z), params, x)[1](u)


fixed_point.defvjp(fixed_point_fwd, fixed_point_bwd)


@program()
def equilibrium_implicit(dtype):
    """The fixed point itself, with the implicit function theorem as its rule."""

    def apply(params, x):
        return fixed_point(params["step"], x) @ params["head"]

    params = {"step": weights(dtype, w=(6, 6), u=(7, 6))} | weights(dtype, head=(6, 3))
    return squared_error(apply, params, (normal(dtype, N, 7),), dtype)


@program()
def matrix_factorisation(dtype):
    """One scalar from a row of each of two tables."""

    def loss(params, user, item, rating):
        guess = params["user"][user] @ params["item"][item] + params["bias"][item]
        return (guess - rating) ** 2

    params = weights(dtype, user=(6, 4), item=(7, 4), bias=7)
    return loss, params, (integers(6, N), integers(7, N, seed=8), normal(dtype, N))


@program()
def negative_sampling(dtype):
    """Skip-gram: one table for words, one for contexts, four negatives each."""

    def loss(params, word, context, negatives):
        v = params["words"][word]
        right = jax.nn.log_sigmoid(params["contexts"][context] @ v)
        return -right - jax.nn.log_sigmoid(-params["contexts"][negatives] @ v).sum()

    params = weights(dtype, words=(9, 6), contexts=(9, 6))
    return loss, params, (integers(9, N), integers(9, N, seed=7), integers(9, N, 4, seed=8))


@program()
def gaussian_process(dtype):
    """The marginal likelihood of four points: a Cholesky factor of a kernel with parameters."""

    def loss(params, x, y):
        x = x * jnp.exp(params["scale"])
        gap = jnp.sum(jnp.square(x[:, None] - x[None]), -1)
        kernel = jnp.exp(params["height"] - 0.5 * gap) + 0.1 * jnp.eye(4, dtype=dtype)
        factor = jnp.linalg.cholesky(kernel)
        z = jax.scipy.linalg.solve_triangular(factor, y - params["mean"], lower=True)
        return half_square(z) + jnp.log(jnp.diagonal(factor)).sum()

    params = weights(dtype, scale=2, height=(), mean=())
    return loss, params, (normal(dtype, N, 4, 2), normal(dtype, N, 4, seed=4))


@program()
def learning_to_learn(dtype):
    """MAML: one step of gradient descent on a task's own examples, inside the loss."""

    def error(params, x, y):
        return half_square(dense(params["two"], jnp.tanh(dense(params["one"], x))) - y)

    def loss(params, x, y, x_new, y_new):
        step = jax.grad(error)(params["net"], x, y)
        rate = jax.nn.softplus(params["rate"]) * 0.05
        adapted = jax.tree.map(lambda p, g: p - rate * g, params["net"], step)
        return error(adapted, x_new, y_new)

    net = {"one": layer(dtype, 2, 6), "two": layer(dtype, 6, 1)}
    params = weights(dtype, rate=()) | {"net": net}
    data = (normal(dtype, N, 4, n, seed=s) for s, n in ((1, 2), (2, 1), (5, 2), (6, 1)))
    return loss, params, tuple(data)


@program()
def mixture_density(dtype):
    """The log likelihood of a mixture of normals whose parts the input gives."""

    def loss(params, x, y):
        share, mean, log_scale = jnp.split(dense(params, x), 3)
        parts = jax.scipy.stats.norm.logpdf(y, mean, jnp.exp(log_scale))
        return -jax.nn.logsumexp(jax.nn.log_softmax(share) + parts)

    return loss, layer(dtype, 7, 9), (normal(dtype, N, 7), normal(dtype, N, seed=4))
