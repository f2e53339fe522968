"""What reading a program costs: no gradient of a single example is formed, and a checkpoint holds.

Each check is shown to catch the way of going about it that it is there to rule out.
"""

import re
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxdl
from tests.program.record import normal

N = 7
"""Examples: no other axis has this size."""
D = jnp.float32


def normals(**shapes):
    return {name: normal(D, *shape, scale=0.3) for name, shape in shapes.items()}


def norms_of(loss):
    return jaxdl.value_and_reduce(loss, jaxdl.example_sq_norms)


def by_vmap(loss):
    """The norms from the gradients of all examples."""

    def norms(params, x):
        gradients = jax.vmap(jax.grad(loss), (None, 0))(params, x)
        return jax.tree.map(lambda g: jnp.square(g).reshape(N, -1).sum(1), gradients)

    return norms


# --- no array of examples × a matrix ------------------------------------------------------------


def mlp(params, x):
    return jnp.sum(jnp.tanh(jnp.tanh(x @ params["u"] + params["b"]) @ params["v"]) ** 2)


def convolution(params, x):
    y = lax.conv_general_dilated(
        x[None], params["w"], (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.sum(jnp.tanh(y) ** 2)


def stack(params, x):
    def step(x, layer):
        return jnp.tanh(x @ layer["u"]) @ layer["v"], None

    return jnp.sum(lax.scan(step, x, params)[0] ** 2)


def lstm(params, x):
    def step(state, x):
        h, c = state
        i, f, g, o = jnp.split(x @ params["wx"] + h @ params["wh"] + params["b"], 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    start = jnp.zeros(13, D), jnp.zeros(13, D)
    return jnp.sum(lax.scan(step, start, x)[1] ** 2)


def penalised(params, x):
    return mlp(params, x) + jnp.sum(x) * sum(jnp.sum(p**2) for p in jax.tree.leaves(params))


LEAN = {
    "penalised": (penalised, normals(u=(11, 17), b=(17,), v=(17, 13)), (11,)),
    "mlp": (mlp, normals(u=(11, 17), b=(17,), v=(17, 13)), (11,)),
    "convolution": (convolution, normals(w=(3, 3, 5, 23)), (5, 5, 5)),
    "stack": (stack, normals(u=(3, 11, 17), v=(3, 17, 11)), (11,)),
    "lstm": (lstm, normals(wx=(11, 52), wh=(13, 52), b=(52,)), (4, 11)),
}


def formed(text, params, layers=1):
    """The types in a lowered program that hold a matrix for each example."""
    matrices = [p.shape for p in jax.tree.leaves(params) if p.ndim > 1]
    sizes = {prod(shape[1:] if layers > 1 else shape) for shape in matrices}
    found = set(re.findall(r"tensor<((?:\d+x)+)[a-z]+\d+>", text))
    types = [tuple(map(int, dims[:-1].split("x"))) for dims in found]
    return [
        shape
        for shape in types
        if N in shape and any(prod(shape) % (N * size) == 0 for size in sizes)
    ]


def lowered(run, params, x):
    return jax.jit(run).lower(params, x).as_text()


@pytest.mark.parametrize("name", LEAN)
def test_no_gradient_of_an_example_is_formed(name):
    loss, params, shape = LEAN[name]
    x, layers = normal(D, N, *shape), 3 if name == "stack" else 1
    assert formed(lowered(by_vmap(loss), params, x), params, layers)
    for reduce in (
        jaxdl.example_sq_norms,
        jaxdl.grads,
        jaxdl.clipped_sum(1.0),
        jaxdl.project(4, jax.random.key(0)),
        jaxdl.moments,
    ):
        text = lowered(jaxdl.value_and_reduce(loss, reduce), params, x)
        assert not formed(text, params, layers)


# --- a checkpoint around each layer -------------------------------------------------------------


def deep(checkpoint):
    """16 layers of a few features over many positions: activations are most of the memory."""

    def loss(params, x):
        def step(x, layer):
            h = jnp.tanh(x @ layer["up"] + layer["b"])
            return x + jnp.sin(h) @ layer["down"], None

        return jnp.sum(lax.scan(jax.checkpoint(step) if checkpoint else step, x, params)[0] ** 2)

    return loss


LAYERS = normals(up=(16, 8, 32), b=(16, 32), down=(16, 32, 8))


def memory(run):
    """Bytes that the compiled program needs beside its arguments and results."""
    x = jax.ShapeDtypeStruct((N, 64, 8), D)
    found = jax.jit(run).lower(LAYERS, x).compile().memory_analysis()
    assert found is not None
    return found.temp_size_in_bytes


def gradient_of(loss):
    return jax.grad(lambda params, x: jax.vmap(loss, (None, 0))(params, x).mean())


def kept_first(params, x):
    """Norms from factors that were all kept: those of each layer leave their checkpoint."""
    kept = jaxdl.value_and_reduce(deep(True), jaxdl.keep)(params, x)[1]
    return jaxdl.reduce_kept(jaxdl.example_sq_norms, params, kept)


def test_a_checkpoint_spares_what_it_spares_the_gradient():
    plain = memory(gradient_of(deep(True)))
    for reduce in (jaxdl.grads, jaxdl.example_sq_norms, jaxdl.clipped_sum(1.0)):
        assert memory(jaxdl.value_and_reduce(deep(True), reduce)) <= 1.3 * plain


def test_memory_that_is_not_spared_is_seen():
    plain = memory(gradient_of(deep(True)))
    assert memory(gradient_of(deep(False))) > 2 * plain
    assert memory(kept_first) > 2 * plain


def test_norms_of_the_checkpointed_stack_are_right():
    x = normal(D, N, 64, 8)
    got = jax.jit(norms_of(deep(True)))(LAYERS, x)[1]
    want = jax.jit(by_vmap(deep(False)))(LAYERS, x)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g.sum(0), w, 1e-4)
