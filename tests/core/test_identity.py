"""Models and functions built apart: what is the same, and what is compiled once for it."""

import functools
import pickle
from dataclasses import dataclass

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
    "tap": lambda width=5: jd.serial(jd.tap(jd.l2_norm), jd.dense(width)),
    "partial": lambda width=5: jd.from_function(jd.relu().init, functools.partial(jnp.add, width)),
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


def test_a_users_own_function_is_the_same_only_as_an_object():
    """What it refers to may have changed since it was compiled."""
    add = adds(1)
    assert same(add, add) and not same(adds(1), adds(1))
    assert same(functools.partial(add, 1), functools.partial(add, 1))
    assert jd.tap(add) == jd.tap(add) != jd.tap(adds(1))
    x = jnp.ones((4, 3))
    seen = []
    for scale in (1.0, 2.0):  # one variable, which both functions refer to
        model = jd.from_function(jd.relu().init, lambda params, x: x * scale)  # noqa: B023
        seen.append(float(predict(model, {}, x)[0, 0]))
    assert seen == [1.0, 2.0]


@dataclass(frozen=True)
class Settings:
    rate: float


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, 2), (1, 1.0), (1, True), (0.0, -0.0), (0j, -0j), ([1], [1]), (np.ones(1), np.ones(1)),
        (np.float32(0), np.float32(-0.0)), (frozenset({1}), frozenset({True})),
        (Settings(1.0), Settings(1)),
    ],
)  # fmt: skip
def test_values_are_the_same_if_they_cannot_differ(a, b):
    assert not same(functools.partial(adds, a), functools.partial(adds, b))
    assert same(functools.partial(adds, a), functools.partial(adds, a))


def test_a_mark_of_a_function_counts():
    one, two = (jd.combine(a=jd.grads) for _ in range(2))
    assert same(one, two) and fingerprint(one) == fingerprint(two)
    assert not same(one, jd.per_example(two))


def test_a_hash_does_not_travel():
    loss = jd.softmax_cross_entropy()
    hash(loss)
    assert "_hash" not in loss.__getstate__() and pickle.loads(pickle.dumps(loss)) == loss


def test_depth_does_not_cost_exponential_time():
    def deep():
        model = jd.dense(4)
        for _ in range(60):
            model = jd.skip(jd.serial(model))
        return model

    assert deep() == deep()


def test_made_once_returns_the_same_object_for_the_same_arguments():
    made = made_once(lambda f, n=1: object())
    add = adds(1)
    assert made(add) is made(add) and made(add) is not made(adds(1))
    assert made(add, n=2) is made(add, n=2) is not made(add, n=3)


def test_a_model_that_is_built_twice_is_compiled_once():
    traces = []

    def fwd(params, x):
        traces.append(None)
        return jnp.tanh(x), x

    def bwd(params, x, dy):
        return {}, dy * (1 - jnp.tanh(x) ** 2)

    def build():
        """A model whose forward counts its traces."""
        counted = jd.leaf("counted", jd.relu().init, fwd, bwd)
        return jd.serial(jd.dense(3, w_init=jax.nn.initializers.he_normal()), counted)

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
