"""The contract: leaves, containers, printing, and the two doors to the rest of JAX."""

# pyright: reportArgumentType=false
# Wrong arguments are given on purpose.

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jaxdl as jd
from jaxdl.core.factors import Diag, FactorError, Formed, Outer
from jaxdl.models import mlp

assert_close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)
KEY = jax.random.key(0)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def test_print_shows_the_tree():
    block = jd.serial(jd.skip(jd.serial(jd.layer_norm(), jd.self_attention(2, causal=True))))
    model = jd.serial(
        jd.embedding(50, 8),
        jd.repeat(block, 3),
        jd.branch(jd.frozen(jd.dense(4)), jd.remat(jd.dense(4)), join="concat"),
        jd.dropout(0.1),
        jd.leaky_relu(0.2),
    )
    assert (
        repr(model)
        == str(model)
        == (
            "serial\n"
            "├─ embedding(50, 8)\n"
            "├─ repeat(3)\n"
            "│  └─ serial\n"
            "│     └─ skip\n"
            "│        └─ serial\n"
            "│           ├─ layer_norm\n"
            "│           └─ self_attention(2, causal)\n"
            "├─ branch(concat)\n"
            "│  ├─ dense: frozen\n"
            "│  │  └─ dense(4)\n"
            "│  └─ dense_1: remat\n"
            "│     └─ dense(4)\n"
            "├─ dropout(0.1)\n"
            "└─ leaky_relu(slope=0.2)"
        )
    )


def test_map_layers_visits_every_path_children_first_and_rebuilds():
    seen = []

    def visit(path, layer):
        seen.append((path, layer.name))
        return jd.tanh() if layer.name == "relu" else layer

    model = jd.serial(jd.dense(4), jd.repeat(jd.skip(jd.serial(jd.dense(4), jd.relu())), 2))
    changed = jd.map_layers(visit, model)
    assert seen == [
        ("dense", "dense"),
        ("repeat/dense", "dense"),
        ("repeat/relu", "relu"),
        ("repeat", "serial"),
        ("repeat", "skip"),
        ("repeat", "repeat"),
        ("", "serial"),
    ]
    x = draw(3, 4)
    params = model.init(KEY, x)
    expected = x @ params["dense"]["w"]
    for i in range(2):
        expected = expected + np.tanh(expected @ params["repeat"]["dense"]["w"][i])
    assert_close(changed.apply(params, x), expected)
    assert "relu: tanh" in repr(changed)  # a path stays what it was


def test_keys_reach_keyed_leaves_only_and_reduce_and_slots_reach_bwd():
    calls = []

    def reduce(params, factors, slots):
        calls.append((params, factors, slots))
        return "reduced"

    layer = jd.leaf(
        "double",
        lambda key, x: {"w": jnp.ones(())},
        lambda params, x, key: (2 * x, key),
        lambda params, residuals, dy: ({"w": Formed(residuals)}, 2 * dy),
        params=("w",),
        keyed=True,
    )
    params = {"w": jnp.ones(())}
    y, residuals = layer.fwd(params, jnp.ones(2), "the key")
    assert residuals == "the key"
    reduced, dx = layer.bwd(params, residuals, y, reduce, "the slots")
    assert reduced == "reduced" and dx.tolist() == [4, 4]
    assert calls == [(params, {"w": Formed("the key")}, "the slots")]
    assert jd.relu().fwd({}, jnp.ones(2), KEY)[0].tolist() == [1, 1]  # a key it never sees


# --- numpy, lists, other parameters -------------------------------------------------------------


MODEL = jd.serial(jd.dense(4), jd.skip(jd.serial(jd.layer_norm(), jd.dense(4))), jd.tanh())


def test_numpy_inputs_and_parameters_do_as_well_in_either_precision():
    x = np.random.default_rng(0).normal(size=(3, 4))
    params = MODEL.init(KEY, x)
    by_numpy, _ = MODEL.fwd(jax.tree.map(np.asarray, params), x)
    np.testing.assert_array_equal(by_numpy, MODEL.apply(params, jnp.asarray(x)))


