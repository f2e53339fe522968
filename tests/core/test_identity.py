"""Models and functions built apart: what is the same, and what is compiled once for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl as jd
from jaxdl.core.identity import fingerprint, made_once, same
from jaxdl.models import convnet, mlp, resnet, transformer_stack
from jaxdl.train import evaluate, init_state, jit_step, make_epoch, make_step, predict


def tied_model():
    return jd.tied(
        jd.serial(embed=jd.embedding(7, 6), head=jd.dense(7, use_bias=False)),
        {"head/w": "embed/table.T"},
    )


BUILDERS = {
    "mlp": lambda width=5: mlp([width, 3], w_init=jax.nn.initializers.he_normal()),
    "convnet": lambda width=5: convnet([width], hidden=[6]),
    "resnet": lambda width=1: resnet(width, (8, 16)),
    "transformer": lambda width=6: jd.serial(transformer_stack(2, 6, 2, hidden=width), jd.tanh()),
    "tap": lambda width=5: jd.serial(jd.tap(lambda dy: dy * width), jd.dense(3)),
    "remat": lambda width=5: jd.remat(jd.frozen(jd.dense(width))),
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_models_built_apart_are_equal_and_other_ones_are_not(build):
    one, two, other = build(), build(), build(9)
    assert one is not two and one == two and hash(one) == hash(two)
    assert one != other
    rebuilt = jd.map_layers(lambda path, layer: layer, one)
    assert rebuilt == one


def test_ties_losses_and_cells_are_compared_too():
    assert tied_model() == tied_model()
    assert jd.huber(0.5) == jd.huber(0.5) != jd.huber(0.6)
    assert jd.softmax_cross_entropy() != jd.softmax_cross_entropy(reduction="sum")
    assert jd.dense(3) != jd.dense(3, use_bias=False)
    assert jd.serial(a=jd.dense(3)) != jd.serial(b=jd.dense(3))
    assert same(optax.adam(1e-3), optax.adam(1e-3)) and not same(optax.adam(1e-3), optax.adam(1e-2))


def adds(n):
    return lambda x: x + n


def test_functions_are_the_same_if_code_and_captured_values_are():
    assert same(adds(1), adds(1)) and fingerprint(adds(1)) == fingerprint(adds(1))
    for a, b in ((1, 2), (1, 1.0), (1, True), (0.0, -0.0), ([1], [1]), (np.ones(1), np.ones(1))):
        assert not same(adds(a), adds(b)), (a, b)
    values = [1]
    assert same(adds(values), adds(values)) and same(adds(float("nan")), adds(float("nan")))
    assert same(functools.partial(adds, n=1), functools.partial(adds, n=1))
    assert not same(functools.partial(adds, n=1), functools.partial(adds, n=2))
    assert not same(lambda x: x, lambda x: x + 0)

    def recursive(n):
        def f(x):
            return f(x - n) if x > 0 else x

        return f

    assert same(recursive(1), recursive(1)) and not same(recursive(1), recursive(2))


def test_depth_does_not_cost_exponential_time():
    def deep():
        model = jd.dense(4)
        for _ in range(60):
            model = jd.skip(jd.serial(model))
        return model

    assert deep() == deep()


def test_made_once_returns_the_same_object_for_the_same_arguments():
    made = made_once(lambda f, n=1: object())
    assert made(adds(1)) is made(adds(1)) and made(adds(1)) is not made(adds(2))
    assert made(adds(1), n=2) is made(adds(1), n=2) is not made(adds(1), n=3)


def test_a_model_that_is_built_twice_is_compiled_once():
    traces = []

    def build():
        """A model whose forward counts its traces."""

        def fwd(params, x):
            traces.append(None)
            return jnp.tanh(x), x

        def bwd(params, x, dy):
            return {}, dy * (1 - jnp.tanh(x) ** 2)

        return jd.serial(jd.dense(3), jd.leaf("counted", jd.relu().init, fwd, bwd))

    x, labels = jnp.ones((8, 4), jnp.float32), jnp.zeros(8, int)

    def everything():
        model, loss, tx = build(), jd.softmax_cross_entropy(), optax.sgd(0.1)
        state, step = init_state(model, tx, x), make_step(model, loss, tx)
        state, _ = jit_step(step)(state, x, labels)
        state, _ = make_epoch(step, batch=4)(state, x, labels, 0)
        predict(model, state.params, x)
        evaluate(model, loss, state.params, x, labels)

    everything()
    traces.clear()
    init = init_state(build(), optax.sgd(0.1), x)  # init looks at shapes, which is a trace
    once = len(traces)
    del init
    traces.clear()
    everything()
    assert len(traces) == once
