"""Parts of patch_features: patches, and the encoder as a convolution with pooling behind it."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxdl
from jaxdl.train import predict

SIDE, PATCH = 96, 8
MAP = SIDE - PATCH + 1  # places of a map along one side
POOLS = ("mean", "max")
POOL = 30  # side of a pooling region: 3×3 regions, the last ones one place smaller
# Two areas of one photograph for each texture: top, bottom, left, right, in pixels. Crops to train
# on come from one of them and crops to test with from the other: no pixel is in both.
TEXTURES = {
    "pagoda": ("china.jpg", (100, 370, 85, 215), (100, 370, 215, 345)),
    "trees": ("china.jpg", (290, 427, 335, 487), (290, 427, 487, 640)),
    "petals": ("flower.jpg", (90, 355, 175, 308), (90, 355, 308, 441)),
    "leaves": ("flower.jpg", (0, 213, 0, 165), (213, 427, 0, 165)),
}
WHITEN = 5.0  # added to the variances, over their mean: directions that are mostly noise stay small


class Encoder(NamedTuple):
    """σ(prepare(patch)·w + b), where prepare(p) = clip(p·whiten, ±1)·0.4 + 0.5."""

    whiten: np.ndarray
    """(64, 64): takes the mean off, whitens, and brings three deviations to 1."""
    w: np.ndarray
    b: np.ndarray


def load_photos():
    from sklearn.datasets import load_sample_image

    names = {name for name, *_ in TEXTURES.values()}
    return {n: load_sample_image(n).mean(axis=-1, dtype=np.float32) / 255 for n in sorted(names)}


def draw_patches(x, n, seed):
    """(n, 64) patches at random places of the images x."""
    rng = np.random.default_rng(seed)
    image, i, j = rng.integers(0, (len(x), MAP, MAP), size=(n, 3)).T
    span = np.arange(PATCH)
    rows, columns = i[:, None, None] + span[:, None], j[:, None, None] + span
    return x[image[:, None, None], rows, columns, 0].reshape(n, -1)


def whitening(patches):
    """The matrix of `Encoder.whiten`, by the statistics of these patches."""
    n = PATCH**2
    centre = np.eye(n) - 1 / n
    patches = patches @ centre
    variance, axes = np.linalg.eigh(patches.T @ patches / len(patches))
    whiten = centre @ (axes / np.sqrt(variance + WHITEN * variance.mean())) @ axes.T
    return (whiten / (3 * (patches @ whiten).std())).astype(np.float32)


def prepare(patches, whiten, *, truncate=True):
    """Patches as the autoencoder is given them, in 0.1 … 0.9."""
    scaled = patches @ whiten
    return (np.clip(scaled, -1, 1) if truncate else scaled) * np.float32(0.4) + np.float32(0.5)


def random_filters(encoder, seed):
    """The same encoder with random weights of the learned ones' size, and their biases."""
    w = np.random.default_rng(seed).normal(size=encoder.w.shape)
    w = w / np.linalg.norm(w, axis=0) * np.linalg.norm(encoder.w, axis=0)
    # A bias that leaves grey patches where they were: net input w·0.5 + b.
    b = encoder.b + 0.5 * (encoder.w.sum(axis=0) - w.sum(axis=0))
    return Encoder(encoder.whiten, w.astype(np.float32), b.astype(np.float32))


def as_convolution(encoder):
    """(layer, params): the encoder at every place of an image.

    Up to the truncation, preparing a patch is linear: it goes into the weights.
    """
    w = encoder.whiten @ encoder.w * 0.4
    b = encoder.b + 0.5 * encoder.w.sum(axis=0)
    params = {"w": jnp.asarray(w.reshape(PATCH, PATCH, 1, -1)), "b": jnp.asarray(b)}
    return detector(w.shape[-1]), {"conv": params}


@cache
def detector(hidden):
    return jaxdl.serial(jaxdl.conv(hidden, PATCH), jaxdl.sigmoid())


@cache
def detector_and_pools(hidden):
    pools = {kind: pooled(kind) for kind in POOLS}
    return jaxdl.serial(detector=detector(hidden), pools=jaxdl.branch(**pools, join="concat"))


def pooled(kind):
    """Disjoint regions: the mean or maximum over rows, then over columns, is that over both."""
    pool = jaxdl.average_pool if kind == "mean" else jaxdl.max_pool
    return jaxdl.serial(pool((POOL, 1), ceil=True), pool((1, POOL), ceil=True), jaxdl.flatten())


def pool_features(encoder, x):
    """The pooled features of every image, with means and with maxima."""
    _, params = as_convolution(encoder)
    model = detector_and_pools(encoder.w.shape[-1])
    y = predict(model, {"detector": params}, jnp.asarray(x), batch=8)
    return dict(zip(POOLS, np.split(np.asarray(y), 2, axis=-1), strict=True))


def all_features(encoders, x):
    """Name -> (numbers of each image for the classifier)."""
    found = {"all pixels": x.reshape(len(x), -1)}
    for n in (24, 3):
        small = jaxdl.adaptive_pool(n).apply({}, x)
        found[f"pixels, pooled to {n}×{n}"] = np.asarray(small).reshape(len(x), -1)
    for name, encoder in encoders.items():
        for kind, values in pool_features(encoder, x).items():
            found[f"{name} filters, {kind}"] = values
    return found


def stroke_share(filters):
    """Of each filter (64, K), the share of its energy in the best of 192 Gabor functions."""
    rows, columns = np.mgrid[:PATCH, :PATCH] - (PATCH - 1) / 2
    best = np.zeros(filters.shape[1])
    filters = filters - filters.mean(axis=0)
    for angle in np.pi * np.arange(8) / 8:
        along = rows * np.sin(angle) + columns * np.cos(angle)
        for wave in (4.0, 6.0, 9.0):
            for i, j in ((i, j) for i in (-2, 2) for j in (-2, 2)):
                near = np.exp(-((rows - i) ** 2 + (columns - j) ** 2) / (2 * 2.5**2))
                phases = near * np.exp(2j * np.pi * along / wave)
                pair = np.stack([phases.real.ravel(), phases.imag.ravel()], axis=1)
                axes = np.linalg.qr(pair - pair.mean(axis=0))[0]
                best = np.maximum(best, np.sum((axes.T @ filters) ** 2, axis=0))
    return best / np.sum(filters**2, axis=0)


def against_patches(encoder, x):
    """Largest difference of the convolution from the encoder on each patch: exact, truncated."""
    layer, params = as_convolution(encoder)
    maps = np.asarray(layer.apply(params, x[None]))[0].reshape(MAP**2, -1)
    patches = np.lib.stride_tricks.sliding_window_view(x[..., 0], (PATCH, PATCH))
    patches = patches.reshape(MAP**2, -1)
    codes = [
        jax.nn.sigmoid(prepare(patches, encoder.whiten, truncate=cut) @ encoder.w + encoder.b)
        for cut in (False, True)
    ]
    return [float(np.abs(maps - code).max()) for code in codes]
