"""Fashion-MNIST and MNIST-1D as experiments, with settings and data that take seconds."""

import functools
import gzip
import hashlib
import json
import struct
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl
from experiments import fashion, mnist1d
from experiments.framework.cli import main
from experiments.framework.run import Run
from jaxdl.data import fashion as fashion_data


@pytest.fixture(autouse=True)
def default_mode(x64_off):
    """Experiments run in the default mode of JAX."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def run(module, settings, folder):
    with Run(module.__name__.rsplit(".", 1)[-1], settings, folder, doc=module.__doc__) as out:
        module.run(settings, out)
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert found["status"] == "done"
    return found["results"], found["claims"]


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)


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
    monkeypatch.delenv("JAXDL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_data, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(fashion_data, "URL", (tmp_path / "server").as_uri())
    return tmp_path


@pytest.fixture
def small_fashion(nowhere, monkeypatch):
    """A generated data set in the four files, 200 images for training and 50 for the test."""
    folder = nowhere / "data"
    folder.mkdir()
    for prefix, (images, labels) in {"train": bars(200, 0), "t10k": bars(50, 1)}.items():
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    digests = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in fashion_data.FILES
    }
    monkeypatch.setattr(fashion_data, "FILES", digests)
    monkeypatch.setenv("JAXDL_DATA", str(folder))


SMALL: dict[str, Any] = {
    "channels": (4,),
    "hidden": (),
    "dropout": 0.0,
    "batch": 20,
    "learning_rate": 5e-3,
}


def test_fashion(small_fashion, tmp_path):
    results, _ = run(fashion, fashion.Settings(**SMALL, epochs=8), tmp_path / "run")
    assert results["test_accuracy"] >= 0.95
    assert results["bar"] == {"at_least": 0.925, "reached": True}
    assert results["parameters"] == 9 * 4 + 4 + 14 * 14 * 4 * 10 + 10
    assert 0 < results["training_seconds"] < 60
    assert list(results["accuracy_by_class"]) == list(fashion_data.CLASSES)
    share = np.mean(list(results["accuracy_by_class"].values()))  # equally many of each
    assert share == pytest.approx(results["test_accuracy"])
    for figure in ("curves", "confusion"):
        assert (tmp_path / "run" / f"{figure}.png").stat().st_size > 5000
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == list(range(1, 9))
    alone = results["test_accuracy_without_mirror_images"]
    assert log[-1]["test_accuracy"] == alone >= 0.95
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]


def test_fashion_that_misses_the_bar_says_so(small_fashion, tmp_path):
    small = fashion.Settings(**SMALL, epochs=1)
    settings = replace(small, learning_rate=1e-6, shift=1, flip=True)
    results, _ = run(fashion, settings, tmp_path / "run")
    assert results["test_accuracy"] < 0.925 and results["bar"]["reached"] is False
    assert (tmp_path / "run" / "wrong.png").stat().st_size > 5000
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


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"epochs": 0}, "fashion: epochs must be at least 1, got 0; the default is"),
        ({"channels": ()}, r"must name the maps of at least one stage.*got channels \(\)"),
        ({"hidden": (0,)}, r"no layer be empty, got channels .* and hidden \(0,\)"),
        ({"dropout": 1.0}, r"fashion: dropout is a share in \[0, 1\), got 1.0"),
        ({"learning_rate": 0}, "fashion: learning_rate must be above 0, got 0"),
        ({"shift": -1}, "fashion: shift must not be negative, got -1; 0 is none"),
    ],
)
def test_fashion_settings_that_cannot_be(settings, text):
    with pytest.raises(ValueError, match=text):
        fashion.Settings(**settings)


generated = functools.cache(mnist1d.mnist1d)


@pytest.fixture
def signals(monkeypatch):
    """MNIST-1D, generated once for all tests: that takes seconds."""
    monkeypatch.setattr(mnist1d, "mnist1d", generated)


def test_mnist1d(signals, tmp_path):
    settings = mnist1d.Settings(epochs=15, seeds=1)
    results, claims = run(mnist1d, settings, tmp_path / "run")
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
    for figure in ("examples", "accuracy"):
        assert (tmp_path / "run" / f"{figure}.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"seeds": 0}, "mnist1d: seeds must be at least 1, got 0; the default is 5"),
        ({"learning_rate": 0}, "mnist1d: learning_rate must be above 0, got 0"),
        ({"models": ("gru",)}, r"models must be one or more of logistic, mlp, cnn.*\('gru',\)"),
        ({"models": ()}, r"each once, got \(\); leave it out for all"),
    ],
)
def test_mnist1d_settings_that_cannot_be(settings, text):
    with pytest.raises(ValueError, match=text):
        mnist1d.Settings(**settings)


def test_mnist1d_with_a_batch_larger_than_the_data(signals, tmp_path):
    with pytest.raises(ValueError, match=r"batch must be at most 4000, .* got 5000; take a"):
        run(mnist1d, mnist1d.Settings(batch=5000, epochs=1, seeds=1), tmp_path / "run")
