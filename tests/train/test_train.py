"""The training core: steps, epochs, evaluation, and what stops a run."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl
from jaxdl.models import mlp
from jaxdl.train import (
    NonFiniteLossError,
    TrainState,
    epoch_indices,
    evaluate,
    init_state,
    jit_step,
    make_epoch,
    make_step,
    predict,
    train,
)

LOSS = jaxdl.softmax_cross_entropy()


@pytest.fixture(autouse=True)
def optax_promotion():
    """optax itself mixes dtypes, which the strict promotion of the other tests forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def problem(n=50, features=6, classes=3, seed=0):
    """Separable data: the class is the largest of the first few features."""
    x = np.random.default_rng(seed).normal(size=(n, features)).astype(np.float32)
    return x, x[:, :classes].argmax(axis=1).astype(np.int32)


def leaves_close(a, b, rtol=1e-6):
    chex.assert_trees_all_close(a, b, rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("path", ["manual", "autodiff"])
def test_a_step_is_the_gradient_and_the_optax_update(path):
    x, y = problem(8)
    model, tx = mlp([5, 3]), optax.adam(1e-2)
    state = init_state(model, tx, x)
    new, metrics = make_step(model, LOSS, tx, path=path)(state, x, y)
    value, gradient = jax.value_and_grad(lambda p: LOSS(model.apply(p, x), y))(state.params)
    updates, _ = tx.update(gradient, tx.init(state.params), state.params)
    leaves_close(new.params, optax.apply_updates(state.params, updates))
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-6)
    assert new.step == 1


def test_observed_reducer_runs_in_the_same_step():
    x, y = problem(8)
    model, tx = mlp([5, 3]), optax.sgd(0.1)
    state = init_state(model, tx, x)
    plain, _ = make_step(model, LOSS, tx)(state, x, y)
    watched, metrics = make_step(model, LOSS, tx, observe=jaxdl.example_sq_norms)(state, x, y)
    leaves_close(plain.params, watched.params)
    assert jaxdl.total(metrics["observed"]).shape == (8,)


def test_where_weights_the_examples_of_a_step():
    x, y = problem(8)
    model, tx = mlp([3]), optax.sgd(0.1)
    state, step = init_state(model, tx, x), make_step(model, LOSS, tx)
    half, _ = step(state, x, y, jnp.arange(8) < 4)
    alone, _ = step(state, x[:4], y[:4])
    leaves_close(half.params, alone.params, rtol=1e-5)


def test_dropout_draws_anew_at_each_step_and_the_same_for_the_same_step():
    x, y = problem(8)
    model, tx = mlp([16, 3], dropout_rate=0.5), optax.sgd(0.0)
    step = make_step(model, LOSS, tx)
    state = init_state(model, tx, x)
    first, metrics = step(state, x, y)
    _, second = step(first, x, y)
    _, again = step(state, x, y)
    assert metrics["loss"] != second["loss"]
    assert metrics["loss"] == again["loss"]


def test_state_is_donated_and_can_be_even_when_the_optimiser_keeps_the_parameters():
    keeps = optax.GradientTransformation(
        init=lambda params: params,  # as lookahead and schedule-free optimisers do
        update=lambda updates, state, params=None, **extra: (updates, state),
    )
    x, y = problem(8)
    model = mlp([3])
    state = init_state(model, keeps, x)
    buffer = state.params["dense"]["w"]
    new, _ = jit_step(make_step(model, LOSS, keeps))(state, x, y)
    assert buffer.is_deleted()
    assert new.params["dense"]["w"].shape == (6, 3)


def test_epoch_indices_are_a_shuffle_without_repetition():
    key = jax.random.key(0)
    order = np.asarray(epoch_indices(key, 0, 10, 3))
    assert order.shape == (3, 3)
    assert len(set(order.flat)) == 9 and set(order.flat) <= set(range(10))
    np.testing.assert_array_equal(order, epoch_indices(key, 0, 10, 3))
    assert (order != np.asarray(epoch_indices(key, 1, 10, 3))).any()
    assert (order != np.asarray(epoch_indices(jax.random.key(1), 0, 10, 3))).any()


@pytest.mark.parametrize("batch", [0, 11])
def test_epoch_indices_names_a_wrong_batch(batch):
    with pytest.raises(ValueError, match=rf"batch must be in 1 \.\.\. 10 .* got {batch}"):
        epoch_indices(jax.random.key(0), 0, 10, batch)


def test_an_epoch_is_its_steps_one_by_one():
    x, y = problem(20)
    model, tx = mlp([5, 3]), optax.adam(1e-2)
    step = make_step(model, LOSS, tx)
    by_epoch, metrics = make_epoch(step, batch=8)(init_state(model, tx, x), x, y, 0)
    state, losses = init_state(model, tx, x), []
    for rows in epoch_indices(state.key, 0, 20, 8):
        state, m = step(state, x[np.asarray(rows)], y[np.asarray(rows)])
        losses.append(m["loss"])
    leaves_close(by_epoch.params, state.params, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)


