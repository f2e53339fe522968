"""The benchmarks run, and their sides agree before they are timed."""

import jax
import pytest

from experiments.bench import (
    convolution,
    epochs,
    examples,
    imports,
    programs,
    rivals,
    sizes,
    transformer,
)
from experiments.framework import timing
from tests.experiments.running import drawn, run


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
    pairs = found["inner products"]
    assert pairs["temporary_bytes"]["gram"] < 10_000
    assert max(pairs["differences"].values()) < 1e-4 and len(pairs["seconds"]) == 4


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


@pytest.mark.filterwarnings("default:optax.global_norm:DeprecationWarning")  # in jax_privacy
@pytest.mark.parametrize(
    "name",
    [
        "mlp",
        *(pytest.param(name, marks=pytest.mark.long) for name in rivals.MODELS if name != "mlp"),
    ],
)
def test_rivals(tmp_path, name):
    """With whatever of the rivals is installed; weights are shared, so that results must be."""
    settings = rivals.Settings(
        only=(name,), images=2, sequences=4, positions=8, width=16, blocks=2,
        microbatch=2, pause=0.0, threads=1, repetitions=1,
    )  # fmt: skip
    found = run(rivals, settings, tmp_path / "run")["results"][name]
    assert {programs.NORMS, programs.CLIPPED} <= set(found["differences"])
    assert max(found["differences"].values()) < 1e-4
    assert not found["refused"]


def test_rivals_that_are_missing_or_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(rivals, "_installed", lambda name: False)
    settings = rivals.Settings(only=("mlp",), images=2, width=8, repetitions=1)
    found = run(rivals, settings, tmp_path / "run")
    assert not any("jax_privacy" in side for side in found["results"]["mlp"]["seconds"])
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "left out: jax_privacy, torch, opacus" in page
    with pytest.raises(ValueError, match="only: the models are"):
        run(rivals, rivals.Settings(only=("resnet",)), tmp_path / "other")


def test_sizes(tmp_path):
    settings = sizes.Settings(
        examples=(2, 3), positions=(4,), widths=(8,), blocks=1, seconds=0.0, repetitions=1,
        minutes=0.0,
    )  # fmt: skip
    found = run(sizes, settings, tmp_path / "run")["results"]
    (place,) = found["places"].values()  # no time for the second
    assert found["largest_difference"] < 1e-4 and len(place["seconds"]) == 5
    assert drawn(tmp_path / "run", "sizes")


def test_sizes_that_take_too_much_are_not_run(tmp_path, monkeypatch):
    by_side = iter([10, 10, 3_000_000_000, 10, 3_000_000_000])
    monkeypatch.setattr(sizes, "temporary_bytes", lambda compiled: next(by_side))
    settings = sizes.Settings(
        examples=(2,), positions=(4,), widths=(8,), blocks=1, memory=1.0, seconds=0.0, repetitions=1
    )
    found = run(sizes, settings, tmp_path / "run")["results"]
    place = found["places"]["B 2 T 4 width 8"]
    assert set(place["seconds"]) == {programs.PLAIN, programs.NORMS, programs.CLIPPED}
    assert place["temporary_bytes"][programs.VMAP_NORMS] == 3_000_000_000
    with pytest.raises(ValueError, match="at least 1"):
        run(sizes, sizes.Settings(widths=(0,)), tmp_path / "other")