def test_numpy_float64_becomes_float32_where_that_is_all_there_is(x64_off):
    x = np.random.default_rng(0).normal(size=(3, 4))
    params = MODEL.init(KEY, x)
    y, residuals = MODEL.fwd(params, x)
    gradient, dx = MODEL.bwd(params, residuals, y)
    assert {a.dtype for a in jax.tree.leaves((params, y, gradient, dx))} == {np.dtype("float32")}
    np.testing.assert_array_equal(y, MODEL.apply(params, jnp.asarray(x)))


def test_errors_of_leaves():
    params = jd.dense(3).init(KEY, jnp.ones((2, 4)))
    keys = r"dense: params must be a dict with the keys \['b', 'w'\], got {}; use the params that "
    for wrong, got in (
        ({"w": params["w"]}, r"a dict with the keys \['w'\]"),
        ((params, params), "a tuple"),
        (None, "a NoneType"),
    ):
        with pytest.raises(ValueError, match=keys.format(got)):
            jd.dense(3).apply(wrong, jnp.ones((2, 4)))
    with pytest.raises(
        TypeError,
        match=r"dense: params\['b'\] must be floating point, got int32 of shape \(3,\); integers "
        "have no gradient: cast it",
    ):
        jd.dense(3).apply(params | {"b": jnp.zeros(3, jnp.int32)}, jnp.ones((2, 4)))
    for x, got in (([[1.0, 2.0]], "list"), (1.0, "float"), (None, "NoneType"), ((1,), "tuple")):
        message = f"dense: x must be an array, got a {got}; use jnp.asarray, or select one"
        with pytest.raises(TypeError, match=message):
            jd.dense(3).apply(params, x)
        with pytest.raises(TypeError, match=message):
            jd.dense(3).init(KEY, x)


def test_a_leaf_whose_backward_forgets_a_factor_is_named():
    forgetful = jd.leaf(
        "forgetful",
        lambda key, x: {"w": jnp.ones(2), "b": jnp.ones(2)},
        lambda params, x: (x, x),
        lambda params, x, dy: ({"w": Outer(x, dy)}, dy),
        params=("w", "b"),
    )
    params = forgetful.init(KEY, None)
    with pytest.raises(
        ValueError,
        match=r"forgetful: bwd must return one factor for each of \['b', 'w'\], got \['w'\]; "
        r"return Zero\(examples\) for a parameter without gradient",
    ):
        forgetful.bwd(params, jnp.ones((1, 2)), jnp.ones((1, 2)))


def test_errors_of_containers():
    for make in (jd.serial, jd.branch, jd.skip, jd.remat, jd.frozen, lambda f: jd.repeat(f, 2)):
        with pytest.raises(
            TypeError,
            match=r"(serial|branch|skip|remat|frozen|repeat): every layer inside must be a Layer, "
            r"got <function relu at .*>; call its constructor, e.g. relu\(\), and give layers one",
        ):
            make(jd.relu)
    with pytest.raises(
        TypeError, match=r"must be a Layer, got \[dense\(3\)\]; .* serial\(\*layers"
    ):
        jd.serial([jd.dense(3)])
    with pytest.raises(ValueError, match="odd: a layer with layers inside must have `rebuild`"):
        odd = jd.Layer("odd", lambda *_: {}, lambda *_: ({}, {}), lambda *_: ({}, {}), (jd.relu(),))
        jd.map_layers(lambda path, layer: layer, odd)


# --- as_function --------------------------------------------------------------------------------


def trained_once_in_linen(function, params, x):
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            inner = self.param("inner", lambda key: params)
            return linen.Dense(2, dtype=x.dtype, param_dtype=x.dtype)(function(inner, x))

    net = Net()
    variables = net.init(KEY, x)
    gradient = jax.grad(lambda v: jnp.sum(jnp.square(net.apply(v, x))))(variables)
    return optax.apply_updates(variables, jax.tree.map(lambda g: -0.1 * g, gradient))


