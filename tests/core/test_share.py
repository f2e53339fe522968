"""One parameter used in two places."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl as jd
from jaxdl.core.factors import FactorError
from tests.cases import formed_scale

assert_close = partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12)
KEY = jax.random.key(0)
N, T, M, WIDTH = 2, 5, 3, 4


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def assert_trees_close(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: assert_close(a, b), got, expected)


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
