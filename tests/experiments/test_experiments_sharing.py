"""Counts, receptive fields and the gradient of a shared weight, with settings that take seconds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl
from experiments import sharing_and_sparsity
from experiments.sharing_and_sparsity import receptive_fields
from tests.experiments.running import drawn, record

SETTINGS = sharing_and_sparsity.Settings(images=8, depths=(2, 4, 8), draws=24, digits=16)


def recorded(part, folder):
    """Results, claims and folder of a run, or of a part of one."""
    return record(folder, lambda out: part(SETTINGS, out)) | {"folder": folder}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A run without the receptive fields, whose many programs take as long as all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharing_and_sparsity, "fields", lambda *_: None)
        return recorded(sharing_and_sparsity.run, tmp_path_factory.mktemp("sharing") / "run")


def test_all_claims_hold(found):
    assert found["status"] == "done"
    assert {claim["id"] for claim in found["claims"]} == {"B3", "B4"}
    assert len(found["claims"]) == 11
    assert [claim for claim in found["claims"] if not claim["holds"]] == []
    assert drawn(found["folder"], "connections", "effective", "gradient_by_place")


def test_counts_of_the_source(found):
    counts = found["results"]["counts"]
    assert [layer["weights"] for layer in counts.values()] == [10**12, 10**8, 100, 10**4, 10**4]
    assert [layer["units"] for layer in counts.values()] == [10**6, 10**6, 10**6, 10**8, 10**6]
    assert counts["convolution, 100 maps, stride 10"]["places"] == [100, 100]


def test_connections(found):
    assert found["results"]["connections"] == {
        "dense": [24, 24, 576],
        "conv, kernel 3": [3, 3, 3 * 24 - 2],
        "2 × conv": [5, 5, 5 * 24 - 2 * (2 + 1)],
        "4 × conv": [9, 9, 9 * 24 - 2 * (4 + 3 + 2 + 1)],
    }


def test_receptive_fields(tmp_path):
    found = recorded(sharing_and_sparsity.fields, tmp_path / "run")
    assert [claim["holds"] for claim in found["claims"]] == [True] * 3
    assert found["results"]["receptive_fields"] == {
        "3 × 3": [3, 5, 7, 9, 11, 13],
        "3 × 3, stride 2": [3, 7, 15, 31],
        "3 × 3, dilated 1 2 4 8": [3, 7, 15, 31],
        "3 × 3 and average pool": [3, 4, 8, 10, 18, 22],
        "5 × 5 and max pool": [5, 6, 14, 16],
    }
    assert found["results"]["reached_by_one_image"]["5 × 5 and max pool"] < 1
    assert drawn(found["folder"], "fields", "growth")


def test_formula_of_the_receptive_field():
    specs = [("conv", 5, 1, 1), ("max_pool", 2, 2, 1), ("conv", 3, 2, 2), ("conv", 3, 1, 1)]
    assert receptive_fields.receptive_field(specs) == (1 + 4 + 1 + 2 * 2 * 2 + 2 * 4, 4)


def test_support_of_what_is_reached():
    reach = np.zeros((6, 7))
    reach[2, 3] = reach[4, 6] = 0.1
    assert receptive_fields.support(reach) == [(2, 3), (3, 4)]
    assert receptive_fields.support(np.zeros((2, 2))) == [(0, 0), (0, 0)]


def test_backward_support_is_what_a_perturbation_moves():
    """A unit's dx is zero where moving an input does not move the unit, and nowhere else."""
    specs = [("conv", 3, 2, 1), ("average_pool", 2, 2, 1)]
    model = jaxdl.serial(*receptive_fields.layers_of(specs))
    x = jax.random.normal(jax.random.key(0), (1, 9, 9, 1))
    params = model.init(jax.random.key(1), x)
    dx = receptive_fields.one_unit_bwd(model, params, x, (0, 1), jax.random.key(2))[0, ..., 0]
    # one pixel each, by so much that no relu stays shut
    pixels = jnp.eye(81).reshape(81, 9, 9, 1)
    moved = jnp.concatenate([x[0] + step * pixels for step in (10, -10)])
    y = np.asarray(model.apply(params, x))[0, 0, 1]
    change = np.asarray(model.apply(params, moved))[:, 0, 1] != y
    reached = change.any(axis=-1).reshape(2, 9, 9).any(axis=0)
    field = np.zeros((9, 9), bool)
    field[:5, 4:] = True
    np.testing.assert_array_equal(reached, field)
    assert not np.any(np.asarray(dx != 0) & ~reached)
    # and where a move too small for any relu to turn does, without exception
    step = x[0] + 1e-3 * pixels
    change = np.asarray(model.apply(params, step))[:, 0, 1] != y
    np.testing.assert_array_equal(dx != 0, change.any(axis=-1).reshape(9, 9))


def test_effective_field_is_narrower_than_the_field(found):
    expected = np.sqrt(2 * np.array([2, 4, 8]) / 3)
    spread = found["results"]["effective_deviation"]
    np.testing.assert_allclose(spread, expected, rtol=0.15)