def test_prepare_works_on_the_batch_inside_the_step():
    x, y = problem(16)
    pixels = np.clip(x * 40 + 128, 0, 255).astype(np.uint8)
    model, tx = mlp([3]), optax.sgd(0.1)
    step = make_step(model, LOSS, tx)
    floats = pixels.astype(np.float32) / 255
    cast = make_epoch(step, batch=8, prepare=lambda p: p.astype(jnp.float32) / 255)
    a, _ = cast(init_state(model, tx, floats), pixels, y, 0)
    b, _ = make_epoch(step, batch=8)(init_state(model, tx, floats), floats, y, 0)
    leaves_close(a.params, b.params)


def test_augmentation_has_another_key_at_every_step_and_the_same_in_every_run():
    x, y = problem(16)
    model, tx = mlp([3]), optax.sgd(0.0)
    step = make_step(model, LOSS, tx)

    def noisy(key, x):
        return x + jax.random.normal(key, x.shape, x.dtype)

    def losses(seed):
        # one batch with all examples, and no learning: only the noise differs between steps
        epoch, state = make_epoch(step, batch=16, augment=noisy), init_state(model, tx, x, seed)
        found = []
        for number in range(3):
            state, metrics = epoch(state, x, y, number)
            found.append(float(metrics["loss"][0]))
        return found

    first = losses(0)
    assert len(set(first)) == 3
    assert first == losses(0)


def test_a_run_learns_and_compiles_its_epoch_once():
    x, y = problem(256)
    model, tx = mlp([32, 3]), optax.adam(1e-2)
    step = make_step(model, LOSS, tx)
    traces = []

    def counted(state, x, target):
        traces.append(None)
        return step(state, x, target)

    losses = []
    epoch_fn = make_epoch(counted, batch=32)
    for state, metrics in train(epoch_fn, init_state(model, tx, x), x, y, 30):
        losses.append(metrics["loss"].mean())
        scores = evaluate(model, LOSS, state.params, jnp.asarray(x), jnp.asarray(y))
    assert losses[-1] < 0.25 * losses[0]
    assert scores.accuracy > 0.95
    assert len(traces) <= 2


def test_examples_and_labels_must_be_as_many():
    x, y = problem(16)
    model, tx = mlp([3]), optax.sgd(0.1)
    with pytest.raises(ValueError, match=r"equally many examples, got 16 and 15"):
        make_epoch(make_step(model, LOSS, tx), batch=8)(init_state(model, tx, x), x, y[:15], 0)


def test_a_diverging_run_stops_at_its_first_bad_step_and_keeps_what_came_before():
    x, y = problem(64)
    model, tx = mlp([3]), optax.sgd(lambda step: jnp.where(jnp.asarray(step) < 10, 0.1, jnp.inf))
    seen = []
    with pytest.raises(NonFiniteLossError, match=r"got nan at step 3 of epoch 1; lower the lear"):
        epoch_fn = make_epoch(make_step(model, LOSS, tx), batch=8)
        for state, metrics in train(epoch_fn, init_state(model, tx, x), x, y, 5):
            seen.append((jax.device_get(state.params), metrics["loss"]))
    assert len(seen) == 1
    assert np.isfinite(seen[0][1]).all()


@pytest.mark.parametrize("batch", [1, 7, 50, 64])
def test_evaluation_counts_every_example_once_whatever_the_batch(batch):
    x, y = map(jnp.asarray, problem(50))
    model = mlp([5, 3], dropout_rate=0.5)  # evaluation draws no masks
    params = model.init(jax.random.key(0), x)
    scores = evaluate(model, LOSS, params, x, y, batch=batch)
    logits = model.apply(params, x)
    np.testing.assert_allclose(scores.loss, LOSS(logits, y), rtol=1e-5)
    np.testing.assert_allclose(scores.accuracy, (logits.argmax(1) == y).mean(), rtol=1e-6)
    np.testing.assert_allclose(predict(model, params, x, batch=batch), logits, rtol=1e-5, atol=1e-6)


def test_accuracy_of_targets_without_classes_is_nan():
    x, _ = problem(10)
    model, loss = mlp([3]), jaxdl.mean_squared_error()
    params = model.init(jax.random.key(0), x)
    scores = evaluate(model, loss, params, jnp.asarray(x), jnp.zeros((10, 3), jnp.float32), batch=4)
    assert np.isnan(scores.accuracy)
    expected = np.square(np.asarray(model.apply(params, x))).mean()
    np.testing.assert_allclose(scores.loss, expected, rtol=1e-5)


def test_evaluation_of_nothing_is_an_error():
    model = mlp([3])
    params = model.init(jax.random.key(0), jnp.ones((1, 6)))
    with pytest.raises(ValueError, match="at least one example and a batch of at least 1, got 0"):
        evaluate(model, LOSS, params, jnp.ones((0, 6)), jnp.zeros(0, jnp.int32))


def test_seeds_differ_in_parameters_and_in_order():
    x, _ = problem(8)
    model, tx = mlp([3]), optax.sgd(0.1)
    a, b, again = (init_state(model, tx, x, seed) for seed in (0, 1, 0))
    assert isinstance(a, TrainState)
    assert (a.params["dense"]["w"] != b.params["dense"]["w"]).any()
    assert a.key != b.key
    np.testing.assert_array_equal(a.params["dense"]["w"], again.params["dense"]["w"])
