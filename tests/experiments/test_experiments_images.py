"""Fashion-MNIST and MNIST-1D as experiments, with settings and data that take seconds."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl
from experiments import fashion, mnist1d
from experiments.framework.cli import main
from jaxdl.data.fashion import CLASSES
from tests.data.fashion_files import hide_all, write_files
from tests.experiments.running import drawn, log, run


def bars(count, seed):
    """Noise, and in class k a bright bar of two rows at 2k + 4; every class equally often."""
    labels = (np.arange(count) % 10).astype(np.uint8)
    images = np.random.default_rng(seed).integers(0, 60, (count, 28, 28), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 4 : 2 * label + 6, 4:24] = 255
    return images, labels


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No files in any of the usual places, and no network."""
    hide_all(monkeypatch, tmp_path)
    return tmp_path


@pytest.fixture
def small_fashion(nowhere, monkeypatch):
    """A generated data set in the four files, 200 images for training and 50 for the test."""
    parts = {"train": bars(200, 0), "t10k": bars(50, 1)}
    folder = write_files(nowhere / "data", monkeypatch, parts)
    monkeypatch.setenv("JAXDL_DATA", str(folder))


SMALL: dict[str, Any] = {
    "channels": (4,),
    "hidden": (),
    "dropout": 0.0,
    "batch": 20,
    "learning_rate": 5e-3,
}


def test_fashion(small_fashion, tmp_path):
    found = run(fashion, fashion.Settings(**SMALL, epochs=8), tmp_path / "run")
    results = found["results"]
    assert found["status"] == "done"
    assert results["test_accuracy"] >= 0.95
    assert results["bar"] == {"at_least": 0.925, "reached": True}
    assert results["parameters"] == 9 * 4 + 4 + 14 * 14 * 4 * 10 + 10
    assert 0 < results["training_seconds"] < 60
    assert list(results["accuracy_by_class"]) == list(CLASSES)
    share = np.mean(list(results["accuracy_by_class"].values()))  # equally many of each
    assert share == pytest.approx(results["test_accuracy"])
    assert drawn(tmp_path / "run", "curves", "confusion")
    lines = log(tmp_path / "run")
    assert [line["epoch"] for line in lines] == list(range(1, 9))
    alone = results["test_accuracy_without_mirror_images"]
    assert lines[-1]["test_accuracy"] == alone >= 0.95
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]


def test_fashion_that_misses_the_bar_says_so(small_fashion, tmp_path):
    small = fashion.Settings(**SMALL, epochs=1)
    settings = replace(small, learning_rate=1e-6, shift=1, flip=True)
    results = run(fashion, settings, tmp_path / "run")["results"]
    assert results["test_accuracy"] < 0.925 and results["bar"]["reached"] is False
    assert drawn(tmp_path / "run", "wrong")
    with pytest.raises(ValueError, match=r"batch must be at most 200, .* got 201; take a smaller"):
        run(fashion, replace(small, batch=201), tmp_path / "batch")
    settings = fashion.Settings(channels=(8,), hidden=(512,))
    with pytest.raises(ValueError, match=r"under 500,000 parameters, got 808,5.*; take fewer"):
        run(fashion, settings, tmp_path / "large")


def test_fashion_without_the_data_says_what_to_do(nowhere, capsys):
    assert main(["fashion", "--out", str(nowhere / "run")]) == 1
    error = capsys.readouterr().err
    assert "fashion failed: DownloadError: fashion_mnist: expected train-images-idx3" in error
    assert "set JAXDL_DATA to their folder" in error


def test_reading_with_mirror_images():
    images = jax.random.uniform(jax.random.key(0), (5, 28, 28, 1))
    left = jaxdl.from_function(lambda key, x: {}, lambda params, x: x[:, :, :14, 0].mean((1, 2)))
    alone = fashion.read(fashion.Settings(flip=False), left, {}, images)
    np.testing.assert_allclose(alone, images[:, :, :14, 0].mean((1, 2)), rtol=1e-6)
    both = fashion.read(fashion.Settings(flip=True), left, {}, images)
    np.testing.assert_allclose(both, images[..., 0].mean((1, 2)), rtol=1e-6)


def test_augmentation_of_fashion():
    images = jnp.zeros((8, 28, 28, 1), jnp.float32).at[:, :, :14].set(1.0)
    key = jax.random.key(0)

    def changed(blank, **changes):
        augment = fashion.augmenter(fashion.Settings(**changes), blank)
        assert augment is not None
        return np.asarray(augment(key, images))

    shifted = changed(-5.0, flip=False, shift=2)
    assert set(np.unique(shifted)) == {-5.0, 0.0, 1.0}  # what comes in is blank
    flipped = changed(0.0, flip=True, shift=0)
    left = (flipped[:, :, :14] == 1).all(axis=(1, 2, 3))
    right = (flipped[:, :, 14:] == 1).all(axis=(1, 2, 3))
    assert (left ^ right).all() and left.any() and right.any()
    assert fashion.augmenter(fashion.Settings(flip=False, shift=0), 0.0) is None


generated = functools.cache(mnist1d.mnist1d)


@pytest.fixture
def signals(monkeypatch):
    """MNIST-1D, generated once for all tests: that takes seconds."""
    monkeypatch.setattr(mnist1d, "mnist1d", generated)


@pytest.mark.long
def test_mnist1d(signals, tmp_path):
    settings = mnist1d.Settings(epochs=15, seeds=1)
    found = run(mnist1d, settings, tmp_path / "run")
    results, claims = found["results"], found["claims"]
    assert found["status"] == "done"
    # those of the authors
    sizes = {name: results[f"parameters, {name}"] for name in mnist1d.KINDS}
    assert sizes == {"logistic": 410, "mlp": 15_210, "cnn": 5_210}
    accuracy = {
        (name, order): results[f"test_accuracy, {name}, {order}"][0]
        for name in mnist1d.KINDS
        for order in mnist1d.ORDERS
    }
    assert 0.25 < accuracy["logistic", "in order"] < accuracy["mlp", "in order"] - 0.2
    assert accuracy["mlp", "in order"] < accuracy["cnn", "in order"] - 0.1
    against = results["against_paper, logistic, in order"]
    assert against["paper"] == 32 and against["mean"] == 100 * accuracy["logistic", "in order"]
    assert against["within_2_points"] is (abs(against["mean"] - 32) <= 2)
    assert [claim["id"] for claim in claims] == ["B7"] * 3
    assert claims[2]["holds"] and results["change_by_shuffling"]["cnn"] < -20
    assert drawn(tmp_path / "run", "examples", "accuracy")


def test_mnist1d_with_a_batch_larger_than_the_data(signals, tmp_path):
    with pytest.raises(ValueError, match=r"batch must be at most 4000, .* got 5000; take a"):
        run(mnist1d, mnist1d.Settings(batch=5000, epochs=1, seeds=1), tmp_path / "run")
