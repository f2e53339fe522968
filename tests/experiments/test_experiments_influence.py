"""Influence: its parts on what is known, and a run of seconds on the digits."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import influence
from experiments.influence import scores, training
from experiments.influence.training import Seen
from jaxdl.data import digits8
from tests.experiments.running import drawn, log, record, run

SMALL = influence.Settings(
    data="digits", images=300, held_out=100, share=0.1, epochs=2, checkpoints=2, projections=4,
    seeds=1, retrained=1, timings=0,
)  # fmt: skip


@pytest.fixture
def task():
    return training.make_task(digits8(images=True), "confusable", 300, 100, 0.1, seed=0)


def test_labels_are_changed_as_said(task):
    data = digits8(images=True)
    assert task.changed.sum() == 30 and len(task.x) == 300 and len(task.x_held_out) == 100
    rows = np.random.default_rng(0).permutation(len(data.x_train))
    right, held_out = data.y_train[rows[:300]], data.y_train[rows[300:400]]
    np.testing.assert_array_equal(task.labels != right, task.changed)
    np.testing.assert_array_equal(task.y_held_out, held_out)
    alike = training.CONFUSABLE["digits"]
    assert (
        np.isin(right[task.changed], alike).all()
        and np.isin(task.labels[task.changed], alike).all()
    )
    anyone = training.make_task(data, "at random", 300, 100, 0.1, seed=0)
    assert anyone.changed.sum() == 30 and not np.isin(anyone.labels[anyone.changed], alike).all()


def test_what_is_seen_of_an_example(task):
    """Losses, norms and projections, against JAX; more examples than one batch holds."""
    params = training.Network().init(jax.random.key(1), task.x[:1])
    seen = training.observer(4)(params, task.x, task.labels)
    assert seen.losses.shape == seen.sq_norms.shape == (300,) and seen.vectors.shape == (300, 32)
    few = [0, 1, 249, 250, 299]
    losses, gradients = jax.vmap(jax.value_and_grad(training.loss), (None, 0, 0))(
        params, task.x[few], task.labels[few]
    )
    np.testing.assert_allclose(seen.losses[few], losses, rtol=1e-5)
    norms = sum(jnp.sum(g.reshape(5, -1) ** 2, axis=1) for g in jax.tree.leaves(gradients))
    np.testing.assert_allclose(seen.sq_norms[few], norms, rtol=1e-4)


def test_training_again_without_rows_does_not_see_them(task):
    params = training.train(task, np.arange(200), 5, 0.05, seed=0)[0]
    other = task._replace(labels=np.where(np.arange(300) < 200, task.labels, 0))
    again = training.train(other, np.arange(200), 5, 0.05, seed=0)[0]
    jax.tree.map(np.testing.assert_array_equal, params, again)
    all_rows = training.train(other, np.arange(300), 5, 0.05, seed=0, checkpoints=5)
    assert len(all_rows) == 5
    first, last = (jax.tree.leaves(all_rows[i])[0] for i in (0, -1))
    assert not np.array_equal(first, last)


def test_rankings_of_known_gradients():
    """Two checkpoints; example 2 opposes both held-out examples, example 1 has the largest norm."""
    vectors = np.array([[1.0, 0.0], [3.0, 3.0], [-1.0, -1.0], [0.0, 1.0]])
    training_seen = Seen(np.array([0.1, 0.2, 0.9, 0.3]), (vectors**2).sum(1), vectors)
    held_out = Seen(np.zeros(2), np.zeros(2), np.array([[2.0, 1.0], [0.0, 1.0]]))
    found = scores.influence([training_seen] * 2, [held_out] * 2)
    np.testing.assert_allclose(found[scores.PLAIN], 2 * held_out.vectors @ vectors.T)
    assert np.abs(found[scores.COSINE]).max() <= 2 + 1e-12
    mistakes = np.array([False, True])
    by = scores.suspicion([training_seen] * 2, found, mistakes, np.array([4.0, 3, 2, 1]), seed=0)
    assert set(by) == set(scores.METHODS)
    firsts = {name: int(scores.ranked(score)[0]) for name, score in by.items()}
    assert firsts[scores.SELF] == firsts[scores.NORM] == 1 and firsts[scores.ALONE] == 0
    assert all(firsts[name] == 2 for name in scores.METHODS if name.startswith("opponents"))
    np.testing.assert_allclose(by[scores.OF_MISTAKES], -2 * vectors[:, 1])
    np.testing.assert_allclose(by[scores.LOSSES], 2 * training_seen.losses)
    worst = scores.culprits(found, by[scores.LOSSES], np.array([5, 6, 5, 5]), np.array([5, 6]), 2)
    np.testing.assert_array_equal(worst[scores.LOSSES][0], [2, 3])
    assert worst[scores.LOSSES][1, 0] == 1 and (worst[scores.PLAIN][:, 0] == 2).all()


def test_preconditioned_vectors_are_uncorrelated():
    vectors = np.random.default_rng(0).normal(size=(500, 3)) * [1.0, 5.0, 0.2]
    root = scores.inverse_root(vectors, damping=0.0)
    white = vectors @ root
    np.testing.assert_allclose(white.T @ white / 500, np.eye(3), atol=1e-9)


def test_norms_are_compared_at_like_loss(task):
    n, checkpoints = len(task.x), 2
    task = task._replace(labels=np.arange(n) % 3, changed=np.arange(n) < 30)
    losses = np.where(np.arange(n) % 2, 2.0, 0.1)  # summed: every second one is in the range
    by = {scores.LOSSES: losses, scores.SELF: 10.0 * task.labels + losses}
    found = scores.norms_at_like_loss(by, task, checkpoints)
    assert found == {k: (45, 10.0 * k + 2) for k in range(3)}


def test_precision():
    changed = np.array([False, True, False, True])
    suspect = np.array([0.1, 0.9, 0.8, 0.7])  # ranked 1, 2, 3, 0
    np.testing.assert_allclose(scores.precisions(suspect, changed), [1, 1 / 2, 2 / 3, 1 / 2])
    assert scores.average_precision(suspect, changed) == pytest.approx((1 + 2 / 3) / 2)


def test_influence(tmp_path):
    found = run(influence, SMALL, tmp_path / "run")
    results = found["results"]
    assert found["status"] == "done" and results["changed"] == {"at random": 30, "confusable": 30}
    for kind in influence.KINDS:
        assert list(results["ranking"][kind]) == list(scores.METHODS)
        one = results["ranking"][kind][scores.LOSSES]
        assert set(one) == {"average_precision", *(f"precision_at_{k}" for k in (8, 15, 30))}
        assert 0 < one["average_precision"][0] <= 1
        assert list(results["test_accuracy"][kind]) == [
            influence.NOTHING, *influence.LEFT_OUT, influence.TRUTH
        ]  # fmt: skip
    assert "time_over_gradient" not in results
    assert set(results["sq_norm_at_like_loss"]) <= set(training.NAMES["digits"])
    assert drawn(tmp_path / "run", "precision", "accuracy", "mistakes")
    assert len(log(tmp_path / "run")) == 12


def test_what_it_costs(task, tmp_path):
    params = training.Network().init(jax.random.key(1), task.x[:1])
    found = influence.Found(task, params, task.y_held_out, {}, {})
    settings = replace(SMALL, timings=2)
    results = record(tmp_path / "run", lambda out: influence.report_cost(settings, out, found))
    ratios = results["results"]["time_over_gradient"]
    assert set(ratios) == {"norms", "both"} and 0 < ratios["both"]["median"] < 100


def test_more_images_than_there_are(tmp_path):
    settings = influence.Settings(data="digits", images=1400, held_out=100)
    with pytest.raises(ValueError, match=r"at most 1437, .* digits, got 1500; take fewer"):
        run(influence, settings, tmp_path / "run")
