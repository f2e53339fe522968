"""`jaxdl.value_and_reduce`: what goes in and comes out, and under JAX's own transformations."""

from collections import OrderedDict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.nnx import State
from jax import lax

import jaxdl
from jaxdl.core.factors import Factor, Outer
from tests.program.record import N, normal

D = jnp.float64
P = {"w": normal(D, 3, 2), "b": normal(D, 2, seed=5)}
X, Y = normal(D, N, 3), normal(D, N, 2, seed=6)


def close(got, want, rtol=1e-10):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.shape(g) == np.shape(w)
        np.testing.assert_allclose(g, w, rtol, 1e-13)


def loss(params, x, y):
    return 0.5 * jnp.sum((jnp.tanh(x @ params["w"] + params["b"]) - y) ** 2)


def each(loss, params, *batch, in_axes=0):
    """(values, gradients of single examples) by JAX."""
    axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(batch)
    return jax.vmap(jax.value_and_grad(loss), (None, *axes))(params, *batch)


def mean(gradients):
    return jax.tree.map(lambda g: g.mean(0), gradients)


def sq_norms(gradients):
    return jax.tree.map(lambda g: jnp.sum(jnp.square(g).reshape(len(g), -1), axis=1), gradients)


def check(loss, params, *batch, in_axes: Any = 0, **settings):
    """Values, gradient and norms, against the gradients of single examples."""
    reduce = jaxdl.combine(grads=jaxdl.grads, norms=jaxdl.example_sq_norms)
    run = jaxdl.value_and_reduce(loss, reduce, in_axes=in_axes, **settings)
    values, tree = jax.jit(run)(params, *batch)
    want, gradients = each(loss, params, *batch, in_axes=in_axes)
    close(values, want)
    close(jaxdl.select(tree, "grads"), mean(gradients))
    close(jaxdl.select(tree, "norms"), sq_norms(gradients))


def test_clipping_of_layers_of_a_program():
    """Each dict of parameters is a layer; the gradients of single examples say the same."""

    def two(params, x, y):
        return loss(params["last"], jnp.tanh(x @ params["first"]["w"] + params["first"]["b"]), y)

    params, c = {"first": {"w": normal(D, 3, 3, seed=1), "b": normal(D, 3)}, "last": P}, 1.0
    kept = jaxdl.value_and_reduce(two, jaxdl.keep)(params, X, Y)[1]
    got = jaxdl.reduce_kept(jaxdl.clipped_sum(c, per="layer"), params, kept)
    want = {}
    for name, layer in each(two, params, X, Y)[1].items():
        weights = jnp.minimum(1, c / jnp.sqrt(sum(jax.tree.leaves(sq_norms(layer)))))
        assert 0 < jnp.sum(weights < 1) < N
        want[name] = jax.tree.map(lambda g, w=weights: jnp.tensordot(w, g, 1), layer)
    close(got, want)


# --- where the examples are ---------------------------------------------------------------------


def of_a_tree(params, example, shared, last):
    x, (y, _) = example["x"], example["y"]
    return loss(params, x * shared, y) + jnp.sum(last * params["b"])


EXAMPLE = {"x": X, "y": (Y.T, normal(D, 4))}
AXES = {"x": 0, "y": (1, None)}
LAST = normal(D, 2, N, seed=7)


@pytest.mark.parametrize(
    ("examples", "axes"),
    [
        ((EXAMPLE, normal(D, 3), LAST), (AXES, None, -1)),
        ((EXAMPLE, normal(D, N, 3), LAST), (AXES, 0, 1)),
        ((EXAMPLE, normal(D, 3), LAST.T), (AXES, None, -2)),
        (({"x": X, "y": (Y, X)}, normal(D, 3), LAST.T), (0, None, 0)),
        (({"x": X, "y": (Y, X[0])}, 2.0, LAST.T), ({"x": 0, "y": (0, None)}, None, 0)),
    ],
)
def test_axes_of_the_examples(examples, axes):
    check(of_a_tree, P, *examples, in_axes=axes)


def test_one_axis_for_all_arguments():
    turned = jaxdl.value_and_reduce(loss, in_axes=1)(P, X.T, Y.T)
    close(turned, jaxdl.value_and_reduce(loss)(P, X, Y))
    close(jaxdl.value_and_reduce(loss, in_axes=-1)(P, X.T, Y.T), turned)
    close(jaxdl.value_and_reduce(loss, in_axes=[0, 0])(P, X, Y), turned)


