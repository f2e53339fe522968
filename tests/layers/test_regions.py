"""Pooling over regions: NumPy loops as oracle, ties, errors."""

from functools import partial

import jax
import numpy as np
import pytest

import jaxdl as jd
from tests.layers.compiled import both_ways

assert_close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)


def drawn(*shape):
    return np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize("kind", ["mean", "max"])
@pytest.mark.parametrize(("space", "out"), [((7,), (3,)), ((6, 5), (4, 2)), ((3, 4, 5), (2, 4, 3))])
def test_adaptive_pool_is_the_loop_over_bins(kind, space, out):
    x = drawn(2, *space, 3)
    y = np.asarray(jax.jit(jd.adaptive_pool(out, rank=len(space), kind=kind).apply)({}, x))
    assert y.shape == (2, *out, 3)
    for place in np.ndindex(*out):
        bins = [
            slice(p * n // o, -(-(p + 1) * n // o))
            for p, n, o in zip(place, space, out, strict=True)
        ]
        region = x[(slice(None), *bins)].reshape(2, -1, 3)
        assert_close(y[(slice(None), *place)], getattr(region, kind)(axis=1))


def test_pyramid_pool_has_one_length_for_every_size():
    pool = jd.pyramid_pool((1, 2, 4))
    for space in ((4, 4), (9, 13)):
        x = drawn(2, *space, 3)
        y = jax.jit(lambda x: pool.apply(pool.init(jax.random.key(0), x), x))(x)
        y = np.asarray(y)
        assert y.shape == (2, (1 + 4 + 16) * 3)
        assert_close(y[:, :3], x.max(axis=(1, 2)))


@pytest.mark.parametrize("kind", ["mean", "max"])
def test_region_pool_is_the_loop_over_regions(kind):
    x = drawn(2, 5, 6, 3)
    regions = np.array([[[[0, 5], [0, 6]], [[1, 3], [2, 6]]], [[[4, 5], [0, 1]], [[2, 2], [0, 6]]]])
    y = jax.jit(jd.region_pool(kind).apply)({}, {"x": x, "regions": regions})
    for n, r in np.ndindex(2, 2):
        (top, bottom), (left, right) = regions[n, r]
        inside = x[n, top:bottom, left:right].reshape(-1, 3)
        assert_close(y[n, r], getattr(inside, kind)(axis=0) if len(inside) else np.zeros(3))


@pytest.mark.parametrize(
    ("layer", "given"),
    [
        (jd.adaptive_pool(1, kind="max"), lambda x: x),
        (jd.region_pool(), lambda x: {"x": x, "regions": np.array([[[[0, 3], [0, 4]]]])}),
    ],
    ids=["adaptive", "regions"],
)
def test_of_equals_the_first_in_row_major_order_takes_the_gradient(layer, given):
    x = np.zeros((1, 3, 4, 1))
    x[0, 1, 2] = x[0, 1, 3] = x[0, 2, 0] = 1
    shape = jax.eval_shape(layer.apply, {}, given(x)).shape
    dx = both_ways(layer, {}, given(x), np.ones(shape))[2]
    dx = dx["x"] if isinstance(dx, dict) else dx
    assert np.argwhere(np.asarray(dx)).tolist() == [[0, 1, 2, 0]]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: jd.adaptive_pool(4).apply({}, drawn(1, 3, 5, 2)), ValueError,
         r"adaptive_pool: every bin must hold a place, got an input of size \(3, 5\) for an "
         r"output of size \(4, 4\); pool to a smaller size"),
        (lambda: jd.adaptive_pool(2).apply({}, drawn(1, 3, 5)), ValueError,
         r"adaptive_pool: x must have 4 axes .* got shape \(1, 3, 5\)"),
        (lambda: jd.adaptive_pool(2, rank=4), ValueError, "rank must be 1, 2 or 3, got 4"),
        (lambda: jd.adaptive_pool(0), ValueError, "out must be a positive whole number"),
        (lambda: jd.adaptive_pool(2, kind="sum"), ValueError,  # pyright: ignore
         "kind must be 'mean' or 'max', got 'sum'"),
        (lambda: jd.pyramid_pool(()), ValueError, "levels must name at least one grid, got none"),
        (lambda: jd.adaptive_pool(2).apply({}, np.ones((1, 3, 5, 2), int)), TypeError,
         "x must be floating point, got int64"),
        (lambda: jd.region_pool().apply({}, drawn(1, 3, 5, 2)), TypeError,
         r"region_pool: the input must be a dict with the keys \['regions', 'x'\]"),
        (lambda: pooled(np.zeros((1, 2, 2, 2))), TypeError, "must be integers, got float64"),
        (lambda: pooled(np.zeros((1, 2, 3, 2), int)), ValueError,
         r"got x \(1, 3, 5, 2\) and regions \(1, 2, 3, 2\)"),
        (lambda: pooled([[[[0, 4], [0, 1]]]]), ValueError, "got values from 0 to 4; clip them"),
        (lambda: pooled([[[[2, 1], [0, 1]]]]), ValueError, "0 ≤ start ≤ stop ≤ size of the axis"),
    ],
)  # fmt: skip
def test_what_cannot_be_pooled(make, error, message):
    with pytest.raises(error, match=message):
        make()


def pooled(regions):
    return jd.region_pool().apply({}, {"x": drawn(1, 3, 5, 2), "regions": np.asarray(regions)})
