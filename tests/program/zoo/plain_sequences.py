"""Sequences and sets in plain JAX: selective recurrences, fields, dilated convolutions."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.program.record import (
    N,
    Program,
    classification,
    family,
    integers,
    normal,
    squared_error,
    weights,
)
from tests.program.zoo.plain_models import dense, layer

PLAIN_SEQUENCES: list[Program] = []
program = family("plain", PLAIN_SEQUENCES)


@program()
def selective_state_space(dtype):
    """A recurrence whose step, input and output weights depend on the input."""

    def apply(params, x):
        delta = jax.nn.softplus(dense(params["delta"], x))
        a = jnp.exp(delta[..., None] * -jnp.exp(params["A_log"]))
        b, c = x @ params["b"], x @ params["c"]
        u = (delta * x)[..., None] * b[:, None, :]

        def combine(l, r):
            return r[0] * l[0], r[0] * l[1] + r[1]

        _, h = lax.associative_scan(combine, (a, u))
        return jnp.einsum("tdn,tn->td", h, c) + params["D"] * x

    params = weights(dtype, A_log=(3, 2), b=(3, 2), c=(3, 2), D=3) | {"delta": layer(dtype, 3, 3)}
    return squared_error(apply, params, (normal(dtype, N, 4, 3),), dtype)


@program()
def linear_attention(dtype):
    """A matrix of memory that decays by a learned rate for each head."""

    def apply(params, x):
        q, k, v = jnp.einsum("td,sdhe->sthe", x, params["qkv"])
        decay = jax.nn.sigmoid(params["decay"])[:, None, None]

        def step(memory, qkv):
            q, k, v = qkv
            memory = decay * memory + k[:, :, None] * v[:, None, :]
            return memory, jnp.einsum("he,hef->hf", q, memory)

        _, y = lax.scan(step, jnp.zeros((2, 3, 3), dtype), (q, k, v))
        return jnp.einsum("the,hed->td", y, params["out"])

    params = weights(dtype, qkv=(3, 6, 2, 3), decay=2, out=(2, 3, 6))
    return squared_error(apply, params, (normal(dtype, N, 4, 6),), dtype)


@program()
def conditional_random_field(dtype):
    """The partition function by a scan over logsumexp with the transitions."""

    def loss(params, x, tags):
        scores = dense(params["emit"], x)

        def step(a, s):
            return jax.nn.logsumexp(a[:, None] + params["move"], 0) + s, None

        last, _ = lax.scan(step, params["start"] + scores[0], scores[1:])
        path = params["start"][tags[0]] + scores[jnp.arange(4), tags].sum()
        return jax.nn.logsumexp(last) - path - params["move"][tags[:-1], tags[1:]].sum()

    params = weights(dtype, move=(3, 3), start=3) | {"emit": layer(dtype, 6, 3)}
    return loss, params, (normal(dtype, N, 4, 6), integers(3, N, 4))


@program()
def deep_set_attention_pool(dtype):
    """A learned query asks the elements of a ragged set."""

    def apply(params, x, length):
        h = jax.nn.relu(dense(params["phi"], x))
        score = jnp.where(jnp.arange(len(x)) < length, h @ params["query"], -jnp.inf)
        return jax.nn.softmax(score) @ h

    params = {"phi": layer(dtype, 3, 6)} | weights(dtype, query=6)
    return squared_error(apply, params, (normal(dtype, N, 4, 3), 1 + integers(4, N)), dtype)


@program()
def wavenet(dtype):
    """Causal gated convolutions whose dilation doubles, in one list of layers."""

    def apply(params, x):
        total = jnp.zeros((), dtype)
        for i, p in enumerate(params):
            x_ = jnp.pad(x, ((2**i, 0), (0, 0)))[None]
            y = lax.conv_general_dilated(
                x_,
                p["w"],
                (1,),
                "VALID",
                rhs_dilation=(2**i,),
                dimension_numbers=("NWC", "WIO", "NWC"),
            )[0]
            gate, value = jnp.split(y, 2, axis=-1)
            y = jax.nn.sigmoid(gate) * jnp.tanh(value) @ p["v"]
            x, total = x + y, total + y
        return total

    params = [weights(dtype, seed, w=(2, 3, 8), v=(4, 3)) for seed in (3, 4, 5)]
    return squared_error(apply, params, (normal(dtype, N, 6, 3),), dtype)


@program()
def heads_per_position(dtype):
    """A classifier of its own for each position, and one for all."""

    def apply(params, x):
        return jnp.einsum("td,tdc->tc", x, params["own"]) + x @ params["shared"]

    return classification(
        apply,
        weights(dtype, own=(4, 6, 3), shared=(6, 3)),
        (normal(dtype, N, 4, 6),),
        integers(3, N, 4),
    )