def test_an_argument_that_is_none():
    def with_none(params, x, mask, y):
        assert mask is None
        return loss(params, x, y)

    close(jaxdl.value_and_reduce(with_none)(P, X, None, Y), jaxdl.value_and_reduce(loss)(P, X, Y))


def test_numpy_arrays_come_in():
    given = jax.tree.map(np.asarray, (P, X, Y))
    close(jaxdl.value_and_reduce(loss)(*given), jaxdl.value_and_reduce(loss)(P, X, Y))


def test_one_example():
    check(loss, P, X[:1], Y[:1])


@pytest.mark.parametrize("own", [True, False], ids=["one_each", "shared"])
@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey], ids=["typed", "raw"])
def test_keys(make, own):
    def noisy(params, x, y, key):
        return loss(params, x * jax.random.normal(key, x.shape), y)

    key = make(3)
    keys = jax.random.split(key, N) if own else key
    check(noisy, P, X, Y, keys, in_axes=(0, 0, 0 if own else None))
    if own:
        values, others = (jaxdl.value_and_reduce(noisy)(P, X, Y, k)[0] for k in (keys, keys[::-1]))
        assert not np.allclose(values, others)


# --- what comes back ----------------------------------------------------------------------------


def test_auxiliary_values():
    def with_more(params, x, y):
        h = jnp.tanh(x @ params["w"])
        more = {"h": h, "class": jnp.argmax(h), "w": params["w"], "n": 3, "none": None, "x": (x,)}
        return loss(params, x, y), more

    run = jaxdl.value_and_reduce(with_more, jaxdl.example_sq_norms, has_aux=True)
    (values, more), norms = run(P, X, Y)
    by_jax = jax.vmap(jax.value_and_grad(with_more, has_aux=True), (None, 0, 0))
    (want, want_more), gradients = by_jax(P, X, Y)
    close((values, more), (want, want_more))
    close(norms, sq_norms(gradients))
    assert more["class"].dtype == want_more["class"].dtype
    assert jnp.issubdtype(more["class"].dtype, jnp.integer)
    assert more["w"].shape == (N, 3, 2) and more["n"].shape == (N,)


def test_auxiliary_values_have_no_gradient():
    """A parameter that is in them alone has none, and one that is in both has that of the loss."""

    def with_more(params, x, y):
        return loss(params, x, y), jnp.sum(x @ params["w"]) * params["alone"]

    params = P | {"alone": jnp.ones((), D)}
    run = jaxdl.value_and_reduce(with_more, has_aux=True)
    gradient = run(params, X, Y)[1]
    assert gradient.pop("alone") == 0
    close(gradient, jaxdl.value_and_reduce(loss)(P, X, Y)[1])


def test_loss_of_a_batch():
    """With keep_batch_dim each example comes as a batch of one, on the axes where it was."""
    shapes = []

    def of_batch(params, x, y):
        shapes.append((x.shape, y.shape))
        return jax.vmap(loss, (None, 0, 1))(params, x, y).mean()

    run = jaxdl.value_and_reduce(
        of_batch, jaxdl.example_sq_norms, in_axes=(0, 1), keep_batch_dim=True
    )
    close(run(P, X, Y.T), jaxdl.value_and_reduce(loss, jaxdl.example_sq_norms)(P, X, Y))
    assert set(shapes) == {((1, 3), (2, 1))}


def test_a_scalar_that_is_a_parameter():
    check(lambda p, x: p * jnp.sum(x**2) + p**2, jnp.asarray(0.7, D), X)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtypes_are_those_of_parameters_and_loss(dtype):
    params = {"w": P["w"].astype(dtype), "b": P["b"]}

    def mixed(p, x, y):
        return loss(p | {"w": p["w"].astype(D)}, x, y).astype(jnp.float32)

    values, gradient = jaxdl.value_and_reduce(mixed)(params, X, Y)
    assert values.dtype == jnp.float32
    assert jax.tree.map(lambda g: g.dtype, gradient) == {"w": jnp.dtype(dtype), "b": jnp.dtype(D)}
    assert jaxdl.value_and_reduce(mixed, jaxdl.example_sq_norms)(params, X, Y)[1]["w"].dtype in (
        jnp.float32,
        jnp.float64,
    )


# --- reducers -----------------------------------------------------------------------------------


class Model(NamedTuple):
    layers: dict
    head: tuple


MODEL = Model({"w": normal(D, 2, 3, 3), "b": normal(D, 2, 3)}, ([normal(D, 3, 2)], normal(D, 2)))


