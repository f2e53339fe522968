"""What must not pass in silence: NaN, mixed inputs, unequal lengths, parameters of other shapes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl as jd
from jaxdl.train import evaluate, make_step

KEY = jax.random.key(0)
NAN = jnp.full((2, 4), jnp.nan)
ACTIVATIONS = [
    jd.relu(), jd.leaky_relu(), jd.elu(), jd.sigmoid(), jd.tanh(), jd.softplus(), jd.silu(),
    jd.gelu(), jd.gelu(approximate=True), jd.softmax(), jd.log_softmax(), jd.maxout(2),
    jd.identity(),
]  # fmt: skip
LOSSES = [
    jd.half_squared_error(), jd.mean_squared_error(), jd.huber(), jd.hinge(),
    jd.binary_cross_entropy(), jd.softmax_cross_entropy(),
]  # fmt: skip


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=lambda layer: layer.label)
def test_nan_in_nan_out(layer):
    y, residuals = layer.fwd({}, NAN)
    assert np.isnan(y).all()
    dx = layer.bwd({}, residuals, jnp.full(y.shape, jnp.nan))[1]
    assert np.isnan(dx).any(axis=-1).all()


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_a_loss_of_nan_is_nan(loss):
    assert np.isnan(loss(NAN, jnp.ones((2, 4))))


def test_an_id_out_of_range_reaches_the_output_under_jit():
    model = jd.serial(jd.embedding(5, 4), jd.relu(), jd.dense(3))
    params = model.init(KEY, jnp.zeros(2, jnp.int32))
    assert np.isnan(jax.jit(model.apply)(params, jnp.array([1, 99]))[1]).all()


@pytest.mark.parametrize("make", [tuple, lambda pair: dict(zip("ab", pair, strict=True))])
def test_from_function_with_integers_beside_numbers(make):
    """Each part of the input has a cotangent of its own; integers have None."""

    def apply(params, x):
        ids, h = jax.tree.leaves(x)
        return params["w"][ids] * h

    layer = jd.from_function(lambda key, x: {"w": jnp.ones(5)}, apply, params=["w"])
    ids, h = jnp.array([1, 3]), jnp.array([2.0, 5.0])
    params = {"w": jnp.arange(5.0)}
    y, residuals = layer.fwd(params, make((ids, h)))
    gradient, dx = layer.bwd(params, residuals, jnp.ones_like(y))
    chex.assert_trees_all_close(gradient, {"w": jnp.array([0, 2.0, 0, 5.0, 0])})
    chex.assert_trees_all_close(dx, make((None, jnp.array([1.0, 3.0]))))
    function = jd.as_function(layer)
    by_grad = jax.grad(lambda h: jnp.sum(function(params, make((ids, h)))))(h)
    chex.assert_trees_all_close(by_grad, jnp.array([1.0, 3.0]))


def test_evaluation_of_unequal_lengths():
    model = jd.dense(3)
    x = jnp.ones((10, 4))
    with pytest.raises(ValueError, match="equally many examples, got 10 and 7; check how"):
        evaluate(model, jd.softmax_cross_entropy(), model.init(KEY, x), x, jnp.zeros(7, jnp.int32))


def test_a_reducer_sees_one_layer_of_a_stack_on_either_path():
    def norms(params, factors, slots):
        return {k: (slots[k], jd.l2_norm(g)) for k, g in jd.grads(params, factors).items()}

    model, loss = (
        jd.serial(jd.repeat(jd.serial(jd.dense(4), jd.tanh()), 3)),
        jd.half_squared_error(),
    )
    x = jax.random.normal(KEY, (5, 4))
    params = model.init(KEY, x)
    manual, autodiff = (
        jd.value_and_grad(model, loss, path=path, reduce=norms)(params, x, x, slots=params)[1]
        for path in ("manual", "autodiff")
    )
    chex.assert_trees_all_close(manual, autodiff, rtol=1e-10)
    assert manual["repeat"]["dense"]["w"][1].shape == (3,)


def test_ties_go_into_one_tied():
    inner = jd.tied(jd.serial(jd.dense(3), jd.dense(3)), {"dense_1/w": "dense/w"})
    with pytest.raises(
        ValueError, match=r"must not lead into tied.*, stepped, fixed or tied; tie out"
    ):
        jd.tied(jd.serial(inner=inner, head=jd.dense(3)), {"head/w": "inner/dense/w"})


def test_kl_sparsity_without_any_weight_is_zero():
    y = jax.random.uniform(KEY, (4, 3))
    value, residuals = jd.kl_sparsity().fwd(y, None, jnp.zeros(4))
    assert value == 0 and not np.any(jd.kl_sparsity().bwd(residuals))


@pytest.mark.parametrize(
    ("loss", "bad", "text"),
    [
        (jd.hinge(), 0.0, r"hinge: targets must be -1 or 1, got 0.0 \(1 of 2 are not\); convert"),
        (
            jd.binary_cross_entropy(),
            7.0,
            r"binary_cross_entropy: targets must be in \[0, 1\], got 7",
        ),
    ],
)
def test_targets_that_cannot_be(loss, bad, text):
    y, target = jnp.ones(2), jnp.array([bad, 1.0])
    with pytest.raises(ValueError, match=text):
        loss(y, target)
    loss(y, target, jnp.array([0.0, 1.0]))  # what does not count may be anything


def test_a_tap_cannot_be_trained():
    with pytest.raises(
        ValueError, match="make_step: serial must not contain a tap, got one at 'tap'"
    ):
        make_step(jd.serial(jd.dense(3), jd.tap()), jd.half_squared_error(), optax.sgd(0.1))


@pytest.mark.parametrize(
    ("layer", "entry", "shape"),
    [
        (jd.dense(5), "b", (1,)),
        (jd.dense(5), "w", (4, 5, 1)),
        (jd.layer_norm(), "shift", (1,)),
        (jd.self_attention(2), "b_qkv", (1,)),
        (jd.self_attention(2), "w_out", (4, 3)),
        (jd.embedding(7, 3), "table", (7,)),
        (jd.conv(5, 1, rank=1), "b", (1,)),
        (jd.conv_transpose(5, 1, rank=1), "b", (1,)),
        (jd.group_norm(2), "shift", (1,)),
        (jd.batch_norm(), "var", (1,)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_parameter_of_another_shape_is_named(layer, entry, shape):
    x = jnp.zeros((2, 3), jnp.int32) if layer.name == "embedding" else jnp.ones((2, 6, 4))
    params = layer.init(KEY, x)
    wrong = params | {entry: jnp.ones(shape)}
    with pytest.raises(
        ValueError, match=rf"{layer.name}: params\['{entry}'\] must have shape .* got"
    ):
        layer.apply(wrong, x)


def test_containers_take_dicts_and_no_lists():
    model, x = jd.serial(jd.dense(3)), jnp.ones((2, 4))
    with pytest.raises(
        ValueError, match=r"serial: params must be a dict of the parts .* got a list"
    ):
        model.apply(list(model.init(KEY, x).values()), x)
