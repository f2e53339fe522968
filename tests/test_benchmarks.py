"""The benchmarks run, and their sides agree before they are timed."""

import jax
import pytest

from experiments.bench import convolution, epochs, examples, imports, programs, transformer
from experiments.framework import timing
from tests.experiments.running import run


@pytest.fixture(autouse=True)
def default_mode(x64_off, monkeypatch):
    """Benchmarks run in the default mode of JAX; here without rounds that do not count."""
    monkeypatch.setitem(timing.interleave.__kwdefaults__, "warmup", 0)
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.long
def test_convolution(tmp_path):
    settings = convolution.Settings(repetitions=1, batch=8)
    found = run(convolution, settings, tmp_path / "run")["results"]
    assert {"jaxdl", "Flax NNX"} <= set(found["lenet"]["seconds"])
    assert found["lenet_gradients"]["time_ratios"]["per-example norms"]["median"] > 0
    assert not found["examples_times_parameters_in_norms"]
    assert len([name for name in found if name.startswith("Gradient of a kernel")]) == 4


def test_transformer(tmp_path):
    small = transformer.Settings(
        blocks=2, features=16, heads=2, examples=2, positions=8, repetitions=1
    )
    found = run(transformer, small, tmp_path / "run")["results"]
    assert found["gradient_difference"] < 1e-4 and found["norm_difference"] < 1e-4


def test_imports(tmp_path):
    found = run(imports, imports.Settings(repetitions=1), tmp_path / "run")["results"]
    assert found["time_ratio"]["median"] > 0


def test_epochs(tmp_path):
    settings = epochs.Settings(batch=256, repetitions=1)
    found = run(epochs, settings, tmp_path / "run")["results"]
    assert {"Flax NNX", epochs.OURS} <= set(found["steps_per_second"])


@pytest.mark.long
def test_examples(tmp_path):
    settings = examples.Settings(
        examples=4, positions=8, features=8, blocks=2, pairs=4, width=6, repetitions=1
    )
    found = run(examples, settings, tmp_path / "run")["results"]
    for name in examples.models(settings):
        assert found[name]["difference"] < 1e-4
    assert found["inner products"]["temporary_bytes"]["gram"] < 10_000


@pytest.mark.parametrize(
    "name", ["mlp", pytest.param("transformer, scanned and rematerialised", marks=pytest.mark.long)]
)
def test_programs(tmp_path, name):
    settings = programs.Settings(
        only=(name,), images=4, sequences=2,
        positions=8, width=16, blocks=2, repetitions=1,
    )  # fmt: skip
    found = run(programs, settings, tmp_path / "run")["results"]
    assert max(found[name]["differences"].values()) < 1e-4


def test_programs_of_another_name(tmp_path):
    with pytest.raises(ValueError, match="only: the models are"):
        run(programs, programs.Settings(only=("resnet",)), tmp_path / "run")