def of_model(model, x, y):
    def step(x, layer):
        return jnp.tanh(x @ layer["w"] + layer["b"]), None

    h = lax.scan(step, x, model.layers)[0]
    (w,), b = model.head
    return 0.5 * jnp.sum((h @ w + b - y) ** 2)


def test_a_reducer_of_ones_own():
    """It is called once for each parameter, with its path, value, factor and slot."""
    called = {}

    def mine(params, factors, slots=None):
        (name,) = params
        called[name] = params[name].shape, type(factors[name]), factors[name].examples
        return {name: (jnp.max(factors[name].d, axis=-1), jnp.sum(params[name]))}

    _, made = jaxdl.value_and_reduce(of_model, mine)(MODEL, X, Y)
    assert set(called) == {"layers/w", "layers/b", "head/0/0", "head/1"}
    assert called["head/0/0"] == ((3, 2), Outer, N)
    assert called["layers/w"] == ((3, 3), Outer, N)  # one layer at a time
    assert isinstance(made, Model)
    assert made.layers["w"][0].shape == (2, N)
    close(made.layers["w"][1], MODEL.layers["w"].sum((1, 2)))


def test_slots_are_handed_to_the_reducer():
    def step(params, factors, slots):
        gradients = jaxdl.grads(params, factors)
        return {k: (params[k] - slots[k]["rate"] * gradients[k], slots[k]["m"]) for k in params}

    slots = jax.tree.map(
        lambda p: {"rate": jnp.full(p.shape[:1], 0.1).reshape(-1, *[1] * (p.ndim - 1)), "m": p},
        MODEL,
    )
    _, made = jaxdl.value_and_reduce(of_model, step)(MODEL, X, Y, slots=slots)
    gradient = mean(each(of_model, MODEL, X, Y)[1])
    close(jax.tree.map(lambda p, m: m[0], MODEL, made),
          jax.tree.map(lambda p, g: p - 0.1 * g, MODEL, gradient))  # fmt: skip
    close(jax.tree.map(lambda p, m: m[1], MODEL, made), MODEL)


REDUCERS = {
    "grads": jaxdl.grads,
    "norms": jaxdl.example_sq_norms,
    "clipped": jaxdl.clipped_sum(0.3, per="parameter"),
    "moments": jaxdl.moments,
    "noise": jaxdl.gradient_noise,
    "gram": jaxdl.gram,
    "trace": jaxdl.trace,
    "project": jaxdl.project(4, jax.random.key(1)),
}
MATRICES = {"layers": normal(D, 2, 3, 3), "w": P["w"]}


def of_matrices(params, x, y):
    h = lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["layers"])[0]
    return loss({"w": params["w"], "b": jnp.zeros(2, D)}, h, y)


def structure(tree):
    return jax.tree.structure(tree, is_leaf=lambda node: isinstance(node, Factor))


LIKE = {
    "named_tuple": (MODEL, of_model),
    "dict": (MODEL._asdict(), lambda p, x, y: of_model(Model(**p), x, y)),
    "in_a_dict": ({"model": MODEL}, lambda p, x, y: of_model(p["model"], x, y)),
    "nested": ({"a": {"b": MATRICES}}, lambda p, x, y: of_matrices(p["a"]["b"], x, y)),
    "ordered": (OrderedDict(MATRICES), of_matrices),
    "flax_state": (State(MATRICES), of_matrices),
    "bare": (P["w"], lambda w, x, y: loss(P | {"w": w}, x, y)),
}


@pytest.mark.parametrize("name", LIKE)
def test_reducing_what_was_kept_is_reducing_at_once(name):
    params, of = LIKE[name]
    reducers = REDUCERS | ({} if of_matrices not in LIKE[name] else {"kron": jaxdl.kron()})
    clip = jaxdl.clipped_sum(0.3)

    @jax.jit
    def both(params):
        kept = jaxdl.value_and_reduce(of, jaxdl.keep)(params, X, Y)[1]
        assert structure(kept) == jax.tree.structure(params)
        later = {k: jaxdl.reduce_kept(r, params, kept) for k, r in reducers.items()}
        tree = jaxdl.value_and_reduce(of, jaxdl.combine(**reducers))(params, X, Y)[1]
        at_once = {k: jaxdl.select(tree, k) for k in reducers}
        at_once["two passes"] = jaxdl.value_and_reduce(of, clip)(params, X, Y)[1]
        return at_once, later | {"two passes": jaxdl.reduce_kept(clip, params, kept)}

    at_once, later = both(params)
    for k, reduced in at_once.items():
        close(reduced, later[k], 1e-9)
