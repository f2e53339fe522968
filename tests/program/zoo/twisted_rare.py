"""What few programs hold, and some do: rare primitives, samples, interpolation, solvers."""

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding, PartitionSpec

from tests.program.record import (
    N,
    Program,
    dense_tanh,
    family,
    half_square,
    integers,
    normal,
    one_layer,
    sequence,
    weights,
)

TWISTED_RARE: list[Program] = []
program = family("rare", TWISTED_RARE)


@program()
def checkpoint_with_names(dtype):
    policy = jax.checkpoint_policies.save_only_these_names("hidden")

    def loss(params, x):
        def inner(params, x):
            return jnp.sin(checkpoint_name(dense_tanh(params, x), "hidden") @ params["w"])

        return half_square(jax.checkpoint(inner, policy=policy)(params, x))

    return loss, one_layer(dtype), sequence(dtype)


@program()
def sharding_constraint_inside(dtype):
    mesh = jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = NamedSharding(mesh, PartitionSpec(None, "model"))

    def loss(params, x):
        w = lax.with_sharding_constraint(params["w"], sharded)
        return half_square(lax.with_sharding_constraint(jnp.tanh(x @ w), sharded) + params["b"])

    return loss, one_layer(dtype), sequence(dtype)


@program()
def barrier_and_scope(dtype):
    """An optimisation barrier around parameters and data at once, under a name."""

    def loss(params, x):
        with jax.named_scope("layer"):
            w, b, x = lax.optimization_barrier((params["w"], params["b"], x))
            return half_square(jnp.tanh(x @ w + b))

    return loss, one_layer(dtype), sequence(dtype)


@program(surrogate=True)
def reduced_precision(dtype):
    """A weight with few bits of mantissa, whose gradient is reduced too."""

    def loss(params, x):
        w = params["w"] + lax.stop_gradient(lax.reduce_precision(params["w"], 8, 4) - params["w"])
        return half_square(x @ w + params["b"])

    return loss, one_layer(dtype), sequence(dtype)


@program()
def custom_vmap_inside(dtype):
    """A function with a rule of its own for a batch, of data and a parameter."""

    @jax.custom_batching.custom_vmap
    def times(b, y):
        return b * y

    @times.def_vmap
    def _(size, batched, b, y):
        axes = tuple(0 if flag else None for flag in batched)
        return jax.vmap(jnp.multiply, in_axes=axes, axis_size=size)(b, y), True

    scaled = jax.custom_vjp(times)
    scaled.defvjp(
        lambda b, y: (times(b, y), (b, y)),
        lambda kept, d: (jnp.sum(times(kept[1], d), 0), times(kept[0], d)),
    )

    def loss(params, x):
        return half_square(scaled(params["b"], x @ params["w"]))

    return loss, one_layer(dtype), sequence(dtype)


@program(surrogate=True, rtol=1e-5)
def attention_of_jax(dtype):
    """`jax.nn.dot_product_attention`, softmax in float32, with a learned bias of the scores."""

    def loss(params, x):
        q, k, v = jnp.einsum("td,sdhe->sthe", x, params["qkv"])
        y = jax.nn.dot_product_attention(q, k, v, bias=params["bias"], is_causal=True)
        return half_square(y)

    params = weights(dtype, qkv=(3, 6, 2, 3), bias=(2, 4, 4))
    return loss, params, sequence(dtype)


@program()
def root_of_an_equation(dtype):
    """`lax.custom_root`: the solution y of y³ + softplus(w·x)·y = b."""

    def loss(params, x):
        slope = jax.nn.softplus(x @ params["w"])

        def equation(y):
            return y**3 + (1 + slope) * y - params["b"][:3]

        def solve(f, start):
            def step(y):
                return y - f(y) / jax.jvp(f, (y,), (jnp.ones_like(y),))[1]

            return lax.fori_loop(0, 30, lambda _, y: step(y), start)

        def solve_linear(g, y):
            return y / g(jnp.ones_like(y))

        y = lax.custom_root(equation, jnp.zeros_like(slope), solve, solve_linear)
        return half_square(y)

    return loss, weights(dtype, w=(6, 3), b=6), (normal(dtype, N, 6),)


