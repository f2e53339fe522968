"""Both paths to the gradient, the trace of one backward pass, and what is refused."""

# pyright: reportArgumentType=false
# Wrong arguments are given on purpose.

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl as jd
from jaxdl.core.factors import FactorError

assert_close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)
KEY = jax.random.key(0)
PATHS = pytest.mark.parametrize("path", ["manual", "autodiff"])


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def assert_trees_close(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: assert_close(a, b), got, expected)


MODEL = jd.serial(jd.dense(5), jd.sigmoid(), jd.dense(2))
X, TARGET = draw(3, 4), draw(3, 2, seed=1)
PARAMS = MODEL.init(KEY, X)


def by_hand(params, x, target):
    """Two layers and half the squared error, as the textbooks write them."""
    (w, b), (v, c) = ((params[k]["w"], params[k]["b"]) for k in ("dense", "dense_1"))
    net = x @ w + b
    h = 1 / (1 + np.exp(-net))
    y = h @ v + c
    delta_y = y - target
    delta_h = delta_y @ v.T
    delta_net = delta_h * h * (1 - h)
    gradient = {
        "dense": {"w": x.T @ delta_net, "b": delta_net.sum(0)},
        "dense_1": {"w": h.T @ delta_y, "b": delta_y.sum(0)},
    }
    named = partial(zip, MODEL.names, strict=True)
    value = ((y - target) ** 2).sum() / 2
    activations, deltas = dict(named((net, h, y))), dict(named((delta_net, delta_h, delta_y)))
    return value, gradient, activations, deltas, delta_net @ w.T


@PATHS
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_value_and_gradient_are_those_of_the_textbook(path, compiled):
    run = jd.value_and_grad(MODEL, jd.half_squared_error(), path=path)
    value, gradient = (jax.jit(run) if compiled else run)(PARAMS, X, TARGET)
    expected_value, expected, *_ = by_hand(PARAMS, X, TARGET)
    assert_close(value, expected_value)
    assert_trees_close(gradient, expected)


def test_trace_holds_every_activation_and_every_delta():
    run = jd.backprop_trace(MODEL, jd.half_squared_error())
    trace = jax.jit(run)(PARAMS, X, TARGET)
    value, gradient, activations, deltas, dx = by_hand(PARAMS, X, TARGET)
    assert_close(trace.value, value)
    assert_close(trace.dx, dx)
    np.testing.assert_array_equal(trace.output, trace.activations["dense_1"])
    assert_trees_close(trace.activations, activations)
    assert_trees_close(trace.deltas, deltas)
    assert_trees_close(trace.reduced, gradient)


def test_trace_is_shaped_like_the_model_and_stacked_where_it_is():
    ids = jnp.array([[0, 3, 1]])
    model = jd.tied(
        jd.serial(
            jd.embedding(6, 4, dtype=jnp.float64),
            jd.repeat(jd.skip(jd.serial(jd.layer_norm(), jd.dense(4))), 2),
            jd.dense(6, use_bias=False),
        ),
        {"dense/w": "embedding/table.T"},
    )
    params, loss = model.init(KEY, ids), jd.softmax_cross_entropy()
    trace = jd.backprop_trace(model, loss)(params, ids, ids)
    activations = trace.activations
    embedded, logits = activations["embedding"], activations["dense"]
    normed, block = activations["repeat"]["layer_norm"], activations["repeat"]["dense"]
    assert [a.shape for a in (embedded, normed, block, logits)] == [
        (1, 3, 4), (2, 1, 3, 4), (2, 1, 3, 4), (1, 3, 6)
    ]  # fmt: skip
    assert jax.tree.map(jnp.shape, trace.deltas) == jax.tree.map(jnp.shape, trace.activations)
    assert trace.dx is None
    value, gradient = jd.value_and_grad(model, loss)(params, ids, ids)
    assert_trees_close((trace.value, trace.reduced), (value, gradient))
    # the stream before the head, rebuilt from the trace
    stream = embedded + block[0] + block[1]
    assert_close(logits, stream @ params["embedding"]["table"].T)
    # the delta at the embedding also went through both blocks' skips
    assert_close(
        trace.deltas["repeat"]["dense"][1], trace.deltas["dense"] @ params["embedding"]["table"]
    )