def trained_once_in_nnx(function, params, x):
    class Net(nnx.Module):
        def __init__(self):
            self.inner = nnx.data(jax.tree.map(nnx.Param, params))
            self.head = nnx.Param(jnp.ones((3, 2)))

        def __call__(self, x):
            return function(nnx.as_pure(self.inner), x) @ self.head[...]

    net = Net()
    optimizer = nnx.Optimizer(net, optax.sgd(0.1), wrt=nnx.Param)
    gradient = nnx.grad(lambda net: jnp.sum(net(x) ** 2))(net)
    optimizer.update(net, gradient)
    return nnx.as_pure(nnx.state(net, nnx.Param))


@pytest.mark.parametrize("train", [trained_once_in_linen, trained_once_in_nnx])
def test_as_function_inside_a_flax_module_trains_as_apply_does(train):
    calls = []
    model = mlp([5, 3], activation=jd.tanh)

    def counted(params, residuals, dy, *rest):
        calls.append(1)
        return model.bwd(params, residuals, dy, *rest)

    x = draw(4, 6)
    params = model.init(KEY, x)
    watched = jd.Layer("watched", model.init, model.fwd, counted)
    with jax.numpy_dtype_promotion("standard"):
        got, expected = (train(f, params, x) for f in (jd.as_function(watched), model.apply))
    assert calls, "the hand-written backward did not run"
    jax.tree.map(lambda a, b: assert_close(a, b), got, expected)


def test_as_function_of_integers_keys_and_frozen_layers():
    model = jd.serial(
        jd.embedding(7, 4, dtype=jnp.float64), jd.dropout(0.5), jd.frozen(jd.dense(3))
    )
    ids = jnp.array([[0, 6, 6]])
    params, function = model.init(KEY, ids), jd.as_function(model)
    assert function.__name__ == "serial"
    np.testing.assert_array_equal(function(params, ids), model.apply(params, ids))
    for key in (None, KEY):
        got = jax.jit(jax.grad(lambda p, k: jnp.sum(function(p, ids, k) ** 2)))(params, key)
        expected = jax.grad(lambda p, k: jnp.sum(model.apply(p, ids, k) ** 2))(params, key)
        jax.tree.map(lambda a, b: assert_close(a, b), got, expected)
        assert np.any(got["embedding"]["table"]) and not np.any(got["dense"]["w"])


def test_as_function_refuses_a_tap():
    with pytest.raises(
        ValueError,
        match="as_function: serial must not contain a tap, got one at 'repeat/tap'; a tap reduces "
        "to a cotangent, not to a gradient: build the model without it",
    ):
        jd.as_function(jd.serial(jd.relu(), jd.repeat(jd.serial(jd.relu(), jd.tap()), 2)))


# --- from_function ------------------------------------------------------------------------------


def test_from_function_is_any_function_with_the_backward_of_jax():
    def apply(params, x):
        return jnp.sin(x @ params["w"]) * params["scale"]

    def init(key, x):
        return {"w": jax.random.normal(key, (x.shape[-1], 3), x.dtype), "scale": jnp.ones(3)}

    layer = jd.from_function(init, apply, name="sine", params=("w", "scale"))
    x, dy = draw(2, 4), draw(2, 3, seed=1)
    params = layer.init(KEY, x)
    y, residuals = layer.fwd(params, x)
    assert residuals is x  # the input alone
    gradient, dx = layer.bwd(params, residuals, dy)
    expected_y, pull = jax.vjp(apply, params, x)
    expected, expected_dx = pull(dy)
    np.testing.assert_array_equal(y, expected_y)
    assert_close(dx, expected_dx)
    jax.tree.map(lambda a, b: assert_close(a, b), gradient, expected)

    kept, kept_dx = layer.bwd(params, residuals, dy, jd.keep)
    assert {name: type(factor) for name, factor in kept.items()} == {"w": Outer, "scale": Diag}
    assert_close(kept_dx, expected_dx)
    jax.tree.map(lambda a, b: assert_close(a, b), jd.reduce_kept(jd.grads, params, kept), expected)
    norms, _ = layer.bwd(params, residuals, dy, jd.example_sq_norms)
    for i in range(2):
        alone = jax.vjp(apply, params, x[i : i + 1])[1](dy[i : i + 1])[0]
        for name in params:
            assert_close(norms[name][i], jnp.sum(alone[name] ** 2))


