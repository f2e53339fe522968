"""Combinators against the composition written out by hand."""

# pyright: reportArgumentType=false
# Wrong arguments are given on purpose.

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl as jd

assert_close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)
KEY = jax.random.key(0)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def assert_trees_close(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: assert_close(a, b), got, expected)


def run(model, params, x, dy, key=None, reduce=jd.grads):
    y, residuals = model.fwd(params, x, key)
    return y, *model.bwd(params, residuals, dy, reduce)


def products(f, *args):
    """How many matrix products are in the traced program of `f`."""
    return str(jax.make_jaxpr(f)(*args)).count("dot_general")


def lowered(model, x) -> Any:
    step = jax.jit(jd.value_and_grad(model, jd.half_squared_error()))
    params = jax.eval_shape(lambda: model.init(KEY, x))
    return step.lower(params, x, x)


def test_serial():
    model, x, dy = jd.serial(jd.dense(5), jd.tanh(), jd.dense(2)), draw(3, 4), draw(3, 2, seed=1)
    params = model.init(KEY, x)
    (w, b), (v, c) = ((params[i]["w"], params[i]["b"]) for i in ("dense", "dense_1"))
    h = np.tanh(x @ w + b)
    dh = (dy @ v.T) * (1 - h**2)
    y, gradient, dx = run(model, params, x, dy)
    assert_close(y, h @ v + c)
    assert_close(dx, dh @ w.T)
    assert_trees_close(
        gradient,
        {
            "dense": {"w": x.T @ dh, "b": dh.sum(0)},
            "dense_1": {"w": h.T @ dy, "b": dy.sum(0)},
        },
    )
    assert np.any(w[:4, :2] != v[:4, :2])  # every layer has a key of its own


def test_serial_of_nothing_is_the_identity():
    x = draw(2)
    assert jd.serial().init(KEY, x) == {}
    y, gradient, dx = run(jd.serial(), {}, x, 2 * x)
    assert y is x and gradient == {}
    np.testing.assert_array_equal(dx, 2 * x)


def test_skip():
    model, x, dy = jd.skip(jd.dense(4)), draw(3, 4), draw(3, 4, seed=1)
    params = model.init(KEY, x)
    y, gradient, dx = run(model, params, x, dy)
    assert_close(y, x + x @ params["w"])
    assert_close(dx, dy + dy @ params["w"].T)
    assert_trees_close(gradient, {"w": x.T @ dy, "b": dy.sum(0)})


def pairwise(f):
    """A layer without parameters from a pair of arrays to a pair, linear in each."""

    def fwd(params, pair, key=None):
        return (f * pair[0], f * f * pair[1]), None

    def bwd(params, residuals, dy, reduce=jd.grads, slots=None):
        return {}, (f * dy[0], f * f * dy[1])

    return jd.Layer("pairwise", lambda key, x: {}, fwd, bwd)


def test_skip_around_a_layer_of_pairs_adds_each_of_the_pair():
    pair = (jnp.ones(2), jnp.ones(3))
    y, _, dx = run(jd.skip(pairwise(3.0)), {}, pair, pair)
    for got in (y, dx):
        assert jax.tree.map(lambda a: a.tolist(), got) == ([4, 4], [10, 10, 10])


def test_branch_joined_by_sum():
    model, x, dy = jd.branch(jd.dense(2), jd.dense(2)), draw(3, 4), draw(3, 2, seed=1)
    params = model.init(KEY, x)
    y, gradient, dx = run(model, params, x, dy)
    assert_close(y, x @ (params["dense"]["w"] + params["dense_1"]["w"]))
    assert_close(dx, dy @ (params["dense"]["w"] + params["dense_1"]["w"]).T)
    same = {"w": x.T @ dy, "b": dy.sum(0)}
    assert_trees_close(gradient, {"dense": same, "dense_1": same})


def test_branch_joined_by_concatenation():
    model = jd.branch(jd.dense(2), jd.identity(), jd.dense(1), join="concat")
    x, dy = draw(3, 4), draw(3, 7, seed=1)
    params = model.init(KEY, x)
    y, gradient, dx = run(model, params, x, dy)
    w, v = params["dense"]["w"], params["dense_1"]["w"]
    assert_close(y, np.concatenate([x @ w, x, x @ v], axis=-1))
    assert_close(dx, dy[:, :2] @ w.T + dy[:, 2:6] + dy[:, 6:] @ v.T)
    assert_close(gradient["dense"]["w"], x.T @ dy[:, :2])
    assert_close(gradient["dense_1"]["b"], dy[:, 6:].sum(0))


def test_branch_on_integers_has_no_cotangent():
    model, ids = jd.branch(jd.embedding(5, 2), jd.embedding(5, 2)), jnp.array([0, 4])
    dx = run(model, model.init(KEY, ids), ids, jnp.ones((2, 2), jnp.float32))[2]
    assert dx is None


BLOCK = jd.skip(jd.serial(jd.layer_norm(), jd.dense(4), jd.tanh(), jd.dropout(0.5)))


