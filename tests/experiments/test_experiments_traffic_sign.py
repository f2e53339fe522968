"""Generated traffic signs, read and found, with settings that take seconds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import traffic_sign
from experiments.traffic_sign import signs
from jaxdl.detect import box_iou
from jaxdl.models import traffic_sign_net
from tests.experiments.running import drawn, log, record, run


@pytest.mark.long
def test_a_short_run(tmp_path):
    settings = traffic_sign.Settings(
        train_images=480, test_images=90, epochs=8, batch=20, seeds=1, scenes=2, score=0.2
    )
    found = run(traffic_sign, settings, tmp_path / "run")
    results = found["results"]
    assert sum(results["parameters"].values()) == 304 + 1010 + 2259
    assert np.sum(results["confusion"]) == 90
    hits = np.trace(results["confusion"]) / 90
    assert results["test_accuracy"]["network"] == [pytest.approx(hits)]
    lines = [line for line in log(tmp_path / "run") if line["run"] == "network, seed 0"]
    course = [line["loss"] for line in lines]
    assert len(course) == 8 and course[-1] < 0.6 * course[0]
    assert results["slid_against_windows"]["difference"] < 1e-5
    assert results["slid_against_windows"]["mflop"][0] < results["slid_against_windows"]["mflop"][1]
    boxes = results["detection"]
    assert boxes["boxes on signs after suppression"] <= boxes["boxes on signs before suppression"]
    assert boxes["boxes on no sign after"] <= boxes["boxes on no sign before"]
    assert boxes["signs with exactly one"] <= boxes["signs with a box"] <= boxes["signs"] == 10
    shapes = next(c for c in found["claims"] if "shapes" in c["claim"])
    assert shapes["holds"] and shapes["found"].startswith("28×28×4 → 14×14×4 → 10×10×10 → 5×5×10")
    assert {c["id"] for c in found["claims"]} == {"D12", "A1"}
    assert drawn(tmp_path / "run", "examples", "stages", "confusion", "scene")


def test_generated_signs_follow_their_seed():
    x, y = signs.draw_windows(3, 60)
    again, _ = signs.draw_windows(3, 60)
    other, _ = signs.draw_windows(4, 60)
    np.testing.assert_array_equal(x, again)
    assert np.abs(x - other).mean() > 0.1
    assert x.shape == (60, 32, 32, 3) and x.dtype == np.float32 and y.dtype == np.int32
    assert 0 <= x.min() < x.max() <= 1
    assert (y == signs.NOTHING).sum() == 20 and y.max() < len(signs.NAMES)


def test_signs_are_distinct_and_lie_inside_their_circle():
    v, u = np.mgrid[-1.2:1.2:60j, -1.2:1.2:60j]
    drawn = []
    for sign in range(len(signs.SIGNS)):
        image = np.zeros((60, 60, 3))
        for where, colour in signs._layers(sign, u, v):
            image[where] = colour
        assert not image[np.hypot(u, v) > 1.21].any()
        assert image[28:32, 28:32].any()
        drawn.append(image)
    for a in range(len(drawn)):
        for b in range(a):
            assert (drawn[a] != drawn[b]).any(axis=-1).sum() > 20


def test_scenes_know_where_their_signs_are():
    rng = np.random.default_rng(0)
    image, boxes, labels = signs.draw_scene(rng, 128, 192, 4)
    assert image.shape == (128, 192, 3) and len(boxes) == len(labels) == 4
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [128, 192]).all()
    overlap = np.asarray(box_iou(boxes, boxes))
    np.testing.assert_allclose(overlap, np.eye(4), atol=1e-6)


def test_the_network_slid_over_a_scene_is_the_network_on_every_window():
    model = traffic_sign_net(len(signs.NAMES))
    rng = np.random.default_rng(0)
    scene = jnp.asarray(rng.uniform(size=(2, 48, 56, 3)), jnp.float32)
    params = model.init(jax.random.key(0), scene[:, :32, :32])
    slid = traffic_sign.slide(model, params, scene)
    assert slid.shape == (2, 5, 7, len(signs.NAMES))
    for i, j in ((0, 0), (1, 3), (4, 6)):
        window = scene[:, 4 * i : 4 * i + 32, 4 * j : 4 * j + 32]
        expected = jax.nn.softmax(model.apply(params, window))
        np.testing.assert_allclose(slid[:, i, j], expected, atol=1e-6)


def test_proposals_and_matches():
    seen = np.zeros((4, 5, len(signs.NAMES)), np.float32)
    seen[..., signs.NOTHING] = 1
    seen[1, 2] = np.eye(len(signs.NAMES))[3] * 0.9
    boxes, scores, classes = traffic_sign.propose(seen)
    assert boxes.shape == (20, 4) and np.argmax(scores) == 7
    np.testing.assert_allclose(np.delete(scores, 7), -1)
    half = traffic_sign.HALF
    np.testing.assert_allclose(boxes[7], [20 - half, 24 - half, 20 + half, 24 + half])
    np.testing.assert_allclose(scores[7], 0.9)
    assert classes[7] == 3
    boxes, classes = boxes[7:8], classes[7:8]
    truth = np.array([[80, 80, 100, 100], [10, 14, 30, 34]], np.float32)
    on, right = traffic_sign.match(boxes, classes, truth, np.array([3, 3]))
    assert on.tolist() == [1] and right.tolist() == [True]
    _, right = traffic_sign.match(boxes, classes, truth, np.array([3, 4]))
    assert right.tolist() == [False]
    on, right = traffic_sign.match(boxes, classes, truth[:1], np.array([3]))
    assert on.tolist() == [-1] and right.tolist() == [False]


def test_a_perfect_network_finds_every_sign_once(tmp_path, monkeypatch):
    settings = traffic_sign.Settings(scenes=3, signs_per_scene=4)
    rng = np.random.default_rng(traffic_sign.SCENES)
    seen = np.zeros((3, 25, 41, len(signs.NAMES)), np.float32)
    seen[..., signs.NOTHING] = 1
    middles = 16 + 4 * np.indices(seen.shape[1:3]).transpose(1, 2, 0)
    for scene in seen:
        _, boxes, labels = signs.draw_scene(rng, *traffic_sign.SCENE, 4)
        for box, label in zip(boxes, labels, strict=True):
            away = np.abs(middles - (box[:2] + box[2:]) / 2).max(axis=-1)
            scene[away <= 6] = np.eye(len(signs.NAMES))[label]
            scene[away <= 6] *= 1 - away[away <= 6, None] / 20
    monkeypatch.setattr(traffic_sign, "slide", lambda model, params, x: jnp.asarray(seen))
    model = traffic_sign_net(len(signs.NAMES))
    params = model.init(jax.random.key(0), jnp.ones((1, 32, 32, 3)))
    found = record(tmp_path, lambda out: traffic_sign.detection(settings, out, model, params))
    boxes = found["results"]["detection"]
    assert boxes["boxes on signs before suppression"] > 50
    assert boxes["boxes on signs after suppression"] == boxes["signs"] == 12
    assert boxes["signs with exactly one"] == boxes["signs with a box of the right class"] == 12
    assert boxes["boxes on no sign after"] == 0
    assert [claim["holds"] for claim in found["claims"]] == [True, True]
