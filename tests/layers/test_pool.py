"""Pooling: ties, ends, zeros, and errors; against other libraries: test_parity_random."""

# Wrong arguments are given on purpose.
# pyright: reportArgumentType=false

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl as jd
from tests.layers.compiled import both_ways


def run(layer, x, seed=1):
    dy = np.random.default_rng(seed).normal(size=jax.eval_shape(layer.apply, {}, x).shape)
    y, _, dx = both_ways(layer, {}, x, dy)
    return y, dy, dx


def test_the_first_of_equal_maxima_takes_it_all():
    x, dy = (np.array(v)[None, :, None] for v in ([1.0, 3, 3, 3, 2, 2], [1.0, 10]))
    y, _, dx = jax.device_get(both_ways(jd.max_pool(3, rank=1), {}, x, dy))
    np.testing.assert_array_equal(y[0, :, 0], [3, 3])
    np.testing.assert_array_equal(dx[0, :, 0], [0, 1, 0, 10, 0, 0])


def test_overlapping_windows_add_up():
    x, dy = (np.array(v)[None, :, None] for v in ([0.0, 5, 0], [1.0, 10]))
    dx = jax.device_get(both_ways(jd.max_pool(2, rank=1, strides=1), {}, x, dy)[2])
    np.testing.assert_array_equal(dx[0, :, 0], [0, 11, 0])


def test_a_shift_by_one_changes_about_half_of_the_maxima():
    """Width 3 and stride 1 over (0.1, 1, 0.2, 0.1, 0.0), then shifted to the right."""
    layer = jd.max_pool(3, rank=1, strides=1, padding="same")
    both = np.array([[0.1, 1, 0.2, 0.1, 0], [0.3, 0.1, 1, 0.2, 0.1]])[..., None]
    y = np.asarray(jax.jit(layer.apply)({}, both))
    np.testing.assert_allclose(y[..., 0], [[1, 1, 1, 0.2, 0.1], [0.3, 1, 1, 1, 0.2]])


def test_the_smaller_window_at_the_end_is_kept():
    x = np.arange(6.0)[None, :, None]
    assert jax.eval_shape(jd.max_pool(3, rank=1, strides=2).apply, {}, x).shape[1] == 2
    kept = jax.jit(jd.max_pool(3, rank=1, strides=2, ceil=True).apply)({}, x)
    kept = np.asarray(kept)
    np.testing.assert_array_equal(kept[0, :, 0], [2, 4, 5])


def test_padding_never_wins_and_a_nan_is_not_hidden():
    x = -np.ones((1, 4, 4, 1))
    y = jax.jit(jd.max_pool(3, strides=1, padding="same").apply)({}, x)
    assert np.all(np.asarray(y) == -1)
    pool = jax.jit(jd.max_pool(2).apply)
    for place in np.ndindex(2, 2):
        spoilt = x.copy()
        spoilt[0, place[0], place[1], 0] = np.nan
        assert np.isnan(np.asarray(pool({}, spoilt))[0, 0, 0, 0])


def test_lp_of_a_window_of_zeros_has_no_gradient():
    y, _, dx = run(jd.lp_pool(2), np.zeros((1, 2, 2, 1)))
    assert not np.any(y) and not np.any(dx)
    big = jax.jit(jd.lp_pool(2).apply)({}, np.full((1, 2, 2, 1), 1e30, np.float32))
    np.testing.assert_allclose(big, 2e30, rtol=1e-6)


@pytest.mark.parametrize("kind", ["mean", "max"])
@pytest.mark.parametrize("space", [(5,), (3, 4), (2, 3, 2)])
def test_global_pools_of_any_size(kind, space):
    x = np.random.default_rng(0).normal(size=(2, *space, 3))
    y, dy, dx = run(jd.global_pool(kind), x)
    axes = tuple(range(1, 1 + len(space)))
    np.testing.assert_allclose(y, getattr(np, kind)(x, axis=axes))
    summary = partial(getattr(jnp, kind), axis=axes)
    by_grad = jax.jit(lambda x, dy: jax.vjp(summary, x)[1](dy)[0])(x, dy)
    np.testing.assert_allclose(dx, by_grad, rtol=1e-12)


X = np.ones((2, 8, 8, 4), np.float32)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: jd.max_pool(9),
            r"max_pool: the window must fit into the padded input at least on",
        ),
        (
            lambda: jd.max_pool(2, strides=0),
            "max_pool: strides must be a positive whole number, .*",
        ),
        (
            lambda: jd.max_pool(2, rank=0),
            "max_pool: rank must be 1, 2 or 3, got 0; images have rank",
        ),
        (
            lambda: jd.average_pool(2, rank=1),
            r"average_pool: x must have 3 axes .* got shape \(2, 8",
        ),
        (lambda: jd.average_pool(2, padding="some"), "average_pool: padding must be .* got 'some'"),
        (
            lambda: jd.lp_pool(2, p=0.5),
            "lp_pool: p must be at least 1, got 0.5; 2 is the Euclidean",
        ),
        (
            lambda: jd.weighted_pool(2, spread=0),
            "weighted_pool: spread must be above 0, got 0; 1.0",
        ),
        (
            lambda: jd.global_pool("sum"),
            "global_pool: kind must be 'mean' or 'max', got 'sum'; choo",
        ),
    ],
)
def test_what_cannot_be(make, text):
    with pytest.raises(ValueError, match=text):
        make().apply({}, X)


def test_integers_and_missing_space():
    with pytest.raises(TypeError, match="max_pool: x must be floating point, got uint8"):
        jd.max_pool(2).apply({}, X.astype(np.uint8))
    with pytest.raises(
        ValueError, match=r"global_pool: x must have axes .* got shape \(2, 8\); app"
    ):
        jd.global_pool().apply({}, X[:, :, 0, 0])
