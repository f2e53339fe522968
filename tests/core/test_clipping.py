"""Clipped sums over a whole model: against `jax.vmap(jax.grad)` of the same model."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl as jd
from jaxdl.core.factors import FactorError
from jaxdl.core.reducers import measured
from jaxdl.core.two_passes import backward_again, backward_again_pays
from tests.core.example_factors import draw

assert_close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)
KEY = jax.random.key(0)
C = 1.5
LOSS = jd.half_squared_error()
BLOCK = jd.skip(jd.serial(jd.layer_norm(), jd.dense(4), jd.tanh()))
MODELS = {
    "serial": jd.serial(jd.dense(5), jd.tanh(), jd.dense(3)),
    "repeat": jd.serial(jd.dense(4), jd.repeat(BLOCK, 3)),
    "tap": jd.serial(jd.dense(4), jd.tap(), jd.repeat(jd.serial(jd.dense(4), jd.tap()), 2)),
    "frozen": jd.serial(jd.frozen(jd.dense(4)), jd.tanh(), jd.dense(3)),
    "tied": jd.tied(jd.serial(jd.dense(6), jd.tanh(), jd.dense(6)), {"dense_1/w": "dense/w.T"}),
    "remat": jd.serial(jd.dense(4), jd.repeat(jd.remat(BLOCK), 2)),
    "dropout": jd.serial(jd.dense(8), jd.dropout(0.5), jd.dense(3)),
}
X = draw(5, 2, 6)
WAYS = ("value_and_grad", "backward_again", "reduce_kept")


@cache
def made(name):
    """(model, params, target, key)."""
    model = MODELS[name]
    params = jax.jit(model.init)(KEY, X)
    target = draw(*jax.eval_shape(model.apply, params, X).shape, seed=1)
    return model, params, target, KEY if name == "dropout" else None


@cache
def clipped_by_autodiff(name, max_norm=C, per="model"):
    """Σᵢ min(1, C/‖∇ᵢ‖)∇ᵢ, with ∇ᵢ from one example's part of the loss of the whole batch."""

    model, params, target, key = made(name)

    def objective(params, i):
        y = model.apply(params, X, key)
        return 0.5 * jnp.sum((y[i] - target[i]) ** 2)

    g = jax.jit(jax.vmap(jax.grad(objective), in_axes=(None, 0)))(params, jnp.arange(len(X)))
    g = jax.tree.map(np.asarray, g)
    norms = jax.tree.map(lambda g: np.sqrt(np.square(g).reshape(len(X), -1).sum(1)), g)
    if per == "model":
        whole = np.sqrt(sum(np.square(n) for n in jax.tree.leaves(norms)))
        norms = jax.tree.map(lambda n: whole, norms)
    weights = jax.tree.map(lambda n: np.minimum(1, max_norm / np.maximum(n, 1e-9)), norms)
    assert any((w < 1).any() for w in jax.tree.leaves(weights)), "nothing is clipped"
    return jax.tree.map(lambda w, g: np.einsum("n,n...->...", w, g), weights, g)


def compare(got, expected):
    jax.tree.map(assert_close, {k: got[k] for k in expected}, expected)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("way", WAYS)
def test_the_sum_of_clipped_gradients(name, way):
    model, params, target, key = made(name)
    expected = clipped_by_autodiff(name)
    clip = jd.clipped_sum(C)
    assert isinstance(clip, jd.TwoPass)
    reduce = clip if way == "value_and_grad" else jd.keep
    run = jd.value_and_grad(model, LOSS, reduce=reduce)

    @jax.jit
    def sums(params):
        if way == "backward_again":
            y, residuals = model.fwd(params, X, key)
            value, kept = LOSS.fwd(y, target, None)
            return value, backward_again(model, params, residuals, LOSS.bwd(kept), clip)
        value, reduced = run(params, X, target, key)
        if way == "reduce_kept":
            reduced = jd.reduce_kept(clip, params, reduced)
        return value, reduced

    value, reduced = sums(params)
    assert_close(value, jax.jit(lambda p: LOSS(model.apply(p, X, key), target))(params))
    if name != "tap":
        assert jax.tree.structure(reduced) == jax.tree.structure(params)
    tapped = {k: without_taps(part) for k, part in reduced.items()} if name == "tap" else reduced
    compare(tapped, expected)


def without_taps(part):
    return {k: v for k, v in part.items() if k != "tap"} if isinstance(part, dict) else part


def test_value_and_grad_goes_both_ways():
    ways = {name: backward_again_pays(model) for name, model in MODELS.items()}
    assert [name for name, again in ways.items() if again] == ["remat"]


def test_a_tap_reports_the_cotangent_of_the_loss_not_a_weighted_one():
    model, params, target, _ = made("tap")
    plain = jd.value_and_grad(model, LOSS)(params, X, target)[1]
    y, residuals = model.fwd(params, X)
    clip = jd.clipped_sum(C)
    assert isinstance(clip, jd.TwoPass)
    again = backward_again(model, params, residuals, LOSS.bwd(LOSS.fwd(y, target)[1]), clip)
    kept = jd.value_and_grad(model, LOSS, reduce=clip)(params, X, target)[1]
    for clipped in (again, kept):
        assert_close(clipped["tap"], plain["tap"])
        assert_close(clipped["repeat"]["tap"], plain["repeat"]["tap"])


def test_traced():
    model, params, target, _ = made("repeat")
    plain = jd.backprop_trace(model, LOSS)(params, X, target)
    trace = jd.backprop_trace(model, LOSS, reduce=jd.clipped_sum(C))(params, X, target)
    jax.tree.map(assert_close, trace.deltas, plain.deltas)
    assert_close(trace.dx, plain.dx)
    compare(trace.reduced, clipped_by_autodiff("repeat"))


