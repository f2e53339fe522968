"""One network for images of any size, with settings that take seconds."""

import jax
import numpy as np
import pytest

from experiments import variable_size
from jaxdl.data import mnist5k
from tests.experiments.running import drawn, run

pytestmark = pytest.mark.long


def few(*args, **options):
    data = mnist5k(*args, **options)
    parts = {"x_train": 1000, "y_train": 1000, "x_test": 200, "y_test": 200}
    return data._replace(**{name: getattr(data, name)[:n] for name, n in parts.items()})


def test_variable_size(tmp_path, monkeypatch):
    monkeypatch.setattr(variable_size, "mnist5k", few)
    settings = variable_size.Settings(
        mixed=(24, 28), unseen=(20, 40), widths=(2, 4, 64), epochs=1, batch=25, seeds=1
    )
    found = run(variable_size, settings, tmp_path / "run")
    results, claims = found["results"], found["claims"]
    assert results["sizes_taken"] == {
        "fixed": [24, 28], "variable": [24, 28, 40], "global average": [20, 24, 28, 40]
    }  # fmt: skip
    refused = "x.shape[-1] must equal params['w'].shape[0] (576), got x.shape == (1, 1600)"
    assert refused in results["refusal_fixed"]
    assert "every bin must hold a place, got an input of size (2, 2)" in results["refusal_variable"]
    accuracy = {name: values[0] for name, values in results["accuracy"].items()}
    # at 28 nothing is resized, and the fixed network is the variable one
    assert accuracy["fixed, resized, 28"] == accuracy["variable, 28×28, 28"] > 0.3
    assert "variable, mixed sizes, 20" not in accuracy and "global average, 28×28, 20" in accuracy
    exact = ("Sizes taken", "A fixed number", "At 28×28 the variable")
    held = [claim["holds"] for claim in claims if claim["claim"].startswith(exact)]
    assert held == [True] * 3 and {claim["id"] for claim in claims} == {"B14"}
    assert len(claims) == 3 + 2  # no unseen size lies between those of training
    assert drawn(tmp_path / "run", "regions", "accuracy")


def test_resized():
    ramp = np.tile(np.arange(8, dtype=np.float32), (8, 1))[None, :, :, None]
    assert variable_size.resized(ramp, 8) is ramp
    larger, smaller = (variable_size.resized(ramp, size) for size in (16, 4))
    # pixel centres of the new grid on the old one; the edges are held
    np.testing.assert_allclose(larger[0, 3, 1:-1, 0], np.arange(14) / 2 + 0.25, atol=1e-6)
    np.testing.assert_allclose(smaller[0, 1, 1:-1, 0], [2.5, 4.5], atol=1e-5)


def test_errors_are_those_of_the_network():
    nets = variable_size.build((2, 2, 64))
    images = np.zeros((1, 28, 28, 1), np.float32)
    params = nets["fixed"].init(jax.random.key(0), images)
    assert variable_size.error_of(nets["fixed"], params, images) == ""
    text = variable_size.error_of(nets["fixed"], params, np.zeros((1, 40, 40, 1), np.float32))
    assert text.startswith("head/dense: x.shape[-1] must equal params['w'].shape[0] (576)")
