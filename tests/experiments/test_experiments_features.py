"""Experiments on features, learned and made by hand, with settings that take seconds."""

import numpy as np
import pytest

from experiments import feature_engineering, hierarchical_features
from tests.experiments.running import drawn, held, run

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A function (module, settings) -> (results.json, folder), each experiment run once."""
    done = {}

    def once(module, settings):
        if module not in done:
            folder = tmp_path_factory.mktemp(module.__name__.rsplit(".", 1)[-1])
            done[module] = run(module, settings, folder), folder
        return done[module]

    return once


# --- feature_engineering -------------------------------------------------------------------------


@pytest.fixture
def engineering(results, monkeypatch):
    monkeypatch.setattr(feature_engineering, "SIZES", (100,))
    methods = {
        name: method._replace(choices=method.choices[-2:])
        for name, method in feature_engineering.METHODS.items()
    }
    monkeypatch.setattr(feature_engineering, "METHODS", methods)
    settings = feature_engineering.Settings(data="digits8", most=600, seeds=1, steps=150)
    return results(feature_engineering, settings)


def test_feature_engineering(engineering):
    found, folder = engineering
    assert found["results"]["sizes"] == [100, 600]
    accuracy = {k: np.asarray(v) for k, v in found["results"]["accuracy"].items()}
    assert set(accuracy) == set(feature_engineering.METHODS)
    for name, curve in accuracy.items():
        assert curve.shape == (2, 1) and curve[1, 0] > 0.75, name
        assert curve[1, 0] >= curve[0, 0] - 0.02, name
        assert all(
            tuple(pair) in feature_engineering.METHODS[name].choices[-2:]
            for pair in found["results"]["chosen"][name].values()
        )
    learned, by_hand = (
        np.max([accuracy[name].mean(axis=1) for name in names], axis=0)
        for names in (feature_engineering.LEARNED, feature_engineering.BY_HAND)
    )
    lead = found["results"]["learned_minus_by_hand"]
    np.testing.assert_allclose([lead["100"], lead["600"]], learned - by_hand, atol=1e-6)
    assert {c["id"] for c in found["claims"]} == {"D2"}
    assert held(found, "Learned features beat") == [bool(learned[1] > by_hand[1])]
    assert held(found, "With few examples") == [bool(by_hand[0] > learned[0])]
    beaten = [bool(b > p) for b, p in zip(by_hand, accuracy["pixels"].mean(axis=1), strict=True)]
    assert held(found, "Features made by hand beat pixels") == beaten
    assert drawn(folder, "learning_curves")


def test_projections_and_zones_know_where_the_ink_is():
    images = np.zeros((1, 16, 16))
    images[0, 3, 10] = 1.0
    features = feature_engineering.projections(images)[0]
    assert features[3] == features[16 + 10] == 1 / 16 and np.count_nonzero(features[:32]) == 2
    y0, x0 = features[33:35]
    assert np.allclose([y0, x0], np.linspace(-1, 1, 16)[[3, 10]], atol=1e-5)
    assert np.allclose(features[35:], 0, atol=1e-5)  # one point has no spread about its mean
    shares = feature_engineering.zones(images)[0].reshape(7, 7)
    assert set(zip(*np.nonzero(shares), strict=True)) == {(0, 4), (0, 5), (1, 4), (1, 5)}


def test_histograms_of_gradients_know_directions():
    edge = np.zeros((1, 16, 16))
    edge[:, :, 8:] = 1.0  # brighter to the right: direction 0
    for turns in range(4):  # the gradient turns with the image, a quarter is two of eight
        turned = np.rot90(edge, -turns, axes=(1, 2))
        blocks = feature_engineering.gradients(turned).reshape(9, 4, 8)
        middle = blocks[4].sum(axis=0)
        assert middle.argmax() == 2 * turns and np.allclose(np.delete(middle, 2 * turns), 0)
        assert np.all(np.linalg.norm(blocks.reshape(9, -1), axis=1) < 1)


def test_feature_engineering_looks_at_no_label_beyond_its_examples():
    """Wrong labels behind the first 100 examples of an order change nothing."""
    choices = ((1e-6, 1e-3), (0.01, 1e-3))  # the first does not learn in 50 steps
    method = feature_engineering.METHODS["pixels"]._replace(choices=choices)
    digits = feature_engineering.load("digits8")
    settings = feature_engineering.Settings(data="digits8", seeds=1, steps=50)
    order = np.random.default_rng(0).permutation(digits.train)
    labels = digits.labels.copy()
    labels[order[100:]] = 0
    results = [
        feature_engineering.learning_curve(method, d, [100], settings, range(1))
        for d in (digits, digits._replace(labels=labels))
    ]
    assert results[0][0][0, 0] == results[1][0][0, 0] > 0.7
    assert results[0][1] == results[1][1] == [choices[1]]


def test_feature_engineering_scales_by_the_examples_at_hand():
    x = np.random.default_rng(0).normal(3, [1.0, 5.0], size=(200, 2))
    rows = np.arange(50)
    apart = feature_engineering.scaled(x, rows, apart=True)
    np.testing.assert_allclose(apart[:50].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(apart[:50].std(axis=0), 1, rtol=1e-5)
    x[50:] += 100  # of other rows it knows nothing
    np.testing.assert_array_equal(feature_engineering.scaled(x, rows, apart=True)[:50], apart[:50])
    together = feature_engineering.scaled(x, rows, apart=False)[:50]
    np.testing.assert_allclose([together.mean(), together.std()], [0, 1], atol=1e-5)
    assert together[:, 1].std() > 3 * together[:, 0].std()


# --- hierarchical_features -----------------------------------------------------------------------


@pytest.fixture
def hierarchy(results, monkeypatch):
    data = hierarchical_features.load("mnist5k")
    part = data._replace(
        x_train=data.x_train[:1000], y_train=data.y_train[:1000],
        x_test=data.x_test[:1000], y_test=data.y_test[:1000],
    )  # fmt: skip  # as many of both: what passes over them is compiled once
    monkeypatch.setattr(hierarchical_features, "load", lambda name: part)
    settings = hierarchical_features.Settings(units=8, epochs=6, seeds=1, shown=3, ascent_steps=40)
    return results(hierarchical_features, settings)


def test_receptive_fields(hierarchy):
    sizes = hierarchy[0]["results"]["receptive_field"]
    assert sizes == {"conv 1": 5, "conv 2": 14, "conv 3": 24, "dense": 28, "classes": 28}
    assert hierarchy[0]["results"]["cotangent_outside_the_field"] == 0
    assert held(hierarchy[0], "Deeper units see more") == [True]


def test_receptive_fields_lie_where_the_places_are():
    fields = hierarchical_features.receptive_fields(8, (28, 28, 1))  # those of the run
    i, j = np.divmod(np.arange(8 * 8), 8)
    rows = np.stack([2 * i, 2 * i + 13], axis=1)
    columns = np.stack([2 * j, 2 * j + 13], axis=1)
    np.testing.assert_array_equal(fields["conv 2"], np.concatenate([rows, columns], axis=1))


def test_ascent(hierarchy):
    found = hierarchy[0]["results"]
    assert found["ascent_over_known_maximum"] > 0.98
    assert found["input_gradient_against_autodiff"] < 1e-6
    assert set(found["made_over_found"]) == set(hierarchical_features.LAYERS)
    assert min(found["made_over_found"].values()) > 0.8


def test_selectivity_rises_with_depth(hierarchy):
    found, folder = hierarchy
    probe = list(found["results"]["selectivity"]["probe, trained"].values())
    bits = list(found["results"]["selectivity"]["bits, trained"].values())
    assert probe[-1] > probe[0] + 0.05 and bits[-1] > bits[0] + 0.05
    assert held(found, "Learning makes it so") == [True]
    names = ("filters", "units_conv_1", "units_conv_3", "units_classes", "selectivity")
    assert drawn(folder, *names, least=3000)


def test_mutual_information():
    labels = np.repeat(np.arange(4), 500)
    knows = labels[:, None] + np.linspace(0, 0.1, 2000)[:, None]
    says_nothing = np.random.default_rng(1).normal(size=(2000, 1))
    off = np.zeros((2000, 1))
    values = np.concatenate([knows, says_nothing, off], axis=1)
    bits = hierarchical_features.mutual_information(values, labels, 4)
    assert bits[0] == pytest.approx(2, abs=0.03)
    assert abs(bits[1]) < 0.02 and bits[2] == 0
