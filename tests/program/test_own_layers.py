"""Layers of this library inside a program (`as_function`) hand over the factors of their own."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxdl
from jaxdl.core.compose import repeat, serial
from jaxdl.core.factors import Factor
from tests.cases import hidden, rnn_cell
from tests.program.record import N, normal

D = jnp.float64
TIME = normal(D, N, 4, 6)
IMAGE = normal(D, N, 6, 6, 2)
IDS = jnp.arange(4 * N).reshape(N, 4) % 7
# fmt: off
LAYERS = {
    "dense": (jaxdl.dense(3), TIME),
    "norm": (serial(jaxdl.dense(6), jaxdl.layer_norm(), jaxdl.tanh()), TIME),
    "conv": (serial(jaxdl.conv(3, (3, 3)), jaxdl.tanh()), IMAGE),
    "embedding": (serial(jaxdl.embedding(7, 3), jaxdl.tanh()), IDS),
    "attention": (jaxdl.self_attention(2), TIME),
    "repeat": (repeat(serial(jaxdl.dense(6), jaxdl.tanh()), 3), TIME),
    "scan_time": (jaxdl.scan_time(rnn_cell(3), hidden(3)), TIME),
    "tied": (jaxdl.tied(serial(jaxdl.dense(6), jaxdl.tanh(), jaxdl.dense(6)),
                        {"dense_1/w": "dense/w"}), TIME),
    "frozen": (serial(jaxdl.frozen(jaxdl.dense(6)), jaxdl.dense(3)), TIME),
    "remat": (jaxdl.remat(serial(jaxdl.dense(5), jaxdl.tanh(), jaxdl.dense(3))), TIME),
}
# fmt: on


def _mixing(params, x):
    """Its gradient is formed already: the layer may mix examples, and says so."""
    return jnp.tanh(x @ params["w"])


LAYERS["formed"] = (
    jaxdl.from_function(
        lambda key, x: {"w": jnp.ones((6, 3), D)}, _mixing, params=("w",), mixes=True
    ),
    TIME,
)


def drawn(layer, x):
    params = layer.init(jax.random.key(3), x[:1])
    leaves, tree = jax.tree.flatten(params)
    return tree.unflatten([normal(D, *p.shape, seed=i + 5) for i, p in enumerate(leaves)])


def total(y):
    return jnp.sum(jnp.tanh(y) ** 2)


def once(layer, params, x):
    """The example is a batch of one to the layer."""
    return total(jaxdl.as_function(layer)(params, x[None]))


def as_rows(layer, params, x):
    """The positions of an example are the examples of the layer, which knows none of it."""
    return total(jaxdl.as_function(layer)(params, x))


def over_layers(layer, params, x):
    """A scan over three copies, each of other values."""
    stacked = jax.tree.map(lambda p: jnp.stack([p, -p, 2 * p]), params)

    def step(x, params):
        return jaxdl.as_function(layer)(params, x[None])[0], None

    return total(lax.scan(step, x, stacked)[0])


def over_time(layer, params, x):
    """The same layer at each step of a scan."""

    def step(h, x):
        return jnp.tanh(h + jaxdl.as_function(layer)(params, x[None])[0]), None

    shape = jax.eval_shape(lambda x: jaxdl.as_function(layer)(params, x[None])[0], x[0])
    return total(lax.scan(step, jnp.zeros(shape.shape, D), x)[0])


def in_checkpoint(layer, params, x):
    return jax.checkpoint(partial(once, layer))(params, x)


def twice(layer, params, x):
    return once(layer, params, x) + once(layer, params, -x)


PROGRAMS = [
    *((name, once) for name in LAYERS),
    *((name, as_rows) for name in ("dense", "norm", "formed")),
    *((name, over_layers) for name in ("norm", "repeat", "attention")),
    *((name, over_time) for name in ("dense", "norm", "formed")),
    *((name, in_checkpoint) for name in ("norm", "repeat")),
    *((name, twice) for name in ("conv", "scan_time", "repeat")),
]


@pytest.mark.parametrize(
    ("name", "use"), PROGRAMS, ids=[f"{name}-{use.__name__}" for name, use in PROGRAMS]
)
def test_gradients_and_norms(name, use):
    layer, x = LAYERS[name]
    params, loss = drawn(layer, x), partial(use, layer)
    reduce = jaxdl.combine(grads=jaxdl.grads, norms=jaxdl.example_sq_norms)

    @jax.jit
    def both(params, x):
        by_jax = jax.vmap(jax.value_and_grad(loss), (None, 0))(params, x)
        return by_jax, jaxdl.value_and_reduce(loss, reduce)(params, x)

    (values, gradients), (got, tree) = both(params, x)
    np.testing.assert_allclose(got, values, 1e-10)
    gradient, norms = jaxdl.select(tree, "grads"), jaxdl.select(tree, "norms")
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    most = max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(gradients))
    for g, n, each in zip(*map(jax.tree.leaves, (gradient, norms, gradients)), strict=True):
        np.testing.assert_allclose(g, each.mean(0), 1e-9, 1e-13 * most)
        sq = np.square(each).reshape(N, -1).sum(1)
        np.testing.assert_allclose(n.reshape(-1, N).sum(0), sq, 1e-9, 1e-13 * most)


def names(kept):
    def name(factor):
        inner = getattr(factor, "factor", None)
        own = type(factor).__name__
        return own if inner is None else f"{own}({name(inner)})"

    return jax.tree.map(name, kept, is_leaf=lambda node: isinstance(node, Factor))


def kept_by(name, use):
    layer, x = LAYERS[name]
    run = jaxdl.value_and_reduce(partial(use, layer), jaxdl.keep)
    return names(jax.eval_shape(run, drawn(layer, x), x)[1])


def test_the_factors_are_the_layers():
    """No equation of the layer is read: its norm's scale is a Diag by its own backward pass."""
    dense = {"w": "Outer", "b": "Sum"}
    assert kept_by("norm", once) == {
        "dense": dense, "layer_norm": {"scale": "Diag", "shift": "Sum"},
    }  # fmt: skip
    assert kept_by("embedding", once) == {"embedding": {"table": "Scatter"}}
    assert kept_by("conv", once)["conv"]["w"] == "ConvOuter"
    assert kept_by("frozen", once)["dense"] == {"w": "Zero", "b": "Zero"}


