"""The experiment on pooling, with settings that take seconds."""

import numpy as np
import pytest

from experiments import pooling
from experiments.pooling import networks, regions
from tests.experiments.running import drawn, held, record, run


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """All of `pooling` that needs no training of digits, and one short one of filters."""
    folder = tmp_path_factory.mktemp("pooling") / "run"
    settings = pooling.Settings(length=5000, filters_seeds=2, sizes_epochs=0)
    found = run(pooling, settings, folder)
    assert found["status"] == "done"
    return found["results"], found["claims"], folder


@pytest.mark.long
def test_stages_kinds_shift_and_ceil_follow_the_sources(quick):
    _, claims, folder = quick
    rows = {row: [c["holds"] for c in claims if c["id"] == row] for row in ("B9", "B10", "B13")}
    assert rows == {"B9": [True] * 2, "B10": [True] * 4, "B13": [True]}
    assert all(c["holds"] for c in claims if c["id"] in ("B11", "B15"))
    exact = (  # whatever was learned: the first words of each
        "Stage by stage", "Max pooling before", "max pooling and", "average pooling and",
        "L2 pooling and", "centre-weighted", "Four places", "The gradient is not",
        "Width 3, stride 2", "The same image pooled",
    )  # fmt: skip
    assert [held({"claims": claims}, start) for start in exact] == [[True]] * len(exact)
    assert drawn(folder, "stages", "kinds", "shift", "filters", "regions")


@pytest.mark.long
def test_only_the_maximum_changes_places_with_the_detector(quick):
    swapped = quick[0]["stages_swapped"]
    assert swapped.pop("max") == 0 and min(swapped.values()) > 0.01 and len(swapped) == 3


@pytest.mark.long
def test_a_shift_changes_two_in_width_plus_one_maxima_and_every_mean(quick):
    assert quick[0]["shift_small"] == [4, 2]
    found = quick[0]["shift"]
    assert set(found) == {"1", "2", "3", "5", "9"}
    for width, values in found.items():
        assert values["max"] == pytest.approx(2 / (int(width) + 1), abs=0.04)
        assert values["average"] > 0.999 and values["gradient_moves"] is True
        assert sum(values["windows_won"]) == pytest.approx(1)
        # every window has one winner: on average an input wins as many as there are windows
        won = np.arange(int(width) + 1) @ values["windows_won"]
        assert won == pytest.approx(1, abs=0.01)
    assert found["3"]["windows_won"] == pytest.approx([0.5, 0.2, 0.1, 0.2], abs=0.04)


def test_the_smaller_last_region_is_kept(quick):
    assert quick[0]["ceil"]["kept"] == pytest.approx([1, 0.2, 0.1])
    assert quick[0]["ceil"]["cut"] == pytest.approx([1, 0.2])


def test_filters_specialise_in_turns_of_the_five(quick):
    found = quick[0]["filters"]
    winners = np.array(found["winners"])
    assert winners.shape == (3, 3)
    np.testing.assert_allclose(winners.sum(axis=1), 1)
    assert min(found["match"]) >= 1 / 3 and max(found["match"]) > 0.5
    assert all(1 <= used <= 3 for used in found["used"])
    assert min(found["accuracy"]["3"]) > max(found["accuracy"]["1"]) > 0.7


def test_gradients_of_given_regions_stay_inside(quick):
    for errors in quick[0]["regions_given"].values():
        assert errors == {"forward": 0, "outside": 0, "sum": 0}


def test_the_formulas_by_loops():
    x = np.arange(16.0).reshape(1, 4, 4, 1)
    loops = {name: pooling.by_loops(f, x, 3, 1)[0, 0, 0, 0] for name, f in pooling.FORMULAS.items()}
    window = x[0, :3, :3, 0]
    assert loops["max"] == 10 and loops["average"] == 5
    assert loops["L2"] == pytest.approx(np.linalg.norm(window))
    assert loops["centre-weighted"] == pytest.approx(5)  # the weights are symmetric
    assert pooling.by_loops(np.max, x, 2, 2)[0, ..., 0].tolist() == [[5, 7], [13, 15]]


@pytest.mark.long
def test_region_sizes_memory_and_accuracy(tmp_path):
    settings = pooling.Settings(sizes_epochs=1, sizes_seeds=1)
    folder = tmp_path / "run"
    found = record(folder, lambda out: networks.sizes(settings, out))
    results, claims = found["results"], found["claims"]
    for size, values in results["sizes"].items():
        features = 16 * (16 // int(size)) ** 2
        assert values["params"] == 16 * 25 + 16 + 10 * features + 10
        if size in ("2", "4", "8"):  # one byte for the winner, four for the input of dense
            assert values["behind_bytes"] == 5 * features
        # kept at the detector and before: image and detector map, or its mask
        assert values["kept_bytes"] > values["behind_bytes"] + 4 * 256
        assert values["seconds"] > 0 and len(values["accuracy_moved"]) == 1
    accuracy = {size: values["accuracy"][0] for size, values in results["sizes"].items()}
    assert accuracy["1"] > 0.8 > accuracy["16"]
    verdicts = {c["claim"].split(":")[0]: c["holds"] for c in claims if c["id"] == "D11"}
    assert verdicts["Larger regions keep less memory behind the detector"]
    assert len(verdicts) == 4 and drawn(folder, "sizes")


def test_grids_and_boxes():
    covered = np.zeros((7, 9), int)
    for (top, bottom), (left, right) in regions.grid((0, 0), (7, 9), 3):
        covered[top:bottom, left:right] += 1
    assert np.all(covered == 1)
    image = np.zeros((2, 8, 8, 1))
    image[0, 2:5, 1:7] = 1
    assert regions.box_of_ink(image).tolist() == [[[2, 5], [1, 7]], [[0, 8], [0, 8]]]
    assert regions.columns_of([2, 0]).tolist() == [*range(16, 24), *range(8)]


def test_greedy_finds_the_regions_that_matter():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    features = rng.normal(size=(400, 6 * regions.FILTERS))
    features[:, 3 * regions.FILTERS] += 3 * (labels % 2)
    features[:, 5 * regions.FILTERS] += 30 * (labels // 2)
    train, held = features[:300], features[300:]
    chosen, errors = regions.greedy(train, labels[:300], held, labels[300:], 6, 2)
    assert sorted(chosen) == [3, 5] and errors[1] < errors[0]


@pytest.mark.long
def test_regions_that_follow_and_regions_that_are_learned(tmp_path, monkeypatch):
    monkeypatch.setattr(regions, "STEP", 4)
    monkeypatch.setattr(regions, "COUNTS", (9,))
    monkeypatch.setattr(regions, "RANDOM", 2)
    folder = tmp_path / "run"
    found = record(folder, lambda out: (regions.moving(out, 0), regions.learned(out, 0)))
    results, claims = found["results"], found["claims"]
    moving = results["regions_moving"]
    assert moving["the image, 32"] < moving["the image, 16"] - 0.2
    # the same digits under the same regions, wherever they are
    ink = [value for name, value in moving.items() if name.startswith("the ink")]
    assert len(ink) == 4 and max(ink) - min(ink) < 1e-9 and min(ink) > 0.85
    course = results["structure_course"]
    assert len(results["structure_regions"]) == 9 and course[-1] < course[0] / 2
    assert set(results["structure"]) == {"9, grid", "9, learned", "9, random"}
    assert len(claims) == 2 and claims[0]["holds"] and drawn(folder, "structure")
