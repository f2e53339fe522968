"""The experiments on convolution, with settings that take seconds."""

import json

import jax
import pytest

from experiments import convolution_algebra, pixel_permutation, pooling
from experiments.framework.run import Run

SMALL = {
    convolution_algebra: convolution_algebra.Settings(
        side=80, dense_image=(12, 16), kernel_sizes=(3, 9), fourier_side=24, template=8,
        noise=(0.0,), repetitions=2,
    ),
    pixel_permutation: pixel_permutation.Settings(
        data="digits8", widths=(2,), size=3, epochs=1, seeds=1
    ),
    pooling: pooling.Settings(
        length=2_000, filters_seeds=1, filters_epochs=1, sizes_seeds=1, sizes_epochs=0
    ),
}  # fmt: skip
EXACT = {  # claims that hold whatever was learned: the first words of each
    convolution_algebra: ["The layer with flip", "valid, same and full", "Convolution commutes",
                          "Cross-correlation is", "Shifts:", "The tied", "Distinct values",
                          "Operations of the 320"],
    pixel_permutation: [],
    pooling: ["Stage by stage", "Max pooling before", "max pooling and", "average pooling and",
              "L2 pooling and", "centre-weighted", "Four places", "The gradient is not",
              "Width 3, stride 2", "The same image pooled"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def default_mode(x64_off):
    """Experiments run in the default mode of JAX."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("module", SMALL, ids=lambda module: module.__name__.split(".")[-1])
def test_it_runs_and_what_must_hold_holds(module, tmp_path):
    with Run(module.__name__.split(".")[-1], SMALL[module], tmp_path / "run") as out:
        module.run(SMALL[module], out)
    found = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert found["status"] == "done" and found["claims"]
    for start in EXACT[module]:
        (claim,) = [claim for claim in found["claims"] if claim["claim"].startswith(start)]
        assert claim["holds"], claim
    assert list((tmp_path / "run").glob("*.png"))


@pytest.mark.parametrize(
    ("module", "wrong", "message"),
    [
        (convolution_algebra, {"side": 20}, "side: must be in 80 … 420"),
        (convolution_algebra, {"kernel_sizes": (4,)}, "must be odd numbers"),
        (pixel_permutation, {"widths": ()}, "widths must name at least one"),
        (pooling, {"length": 3}, "length must be at least 100, got 3"),
    ],
)
def test_settings_that_cannot_be(module, wrong, message):
    with pytest.raises(ValueError, match=message):
        module.Settings(**wrong)