def test_by_parameter_each_is_clipped_alone():
    model, params, target, _ = made("serial")
    run = jd.value_and_grad(model, LOSS, reduce=jd.clipped_sum(0.5, per="parameter"))
    expected = clipped_by_autodiff("serial", 0.5, "parameter")
    compare(run(params, X, target)[1], expected)


def test_by_layer_its_parameters_are_clipped_together():
    model, x = jd.dense(3), X[:, 0]
    params, target = model.init(KEY, x), draw(5, 3, seed=1)
    sums = {}
    for per in ("model", "layer", "parameter"):
        run = jd.value_and_grad(model, LOSS, reduce=jd.clipped_sum(C, per=per))
        sums[per] = run(params, x, target)[1]
    jax.tree.map(assert_close, sums["layer"], sums["model"])
    assert not np.allclose(sums["layer"]["w"], sums["parameter"]["w"])


def test_a_mean_loss_has_its_share_of_the_bound():
    model, params, target, _ = made("serial")
    mean = jd.mean_squared_error()  # ½·2/size of the sum
    size = target.size / 2
    got = jd.value_and_grad(model, mean, reduce=jd.clipped_sum(C / size))(params, X, target)[1]
    expected = clipped_by_autodiff("serial")
    compare(got, jax.tree.map(lambda g: g / size, expected))


def test_an_example_without_gradient_and_a_bound_that_is_an_array():
    model, params, target, _ = made("serial")
    target = target.at[0].set(model.apply(params, X)[0])

    @jax.jit
    def run(bound):
        reduce = jd.clipped_sum(bound)
        return jd.value_and_grad(model, LOSS, reduce=reduce)(params, X, target)[1]

    for bound in (C, 1e9):
        got = run(jnp.asarray(bound))
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(got))
    plain = jd.value_and_grad(model, LOSS)(params, X, target)[1]
    jax.tree.map(assert_close, got, plain)


def test_slots_reach_the_second_pass():
    model, params, target, _ = made("repeat")

    def add(params, factors, slots):
        return {k: slots[k] + g for k, g in jd.grads(params, factors).items()}

    clip = jd.clipped_sum(C)
    assert isinstance(clip, jd.TwoPass)
    reduce = jd.TwoPass("add", clip.measure, clip.weights, add)
    slots = jax.tree.map(jnp.ones_like, params)
    got = jd.value_and_grad(model, LOSS, reduce=reduce)(params, X, target, slots=slots)[1]
    expected = clipped_by_autodiff("repeat")
    compare(got, jax.tree.map(lambda g: 1 + g, expected))


def test_noise_is_normal_of_that_scale_and_new_for_every_leaf_and_key():
    tree = {"w": jnp.zeros((300, 100)), "b": jnp.zeros(300, jnp.bfloat16)}
    noisy = jd.add_noise(KEY, tree, 2.0)
    assert noisy["b"].dtype == jnp.bfloat16 and noisy["w"].dtype == tree["w"].dtype
    assert np.std(noisy["w"]) == pytest.approx(2, rel=0.02)
    assert abs(np.mean(noisy["w"])) < 0.05
    again = jd.add_noise(jax.random.key(1), tree, 2.0)
    assert not np.allclose(noisy["w"], again["w"])
    same = jd.add_noise(KEY, {"a": tree["w"], "b": tree["w"]}, 1.0)
    assert not np.allclose(same["a"], same["b"])
    assert jd.add_noise(KEY, {}, 1.0) == {}


def test_only_what_the_reducer_made_is_measured():
    reducer, only = measured(jd.example_sq_norms)
    model, params, target, _ = made("tap")
    _, residuals = model.fwd(params, X)
    tree, _ = model.bwd(params, residuals, target, reducer)
    assert jax.tree.structure(only(tree)) == jax.tree.structure(
        {"dense": params["dense"], "tap": None, "repeat": {**params["repeat"], "tap": None}}
    )


def test_errors():
    with pytest.raises(ValueError, match=r"clipped_sum: max_norm must be above 0, got 0; a usual"):
        jd.clipped_sum(0)
    with pytest.raises(ValueError, match=r"clipped_sum: per must be one of \('model', 'layer', 'p"):
        jd.clipped_sum(1.0, per="tensor")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="combine: c=clipped_sum takes two passes, and there is on"):
        jd.combine(g=jd.grads, c=jd.clipped_sum(1.0))
    model, params, target, _ = made("serial")
    _, residuals = model.fwd(params, X)
    with pytest.raises(
        TypeError, match="clipped_sum: it needs the norms of the whole model before"
    ):
        model.bwd(params, residuals, target, jd.clipped_sum(1.0))
    for build in (jd.value_and_grad, jd.backprop_trace):
        with pytest.raises(FactorError, match="the reducer needs the examples apart, but the loss"):
            build(model, jd.kl_sparsity(), reduce=jd.clipped_sum(1.0))
    mixing = jd.serial(jd.dense(3), jd.batch_norm())
    params = mixing.init(KEY, X)
    with pytest.raises(FactorError, match="batch_norm: the reducer needs the examples apart"):
        jd.value_and_grad(mixing, LOSS, reduce=jd.clipped_sum(1.0))(params, X, target, KEY)
    with pytest.raises(
        FactorError, match=r"example_sq_norms needs the examples .*use path='manual'"
    ):
        run = jd.value_and_grad(model, LOSS, path="autodiff", reduce=jd.clipped_sum(1.0))
        run(MODELS["serial"].init(KEY, X), X, target)