@pytest.mark.parametrize("flags", [{"mixes": True}, {"side": True}])
def test_from_function_that_mixes_or_has_a_side_has_formed_gradients(flags):
    x = jd.With(draw(2, 4), jnp.ones(4)) if "side" in flags else draw(2, 4)
    layer = jd.from_function(
        lambda key, x: {"w": jnp.ones(4)},
        lambda p, x: (x.x * x.side if "side" in flags else x - x.mean(0)) * p["w"],
        name="other", params=("w",), **flags,
    )  # fmt: skip
    params = layer.init(KEY, x)
    _, residuals = layer.fwd(params, x)
    kept, _ = layer.bwd(params, residuals, draw(2, 4, seed=1), jd.keep)
    assert isinstance(kept["w"], Formed)
    with pytest.raises(FactorError, match=r"^other: .*needs the examples apart"):
        layer.bwd(params, residuals, draw(2, 4, seed=1), jd.example_sq_norms)


class Pair(NamedTuple):
    left: Any
    right: Any


def test_from_function_takes_any_tree_of_parameters():
    def apply(params, x):
        inner = params.left["deep"]
        return jnp.tanh(x @ inner[0] + inner[1]) @ params.right

    tree = Pair({"deep": [draw(4, 3), draw(3)]}, draw(3, 2, seed=2))
    layer = jd.from_function(lambda key, x: tree, apply, name="pair")
    model = jd.serial(jd.dense(4), layer)
    x = draw(5, 6)
    params = model.init(KEY, x)
    loss = jd.half_squared_error()
    target = jnp.zeros((5, 2))
    for reduce in (jd.grads, jd.example_sq_norms, jd.none):
        _, reduced = jd.value_and_grad(model, loss, reduce=reduce)(params, x, target)
        _, kept = jd.value_and_grad(model, loss, reduce=jd.keep)(params, x, target)
        again = jd.reduce_kept(reduce, params, kept)
        jax.tree.map(assert_close, jax.tree.leaves(again), jax.tree.leaves(reduced))
    gradient = jd.value_and_grad(model, loss)(params, x, target)[1]
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    by_jax = jax.grad(lambda p: loss(model.apply(p, x), target))(params)
    jax.tree.map(assert_close, gradient, by_jax)


def test_from_function_that_loses_the_examples_is_told():
    layer = jd.from_function(
        lambda key, x: {"w": jnp.ones(4)}, lambda p, x: (x * p["w"]).sum(0), name="lost"
    )
    x = draw(2, 4)
    params = layer.init(KEY, x)
    _, residuals = layer.fwd(params, x)
    with pytest.raises(ValueError, match=r"lost: the function must keep the examples on the first"):
        layer.bwd(params, residuals, jnp.ones(4), jd.example_sq_norms)


def test_from_function_with_a_key_draws_the_same_numbers_in_both_directions():
    def apply(params, x, key):
        return x if key is None else x * jax.random.normal(key, x.shape, x.dtype)

    layer = jd.from_function(lambda key, x: {}, apply, keyed=True)
    x = jnp.ones((3, 4))
    y, residuals = layer.fwd({}, x, KEY)
    np.testing.assert_array_equal(layer.bwd({}, residuals, jnp.ones((3, 4)))[1], y)
    np.testing.assert_array_equal(layer.apply({}, x), x)


def test_from_function_of_integers_has_no_cotangent_of_them():
    layer = jd.from_function(
        lambda key, x: {"w": jnp.ones((5, 2))}, lambda p, x: p["w"][x], params=("w",)
    )
    params = layer.init(KEY, None)
    gradient, dx = layer.bwd(params, jnp.array([0, 3, 3]), jnp.ones((3, 2)))
    assert dx is None
    np.testing.assert_array_equal(gradient["w"][:, 0], [1, 0, 0, 2, 0])
