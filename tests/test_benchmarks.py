"""The benchmark of convolutions runs, and its sides agree before they are timed."""

import json

import jax
import pytest

from experiments.bench import convolution
from experiments.framework.run import Run


@pytest.fixture(autouse=True)
def default_mode(x64_off):
    """Benchmarks run in the default mode of JAX."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_convolution(tmp_path):
    settings = convolution.Settings(repetitions=1, batch=8)
    with Run("bench.convolution", settings, tmp_path / "run") as out:
        convolution.run(settings, out)
    found = json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    assert {"jaxdl", "Flax NNX"} <= set(found["lenet"]["seconds"])
    assert found["lenet_gradients"]["time_ratios"]["per-example norms"]["median"] > 0
    assert not found["examples_times_parameters_in_norms"]
    assert len([name for name in found if name.startswith("Gradient of a kernel")]) == 4
