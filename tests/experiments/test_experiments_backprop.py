"""The experiments about the backward pass: every printed digit, and that no claim has turned.

`backprop_by_hand` runs as its user runs it; the others with fewer layers, draws or steps.
"""

import numpy as np
import pytest

from experiments import backprop_by_hand, linear_collapse, vanishing_gradients
from tests.experiments import running


def run(module, settings, folder):
    record = running.run(module, settings, folder)
    wrong = [claim for claim in record["claims"] if not claim["holds"]]
    assert record["status"] == "done" and not wrong
    return record["results"], record["claims"]


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "by_hand"
    return folder, *run(backprop_by_hand, backprop_by_hand.Settings(), folder)


def test_every_printed_digit_is_claimed_and_holds(by_hand):
    _, _, claims = by_hand
    rows = [claim["id"] for claim in claims]
    assert rows == sorted(rows)
    assert {row: rows.count(row) for row in rows} == {"A2": 2, "A3": 5, "A4": 8, "A5": 10, "A6": 4}


def test_the_two_curves_differ_as_the_text_does_from_gradient_descent(by_hand):
    _, results, _ = by_hand
    assert f"{results['right_E_after_1']:.10f}" == "0.2910277737"
    assert f"{results['wrong_E_after_1']:.9f}" == "0.291027924"
    assert f"{results['right_E_after_all']:.9f}" == "0.000035102"
    assert f"{results['wrong_E_after_all']:.9f}" == "0.000035085"
    assert [f"{o:.9f}" for o in results["wrong_o"]] == ["0.015912196", "0.984065734"]


def test_the_network_agrees_with_numpy(by_hand):
    """Written out once more without JAX and without the library's backward pass."""
    _, results, _ = by_hand
    x, t = np.array([0.05, 0.10]), np.array([0.01, 0.99])
    weights = np.array(backprop_by_hand.WEIGHTS).reshape(2, 2, 2)  # layer, unit, input
    h = 1 / (1 + np.exp(-(weights[0] @ x + 0.35)))
    o = 1 / (1 + np.exp(-(weights[1] @ h + 0.60)))
    delta_o = (o - t) * o * (1 - o)
    delta_h = (weights[1].T @ delta_o) * h * (1 - h)
    gradient = np.concatenate([np.outer(delta_h, x).ravel(), np.outer(delta_o, h).ravel()])
    np.testing.assert_allclose(results["gradient"], gradient, rtol=1e-12)
    np.testing.assert_allclose(results["delta_h"], delta_h, rtol=1e-12)


def test_the_report_shows_the_network_and_its_inspection(by_hand):
    folder, _, _ = by_hand
    page = (folder / "report.html").read_text()
    for words in (
        "h1   net  0.377500000   out 0.593269992   δ  0.027829170",
        "from h2   weight  0.550000000   ∂E/∂w  0.071543046",
        "-16.84%, wrong",
    ):
        assert words in page
    assert (folder / "network.png").exists() and (folder / "curves.png").exists()


def test_other_settings_are_not_held_against_the_printed_figures(tmp_path):
    settings = backprop_by_hand.Settings(steps=3, learning_rate=0.1)
    results, claims = run(backprop_by_hand, settings, tmp_path / "run")
    assert claims == []
    assert results["wrong_through_updated"] == ["w1", "w2", "w3", "w4"]


def test_linear_stacks_collapse_and_others_do_not(tmp_path):
    settings = linear_collapse.Settings(layers=60, width=8, inputs=200)
    results, claims = run(linear_collapse, settings, tmp_path / "run")
    assert {claim["id"] for claim in claims} == {"D4"} and len(claims) == 5
    assert results["parameters"] == [60 * (8 * 8 + 8), 8 * 8 + 8]
    assert results["affine_residual"]["linear, 60"] < 1e-12
    assert results["affine_residual"]["tanh, 60"] > 0.5


def test_gradients_vanish_where_they_should(tmp_path):
    settings = vanishing_gradients.Settings(seeds=4, batch=32, train_steps=0)
    results, claims = run(vanishing_gradients, settings, tmp_path / "run")
    assert {claim["id"] for claim in claims} == {"D6"} and len(claims) == 4
    ratio = results["delta_first_over_last"]
    assert max(v for k, v in ratio.items() if k.startswith("sigmoid")) < 1e-12
    assert 0.2 < ratio["relu, He"] < 5
    factor = results["factor_of_delta_per_layer"]
    assert factor["relu, Glorot"] == pytest.approx(0.5**0.5, rel=0.05)
    assert factor["tanh, normal 0.01"] == pytest.approx(0.08, rel=0.05)
