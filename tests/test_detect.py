"""Non-maximum suppression against a plain loop, and what bad boxes say."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdl.detect import box_iou, nms


def overlap(a, b):
    """IoU of two boxes on a grid of whole numbers, by counting its cells."""
    cells = [
        {(y, x) for y in range(int(y0), int(y1)) for x in range(int(x0), int(x1))}
        for y0, x0, y1, x1 in (a, b)
    ]
    either = cells[0] | cells[1]
    return len(cells[0] & cells[1]) / len(either) if either else 0.0


def loop(boxes, scores, classes, iou, score):
    """Greedy suppression as it is told in words."""
    candidates = [
        i
        for i in range(len(boxes))
        if scores[i] >= score and boxes[i][0] < boxes[i][2] and boxes[i][1] < boxes[i][3]
    ]
    kept = []
    while candidates:
        best = max(candidates, key=lambda i: (scores[i], -i))
        kept.append(best)
        candidates = [
            i
            for i in candidates
            if i != best and (classes[i] != classes[best] or overlap(boxes[i], boxes[best]) <= iou)
        ]
    return kept


SIZE = 12  # one shape, compiled once

JIT_NMS, JIT_IOU = jax.jit(nms, static_argnames="max_out"), jax.jit(box_iou)


def run(*args, **settings):
    """As NumPy arrays: what is asked of them would be compiled for every number of boxes."""
    return jax.device_get(JIT_NMS(*args, **settings))


@st.composite
def detections(draw):
    seed = draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    corner, extent = rng.integers(0, 6, (SIZE, 2)), rng.integers(1, 7, (SIZE, 2))
    boxes = np.concatenate([corner, corner + extent], axis=1).astype(np.float64)
    scores = rng.integers(0, 8, SIZE) / 8  # with ties
    return boxes, scores, rng.integers(0, 3, SIZE)


@given(detections(), st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0]), st.sampled_from([-np.inf, 0.5]))
@settings(max_examples=200)
def test_against_a_plain_loop(case, iou, score):
    boxes, scores, classes = case
    for labels in (classes, None):
        same = classes if labels is not None else np.zeros(SIZE)
        expected = loop(boxes, scores, same, iou, score)
        kept = run(boxes, scores, labels, max_out=SIZE, iou=iou, score=score)
        assert kept.indices[kept.valid].tolist() == expected
        assert (kept.indices[~kept.valid] == -1).all()
        first = run(boxes, scores, labels, max_out=3, iou=iou, score=score)
        assert first.indices[first.valid].tolist() == expected[:3]


@given(detections())
def test_degenerate_boxes_are_dropped_under_jit(case):
    boxes, scores, classes = case
    boxes[1, 2] = boxes[1, 0]  # empty
    boxes[4] = boxes[4, [2, 3, 0, 1]]  # inverted
    kept = run(boxes, scores, classes, max_out=SIZE)
    assert kept.indices[kept.valid].tolist() == loop(boxes, scores, classes, 0.5, -np.inf)
    boxes[4] = np.nan
    scores[1] = np.nan
    again = run(boxes, scores, classes, max_out=SIZE)
    np.testing.assert_array_equal(again.indices, kept.indices)


@given(detections())
def test_iou_by_counting_cells(case):
    boxes = case[0]
    expected = [[overlap(a, b) for b in boxes] for a in boxes]
    np.testing.assert_allclose(JIT_IOU(boxes, boxes), expected, rtol=1e-12)
    np.testing.assert_allclose(
        JIT_IOU(boxes[:5].astype(np.float32), boxes.astype(np.float32)), expected[:5], rtol=1e-6
    )


def test_iou_of_degenerate_boxes_is_zero_under_jit():
    boxes = np.array([[0, 0, 2, 2], [1, 1, 1, 1], [2, 2, 0, 0], [0, 0, np.inf, 1]], np.float32)
    np.testing.assert_array_equal(
        jax.jit(box_iou)(boxes, boxes), np.diag([1, 0, 0, 0]).astype(np.float32)
    )


BOXES = np.array([[0, 0, 2, 2], [0, 0, 2, 2], [5, 5, 6, 6]], np.float32)
SCORES = np.array([0.5, 0.5, 0.9], np.float32)


def test_of_equal_scores_the_first_wins():
    kept = nms(BOXES, SCORES, max_out=5)
    np.testing.assert_array_equal(kept.indices, [2, 0, -1, -1, -1])
    np.testing.assert_array_equal(kept.valid, [True, True, False, False, False])
    assert kept.indices.dtype == np.int32


def test_the_overlap_must_be_above_the_threshold():
    boxes = np.array([[0, 0, 1, 4], [0, 0, 1, 2]], np.float32)  # IoU of one half
    assert nms(boxes, SCORES[:2], max_out=2, iou=0.5).valid.tolist() == [True, True]
    assert nms(boxes, SCORES[:2], max_out=2, iou=0.499).valid.tolist() == [True, False]


def test_the_score_threshold_is_kept_itself():
    assert nms(BOXES, SCORES, np.arange(3), max_out=3, score=0.5).valid.all()
    assert nms(BOXES, SCORES, np.arange(3), max_out=3, score=0.51).valid.tolist() == [1, 0, 0]


def test_a_batch_of_images():
    kept = jax.vmap(lambda b, s: nms(b, s, max_out=2))(
        jnp.stack([BOXES, BOXES[::-1]]), jnp.stack([SCORES, SCORES])
    )
    np.testing.assert_array_equal(kept.indices, [[2, 0], [2, 0]])


def test_bfloat16():
    kept = nms(jnp.asarray(BOXES, jnp.bfloat16), jnp.asarray(SCORES, jnp.bfloat16), max_out=3)
    np.testing.assert_array_equal(kept.indices, [2, 0, -1])


def test_no_boxes():
    kept = nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), max_out=3)
    np.testing.assert_array_equal(kept.indices, [-1, -1, -1])
    assert not kept.valid.any()


NO_ARRAY: Any = [[0, 0, 1, 1]]


def replaced(array, place, value):
    array = array.copy()
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: nms(replaced(BOXES, (1, 2), 0), SCORES, max_out=3),
            ValueError,
            r"nms: boxes must have y0 < y1 and x0 < x1, finite, got \[0.0, 0.0, 0.0, 2.0\] at row "
            r"1 \(1 of 3 are empty.*order the corners as \(y0, x0, y1, x1\)",
        ),
        (
            lambda: nms(BOXES[:, [2, 3, 0, 1]], SCORES, max_out=3),
            ValueError,
            r"got \[2.0, 2.0, 0.0, 0.0\] at row 0 \(3 of 3 are empty, inverted",
        ),
        (
            lambda: box_iou(BOXES, replaced(BOXES, (2, 3), np.nan)),
            ValueError,
            r"box_iou: b must have .* got \[5.0, 5.0, 6.0, nan\] at row 2",
        ),
        (
            lambda: nms(BOXES, replaced(SCORES, 1, np.nan), max_out=3),
            ValueError,
            "scores must be finite, got nan at index 1; remove",
        ),
        (lambda: nms(BOXES.T, SCORES, max_out=3), ValueError, r"\(N, 4\).*got shape \(4, 3\)"),
        (lambda: nms(BOXES.astype(int), SCORES, max_out=3), TypeError, "floating, got int64; cast"),
        (lambda: nms(BOXES, SCORES[:2], max_out=3), ValueError, r"\(3,\), got shape \(2,\)"),
        (
            lambda: nms(BOXES, SCORES > 0, max_out=3),
            TypeError,
            "nms: scores must be floating, got bool; cast",
        ),
        (lambda: nms(BOXES, SCORES, SCORES, max_out=3), TypeError, "classes must be integers, got"),
        (
            lambda: nms(BOXES, SCORES, np.arange(2), max_out=3),
            ValueError,
            r"classes must be one for each box \(3,\), got shape \(2,\)",
        ),
        (lambda: nms(BOXES, SCORES, max_out=0), ValueError, "max_out must be at least 1, got 0"),
        (lambda: nms(BOXES, SCORES, max_out=3, iou=1.5), ValueError, r"iou must be in .* got 1.5"),
        (lambda: nms(NO_ARRAY, SCORES, max_out=3), TypeError, "must be an array, got a list"),
    ],
)
def test_bad_input_is_named(call, error, text):
    with pytest.raises(error, match=text):
        call()
