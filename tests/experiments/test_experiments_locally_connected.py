"""Layers whose kernels are not shared between places, with settings that take seconds."""

import numpy as np
import pytest

from experiments import locally_connected
from experiments.framework.run import Run
from tests.experiments.running import drawn, run


@pytest.mark.long
def test_locally_connected(tmp_path):
    settings = locally_connected.Settings(maps=2, train_images=300, epochs=1, batch=25, seeds=1)
    found = run(locally_connected, settings, tmp_path / "run")
    accuracy = found["results"]["accuracy"]
    assert len(accuracy) == 4 * 4
    for key, part in accuracy.items():
        assert 0 <= part["test"][0] <= 1
        assert (part["test_moved"] is None) == (not key.startswith("centred"))
    # the images of one kind are not those of another
    assert len(set(found["results"]["data_sha256"].values())) == 4
    assert [claim["id"] for claim in found["claims"]] == ["B8"] * 5
    assert drawn(tmp_path / "run", "images", "errors")


@pytest.mark.long
def test_parts_of_its_own_are_learned_without_sharing(tmp_path):
    settings = locally_connected.Settings(train_images=2000, epochs=6, seeds=1)
    data = locally_connected.generated(True, noise=0.5, flip=0.1)
    data = data._replace(x_train=data.x_train[:2000], y_train=data.y_train[:2000])
    models = locally_connected.networks(settings, data.x_train[:1])
    few = {name: models[name] for name in locally_connected.NETS[:2]}
    with Run("locally_connected", settings, tmp_path / "run") as out:
        scores = locally_connected.compare(settings, out, few, {locally_connected.OWN: data})
    local, conv = (scores[locally_connected.OWN, net][0, 1] for net in few)
    assert local > conv + 0.1 and local > 0.6


def test_networks_of_one_size():
    x = np.zeros((1, 16, 16, 1), np.float32)
    models = locally_connected.networks(locally_connected.Settings(), x)
    local, same, equal, wide = (locally_connected.count(model, x) for model in models.values())
    assert local == 144 * 26 * 4 + 10 * (36 * 4 + 1)  # its own kernel and bias at 144 places
    assert same == 26 * 4 + 10 * (36 * 4 + 1)
    assert abs(equal / local - 1) < 0.02 and abs(wide / local - 1) < 0.02


def test_images_are_moved_whole():
    data = locally_connected.real_images()
    assert data.x_train.shape[1:] == (16, 16, 1)
    x = data.x_test[:200]
    moved = locally_connected.moved(x, 0)
    np.testing.assert_allclose(moved.sum(axis=(1, 2, 3)), x.sum(axis=(1, 2, 3)), rtol=1e-5)
    spots = np.zeros((500, 16, 16, 1), np.float32)
    spots[:, 8, 8] = 1
    _, rows, columns, _ = np.nonzero(locally_connected.moved(spots, 0))
    assert set(rows - 8) == set(columns - 8) == {-2, -1, 0, 1, 2}


@pytest.mark.parametrize("own", [True, False])
def test_generated_images_show_the_parts_of_their_places(own):
    data = locally_connected.generated(own, noise=0, flip=0)
    patterns = locally_connected.parts(own)
    cells = data.x_train[..., 0].reshape(-1, 4, 4, 4, 4).swapaxes(2, 3).reshape(-1, 16, 4, 4)
    match = np.einsum("npij,pvij->npv", cells, patterns) / 16
    assert (np.abs(match).max(axis=2) == 1).all()  # one of the two, in either contrast
    # within a class every cell shows the same part, and no pixel has a mean
    shown = np.abs(match).argmax(axis=2)
    distinct = (np.abs(match) == 1).sum(axis=2) == 1  # not where the two are each other's negative
    for label in range(10):
        rows = data.y_train == label
        same = (shown[rows] == shown[rows][0]) | ~distinct[rows]
        assert same.all()
        assert np.abs(data.x_train[rows].mean(axis=0)).max() < 0.3
    assert (np.unique(patterns.reshape(16, -1), axis=0).shape[0] > 1) == own
