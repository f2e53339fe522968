"""Postprocessing of detections: overlap of boxes, and non-maximum suppression.

A box is (y0, x0, y1, x1) with y0 < y1 and x0 < x1, in any unit; its area (y1 − y0)(x1 − x0).

    IoU(a, b) = |a ∩ b| / |a ∪ b|
    nms: take the best-scored box, drop the boxes of its class with IoU above the threshold,
         and so on with what remains
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from jaxdl.numerics.checks import check_array
from jaxdl.numerics.dtypes import wide


class Kept(NamedTuple):
    """What `nms` keeps, best score first, in a fixed number of places."""

    indices: Array  # int32 (max_out,), rows of `boxes`; −1 where nothing is left
    valid: Array  # bool (max_out,)


def box_iou(a: Array | np.ndarray, b: Array | np.ndarray) -> Array:
    """Intersection over union of every pair of boxes.

    Args:
      a, b: (N, 4) and (M, 4), floating.

    Returns:
      (N, M) in 0 ... 1, float32 or wider. Under jit an empty or inverted box has 0 with all.

    Raises:
      ValueError: another shape; an empty, inverted or non-finite box, where values are known.
      TypeError: boxes that are not floating.
    """
    _check_boxes("box_iou: a", a)
    _check_boxes("box_iou: b", b)
    return _iou(a, b)


def nms(
    boxes: Array | np.ndarray,
    scores: Array | np.ndarray,
    classes: Array | np.ndarray | None = None,
    *,
    max_out: int,
    iou: float = 0.5,
    score: float = -np.inf,
) -> Kept:
    """Greedy non-maximum suppression, class by class; of equal scores the first comes first.

    Args:
      boxes: (N, 4), floating.
      scores: (N,), floating.
      classes: (N,), integers; boxes of different classes do not suppress each other. None: all
        boxes are of one class.
      max_out: the number of places in the result, static.
      iou: a box is dropped if its IoU with a kept one is above this.
      score: a box is dropped if its score is below this.

    Under jit nothing can be raised about values: there a box that is empty, inverted or not
    finite is dropped, and so is one whose score is not finite. Time and memory are
    min(max_out, N) × N and N. Not differentiated: the result is indices.

    Raises:
      ValueError: shapes that do not fit; `max_out` below 1, `iou` outside 0 ... 1; and, where
        values are known, an empty, inverted or non-finite box or a non-finite score.
      TypeError: boxes or scores that are not floating, classes that are not integers.

    Source: Felzenszwalb et al., Object Detection with Discriminatively Trained Part-Based
    Models, 2010, section 7.2 (there the overlap is of the smaller box).
    """
    _check_boxes("nms: boxes", boxes)
    count = len(boxes)
    check_array("nms: scores", scores)
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise TypeError(
            f"nms: scores must be floating, got {scores.dtype}; cast them, e.g. "
            "scores.astype(np.float32)"
        )
    if scores.shape != (count,):
        raise ValueError(
            f"nms: scores must be one for each box ({count},), got shape {scores.shape}; take the "
            "score of one class for each box, and give the class in classes"
        )
    if classes is not None:
        check_array("nms: classes", classes)
        if not jnp.issubdtype(classes.dtype, jnp.integer):
            raise TypeError(f"nms: classes must be integers, got {classes.dtype}; use argmax")
        if classes.shape != (count,):
            raise ValueError(
                f"nms: classes must be one for each box ({count},), got shape {classes.shape}; "
                "give the class with the best score"
            )
    if max_out < 1:
        raise ValueError(f"nms: max_out must be at least 1, got {max_out}; give N to keep all")
    if not isinstance(iou, Tracer) and not 0 <= iou <= 1:
        raise ValueError(f"nms: iou must be in 0 ... 1, got {iou}; 0.5 is usual")
    if not isinstance(scores, Tracer):
        wrong = np.flatnonzero(~np.isfinite(np.asarray(scores, np.float64)))
        if wrong.size:
            raise ValueError(
                f"nms: scores must be finite, got {scores[wrong[0]]} at index {wrong[0]}; "
                "remove these boxes"
            )
    boxes, scores = jnp.asarray(boxes), jnp.asarray(scores)
    if count == 0:
        return Kept(jnp.full(max_out, -1, jnp.int32), jnp.zeros(max_out, bool))

    # The row of overlaps is made when a box is kept: N numbers a step, not N² at once.
    def step(alive, _):
        best = jnp.argmax(jnp.where(alive, scores, -jnp.inf))  # the first of equal ones
        kept = alive[best]
        drop = _iou(boxes[best][None], boxes)[0] > iou
        if classes is not None:
            same = jnp.asarray(classes)
            drop &= same == same[best]
        # by index too: a threshold of 1 drops nothing, not even the box itself
        alive &= ~drop & (jnp.arange(count) != best)
        return alive, (jnp.where(kept, best, -1).astype(jnp.int32), kept)

    alive = jnp.isfinite(scores) & (scores >= score) & _proper(boxes)
    steps = min(max_out, count)
    _, (indices, valid) = lax.scan(step, alive, length=steps)
    rest = max_out - steps
    return Kept(jnp.pad(indices, (0, rest), constant_values=-1), jnp.pad(valid, (0, rest)))


def _proper(boxes: Array) -> Array:
    y0, x0, y1, x1 = jnp.moveaxis(boxes, -1, 0)
    return (y0 < y1) & (x0 < x1) & jnp.isfinite(boxes).all(axis=-1)


def _iou(a: Array | np.ndarray, b: Array | np.ndarray) -> Array:
    dtype = wide(jnp.result_type(a, b))
    a, b = jnp.asarray(a, dtype)[:, None], jnp.asarray(b, dtype)[None]
    low = jnp.maximum(a[..., :2], b[..., :2])
    high = jnp.minimum(a[..., 2:], b[..., 2:])
    both = _area(low, high)
    either = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - both
    proper = _proper(a) & _proper(b)
    # both `where`s: 0/0 of two empty boxes would be NaN before the outer one hides it
    zero = jnp.zeros((), dtype)
    return jnp.where(proper, both / jnp.where(proper, either, jnp.ones((), dtype)), zero)


def _area(low: Array, high: Array) -> Array:
    return jnp.prod(jnp.maximum(high - low, 0), axis=-1)


def _check_boxes(what: str, boxes: Any) -> None:
    check_array(what, boxes)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"{what} must be (N, 4), rows (y0, x0, y1, x1), got shape {boxes.shape}; for a batch "
            "of images use jax.vmap"
        )
    if not jnp.issubdtype(boxes.dtype, jnp.floating):
        raise TypeError(
            f"{what} must be floating, got {boxes.dtype}; cast them, e.g. boxes.astype(np.float32)"
        )
    if isinstance(boxes, Tracer):
        return
    values = np.asarray(boxes, np.float64)
    y0, x0, y1, x1 = values.T
    wrong = np.flatnonzero(~((y0 < y1) & (x0 < x1) & np.isfinite(values).all(axis=1)))
    if wrong.size:
        raise ValueError(
            f"{what} must have y0 < y1 and x0 < x1, finite, got {values[wrong[0]].tolist()} at row "
            f"{wrong[0]} ({wrong.size} of {len(values)} are empty, inverted or not finite); order "
            "the corners as (y0, x0, y1, x1), and remove boxes without area"
        )
