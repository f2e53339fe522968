"""The parts of the experiments on the algebra of convolution and on permuted pixels."""

import jax
import numpy as np
import pytest

from experiments import convolution_algebra, pixel_permutation
from experiments.convolution_algebra import cost, detection
from experiments.convolution_algebra.filtering import filtered
from experiments.framework.precision import relative
from tests.experiments.running import held, record, run

# --- convolution_algebra ------------------------------------------------------------------------


@pytest.mark.long
def test_algebra_runs_and_what_must_hold_holds(tmp_path):
    settings = convolution_algebra.Settings(
        side=80, dense_image=(12, 16), kernel_sizes=(3, 9), fourier_side=24, template=8,
        noise=(0.0,), repetitions=2,
    )  # fmt: skip
    found = run(convolution_algebra, settings, tmp_path / "run")
    assert found["status"] == "done"
    for start in ("The layer with flip", "valid, same and full", "Convolution commutes",
                  "Cross-correlation is", "Shifts:", "The tied", "Distinct values",
                  "Operations of the 320"):  # fmt: skip
        assert held(found, start) == [True], start
    assert list((tmp_path / "run").glob("*.png"))


def test_detector(tmp_path):
    settings = convolution_algebra.Settings(noise=(0.3,))
    crop = convolution_algebra.photograph()[:160, 140:300]
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        found = record(tmp_path, lambda out: detection.detector(settings, out, rng, crop))
    found = found["results"]
    again = found["found_again"]
    assert again["normalised, noise 0"] == 1
    assert again["plain, noise 0"] < again["centred, noise 0"] < 0.5
    assert set(found["found_again_in_white_noise"].values()) == {1.0}
    misses = found["plain_misses"]
    assert 0 < misses["all"] == misses["on_a_patch_of_larger_norm"]
    assert found["contrast"]["missed"] < found["contrast"]["found"]


def test_normalised_response_is_a_correlation_coefficient():
    x = np.random.default_rng(0).normal(size=(9, 8))
    templates = detection.cut_out(x, [(2, 3), (0, 0)], 4)
    with jax.enable_x64(True):
        response = detection.responses(x, templates)["normalised"]
    for (r, c, k), value in np.ndenumerate(response):
        patch = x[r : r + 4, c : c + 4].ravel()
        assert value == pytest.approx(np.corrcoef(patch, templates[..., k].ravel())[0, 1])
    assert detection.peaks_of(response).tolist() == [[2, 3], [0, 0]]


def test_crossover():
    def found(*medians):
        return dict(zip((3, 5, 7, 9), ({"median": m} for m in medians), strict=True))

    assert cost.crossover(found(2, 0.9, 1.1, 0.5)) == 9
    assert cost.crossover(found(0.9, 0.5, 0.4, 0.3)) == 3
    assert cost.crossover(found(0.9, 0.5, 0.4, 1)) is None


def test_filtered_is_the_layer_and_relative_sees_errors():
    x, w = np.arange(5.0), np.array([1.0, 10.0])
    np.testing.assert_array_equal(filtered(x, w), [10, 21, 32, 43])
    np.testing.assert_array_equal(filtered(x, w, flip=True), [1, 12, 23, 34])
    assert relative([3.0, 4.5], [3.0, 4.0]) == pytest.approx(0.1)


# --- pixel_permutation --------------------------------------------------------------------------


@pytest.mark.long
def test_pixel_permutation_runs(tmp_path):
    settings = pixel_permutation.Settings(data="digits8", widths=(2,), size=3, epochs=1, seeds=1)
    found = run(pixel_permutation, settings, tmp_path / "run")
    assert found["status"] == "done" and found["claims"]
    assert list((tmp_path / "run").glob("*.png"))


@pytest.mark.parametrize("planted", [False, True], ids=["same permutation", "another one"])
def test_a_dense_network_with_its_weights_permuted(tmp_path, monkeypatch, planted):
    if planted:
        rearrange = pixel_permutation.rearrange
        other = lambda x, order: rearrange(x, np.roll(order, 1))  # noqa: E731
        monkeypatch.setattr(pixel_permutation, "rearrange", other)
    settings = pixel_permutation.Settings(data="digits8", widths=(2,), size=3, epochs=1, seeds=1)
    data = pixel_permutation.digits8(images=True)
    found = record(tmp_path, lambda out: pixel_permutation.identity(settings, out, data))
    same = found["results"]["permuted_dense_difference"]
    assert found["claims"][0]["holds"] is not planted
    assert same.pop("same_classes") is not planted
    assert len(same) == 3
    assert min(same.values()) > 1e-3 if planted else max(same.values()) < 1e-12


def test_pairs_of_networks_have_one_size():
    x = np.zeros((1, 8, 8, 1), np.float32)
    settings = pixel_permutation.Settings(size=3)
    for width, target in ((2, 20 + 76 + 170), (3, 30 + 168 + 250)):
        nets = pixel_permutation.pair(width, settings, x, 10)
        sizes = {net: pixel_permutation.count(model, x) for net, model in nets.items()}
        assert sizes["convolutional"] == target
        assert abs(sizes["dense"] - target) <= (64 + 1 + 10) / 2  # as near as whole units allow


def test_orders_of_pixels():
    image = np.arange(9.0).reshape(1, 3, 3, 1)
    order = pixel_permutation.order_of("transposed", 3, 0)
    turned = pixel_permutation.rearrange(image, order)
    np.testing.assert_array_equal(turned[0, ..., 0], image[0, ..., 0].T)
    shuffled = [pixel_permutation.order_of("shuffled", 16, seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(np.sort(shuffled[0]), np.arange(256))
    np.testing.assert_array_equal(shuffled[0], shuffled[1])
    assert (shuffled[0] != shuffled[2]).mean() > 0.9
    # the pixel of the new image at a place is that of the old one at order[place]
    moved = pixel_permutation.rearrange(image, np.roll(np.arange(9), 1))
    assert moved[0, 0, 0, 0] == 8 and moved[0, 0, 1, 0] == 0


def test_pixel_permutation_batch_larger_than_the_data(tmp_path):
    settings = pixel_permutation.Settings(data="digits8", batch=2000)
    text = r"batch must be at most 1437, .* got 2000; take"
    with pytest.raises(ValueError, match=text):
        run(pixel_permutation, settings, tmp_path / "run")
