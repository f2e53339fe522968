"""Trees and axes: what holds the parameters and examples, what is unused, and what never meets."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

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

TWISTED_TREES: list[Program] = []
program = family("trees", TWISTED_TREES)


class Pair(NamedTuple):
    w: jax.Array
    b: jax.Array


@jax.tree_util.register_dataclass
@dataclass
class Model:
    layers: list[Pair]
    out: tuple[jax.Array, None]


@program()
def nested_containers(dtype):
    """A dataclass of a list of named tuples, and a tuple with None."""

    def loss(params, x):
        for w, b in params.layers:
            x = jnp.tanh(x @ w + b)
        return half_square(x @ params.out[0])

    layers = [Pair(**weights(dtype, seed, w=(6, 6), b=6)) for seed in (3, 4)]
    return loss, Model(layers, (weights(dtype, w=(6, 3))["w"], None)), sequence(dtype)


@program()
def one_bare_array(dtype):
    def loss(w, x):
        return half_square(jnp.tanh(x @ w))

    return loss, weights(dtype, w=(6, 3))["w"], sequence(dtype)


@program(zeros=("unused",))
def unused_parameter(dtype):
    def loss(params, x):
        return half_square(dense_tanh(params, x))

    return loss, weights(dtype, w=(6, 6), b=6, unused=(3, 2)), sequence(dtype)


@program(zeros=("integer_only",))
def used_only_as_integers(dtype):
    """A parameter that decides by rounding and comparing alone."""

    def loss(params, x):
        count = jnp.round(params["integer_only"]).astype(jnp.int32)
        kept = (params["integer_only"] > 0.1).astype(dtype)
        return half_square(dense_tanh(params, x) * kept + count.astype(dtype))

    return loss, weights(dtype, w=(6, 6), b=6, integer_only=6), sequence(dtype)


@program(zeros=("['empty']",))
def empty_parameter(dtype):
    """A weight with no entries: a layer of no units."""

    def loss(params, x):
        y = jnp.concatenate([x @ params["w"], x @ params["empty"]], axis=-1)
        return half_square(jnp.tanh(y))

    return loss, weights(dtype, w=(6, 3), empty=(6, 0)), sequence(dtype)


@program()
def the_same_array_under_two_names(dtype):
    """They are two parameters that happen to be equal."""

    def loss(params, x):
        return half_square(jnp.tanh(x @ params["one"]) @ params["two"])

    w = weights(dtype, w=(6, 6))["w"]
    return loss, {"one": w, "two": w}, sequence(dtype)


@program()
def regulariser(dtype):
    """A sum of squares that meets data only in the last addition, and has a parameter alone."""

    def loss(params, x):
        penalty = sum(half_square(leaf) for leaf in jax.tree.leaves(params))
        return half_square(dense_tanh(params, x)) + 0.1 * penalty

    return loss, weights(dtype, w=(6, 6), b=6, alone=3), sequence(dtype)


@program()
def regulariser_alone(dtype):
    """The loss never looks at its example."""

    def loss(params, x):
        return half_square(jnp.sin(params["w"])) + params["b"].sum()

    return loss, one_layer(dtype), sequence(dtype)


@program()
def weight_of_the_loss(dtype):
    """Several tasks, each weighted by a learned uncertainty."""

    def loss(params, x):
        y = dense_tanh(params, x)
        tasks = jnp.stack([half_square(y), jnp.abs(y).sum()])
        return jnp.sum(tasks * jnp.exp(-params["s"]) + params["s"]) * params["scale"]

    return loss, weights(dtype, w=(6, 6), b=6, s=2, scale=()), sequence(dtype)


@program()
def parameter_is_the_loss(dtype):
    """The example has an axis of no length, and one number is returned as it came."""

    def loss(params, x):
        return params["w"] + x.sum()

    return loss, weights(dtype, w=()), (normal(dtype, N, 0),)


@program()
def integer_examples(dtype):
    """One-hot rows of integers, counts, and booleans."""

    def loss(params, ids, flags):
        hot = jax.nn.one_hot(ids, 7, dtype=dtype)
        y = hot @ params["w"] + jnp.where(flags[:, None], params["b"], 0)
        return half_square(jnp.tanh(y)) + ids.sum() * params["b"].sum()

    return loss, weights(dtype, w=(7, 6), b=6), (integers(7, N, 4), integers(2, N, 4, seed=6) == 1)


@program(in_axes=({"x": 1, "mask": None, "y": 0}, -1))
def examples_on_other_axes(dtype):
    """A dict of which one entry is shared, and examples on the last axis."""

    def loss(params, data, scale):
        y = dense_tanh(params, data["x"]) * data["mask"]
        return half_square(y.sum(0) * scale - data["y"])

    data = {
        "x": normal(dtype, 4, N, 6),
        "mask": integers(2, 4, 6).astype(dtype),
        "y": normal(dtype, N, 6, seed=4),
    }
    return loss, weights(dtype, w=(6, 6), b=6), (data, normal(dtype, 6, N, seed=6))


@program(in_axes=(None, 0))
def first_argument_is_shared(dtype):
    """A batch of prototypes for all, meets parameters before it meets an example."""

    def loss(params, prototypes, x):
        keys = jnp.tanh(prototypes @ params["w"])
        return jax.nn.logsumexp(keys @ (x @ params["w"]) * params["b"][:4])

    return loss, weights(dtype, w=(6, 3), b=6), (normal(dtype, 4, 6, seed=6), normal(dtype, N, 6))


@program(keep_batch_dim=True)
def loss_of_a_batch_of_one(dtype):
    """A mean over examples and positions, and a parameter that is broadcast to the batch."""

    def loss(params, x, y):
        token = jnp.broadcast_to(params["b"], (x.shape[0], 1, 6))
        return jnp.mean(jnp.square(jnp.concatenate([token, x @ params["w"]], 1) - y[:, None]))

    return loss, weights(dtype, w=(6, 6), b=6), (*sequence(dtype), normal(dtype, N, 6, seed=4))


@program(keep_batch_dim=True)
def embedding_of_a_batch_of_one(dtype):
    def loss(params, ids):
        return half_square(jnp.einsum("ntd,tde->ne", params["table"][ids], params["w"]))

    return loss, weights(dtype, table=(7, 6), w=(4, 6, 3)), (integers(7, N, 4),)


@program()
def example_is_a_tree(dtype):
    def loss(params, example):
        (a, b), extra = example["pair"], example["extra"]
        return half_square(dense_tanh(params, a) * b + extra)

    batch = {"pair": (normal(dtype, N, 6), normal(dtype, N, 6, seed=6)), "extra": normal(dtype, N)}
    return loss, weights(dtype, w=(6, 6), b=6), (batch,)


@program()
def no_parameter_in_some_equations(dtype):
    """Branches of the loss with data alone, parameters alone, constants alone."""
    table = normal(dtype, 7, 6, seed=9)

    def loss(params, x, ids):
        still = jnp.tanh(table[ids]).sum(0)
        made = jnp.tanh(params["w"] @ table.T).sum(1)
        return half_square(x @ params["w"] + still) + jnp.dot(made, x[0]) + table.sum()

    return loss, weights(dtype, w=(6, 6)), (*sequence(dtype), integers(7, N, 3))
