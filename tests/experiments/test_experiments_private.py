"""Private training: sums that no example leaves its bound in, sampling, attacks, and ε."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import private_training
from experiments.framework.cli import main
from experiments.private_training import accounting, attack, training
from experiments.private_training.training import Recipe
from tests.data.fashion_files import hide_all
from tests.experiments.running import drawn, log, record, run

SMALL = private_training.Settings(
    data=("digits",), sigmas=(1.0, 4.0), digits_batch=16, digits_steps=3, digits_seeds=2,
    clips=(1.0,), members=20, attack_steps=3, attack_sigmas=(1.0,), attack_seeds=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    return training.load("digits")


@pytest.fixture(scope="module")
def params(digits):
    return training.Network().init(jax.random.key(0), digits.x[:1])


@pytest.mark.parametrize("per", training.WAYS)
def test_an_example_adds_no_more_than_the_bound(digits, params, per):
    """And what it adds is its clipped gradient, by JAX."""
    clip, at = np.float32(0.1), {"model": 1, "layer": 3, "parameter": 6}[per]
    assert training.parts(params, per) == at
    one = digits.x[:1], digits.labels[:1], np.ones(1, np.float32)
    got = training.clipped_sum(per, params, clip, *one)
    gradient = jax.grad(lambda params: training.loss(params, *one).sum())(params)
    assert np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(gradient))) > 1
    want = {
        "model": lambda tree: clipped(tree, 0.1),
        "layer": lambda tree: {
            "params": {k: clipped(layer, 0.1 / 3**0.5) for k, layer in tree["params"].items()}
        },
        "parameter": lambda tree: jax.tree.map(lambda g: clipped(g, 0.1 / 6**0.5), tree),
    }[per](gradient)
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-7), got, want)
    assert np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(got))) <= 0.1 * (1 + 1e-5)


def clipped(tree, c):
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(tree)))
    return jax.tree.map(lambda g: g * jnp.minimum(1, c / norm), tree)


def test_batches_are_drawn_by_chance_and_filled_up(digits, params):
    rows = np.arange(70)
    parts = list(training._filled(digits, rows))
    assert [len(x) for x, _, _ in parts] == [64, 64] and [r.sum() for *_, r in parts] == [64, 6]
    one = np.float32(1)
    sums = [training.clipped_sum(training.PLAIN, params, one, *part) for part in parts]
    whole = digits.x[:70], digits.labels[:70], jnp.ones(70)
    want = jax.grad(lambda params: training.loss(params, *whole).sum())(params)
    got = jax.tree.map(lambda *g: sum(g), *sums)
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-4), got, want)
    (none,) = training._filled(digits, np.arange(0))  # nobody was drawn: noise alone
    assert none[2].sum() == 0


def test_noise_is_in_the_training(digits):
    recipe = Recipe(batch=8, steps=2)
    quiet, loud = (training.train(digits, replace(recipe, sigma=s), seed=0) for s in (0.0, 5.0))
    assert any(
        not np.allclose(a, b) for a, b in zip(*map(jax.tree.leaves, (quiet, loud)), strict=True)
    )


def test_an_attack_on_known_losses():
    rng = np.random.default_rng(0)
    members, others = rng.uniform(0, 1, (4, 500)), rng.uniform(0.5, 1.5, (4, 500))
    found = attack.Attacked(members, others, [1.0], [0.5])
    np.testing.assert_allclose(found.auc(), 1 - 1 / 8, atol=0.03)
    np.testing.assert_allclose(found.advantage(), 0.5, atol=0.06)
    guessing = attack.Attacked(members, rng.uniform(0, 1, (4, 500)), [1.0], [0.5])
    assert abs(np.mean(guessing.advantage())) < 0.05 and abs(np.mean(guessing.auc()) - 0.5) < 0.02
    _, true, false = attack.rates(members, others)
    assert true[0] == false[0] == 0 and true[-1] == false[-1] == 1


def test_odds_rise_with_the_loss(digits, params):
    x, labels = digits.x[:20], digits.labels[:20]
    odds = training.odds_against(params, x, labels)
    losses = training.loss(params, x, labels, 1.0)
    np.testing.assert_allclose(np.log1p(np.exp(odds)), losses, rtol=1e-5)
    sure = jax.tree.map(lambda p: 1000 * p, params)  # every loss is 0 or large
    assert len(np.unique(training.odds_against(sure, x, labels))) == 20


def test_largest_advantage():
    assert accounting.largest_advantage(None) is None
    assert accounting.largest_advantage(float("inf")) == 1
    assert accounting.largest_advantage(0.0) == pytest.approx(accounting.DELTA)
    e = np.exp(2.0)  # where the line from (0, δ) with slope e^ε meets its mirror image
    false = (1 - accounting.DELTA) / (1 + e)
    assert accounting.largest_advantage(2.0) == pytest.approx(e * false + accounting.DELTA - false)


def test_private_training_without_accounting(tmp_path, monkeypatch):
    monkeypatch.setattr(accounting, "library", lambda: None)
    found = run(private_training, SMALL, tmp_path / "run")
    results = found["results"]
    assert found["status"] == "done" and results["epsilon_computed"] is False
    assert results["epsilon_by_sigma"] == {"digits": {"0.0": "inf", "1.0": None, "4.0": None}}
    assert list(results["accuracy_by_sigma"]["digits"]) == ["0.0", "1.0", "4.0"]
    assert list(results["accuracy_by_norm_and_clip"]) == list(training.WAYS)
    assert list(results["attack"]) == ["neither", "clipped only", "clipped, σ = 1"]
    assert "accuracy_by_batch" not in results
    assert drawn(tmp_path / "run", "noise", "attack")
    assert "pip install dp-accounting" in (tmp_path / "run" / "report.html").read_text("utf-8")
    assert len(log(tmp_path / "run")) == 2 * (1 + 3 + 3)


def test_batches_at_one_epsilon(digits, tmp_path, monkeypatch):
    """With an account that stands in for the library: σ in proportion to the batch."""
    monkeypatch.setattr(accounting, "noise_for", lambda target, recipe, n: 20 * recipe.batch / n)
    parts = {"digits": digits}
    found = record(tmp_path / "run", lambda out: private_training.batches(SMALL, out, parts))
    results = found["results"]
    assert list(results["accuracy_by_batch"]["digits"]["as many steps"]) == ["4", "16", "64"]
    sigma = results["sigma_by_batch"]["digits"]["as many examples"]
    assert sigma["64"] == pytest.approx(16 * sigma["4"])
    assert drawn(tmp_path / "run", "batches")
    steps = {
        (way, recipe.batch): recipe.steps for way, recipe in private_training.sizes(Recipe(16, 8))
    }
    assert steps["as many examples", 4] == 32 and steps["as many examples", 64] == 2


def test_epsilon():
    pytest.importorskip("dp_accounting")
    recipe = Recipe(batch=144, steps=120, sigma=1.5)
    epsilon = accounting.epsilon(recipe, 1437)
    assert epsilon is not None and 3 < epsilon < 6
    assert accounting.noise_for(epsilon, recipe, 1437) == pytest.approx(1.5, abs=0.01)
    assert accounting.epsilon(replace(recipe, per="none"), 1437) == float("inf")


def test_more_than_there_are_digits(tmp_path):
    settings = replace(SMALL, digits_batch=400)
    with pytest.raises(
        ValueError, match=r"digits_batch must be at most 359, .* got 400; take less"
    ):
        run(private_training, settings, tmp_path / "batch")
    with pytest.raises(ValueError, match=r"members must be at most 718, .* got 800; take less"):
        run(private_training, replace(SMALL, members=800), tmp_path / "members")


@pytest.mark.parametrize("name", ["influence", "private_training"])
def test_without_fashion_mnist_it_says_what_to_do(name, monkeypatch, tmp_path, capsys):
    hide_all(monkeypatch, tmp_path)
    assert main([name, "--out", str(tmp_path / "run")]) == 1
    assert "set JAXDL_DATA to their folder" in capsys.readouterr().err
