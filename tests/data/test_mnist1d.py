"""MNIST-1D: the paper's data set, the same bytes in every run."""

import importlib.util
import random

import numpy as np
import pytest

from jaxdl.data import mnist1d

FINGERPRINT = "7885340fd99a644f9dddd7ea14a7ab1ec843918480a9e3649bdbd2adb1d3c8d5"


def random_numbers():
    return np.random.rand(), random.random()


@pytest.fixture(scope="module")
def made():
    """The data set, and whether the global random states go on as if it had not been made."""
    np.random.seed(5)
    random.seed(5)
    expected = random_numbers()
    np.random.seed(5)
    random.seed(5)
    data = mnist1d()
    return data, random_numbers() == expected


@pytest.fixture(scope="module")
def data(made):
    return made[0]


def test_shapes_and_scale(data):
    assert data.x_train.shape == (4000, 40) and data.x_test.shape == (1000, 40)
    assert data.x_train.dtype == np.float32 and data.y_train.dtype == np.int32
    x = np.concatenate([data.x_train, data.x_test])
    np.testing.assert_allclose([x.mean(), x.std()], [0, 1], atol=1e-5)
    np.testing.assert_array_equal(np.bincount(data.y_train) + np.bincount(data.y_test), [500] * 10)


def test_fingerprint(data):
    """Two runs, two Python versions, two releases of NumPy and SciPy: one data set."""
    assert data.fingerprint == FINGERPRINT


def test_shuffled_is_one_permutation_of_the_positions(data):
    shuffled = mnist1d(shuffled=True)
    assert shuffled.name == "mnist1d-shuffled"
    np.testing.assert_array_equal(shuffled.y_train, data.y_train)
    # columns matched by their largest values, then compared whole
    order = [np.abs(data.x_train.T - column).sum(axis=1).argmin() for column in shuffled.x_train.T]
    assert sorted(order) == list(range(40)) and order != list(range(40))
    for part in ("x_train", "x_test"):
        np.testing.assert_allclose(
            getattr(shuffled, part), getattr(data, part)[:, order], atol=1e-6
        )


def test_global_random_states_are_left_alone(made):
    assert made[1]


def test_classes_are_told_apart_by_their_templates(data):
    """A nearest mean is well above chance, and far below what a network reaches."""
    means = np.stack([data.x_train[data.y_train == c].mean(axis=0) for c in range(10)])
    nearest = ((data.x_test[:, None] - means) ** 2).sum(axis=-1).argmin(axis=1)
    assert 0.2 < (nearest == data.y_test).mean() < 0.4


def test_another_release_of_the_generator_is_named(monkeypatch):
    import mnist1d.data

    made = {"x": np.zeros((8, 4)), "x_test": np.zeros((2, 4)), "y": [0], "y_test": [0]}
    monkeypatch.setattr(mnist1d.data, "make_dataset", lambda settings: made)
    from jaxdl.data import mnist1d as load

    with pytest.raises(ValueError, match=r"must make \(4000, 40\).* got \(8, 4\).*; install rel"):
        load()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"needs the package mnist1d.*pip install"):
        mnist1d()