@pytest.mark.parametrize("key", [None, KEY], ids=["evaluation", "training"])
def test_repeat_is_a_serial_of_the_same_parameters(key):
    x, dy = draw(3, 4), draw(3, 4, seed=1)
    model, unrolled = jd.repeat(BLOCK, 3), jd.serial(BLOCK, BLOCK, BLOCK)
    params = model.init(KEY, x)
    names = ("skip", "skip_1", "skip_2")
    layers = {k: jax.tree.map(lambda p, i=i: p[i], params) for i, k in enumerate(names)}
    assert np.any(layers["skip"]["dense"]["w"] != layers["skip_1"]["dense"]["w"])
    y, gradient, dx = run(model, params, x, dy, key)
    expected_y, expected, expected_dx = run(unrolled, layers, x, dy, key)
    assert_close(y, expected_y)
    assert_close(dx, expected_dx)
    assert_trees_close(gradient, jax.tree.map(lambda *g: jnp.stack(g), *expected.values()))


def test_repeat_stacks_a_residual_of_two_layers_once():
    # x of dense = y of tanh, y of tanh before it = x of dense behind it, mask of relu = its y
    block = jd.serial(jd.dense(4), jd.tanh(), jd.dense(4), jd.relu())
    x = draw(3, 4)
    model = jd.repeat(block, 5)
    residuals = model.fwd(model.init(KEY, x), x)[1]
    assert [a.shape for a in jax.tree.leaves(residuals)] == [(5, 3, 4)] * 3


def test_remat_computes_the_same_and_keeps_only_the_input():
    x, dy = draw(3, 4), draw(3, 4, seed=1)
    params = BLOCK.init(KEY, x)
    kept = jax.tree.leaves(jd.remat(BLOCK).fwd(params, x)[1])
    assert len(kept) == 1 and kept[0] is x
    for key in (None, KEY):
        got, expected = (run(model, params, x, dy, key) for model in (jd.remat(BLOCK), BLOCK))
        assert_trees_close(got, expected)


DEEP = jd.serial(*[jd.dense(32), jd.gelu(), jd.layer_norm()] * 4)


def test_remat_lowers_temporary_memory_under_jit():
    x = jax.ShapeDtypeStruct((256, 32), jnp.float32)
    plain, saved = (
        lowered(jd.repeat(f, 6), x).compile().memory_analysis().temp_size_in_bytes
        for f in (DEEP, jd.remat(DEEP))
    )
    assert saved < 0.5 * plain


def test_remat_saves_memory_on_the_path_of_jax_grad_too():
    x = jnp.ones((256, 32), jnp.float32)

    def temporary(model):
        params = model.init(KEY, x)
        gradient = jax.jit(jax.grad(lambda p: jnp.sum(model.apply(p, x))))
        analysis = gradient.lower(params).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    assert temporary(jd.repeat(jd.remat(DEEP), 6)) < 0.5 * temporary(jd.repeat(DEEP, 6))


def test_remat_outside_a_loop_holds_the_second_forward_apart():
    """Without the barriers a compiler would merge both forwards, and keep everything after all."""
    x = jax.ShapeDtypeStruct((256, 32), jnp.float32)
    text = lowered(jd.serial(jd.remat(DEEP), jd.remat(DEEP)), x).as_text()
    assert text.count("optimization_barrier") == 2


def test_frozen_passes_cotangents_and_has_no_gradient_on_either_path():
    model, x = jd.serial(jd.frozen(jd.dense(5)), jd.tanh(), jd.dense(2)), draw(3, 4)
    free = jd.serial(jd.dense(5), jd.tanh(), jd.dense(2))
    params, loss, target = model.init(KEY, x), jd.half_squared_error(), draw(3, 2, seed=1)
    expected = jd.value_and_grad(free, loss)(params, x, target)[1]
    for path in ("manual", "autodiff"):
        gradient = jd.value_and_grad(model, loss, path=path)(params, x, target)[1]
        assert not np.any(gradient["dense"]["w"]) and not np.any(gradient["dense"]["b"])
        assert_trees_close(gradient["dense_1"], expected["dense_1"])
    dy = draw(3, 2, seed=2)
    np.testing.assert_array_equal(run(model, params, x, dy)[2], run(free, params, x, dy)[2])


def test_frozen_traces_no_weight_gradient():
    x, dy = draw(3, 4), draw(3, 2)
    params = jd.dense(2).init(KEY, x)

    def backward(layer, reduce=jd.grads):
        return products(lambda x, dy: layer.bwd(params, x, dy, reduce), x, dy)

    assert backward(jd.dense(2)) == 2
    assert backward(jd.frozen(jd.dense(2))) == 1  # dx
    assert backward(jd.dense(2), jd.none) == 1


SCALE = jd.from_function(
    lambda key, x: {"w": jnp.ones(4)}, lambda p, x: x * p["w"], name="scale", params=("w",)
)


