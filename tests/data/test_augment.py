"""Preprocessing: each function against NumPy or SciPy, under jit and vmap, and bad input."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from jaxdl.data import augment

KEY = jax.random.key(0)
IMAGE = jnp.asarray(np.random.default_rng(0).random((7, 5, 2)), jnp.float32)
PIXELS = jnp.asarray(np.arange(1, 71).reshape(7, 5, 2), jnp.uint8)

# keyed functions of one image, none of which changes its shape or dtype
KEYED = {
    "crop": lambda key, x: augment.random_crop(key, x, 2),
    "flip": augment.random_flip,
    "shift": lambda key, x: augment.random_shift(key, x, 2),
    "rotation": lambda key, x: augment.random_rotation(key, x, 30.0),
    "cutout": lambda key, x: augment.cutout(key, x, 3),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", "uint8"])
def test_shape_and_dtype_stay_under_jit_and_vmap(dtype):
    # interpolation needs floating pixels
    names = [name for name in KEYED if dtype != "uint8" or name != "rotation"]
    images = np.stack([np.asarray(IMAGE) * 200] * 16).astype(jnp.dtype(dtype))

    @jax.jit
    def all_of_them(key, images):
        batches = {name: augment.batched(KEYED[name])(key, images) for name in names}
        third = jax.random.split(key, 16)[3], images[3]
        return batches, {name: KEYED[name](*third) for name in names}

    outs, alone = all_of_them(KEY, images)
    again, _ = all_of_them(KEY, images)
    others, _ = all_of_them(jax.random.key(1), images)
    for name in names:
        out = np.asarray(outs[name])
        assert out.shape == images.shape and out.dtype == images.dtype, name
        np.testing.assert_array_equal(out, again[name], name)  # the key says it all
        assert (out != np.asarray(others[name])).any(), name
        different = {image.astype(np.float64).tobytes() for image in out}
        assert len(different) >= 2, name  # not one draw for the whole batch
        if name == "rotation":  # float32 coordinates, computed in another order
            tolerance = 2e-2 if dtype == "bfloat16" else 1e-5
            third, single = (a.astype(np.float64) for a in (out[3], np.asarray(alone[name])))
            np.testing.assert_allclose(third, single, rtol=tolerance, atol=200 * tolerance)
        else:
            np.testing.assert_array_equal(out[3], alone[name], name)


def test_default_mode(x64_off):
    images = jnp.asarray(np.stack([IMAGE] * 2))
    batches = jax.jit(lambda key, x: [augment.batched(f)(key, x) for f in KEYED.values()])
    assert {out.dtype for out in batches(KEY, images)} == {np.dtype("float32")}


# --- normalise ----------------------------------------------------------------------------------


def test_normalise():
    x = np.random.default_rng(0).integers(0, 256, (20, 6, 4, 3), np.uint8)
    mean, std = x.mean(axis=(0, 1, 2)), x.std(axis=(0, 1, 2))
    out = augment.normalise(x, mean, std)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, (x - mean) / std, rtol=1e-6, atol=1e-6)
    assert augment.normalise(out.astype(jnp.bfloat16), 0.5, 2.0).dtype == jnp.bfloat16
    traced = jax.jit(augment.normalise)(x, mean, std)
    np.testing.assert_allclose(traced, out, rtol=1e-6, atol=1e-6)


def test_normalise_names_bad_statistics():
    x = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match=r"std must be positive, got \[1. 0. 1.\]; a channel"):
        augment.normalise(x, 0.0, np.array([1.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match=r"mean must be .* channel \(3,\), got shape \(2,\)"):
        augment.normalise(x, np.zeros(2), 1.0)


# --- crop, flip, shift --------------------------------------------------------------------------


def test_every_window_of_the_padded_image_comes_and_no_other():
    padded = np.pad(PIXELS, ((1, 1), (1, 1), (0, 0)), constant_values=9)
    windows = {
        padded[i : i + 6, j : j + 4].tobytes() for i in range(4) for j in range(4)
    }  # (7 + 2 − 6 + 1)(5 + 2 − 4 + 1)
    keys = jax.random.split(KEY, 200)
    crop = jax.jit(jax.vmap(lambda key: augment.random_crop(key, PIXELS, 1, (6, 4), fill=9)))(keys)
    assert {window.tobytes() for window in np.asarray(crop)} == windows


def test_crop_of_everything_is_the_image():
    np.testing.assert_array_equal(augment.random_crop(KEY, PIXELS), PIXELS)


def test_flip():
    keys = jax.random.split(KEY, 1000)
    flip = jax.jit(jax.vmap(lambda key: augment.random_flip(key, PIXELS, 0.3)))
    flipped, pixels = np.asarray(flip(keys)), np.asarray(PIXELS)
    is_flipped = (flipped == pixels[:, ::-1]).all(axis=(1, 2, 3))
    is_same = (flipped == pixels).all(axis=(1, 2, 3))
    assert (is_flipped ^ is_same).all()
    assert 0.25 < is_flipped.mean() < 0.35
    np.testing.assert_array_equal(augment.random_flip(KEY, PIXELS, 1.0), pixels[:, ::-1])
    np.testing.assert_array_equal(augment.random_flip(KEY, PIXELS, 0.0), PIXELS)


jit_shift, jit_rotate = jax.jit(augment.shift), jax.jit(augment.rotate, static_argnames="fill")


@given(st.integers(-9, 9), st.integers(-9, 9))
def test_shift_against_scipy(down, right):
    expected = ndimage.shift(np.asarray(PIXELS), (down, right, 0), order=0, cval=200)
    got = jit_shift(PIXELS, down, right, fill=200)
    np.testing.assert_array_equal(got, expected)


def test_every_shift_comes_and_no_other():
    image = jnp.zeros((7, 7, 1), jnp.uint8).at[3, 3].set(1)
    keys = jax.random.split(KEY, 300)
    moved = jax.jit(jax.vmap(lambda key: augment.random_shift(key, image, 2)))(keys)
    seen = {tuple(place[:2] - 3) for place in np.argwhere(np.asarray(moved))[:, 1:]}
    assert seen == {(i, j) for i in range(-2, 3) for j in range(-2, 3)}
    np.testing.assert_array_equal(augment.random_shift(KEY, image, 0), image)


# --- rotation -----------------------------------------------------------------------------------


@given(st.floats(-180, 180))
def test_rotation_against_scipy(degrees):
    image = np.random.default_rng(1).random((9, 9, 1))
    # in double precision and with a margin of zeros, which scipy would cut at the outermost pixels
    padded = np.pad(image, ((3, 3), (3, 3), (0, 0)))
    expected = ndimage.rotate(padded, degrees, reshape=False, order=1)[3:-3, 3:-3]
    np.testing.assert_allclose(jit_rotate(image, degrees), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 6, 2), (7, 7, 1)])
def test_quarter_turns_lose_no_border(shape):
    image = np.random.default_rng(1).random(shape, np.float32) + 1
    for k in (-2, -1, 0, 1, 2, 3, 4):
        turned = jit_rotate(image, 90 * k)
        np.testing.assert_allclose(turned, np.rot90(image, k), atol=1e-5)


def test_rotation_fills_with_what_it_is_told():
    turned = jit_rotate(np.ones((8, 8, 1), np.float32), 45.0, fill=-3.0)
    np.testing.assert_allclose(np.asarray(turned)[[0, 0, -1, -1], [0, -1, 0, -1]], -3, atol=1e-6)


def test_random_rotation_stays_in_its_range():
    """Of a dot far right of the centre the angle can be read off."""
    image = jnp.zeros((41, 41, 1), jnp.float32).at[20, 38].set(1)
    keys = jax.random.split(KEY, 100)
    turn = jax.jit(jax.vmap(lambda key: augment.random_rotation(key, image, 20.0)))
    turned = np.asarray(turn(keys))
    y, x = np.mgrid[20:-21:-1, -20:21]
    mass = turned[..., 0].sum(axis=(1, 2))
    angle = np.degrees(
        np.arctan2((turned[..., 0] * y).sum((1, 2)) / mass, (turned[..., 0] * x).sum((1, 2)) / mass)
    )
    assert angle.min() > -21 and angle.max() < 21
    assert angle.min() < -15 and angle.max() > 15 and abs(angle.mean()) < 4


# --- cutout, mixup ------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 2, 3])
def test_every_cutout_comes_and_no_other(side):
    expected = set()
    for i in range(7):
        for j in range(5):
            image = np.array(PIXELS)
            top, left = i - side // 2, j - side // 2
            image[max(top, 0) : top + side, max(left, 0) : left + side] = 0
            expected.add(image.tobytes())
    cut = jax.jit(jax.vmap(lambda key: augment.cutout(key, PIXELS, side)))
    cut = np.asarray(cut(jax.random.split(KEY, 600)))
    assert {image.tobytes() for image in cut} == expected


def test_cutout_of_nothing_and_of_everything():
    np.testing.assert_array_equal(augment.cutout(KEY, PIXELS, 0), PIXELS)
    assert (augment.cutout(KEY, PIXELS, 15, fill=3) == 3).all()


def test_mixup_is_a_weighted_mean_of_pairs():
    labels = np.array([0, 1, 2, 0, 1, 2])
    batches = {
        dtype: np.eye(6, dtype=jnp.dtype(dtype)).reshape(6, 2, 3, 1)
        for dtype in ("float32", "float64", "bfloat16")
    }  # each pixel marks one image

    @jax.jit
    def mixed(key, batches):
        return {
            dtype: [
                augment.mixup(key, images, given, 3, 1.0)
                for given in (labels, np.eye(3, dtype=images.dtype)[labels])
            ]
            for dtype, images in batches.items()
        }

    for dtype, ((x, y), soft) in mixed(KEY, batches).items():
        images = batches[dtype]
        assert x.shape == images.shape and y.shape == (6, 3) and x.dtype == y.dtype == dtype
        weights = np.asarray(x, np.float64).reshape(6, 6)  # of image j in mixture i
        order = [np.delete(row, i).argmax() for i, row in enumerate(weights)]
        assert any(order)
        tolerance = {"bfloat16": 1e-2}.get(dtype, 1e-6)
        np.testing.assert_allclose(weights.sum(axis=0), 1, atol=tolerance)  # a permutation
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=tolerance)
        np.testing.assert_allclose(
            np.asarray(y, np.float64), weights @ np.eye(3)[labels], atol=tolerance
        )
        np.testing.assert_array_equal(soft[0], x)
        np.testing.assert_array_equal(soft[1], y)


def test_mixup_weights_follow_the_beta_distribution():
    from scipy.stats import beta, kstest

    images = jnp.eye(2, dtype=jnp.float32)

    def weight(key):
        y = augment.mixup(key, images, np.array([0, 1]), 2, 0.4)[1]
        return y[0, 0]

    drawn = np.asarray(jax.jit(jax.vmap(weight))(jax.random.split(KEY, 800)))
    # where the two were not exchanged the weight is 1, whatever was drawn
    drawn = drawn[drawn < 1 - 1e-6]
    assert 300 < len(drawn) < 500
    assert kstest(drawn, beta(0.4, 0.4).cdf).pvalue > 0.01


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KEYED)
def test_an_image_must_have_three_axes(name):
    with pytest.raises(ValueError, match=r"\(height, width, channels\).* got shape \(7, 5\); for"):
        KEYED[name](KEY, IMAGE[..., 0])
    with pytest.raises(TypeError, match="image must be an array, got a list"):
        KEYED[name](KEY, [[1.0]])


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: augment.random_crop(KEY, IMAGE, -1), ValueError, "padding must be at least 0 pix"),
        (
            lambda: augment.random_crop(KEY, IMAGE, 1, (8, 8)),
            ValueError,
            r"size must be in 1 \.\.\. \(9, 7\).*got \(8, 8\); crop less, or pad more",
        ),
        (lambda: augment.random_crop(KEY, IMAGE, 1, (0, 2)), ValueError, r"got \(0, 2\)"),
        (lambda: augment.random_flip(KEY, IMAGE, 1.5), ValueError, r"in 0 \.\.\. 1, got 1.5"),
        (
            lambda: augment.random_shift(KEY, IMAGE, -2),
            ValueError,
            "most must be at least 0 pixels",
        ),
        (lambda: augment.shift(IMAGE, 1, 0.5), TypeError, "right must be a whole number of pixels"),
        (lambda: augment.rotate(PIXELS, 3.0), TypeError, "must be floating point, got uint8"),
        (lambda: augment.random_rotation(KEY, IMAGE, -1.0), ValueError, "at least 0 degrees, got"),
        (lambda: augment.cutout(KEY, IMAGE, -1), ValueError, "side must be at least 0 pixels"),
        (lambda: augment.mixup(KEY, PIXELS, np.zeros(7, int), 2), TypeError, "be floating point"),
        (
            lambda: augment.mixup(KEY, IMAGE, np.zeros(6, int), 2),
            ValueError,
            r"labels must be integers \(7,\) or floating \(7, 2\), got int64 \(6,\)",
        ),
        (
            lambda: augment.mixup(KEY, IMAGE, np.full(7, 2), 2),
            ValueError,
            r"mixup: labels must be in 0 \.\.\. 1, got 2 at index 0",
        ),
        (
            lambda: augment.mixup(KEY, IMAGE, np.zeros(7, int), 2, 0.0),
            ValueError,
            "alpha must be positive, got 0.0",
        ),
    ],
)
def test_bad_input_is_named(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("crop", "flip", "rotation"):
        with pytest.raises(ModuleNotFoundError, match=r"needs the package dm-pix.*pip install"):
            KEYED[name](KEY, IMAGE)
