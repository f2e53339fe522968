"""One parameter used more than once: over time, and in two places."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl as jd
from jaxdl.core.factors import FactorError, Outer, Sum
from tests.cases import formed_scale

assert_close = partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12)
KEY = jax.random.key(0)
N, T, M, WIDTH = 2, 5, 3, 4


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def assert_trees_close(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: assert_close(a, b), got, expected)


# --- scan_time ----------------------------------------------------------------------------------


def rnn_cell(width):
    """h = tanh([x, h₋₁]·w + b), which is the output too."""

    def init(key, pair):
        _, x = pair
        w = jax.random.normal(key, (x.shape[-1] + width, width), x.dtype) / 2
        return {"w": w, "b": jnp.full(width, 0.1, x.dtype)}

    def fwd(params, pair):
        h, x = pair
        joined = jnp.concatenate([x, h], axis=-1)
        h = jnp.tanh(joined @ params["w"] + params["b"])
        return (h, h), {"joined": joined, "h": h}

    def bwd(params, residuals, pair):
        dh, dy = pair
        d = (dh + dy) * (1 - residuals["h"] ** 2)
        djoined = d @ params["w"].T
        m = djoined.shape[-1] - width
        return {"w": Outer(residuals["joined"], d), "b": Sum(d)}, (djoined[:, m:], djoined[:, :m])

    return jd.leaf("rnn_cell", init, fwd, bwd, params=("w", "b"))


def carry(x):
    return jax.ShapeDtypeStruct((x.shape[0], WIDTH), x.dtype)


RNN = jd.scan_time(rnn_cell(WIDTH), carry)


def test_scan_time_is_a_loop_over_the_steps():
    x, cell = draw(N, T, M), rnn_cell(WIDTH)
    params = RNN.init(KEY, x)
    assert params["w"].shape == (M + WIDTH, WIDTH)
    h, ys = jnp.zeros((N, WIDTH)), []
    for t in range(T):
        h, y = cell.apply(params, (h, x[:, t]))
        ys.append(y)
    assert_close(RNN.apply(params, x), np.stack(ys, axis=1))


def test_scan_time_of_an_rnn_cell_is_the_rnn_of_torch(torch):
    x, dy = draw(N, T, M), draw(N, T, WIDTH, seed=1)
    params = RNN.init(KEY, x)
    rnn = torch.nn.RNN(M, WIDTH, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        w = torch.tensor(np.array(params["w"]))
        rnn.weight_ih_l0.copy_(w[:M].T)
        rnn.weight_hh_l0.copy_(w[M:].T)
        rnn.bias_ih_l0.copy_(torch.tensor(np.array(params["b"])))
        rnn.bias_hh_l0.zero_()
    inputs = torch.tensor(np.array(x), requires_grad=True)
    y = rnn(inputs)[0]
    y.backward(torch.tensor(np.array(dy)))
    got_y, residuals = RNN.fwd(params, x)
    gradient, dx = RNN.bwd(params, residuals, dy)
    assert_close(got_y, y.detach().numpy())
    assert_close(dx, inputs.grad.numpy())
    weights = np.concatenate([rnn.weight_ih_l0.grad.T, rnn.weight_hh_l0.grad.T])
    assert_close(gradient["w"], weights)
    assert_close(gradient["b"], rnn.bias_ih_l0.grad.numpy())


def test_per_example_norms_through_time_are_those_of_vmap_of_grad():
    x, dy = draw(N, T, M), draw(N, T, WIDTH, seed=1)
    params = RNN.init(KEY, x)
    norms, _ = RNN.bwd(params, RNN.fwd(params, x)[1], dy, jd.example_sq_norms)

    def objective(params, x, dy):
        return jnp.sum(RNN.apply(params, x[None])[0] * dy)

    each = jax.vmap(jax.grad(objective), in_axes=(None, 0, 0))(params, x, dy)
    expected = jax.tree.map(lambda g: jnp.sum(g**2, axis=tuple(range(1, g.ndim))), each)
    assert_trees_close(norms, expected)


def test_the_weight_gradient_is_one_product_behind_the_time_loop():
    x, dy = draw(N, T, M), draw(N, T, WIDTH, seed=1)
    params = RNN.init(KEY, x)
    jaxpr = jax.make_jaxpr(lambda r: RNN.bwd(params, r, dy))(RNN.fwd(params, x)[1])
    (loop,) = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
    inside, everywhere = str(loop).count("dot_general"), str(jaxpr).count("dot_general")
    assert (inside, everywhere) == (1, 2)  # dx of a step inside, dw behind


def test_scan_time_in_training_gives_every_step_a_key_of_its_own():
    noisy = jd.from_function(
        lambda key, pair: {},
        lambda params, pair, key: (pair[0], pair[1] * jax.random.normal(key, pair[1].shape)),
        keyed=True,
    )
    x = jnp.ones((N, T, WIDTH))
    y, residuals = (model := jd.scan_time(noisy, carry)).fwd({}, x, KEY)
    assert len(np.unique(y)) == y.size
    np.testing.assert_array_equal(model.bwd({}, residuals, x)[1], y)


def test_a_tap_in_a_cell_reports_every_step():
    def on_output(layer):  # (h, x) -> (h, layer(x))
        def fwd(params, pair, key=None):
            y, residuals = layer.fwd(params, pair[1])
            return (pair[0], y), residuals

        def bwd(params, residuals, pair, reduce=jd.grads, slots=None):
            reduced, dx = layer.bwd(params, residuals, pair[1], reduce, slots)
            return reduced, (pair[0], dx)

        return jd.Layer("on_output", lambda key, pair: layer.init(key, pair[1]), fwd, bwd)

    x, dy = draw(N, T, WIDTH), draw(N, T, WIDTH, seed=1)
    model = jd.scan_time(on_output(jd.tap()), carry)
    reported, dx = model.bwd({}, model.fwd({}, x)[1], dy)
    np.testing.assert_array_equal(reported, jnp.moveaxis(dy, 1, 0))
    np.testing.assert_array_equal(dx, dy)


def test_a_stack_of_frozen_layers_in_a_cell_has_no_gradient():
    inner = jd.repeat(jd.frozen(jd.dense(WIDTH)), 2)

    def fwd(params, pair, key=None):
        y, residuals = inner.fwd(params, pair[0] + pair[1])
        return (y, y), residuals

    def bwd(params, residuals, pair, reduce=jd.grads, slots=None):
        reduced, d = inner.bwd(params, residuals, pair[0] + pair[1], reduce, slots)
        return reduced, (d, d)

    cell = jd.Layer("cell", lambda key, pair: inner.init(key, pair[1]), fwd, bwd)
    model, x = jd.scan_time(cell, carry), draw(N, T, WIDTH)
    params = model.init(KEY, x)
    y, residuals = model.fwd(params, x)
    gradient, dx = model.bwd(params, residuals, y)
    assert gradient["w"].shape == params["w"].shape and not np.any(gradient["w"])
    expected = jax.grad(lambda x: jnp.sum(model.apply(params, x) ** 2) / 2)(x)
    assert_close(dx, expected)


def test_numpy_float64_through_time_where_only_32_bits_exist(x64_off):
    x = np.random.default_rng(0).normal(size=(N, T, M))
    params = RNN.init(KEY, x)
    assert RNN.apply(params, x).dtype == jnp.float32


def test_errors_of_scan_time():
    with pytest.raises(
        ValueError,
        match=r"scan_time: x must have axes \(examples, time, ...\), got shape \(3,\); add the mis",
    ):
        RNN.init(KEY, jnp.zeros(3))
    with pytest.raises(TypeError, match="scan_time: x must be an array, got a list; use"):
        RNN.apply({}, [[1.0]])
    formed = jd.leaf(
        "formed",
        lambda key, pair: {"w": jnp.ones(WIDTH)},
        lambda params, pair: ((pair[0], pair[1] * params["w"]), pair[1]),
        lambda params, x, dy: ({"w": jd.Formed((x * dy[1]).sum(0))}, (dy[0], dy[1] * params["w"])),
        params=("w",),
    )
    model, x = jd.scan_time(formed, carry), draw(N, T, WIDTH)
    params = model.init(KEY, x)
    with pytest.raises(FactorError, match=r"^formed: example_sq_norms needs the examples apart"):
        model.bwd(params, model.fwd(params, x)[1], x, jd.example_sq_norms)


# --- tied ---------------------------------------------------------------------------------------


def test_an_output_layer_tied_to_the_transposed_embedding():
    model = jd.tied(
        jd.serial(jd.embedding(5, 3, dtype=jnp.float64), jd.tanh(), jd.dense(5, use_bias=False)),
        {"dense/w": "embedding/table.T"},
    )
    ids, dy = jnp.array([[0, 4], [4, 2]]), draw(2, 2, 5)
    params = model.init(KEY, ids)
    assert jax.tree.map(jnp.shape, params) == {"embedding": {"table": (5, 3)}}

    def by_hand(table):
        return jnp.tanh(table[ids]) @ table.T

    expected_y, pull = jax.vjp(by_hand, params["embedding"]["table"])
    y, residuals = model.fwd(params, ids)
    gradient, dx = model.bwd(params, residuals, dy)
    assert_close(y, expected_y)
    assert_trees_close(gradient, {"embedding": {"table": pull(dy)[0]}})
    assert dx is None

    def one(params, ids, dy):
        return jnp.sum(model.apply(params, ids[None])[0] * dy)

    each = jax.vmap(jax.grad(one), in_axes=(None, 0, 0))(params, ids, dy)["embedding"]["table"]
    norms, _ = model.bwd(params, residuals, dy, jd.example_sq_norms)
    assert_close(norms["embedding"]["table"], jnp.sum(each**2, axis=(1, 2)))


def test_two_layers_tied_to_one_plain_and_transposed_biases_too():
    model = jd.tied(
        jd.serial(jd.dense(4), jd.skip(jd.dense(4)), jd.dense(4)),
        {"skip/w": "dense/w", "dense_1/w": "dense/w.T", "dense_1/b": "dense/b"},
    )
    x, dy = draw(3, 4), draw(3, 4, seed=1)
    params = model.init(KEY, x)
    assert jax.tree.map(jnp.shape, params) == {
        "dense": {"b": (4,), "w": (4, 4)}, "skip": {"b": (4,)}
    }  # fmt: skip

    def by_hand(params, x):
        w, b, c = params["dense"]["w"], params["dense"]["b"], params["skip"]["b"]
        h = x @ w + b
        h = h + h @ w + c
        return h @ w.T + b

    expected_y, pull = jax.vjp(by_hand, params, x)
    y, residuals = model.fwd(params, x)
    assert_close(y, expected_y)
    assert_trees_close(model.bwd(params, residuals, dy), pull(dy))


PAIR = jd.serial(jd.dense(4), jd.dense(4))


def test_a_tie_inside_a_repeated_block_is_one_per_layer():
    model = jd.repeat(jd.tied(PAIR, {"dense_1/w": "dense/w.T"}), 2)
    x, dy = draw(3, 4), draw(3, 4, seed=1)
    params = model.init(KEY, x)
    y, residuals = model.fwd(params, x)
    expected = jax.vjp(model.apply, params, x)[1](dy)
    assert_trees_close(model.bwd(params, residuals, dy), expected)
    w, b, c = params["dense"]["w"], params["dense"]["b"], params["dense_1"]["b"]
    for i in range(2):
        x = (x @ w[i] + b[i]) @ w[i].T + c[i]
    assert_close(y, x)


@pytest.mark.parametrize(
    ("model", "ties", "message"),
    [
        (
            PAIR,
            {"dense_1/w": "dense/w", "dense/w": "dense_1/b"},
            r"tied: a source must keep its parameter, got dense/w as ",
        ),
        (
            PAIR,
            {"dense_1/w": "dense/"},
            r"tied: a parameter is written as path/name, e.g. 'head/w', got 'dense/'",
        ),
        (PAIR, {"/w": "dense/w"}, r"tied: a parameter is written as path/name, .* got '/w'; print"),
        (
            PAIR,
            {"dense_2/w": "dense/w"},
            r"tied: 'dense_2' must lead to a leaf, but the model has \['dense', 'dense_1'\] inside",
        ),
        (
            jd.serial(body=PAIR, dense=jd.dense(4)),
            {"dense/w": "body/relu/w"},
            r"tied: 'body/relu' must lead to a leaf, but body has \['dense', 'dense_1'\] inside",
        ),
        (
            jd.serial(jd.repeat(jd.dense(4), 2), jd.dense(4)),
            {"dense/w": "repeat/w"},
            r"tied: 'repeat' must not lead into repeat\(2\), whose parameters are stacked, "
            "stepped, fixed or tied; tie outside it",
        ),
        (
            jd.serial(held=jd.frozen(jd.dense(4)), dense=jd.dense(4)),
            {"dense/w": "held/w"},
            "tied: 'held' must not lead into frozen, whose parameters are stacked, stepped, fixed",
        ),
        (
            jd.serial(jd.skip(PAIR), jd.dense(4)),
            {"dense/w": "skip/w"},
            r"tied: 'skip' must lead to a leaf, got the container serial; go on with one of \['den",
        ),
    ],
)
def test_errors_of_ties_when_the_model_is_built(model, ties, message):
    with pytest.raises(ValueError, match=message):
        jd.tied(model, ties)


@pytest.mark.parametrize(
    ("ties", "message"),
    [
        (
            {"dense_1/w": "dense/v"},
            r"tied: dense must have the parameter 'v', got \['b', 'w'\]; name one of these",
        ),
        (
            {"dense_1/v": "dense/w"},
            r"tied: dense_1 must have a parameter 'v' of shape \(6, 4\), got \{'w': \(4, 6\), 'b': "
            r"\(6,\)\}; check the path, or transpose with .T",
        ),
        (
            {"dense_1/w": "dense/w"},
            r"tied: dense_1 must have a parameter 'w' of shape \(6, 4\), got .*transpose wi",
        ),
    ],
)
def test_errors_of_ties_at_init(ties, message):
    model = jd.tied(jd.serial(jd.dense(4), jd.dense(6)), ties)
    with pytest.raises(ValueError, match=message):
        model.init(KEY, draw(3, 6))


def test_errors_of_ties_in_the_backward():
    model = jd.tied(
        jd.serial(jd.embedding(4, 4, dtype=jnp.float64), jd.dense(4)),
        {"embedding/table": "dense/w.T"},
    )
    ids = jnp.array([0, 1])
    params = model.init(KEY, ids)
    y, residuals = model.fwd(params, ids)
    with pytest.raises(
        TypeError, match="tied: Scatter has no transpose; only the weight of a matri"
    ):
        model.bwd(params, residuals, y)

    formed = formed_scale()
    model, x = jd.tied(jd.serial(formed, formed), {"formed_1/w": "formed/w"}), draw(2, 4)
    params = model.init(KEY, x)
    y, residuals = model.fwd(params, x)
    with pytest.raises(FactorError, match=r"^formed: example_sq_norms needs the examples apart"):
        model.bwd(params, residuals, y, jd.example_sq_norms)