@pytest.mark.parametrize(
    "layer",
    [
        jd.frozen(jd.dense(4)),
        jd.frozen(SCALE),
        jd.repeat(jd.frozen(jd.dense(4)), 2),
    ],
    ids=["dense", "formed", "repeated"],
)
def test_frozen_twice_is_frozen(layer):
    x = draw(3, 4)
    params = layer.init(KEY, x)
    assert_trees_close(run(jd.frozen(layer), params, x, x), run(layer, params, x, x))


def test_tap_reports_the_cotangent_whatever_the_reducer():
    model, x, dy = jd.serial(jd.dense(4), jd.tap(), jd.tanh(), jd.dense(2)), draw(3, 4), draw(3, 2)
    params = model.init(KEY, x)
    h = np.tanh(x @ params["dense"]["w"])
    expected = (dy @ params["dense_1"]["w"].T) * (1 - h**2)
    for reduce in (jd.grads, jd.none, jd.keep):
        y, reduced, _ = run(model, params, x, dy, reduce=reduce)
        assert_close(reduced["tap"], expected)
    assert_close(y, h @ params["dense_1"]["w"])


def test_tap_measures_in_every_layer_of_a_stack():
    model = jd.repeat(jd.serial(jd.tap(jd.l2_norm), jd.dense(4)), 3)
    x, dy = draw(3, 4), draw(3, 4, seed=1)
    params = model.init(KEY, x)
    _, reduced, dx = run(model, params, x, dy)
    norms = reduced["tap"]
    expected = [dy]
    for w in params["dense"]["w"][::-1]:
        expected.insert(0, expected[0] @ w.T)
    assert_close(norms, [np.linalg.norm(d) for d in expected[:-1]])
    assert_close(dx, expected[0])


def apply(layer, x, params=None):
    return layer.apply(layer.init(KEY, x) if params is None else params, x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: apply(jd.serial(jd.relu(), jd.relu()), draw(2), ({},)),
            r"serial: params must be a dict of the parts of the layers inside, \['relu', "
            r"'relu_1'\], got a tuple; use the params that init of this same model returned",
        ),
        (
            lambda: apply(jd.branch(jd.relu(), jd.relu()), draw(2), {"w": 1}),
            r"branch: params must have parts called as the layers inside, \['relu', 'relu_1'\], "
            r"got \['w'\] too; use the params",
        ),
        (
            lambda: jd.serial(jd.relu()).bwd({}, (draw(2),), draw(2), jd.grads, ({}, {})),
            "serial: slots must be a dict of the parts of the layers inside, .* got a tuple",
        ),
        (
            lambda: apply(jd.skip(jd.dense(3)), draw(2, 4)),
            r"skip: f\(x\) must have the shape and dtype of x, float64\[2, 4\], got "
            r"float64\[2, 3\] from dense\(3\); end it with a layer of that width",
        ),
        (
            lambda: jd.branch(jd.relu(), join="mean"),
            r"branch: join must be one of \('sum', .*\), got 'mean'; choose one",
        ),
        (
            lambda: jd.branch(),
            r"branch: expected at least one layer, got none; use identity\(\)",
        ),
        (
            lambda: apply(jd.branch(jd.dense(3), jd.dense(4)), draw(2, 4)),
            r"branch: outputs joined by sum must agree in dtype and shape, got float64\[2, 3\] "
            r"from dense\(3\) and float64\[2, 4\] from dense\(4\); make them agree",
        ),
        (
            lambda: apply(jd.repeat(jd.dense(3), 2), draw(2, 4)),
            r"repeat: dense\(3\) must keep shape and dtype so that it can follow itself, got "
            r"float64\[2, 3\] from float64\[2, 4\]; end it with a layer of that width",
        ),
        (
            lambda: jd.repeat(jd.relu(), 0),
            "repeat: n must be at least 1, got 0; leave the stack out instead",
        ),
        (
            lambda: apply(
                jd.repeat(jd.dense(4), 3),
                draw(2, 4),
                jd.repeat(jd.dense(4), 2).init(KEY, draw(2, 4)),
            ),
            r"repeat: every parameter must have a leading axis of 3 layers, got shape \(2, 4\); "
            "use the params that init of this same model returned",
        ),
        (
            lambda: apply(jd.repeat(jd.dense(4), 3), draw(2, 4), {"w": 1.0, "b": 2.0}),
            r"repeat: every parameter must have a leading axis of 3 layers, got shape \(\)",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_branches_of_other_positions_cannot_be_concatenated():
    drop = jd.from_function(lambda key, x: {}, lambda p, x: x[:1], name="first")
    with pytest.raises(
        ValueError,
        match=r"branch: outputs joined by concat must agree in dtype and shape up to the last axis,"
        r" got float64\[2, 4\] from identity and float64\[1, 4\] from first; make them agree",
    ):
        apply(jd.branch(jd.identity(), drop, join="concat"), draw(2, 4))


def test_tap_refuses_integers():
    with pytest.raises(TypeError, match="tap: x must be floating point, got int32"):
        jd.tap().apply({}, jnp.ones(2, jnp.int32))