@pytest.mark.parametrize("use", [once, in_checkpoint])
def test_a_repeated_layer_is_stacked(use):
    assert kept_by("repeat", use) == {
        "dense": {"w": "Stacked(Outer)", "b": "Stacked(Sum)"}
    }  # fmt: skip


def test_a_layer_in_a_scan_over_layers_is_stacked():
    layer, x = LAYERS["norm"]
    params = jax.tree.map(lambda p: jnp.stack([p, -p]), drawn(layer, x))

    def loss(params, x):
        def step(x, params):
            return jaxdl.as_function(layer)(params, x[None])[0], None

        return total(lax.scan(step, x, params)[0])

    kept = names(jax.eval_shape(jaxdl.value_and_reduce(loss, jaxdl.keep), params, x)[1])
    assert kept["dense"] == {"w": "Stacked(Outer)", "b": "Stacked(Sum)"}
    assert kept["layer_norm"]["scale"] == "Stacked(Diag)"


def test_explain_names_them():
    layer, x = LAYERS["norm"]
    found = jaxdl.explain(partial(once, layer), drawn(layer, x), x[0])
    assert {site.form for site in found.sites} == {"of its own"} and not found.unused


def test_a_backward_pass_that_is_wrong_is_seen():
    """The layer's own backward is what runs, not the derivative of its forward."""
    dense = jaxdl.dense(3)

    def wrong(params, residuals, dy, reduce=jaxdl.grads, slots=None):
        return dense.bwd(params, residuals, 2 * dy, reduce, slots)

    layer = jaxdl.Layer("wrong", dense.init, dense.fwd, wrong)
    params = drawn(dense, TIME)
    right, twice = (
        jaxdl.value_and_reduce(partial(once, one), jaxdl.example_sq_norms)(params, TIME)[1]
        for one in (dense, layer)
    )
    for r, t in zip(jax.tree.leaves(right), jax.tree.leaves(twice), strict=True):
        np.testing.assert_allclose(t, 4 * r, 1e-12)
