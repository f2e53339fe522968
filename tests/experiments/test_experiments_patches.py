"""Features from patches as an experiment, with settings that take seconds."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import patch_features
from tests.experiments.running import drawn, held, run

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """A short run: (results.json, folder)."""
    settings = patch_features.Settings(hidden=36, patches=5000, epochs=300, seeds=1)
    folder = tmp_path_factory.mktemp("patches") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patch_features, "CROPS", 6)
        return run(patch_features, settings, folder), folder


def test_patch_features_counts_what_the_text_counts(patches):
    shapes = patches[0]["results"]["shapes"]
    assert set(shapes) == {"36", "100", "400"}
    assert shapes["400"] == [89, 89, 7921, 3_168_400]
    assert shapes["36"] == [89, 89, 7921, 36 * 7921]
    assert held(patches[0], "100 features") == held(patches[0], "400 features") == [True]
    assert {c["id"] for c in patches[0]["claims"]} == {"B16"}


def test_patch_features_learns_sparse_strokes(patches):
    found = patches[0]["results"]
    assert 0.03 < found["autoencoder"]["mean_activation"] < 0.08  # rho is 0.05
    assert found["autoencoder"]["error_over_variance"] < 0.95
    assert found["gabor_share"]["after"] > found["gabor_share"]["before"] + 0.1
    assert found["convolution_against_patches"]["exact"] < 1e-5
    assert held(patches[0], "The convolved") == held(patches[0], "Features become") == [True]
    assert drawn(patches[1], "textures", "filters", "maps", "accuracy")


def test_patch_features_classifies_with_every_kind_of_feature(patches):
    found = patches[0]["results"]["accuracy"]
    assert len(found) == 14 and set(map(len, found.values())) == {2}
    counts = np.array(list(found.values())) * 24  # hits among 4 × 6 crops
    np.testing.assert_allclose(counts, counts.round(), atol=1e-4)
    means = {name: np.mean(values) for name, values in found.items()}
    assert max(v for k, v in means.items() if k.startswith("learned")) > 0.4  # chance is 0.25


def test_patch_features_areas_are_apart():
    for name, first, second in patch_features.TEXTURES.values():
        photo = patch_features.load_photos()[name]
        uses = [np.zeros(photo.shape, bool) for _ in range(2)]
        for used, (top, bottom, left, right) in zip(uses, (first, second), strict=True):
            used[top:bottom, left:right] = True
            assert min(bottom - top, right - left) >= patch_features.SIDE
            assert bottom <= photo.shape[0] and right <= photo.shape[1]
        assert not np.any(uses[0] & uses[1])


def test_patch_features_pools_disjoint_regions():
    x = np.random.default_rng(0).normal(size=(2, 89, 89, 3)).astype(np.float32)
    for kind, f in (("mean", np.mean), ("max", np.max)):
        y = patch_features.pooled(kind).apply({}, jnp.asarray(x))
        cut = [slice(0, 30), slice(30, 60), slice(60, 89)]
        expected = np.stack([[f(x[:, i, j], axis=(1, 2)) for j in cut] for i in cut])
        expected = expected.transpose(2, 0, 1, 3).reshape(2, -1)
        np.testing.assert_allclose(y, expected, atol=1e-5)


def test_patch_features_knows_strokes_from_noise():
    rows, columns = np.mgrid[:8, :8] - 3.5
    near = np.exp(-((rows - 2) ** 2 + (columns - 2) ** 2) / (2 * 2.5**2))
    stroke = near * np.cos(2 * np.pi * rows / 6)
    noise = np.random.default_rng(0).normal(size=(64, 20))
    assert patch_features.stroke_share(stroke.reshape(64, 1))[0] > 0.99
    assert patch_features.stroke_share(noise).max() < 0.5
