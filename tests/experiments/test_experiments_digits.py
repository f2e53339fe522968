"""The main job and the other small experiments, with settings that take seconds."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from experiments import digits, xor
from experiments.digits.parts import augmenter, build
from experiments.digits.pictures import weights
from experiments.digits.settings import BY_MODEL, given
from experiments.framework.cli import main
from experiments.framework.run import Run
from tests.experiments.running import drawn, log, results, run

SMALL: dict[str, Any] = {
    "channels": (8, 16), "width": 32, "rotation": 0.0, "dropout": 0.0, "learning_rate": 1e-2
}  # fmt: skip
FEW: dict[str, Any] = {"epochs": 12, "seeds": 1}
CASES: dict[str, tuple[dict[str, Any], float]] = {
    "convnet": (SMALL, 0.9),
    "mlp with other choices": (
        {"model": "mlp", "path": "autodiff", "loss": "squared_error", "activation": "tanh",
         "optimiser": "momentum", "learning_rate": 2e-2},
        0.9,
    ),
    "regression": (
        {"model": "mlp", "depth": 0, "schedule": "constant", "standardise": True, "rotation": 5.0},
        0.8,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A function: case -> (settings, results.json, folder), each run once.

    The bar of the convnet is out of reach, that of the mlp is one that all pass.
    """
    done = {}

    def once(case):
        if case not in done:
            settings, folder = (
                digits.Settings(**FEW | CASES[case][0]),
                tmp_path_factory.mktemp("run"),
            )
            done[case] = settings, run(digits, settings, folder), folder
        return done[case]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(digits.BARS, ("convnet", "digits8"), 1.01)
        patch.setitem(digits.BARS, ("mlp", "digits8"), 0.0)
        yield once


@pytest.mark.parametrize("case", CASES)
def test_digits(runs, case):
    settings, found, folder = runs(case)
    assert found["status"] == "done"
    assert found["results"]["test_accuracy_mean"] > CASES[case][1]
    differences = found["results"]["path_difference"]
    assert differences["first_step"] < 1e-5 and differences["last_step"] < 1e-4
    held = {claim["id"]: claim["holds"] for claim in found["claims"]}
    assert held["C1"] and held["C2"]
    assert ("C6" in held) == (settings.loss == "cross_entropy")
    assert ("D1" in held) == (settings.depth != 0)
    convnet = settings.model == "convnet"
    assert "C3" in held and ("C5" in held) == convnet
    assert ("test_accuracy_mlp" in found["results"]) == convnet
    figures = ["curves", "confusion", "gradient_norms"] + ["filters"] * convnet
    assert drawn(folder, *figures)


def test_each_model_has_its_own_bar_and_defaults(runs, tmp_path):
    """One bar out of reach and one that all pass: the verdicts are not exchanged.

    The mlp beside the convnet is the one of `--model mlp`, with depth and batch of its own.
    """
    settings, found, _ = runs("convnet")
    held = {claim["id"]: claim["holds"] for claim in found["claims"]}
    assert held["C3"] and not held["C5"]
    names = BY_MODEL["convnet"].keys() & (SMALL | FEW).keys()
    chosen = {name: getattr(settings, name) for name in names}
    assert found["results"]["used"] == BY_MODEL["convnet"] | chosen
    own = digits.Settings(**FEW | SMALL | {"model": "mlp", "channels": None})
    with Run("digits", own, tmp_path / "mlp") as out:
        alone = digits.train_seeds(own, digits.load(own), out)[1]
    assert given(own, "batch") == 32 and given(own, "depth") == 2
    assert found["results"]["test_accuracy_mlp"] == [alone[0].test[-1].accuracy]


def test_what_is_given_is_used():
    """0 is given, too; the rest is the model's own."""
    plain = digits.Settings(dropout=0.0, rotation=0.0, depth=0, channels=(5,))
    names = ("dropout", "rotation", "depth", "channels", "kernel", "epochs", "batch")
    assert [given(plain, name) for name in names] == [0.0, 0.0, 0, (5,), 3, 30, 64]
    dense = digits.Settings(model="mlp", epochs=7)
    names = ("dropout", "rotation", "depth", "learning_rate", "epochs", "batch", "size")
    assert [given(dense, name) for name in names] == [0.2, 0.0, 2, 2e-3, 7, 32, 16]


def test_weights_come_in_the_order_of_the_layers():
    model = build(digits.Settings(channels=(3, 4), depth=1, width=7))
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 8, 8, 1)))
    assert [w.shape[-1] for w in weights(model, params)] == [3, 4, 7, 10]


def test_images_of_another_size(tmp_path):
    few: dict[str, Any] = {"epochs": 1, "seeds": 1, "depth": 0, "learning_rate": 2e-2}
    settings = digits.Settings(model="mlp", data="mnist5k", size=7, **few)
    found = run(digits, settings, tmp_path / "run")
    assert found["results"]["test_accuracy_mean"] > 0.6
    assert any("reads 7×7 digits" in claim["claim"] for claim in found["claims"])


def test_augmentation_turns_and_moves_then_scales():
    data = digits.load(digits.Settings())
    x = jnp.asarray(data.x_train[:16])
    key = jax.random.key(0)
    plain = augmenter(digits.Settings(shift=0, rotation=0.0), lambda x: x)
    assert plain(key, x) is x
    moved = jax.jit(augmenter(digits.Settings(shift=1, rotation=0.0), lambda x: 2 * x))(key, x) / 2
    placed = [jnp.pad(x, [(0, 0), (2, 2), (2, 2), (0, 0)])[:, 2 - d : 10 - d, 2 - r : 10 - r]
              for d in (-1, 0, 1) for r in (-1, 0, 1)]  # fmt: skip
    match = jnp.stack([jnp.all(moved == at, axis=(1, 2, 3)) for at in placed])
    assert match.any(axis=0).all() and not match[4].all()
    turned = jax.jit(augmenter(digits.Settings(shift=0, rotation=10.0), lambda x: x))(key, x)
    change = jnp.linalg.norm(turned - x) / jnp.linalg.norm(x)
    assert 0.02 < change < 0.5  # a little, and not nothing


def test_a_diverging_run_says_so_and_keeps_what_it_wrote(tmp_path, capsys):
    folder = tmp_path / "run"
    options = ["--learning-rate", "1e6", "--optimiser", "sgd", "--epochs", "3", "--seeds", "1"]
    small = ["--model", "mlp", "--shift", "0", "--rotation", "0"]
    assert main(["digits", *small, *options, "--out", str(folder)]) == 1
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


def test_a_batch_larger_than_the_data(tmp_path):
    settings = digits.Settings(model="mlp", batch=2000)
    with pytest.raises(ValueError, match=r"batch must be at most 1437, .* got 2000; take a"):
        run(digits, settings, tmp_path / "run")


def test_one_step_an_epoch(tmp_path):
    settings = digits.Settings(model="mlp", batch=1437, epochs=1, seeds=1, depth=0, rotation=0.0)
    run(digits, settings, tmp_path / "run")


def test_xor(tmp_path):
    found = run(xor, xor.Settings(seeds=8, steps=4000, learning_rate=2.0), tmp_path / "run")
    assert found["results"]["fraction_solved"] == 1
    assert found["claims"][0]["id"] == "A7" and found["claims"][0]["holds"]