def test_trace_takes_any_reducer_and_slots():
    def reduce(params, factors, slots):
        return {name: slots[name] * g for name, g in jd.grads(params, factors).items()}

    slots = jax.tree.map(lambda p: jnp.full_like(p, 2), PARAMS)
    trace = jd.backprop_trace(MODEL, jd.half_squared_error(), reduce=reduce)
    got = trace(PARAMS, X, TARGET, slots=slots).reduced
    assert_trees_close(got, jax.tree.map(lambda g: 2 * g, by_hand(PARAMS, X, TARGET)[1]))


@PATHS
def test_weights_keys_and_slots_reach_their_places(path):
    model = jd.serial(jd.dense(5), jd.dropout(0.5), jd.dense(2))
    where = jnp.array([[1.0], [0], [2]])
    params = model.init(KEY, X)
    loss = jd.mean_squared_error()

    def objective(params):
        return jnp.sum(where * (model.apply(params, X, KEY) - TARGET) ** 2) / 6

    expected = jax.value_and_grad(objective)(params)
    assert_trees_close(
        jd.value_and_grad(model, loss, path=path)(params, X, TARGET, KEY, where=where), expected
    )

    def reduce(params, factors, slots):
        return {name: slots[name] * g for name, g in jd.grads(params, factors).items()}

    slots = jax.tree.map(lambda p: jnp.full_like(p, 3), params)
    run = jd.value_and_grad(model, loss, path=path, reduce=reduce)
    got = run(params, X, TARGET, KEY, where=where, slots=slots)[1]
    assert_trees_close(got, jax.tree.map(lambda g: 3 * g, expected[1]))


@PATHS
def test_a_loss_without_a_target(path):
    model = jd.serial(jd.dense(3), jd.sigmoid())
    params, loss = model.init(KEY, X), jd.kl_sparsity()
    value, gradient = jd.value_and_grad(model, loss, path=path)(params, X, None)
    expected = jax.value_and_grad(lambda p: loss(model.apply(p, X)))(params)
    assert_trees_close((value, gradient), expected)


@PATHS
def test_numpy_batches(path):
    run = jd.value_and_grad(MODEL, jd.half_squared_error(), path=path)
    got = run(PARAMS, np.asarray(X), np.asarray(TARGET))
    assert_trees_close(got, run(PARAMS, X, TARGET))


def test_errors_when_built():
    loss = jd.mean_squared_error()
    with pytest.raises(
        ValueError,
        match=r"value_and_grad: path must be one of \('manual', 'autodiff'\), got 'auto'; choose",
    ):
        jd.value_and_grad(MODEL, loss, path="auto")
    for build in (jd.value_and_grad, jd.backprop_trace):
        with pytest.raises(
            TypeError, match=rf"{build.__name__}: model must be a Layer, got <function relu at"
        ):
            build(jd.relu, loss)
        with pytest.raises(
            TypeError,
            match=rf"{build.__name__}: loss must be a Loss, got <function .* at .*>; call its "
            r"constructor, e.g. mean_squared_error\(\)",
        ):
            build(MODEL, jd.mean_squared_error)


RUNS = {
    "manual": jd.value_and_grad(MODEL, jd.mean_squared_error()),
    "autodiff": jd.value_and_grad(MODEL, jd.mean_squared_error(), path="autodiff"),
    "trace": jd.backprop_trace(MODEL, jd.mean_squared_error()),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_errors_when_called(run):
    with pytest.raises(
        ValueError,
        match=r"value_and_grad: a batch must hold at least one example, got shape \(0, 4\); skip "
        "it, or check how the data was cut",
    ):
        run(PARAMS, X[:0], TARGET[:0])
    with pytest.raises(TypeError, match="value_and_grad: x must be an array, got a float"):
        run(PARAMS, X.tolist(), TARGET)
    with pytest.raises(ValueError, match=r"target must have the shape of y, \(3, 2\), got \(3,\)"):
        run(PARAMS, X, TARGET[:, 0])
    with pytest.raises(ValueError, match="serial: params must be a dict of the parts of"):
        run(tuple(PARAMS.values()), X, TARGET)


def test_reducers_that_need_examples_say_which_path_has_them():
    run = jd.value_and_grad(
        MODEL, jd.mean_squared_error(), path="autodiff", reduce=jd.example_sq_norms
    )
    with pytest.raises(
        FactorError,
        match=r"value_and_grad: dense: example_sq_norms needs the examples .*; path=.autodiff. "
        "knows only formed gradients: use path='manual'",
    ):
        run(PARAMS, X, TARGET)
