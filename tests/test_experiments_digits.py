"""The main job and the other small experiments, with settings that take seconds."""

import json

import jax
import pytest

from experiments import digits, xor
from experiments._cli import main
from experiments._run import Run
from experiments.bench import epochs, imports, transformer


def results(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def default_mode(x64_off):
    """Experiments run in the default mode of JAX."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def run(module, settings, folder):
    with Run(module.__name__.rsplit(".", 1)[-1], settings, folder) as out:
        module.run(settings, out)
    return results(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "path": "autodiff",
            "loss": "squared_error",
            "activation": "tanh",
            "optimiser": "momentum",
        },
        {"depth": 0, "schedule": "constant", "standardise": True},
    ],
    ids=["default", "other choices", "regression"],
)
def test_digits(tmp_path, changes):
    settings = digits.Settings(epochs=12, seeds=1, **changes)
    found = run(digits, settings, tmp_path / "run")
    assert found["status"] == "done"
    assert found["results"]["test_accuracy_mean"] > 0.8
    differences = found["results"]["path_difference"]
    assert differences["first_step"] < 1e-5 and differences["last_step"] < 1e-4
    held = {claim["id"]: claim["holds"] for claim in found["claims"]}
    assert held["C1"] and held["C2"]
    assert ("C6" in held) == (settings.loss == "cross_entropy")
    assert ("D1" in held) == (settings.depth > 0)
    for figure in ("curves", "confusion", "gradient_norms"):
        assert (tmp_path / "run" / f"{figure}.png").stat().st_size > 5000


def test_a_diverging_run_says_so_and_keeps_what_it_wrote(tmp_path, capsys):
    folder = tmp_path / "run"
    options = ["--learning-rate", "1e6", "--optimiser", "sgd", "--epochs", "3", "--seeds", "1"]
    assert main(["digits", *options, "--out", str(folder)]) == 1
    error = capsys.readouterr().err
    assert (
        "digits failed: NonFiniteLossError: seed 0: train: the loss must be finite, got nan"
        in error
    )
    assert "lower the learning rate" in error
    assert results(folder)["status"] == "failed"
    assert "data_sha256" in results(folder)["results"]
    losses = log(folder)[-1]["losses_of_its_steps"]
    assert len(losses) == 44 and "nan" in losses and isinstance(losses[0], float)
    assert (folder / "report.html").is_file()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"epochs": 0}, "digits: epochs must be at least 1, got 0; the default is 60"),
        ({"dropout": 1.5}, r"digits: dropout is a share in \[0, 1\), got 1.5; e.g. 0.1"),
        ({"label_smoothing": 2}, r"digits: label_smoothing is a share in \[0, 1\), got 2"),
        ({"depth": -1}, "digits: depth must not be negative, got -1; 0 is none"),
        (
            {"learning_rate": 0},
            "digits: learning_rate must be above 0, got 0; the default",
        ),
        ({"label_smoothing": 0.1, "loss": "squared_error"}, "goes with loss cross_entropy, got sq"),
    ],
)
def test_settings_that_cannot_be(settings, text):
    with pytest.raises(ValueError, match=text):
        digits.Settings(**settings)


def test_a_batch_larger_than_the_data(tmp_path):
    settings = digits.Settings(batch=2000)
    with pytest.raises(ValueError, match=r"batch must be at most 1437, .* got 2000; take a"):
        run(digits, settings, tmp_path / "run")


def test_one_step_an_epoch(tmp_path):
    run(digits, digits.Settings(batch=1437, epochs=1, seeds=1, depth=0), tmp_path / "run")


def test_xor(tmp_path):
    found = run(xor, xor.Settings(seeds=8, steps=4000, learning_rate=2.0), tmp_path / "run")
    assert found["results"]["fraction_solved"] == 1
    assert found["claims"][0]["id"] == "A7" and found["claims"][0]["holds"]


def test_xor_settings_that_cannot_be():
    with pytest.raises(ValueError, match=r"steps must be a multiple of 100 .* got 150; e\.g"):
        xor.Settings(steps=150)
    with pytest.raises(ValueError, match="seeds and hidden must be at least 1, got 0 and 5"):
        xor.Settings(seeds=0)


def test_benchmarks_run(tmp_path):
    small = transformer.Settings(
        blocks=2, features=16, heads=2, examples=2, positions=8, repetitions=1
    )
    found = run(transformer, small, tmp_path / "transformer")["results"]
    assert found["gradient_difference"] < 1e-4 and found["norm_difference"] < 1e-4
    found = run(imports, imports.Settings(repetitions=1), tmp_path / "imports")["results"]
    assert found["time_ratio"]["median"] > 0
    found = run(epochs, epochs.Settings(repetitions=1), tmp_path / "epochs")["results"]
    assert {"Flax NNX", epochs.OURS} <= set(found["steps_per_second"])