@program()
def bounded_while_loop(dtype):
    """A loop of data-dependent length that can be differentiated, as in Diffrax."""

    def loss(params, x, steps):
        def body(carry):
            i, h = carry
            return i + 1, dense_tanh(params, h) + 0.1 * x

        _, h = eqxi.while_loop(
            lambda carry: carry[0] < steps, body, (0, x), max_steps=4, kind="bounded", base=2
        )
        return half_square(h)

    return loss, one_layer(dtype), (*sequence(dtype), integers(4, N))


@program()
def relaxed_sample(dtype):
    """Gumbel softmax: logits that are parameters alone, noise of the example's key."""

    def loss(params, x, key):
        noise = jax.random.gumbel(key, params["b"].shape, dtype)
        return half_square(jax.nn.softmax(params["b"] + noise) * x @ params["w"])

    keys = jax.random.split(jax.random.key(2), N)
    return loss, one_layer(dtype), (*sequence(dtype), keys)


@program(surrogate=True)
def policy_gradient(dtype):
    """An action is drawn with the policy's logits and scored, without a gradient of its own."""

    def loss(params, x, key):
        logits = x @ params["w"]
        action = jax.random.categorical(key, logits)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], 1)[:, 0]
        reward = jnp.cos(action.astype(dtype)) - lax.stop_gradient(x @ params["b"])
        return -jnp.sum(chosen * reward) + half_square(x @ params["b"] - 1)

    keys = jax.random.split(jax.random.key(2), N)
    return loss, one_layer(dtype), (*sequence(dtype), keys)


@program()
def connectionist_temporal_classification(dtype):
    """optax.ctc_loss of a batch of one."""

    def loss(params, x, labels):
        logits = (x @ params["w"] + params["b"])[None]
        none = jnp.zeros(logits.shape[:2], dtype)
        return optax.ctc_loss(logits, none, labels[None], jnp.zeros((1, 2), dtype)).sum()

    return loss, weights(dtype, w=(6, 3), b=3), (*sequence(dtype), 1 + integers(2, N, 2))


@program()
def learned_grid_read_between_its_points(dtype):
    """A grid of features, read at the positions of the example by linear interpolation."""

    def loss(params, at):
        def read(grid):
            return jax.scipy.ndimage.map_coordinates(grid, 3 * at.T, order=1, mode="wrap")

        return half_square(jnp.sin(jax.vmap(read)(params["grid"])))

    return loss, weights(dtype, grid=(3, 4, 6)), (normal(dtype, N, 7, 2),)


@program()
def resized_positions(dtype):
    """Learned positions of another length, brought to that of the example."""

    def loss(params, x):
        positions = jax.image.resize(params["positions"], (4, 6), "linear", antialias=False)
        return half_square(jnp.tanh(x + positions) @ params["w"])

    return loss, weights(dtype, positions=(3, 6), w=(6, 2)), sequence(dtype)


@program()
def splines_and_polynomials(dtype):
    """Learned values at fixed knots, and coefficients by Horner's rule, which is a scan."""
    knots = jnp.linspace(-3, 3, 6, dtype=dtype)

    def loss(params, x):
        y = jnp.interp(x, knots, params["values"]) + jnp.polyval(params["coefficients"], x)
        return half_square(y) + half_square(jnp.convolve(x[0], params["values"][:3]))

    return loss, weights(dtype, values=6, coefficients=3), sequence(dtype)


@program()
def nuclear_norm_of_a_product(dtype):
    """Singular values of what data and parameters make together, and of the parameter alone."""

    def loss(params, x):
        mixed = jnp.linalg.svd(x @ params["w"], compute_uv=False)
        return jnp.sum(mixed) + jnp.sum(jnp.linalg.svd(params["w"], compute_uv=False))

    return loss, weights(dtype, w=(6, 3)), sequence(dtype)


@program()
def sinkhorn(dtype):
    """Optimal transport to learned points: a loop of normalisations in log space."""

    def loss(params, x):
        cost = jnp.sum(jnp.square(x[:, None] - params["points"][None]), -1)

        def step(_, potentials):
            f, g = potentials
            f = -jax.nn.logsumexp(g[None] - cost, 1)
            return f, -jax.nn.logsumexp(f[:, None] - cost, 0)

        f, g = lax.fori_loop(0, 3, step, (jnp.zeros(4, dtype), jnp.zeros(3, dtype)))
        return jnp.sum(jnp.exp(f[:, None] + g[None] - cost) * cost)

    return loss, weights(dtype, points=(3, 6)), sequence(dtype)
