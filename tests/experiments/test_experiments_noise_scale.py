"""The experiment on the noise scale, in parts, with settings that take seconds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl
from experiments import noise_scale
from experiments.noise_scale import training
from tests.experiments.running import drawn, run


def few_digits(n=48):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 10
    x = rng.normal(size=(10, 64))[labels] + 0.3 * rng.normal(size=(n, 64))
    return jnp.asarray(x, jnp.float32), jnp.asarray(labels)


def test_the_fit_finds_the_hyperbola():
    sizes = np.array([2, 8, 32, 128, 512])
    least_steps, least_examples = noise_scale.fit(sizes, 90 + 3000 / sizes)
    assert least_steps == pytest.approx(90) and least_examples == pytest.approx(3000)


def test_the_step_at_which_a_loss_is_reached():
    losses = np.array([[8.0, 4, 1, 2], [8, 8, 8, 8], [1, 8, 8, 8]])
    # from 4 to 1 it is at 2 half way, on a scale of logarithms
    assert training.first_at(losses, 2).tolist() == [2.5, np.inf, 1]


def test_steps_of_every_rate_and_seed():
    data = few_digits()
    init, loss = training.network(4)
    steps = training.steps_to_target(
        init, loss, data, "SGD", 16, [0.3, 1e-6], seeds=2, target=1.5, most=100
    )
    assert steps.shape == (2, 2)
    assert np.isfinite(steps[0]).all() and np.isnan(steps[1]).all()


def test_noise_in_training_is_that_of_the_batches():
    data = few_digits()
    init, loss = training.network(4)
    course = training.noise_through_training(init, loss, data, 16, 0.3, target=1.5, most=12)
    losses, noise, params = course(0)
    assert 2 < len(losses) <= 12 and np.all(losses > 1.5)
    assert all(len(leaf) == len(losses) for leaf in jax.tree.leaves((noise, params)))
    ends, found = training.windows(noise, 2)
    assert ends[0] == 0 and ends[-1] == len(losses) and len(found) == len(ends) - 1
    first = [jax.tree.map(lambda a, i=i: a[i], noise) for i in range(ends[1])]
    assert found[0] == pytest.approx(float(jaxdl.critical_batch_size(first)))


def test_the_exact_figures_are_those_of_covariance_and_hessian():
    x, labels = few_digits(12)
    x = x[:, :3]
    params = jnp.linspace(-1, 1, 30).reshape(3, 10)

    def loss(w, x, label):
        return -jax.nn.log_softmax(x @ w)[label]

    found = training.exact_scale(loss, (x, labels), 12)(params)
    mean = training.mean_of(loss)
    each = jax.vmap(jax.grad(loss), (None, 0, 0))(params, x, labels).reshape(12, -1)
    g = each.mean(axis=0)
    hessian = jax.hessian(mean)(params, x, labels).reshape(30, 30)
    off = each - g
    trace = jnp.einsum("ni,ij,nj->", off, hessian, off) / 12
    unbiased = jnp.sum(off**2) / 11
    assert float(found[0]) == pytest.approx(float(unbiased / (g @ g - unbiased / 12)), rel=1e-3)
    assert float(found[1]) == pytest.approx(float(trace / (g @ hessian @ g)), rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target": 0}, "noise_scale: target must be above 0"),
        ({"batch_sizes": (8,)}, "batch_sizes must be at least two"),
        ({"measured": (7,)}, "measured must be among batch_sizes"),
        ({"measured": (1,), "batch_sizes": (1, 8)}, "measured must be at least 2"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(ValueError, match=words):
        noise_scale.Settings(**settings)


@pytest.mark.long
def test_a_whole_run(tmp_path):
    settings = noise_scale.Settings(
        target=0.8, batch_sizes=(8, 64), rates=5, seeds=2, measured=(8, 64), windows=4,
        hessian_examples=8, repetitions=1,
    )  # fmt: skip
    found = run(noise_scale, settings, tmp_path / "run")["results"]
    assert 2 < found["SGD"]["B_crit"] < 200 and found["SGD"]["S_min"] > 1
    assert set(found["measured_over_fitted"]) == {"8", "64"}
    assert all(v["mean"]["estimated"] > 0 for v in found["noise_scale"].values())
    assert drawn(tmp_path / "run", "hyperbolas", "courses")
