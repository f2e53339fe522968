"""Preprocessing of images: pure functions of a key and an image, for use inside jit and vmap.

An image is (height, width, channels); `batched` makes any of the keyed functions one of
(N, height, width, channels) with a key of its own for each image, drawn from one:

    augment = batched(lambda key, image: random_flip(key, random_shift(key, image, 2)))
    x = augment(key, x)

The same key gives the same images. Nothing here is differentiated by hand: it is meant for
inputs. Image mathematics by dm-pix (DeepMind, 2020), where it has it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxdl.data.dataset import check_labels, need_package
from jaxdl.numerics.checks import check_array, check_floating


def batched(f: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """``f(key, image)`` over images (N, ...), each with its own key split from the one given."""

    def call(key: Array, images: Array) -> Array:
        check_array("batched: images", images)
        return jax.vmap(f)(jax.random.split(key, len(images)), images)

    return call


def normalise(images: ArrayLike, mean: ArrayLike, std: ArrayLike) -> Array:
    """(images − mean) / std, one mean and deviation for all or for each channel.

    Args:
      images: (..., channels), integer pixels or floating.
      mean, std: scalars or (channels,), in the units of `images` (0 ... 255 for uint8).

    Returns:
      The same shape; float32 for integers, the dtype of `images` if that is floating.

    Raises:
      ValueError: `mean` or `std` is neither a scalar nor (channels,); `std` is not positive,
        where its value is known (under jit it is not).
    """
    images = jnp.asarray(images)
    dtype = images.dtype if jnp.issubdtype(images.dtype, jnp.floating) else jnp.dtype("float32")
    for what, value in (("mean", mean), ("std", std)):
        if np.shape(value) not in ((), images.shape[-1:]):
            raise ValueError(
                f"normalise: {what} must be a scalar or one number for each channel "
                f"{images.shape[-1:]}, got shape {np.shape(value)} for images of shape "
                f"{images.shape}; average over all axes but the last"
            )
    if not isinstance(std, Tracer) and not np.all(np.asarray(std) > 0):
        raise ValueError(
            f"normalise: std must be positive, got {std}; a channel that never changes carries "
            "nothing: leave it out, or give 1 for it"
        )
    return (images.astype(dtype) - jnp.asarray(mean, dtype)) / jnp.asarray(std, dtype)


def random_crop(
    key: Array,
    image: Array,
    padding: int = 0,
    size: tuple[int, int] | None = None,
    *,
    fill: float = 0,
) -> Array:
    """A window of `size` at a uniformly random place of the image, padded first.

    Args:
      image: (height, width, channels), any dtype.
      padding: pixels of value `fill` added on each of the four sides.
      size: height and width of the result in pixels; those of the image if None.

    Returns:
      (*size, channels), the dtype of `image`.

    Raises:
      ValueError: wrong rank, negative padding, or a window that does not fit.

    Source: dm_pix.random_crop; padding as in He et al. 2016, section 4.2.
    """
    need_package("dm_pix", "dm-pix", "random_crop")
    import dm_pix

    _check_image("random_crop", image)
    _check_count("random_crop", "padding", padding, "pixels")
    height, width = image.shape[:2] if size is None else size
    padded = _pad(image, padding, fill)
    if not (1 <= height <= padded.shape[0] and 1 <= width <= padded.shape[1]):
        raise ValueError(
            f"random_crop: size must be in 1 ... {padded.shape[:2]} (the image and {padding} "
            f"pixels around it), got {(height, width)}; crop less, or pad more"
        )
    with jax.numpy_dtype_promotion("standard"):
        return jnp.asarray(dm_pix.random_crop(key, padded, (height, width, image.shape[2])))


def random_flip(key: Array, image: Array, probability: float = 0.5) -> Array:
    """The image mirrored left to right with the given probability; any dtype, (h, w, c).

    Raises:
      ValueError: wrong rank; a probability outside 0 ... 1.

    Source: dm_pix.random_flip_left_right.
    """
    need_package("dm_pix", "dm-pix", "random_flip")
    import dm_pix

    _check_image("random_flip", image)
    if not isinstance(probability, Tracer) and not 0 <= probability <= 1:
        raise ValueError(
            f"random_flip: probability must be in 0 ... 1, got {probability}; 0.5 flips half"
        )
    return jnp.asarray(dm_pix.random_flip_left_right(key, image, probability=probability))


def shift(image: Array, down: ArrayLike, right: ArrayLike, *, fill: float = 0) -> Array:
    """The image moved by whole pixels; what leaves is lost, what comes in is `fill`.

    Args:
      image: (height, width, channels), any dtype.
      down, right: integers, pixels, negative for up and left; they may be traced.

    Raises:
      ValueError: wrong rank.
      TypeError: a shift that is not an integer.
    """
    _check_image("shift", image)
    for what, value in (("down", down), ("right", right)):
        if not jnp.issubdtype(jnp.result_type(value), jnp.integer):
            raise TypeError(
                f"shift: {what} must be a whole number of pixels, got dtype "
                f"{jnp.result_type(value)}; round it"
            )
    height, width, _ = image.shape
    rows = jnp.arange(height, dtype=jnp.int32) - jnp.asarray(down).astype(jnp.int32)
    columns = jnp.arange(width, dtype=jnp.int32) - jnp.asarray(right).astype(jnp.int32)
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    # mode "clip" names what happens outside: those pixels are replaced in the next line
    moved = jnp.take(image, rows, axis=0, mode="clip")
    moved = jnp.take(moved, columns, axis=1, mode="clip")
    return jnp.where(inside[..., None], moved, jnp.asarray(fill, image.dtype))


def random_shift(key: Array, image: Array, most: int, *, fill: float = 0) -> Array:
    """`shift` by uniformly random whole pixels in −most ... most, down and right.

    Raises:
      ValueError: wrong rank; `most` is negative.
    """
    _check_count("random_shift", "most", most, "pixels")
    down, right = jax.random.randint(key, (2,), -most, most + 1, jnp.int32)
    return shift(image, down, right, fill=fill)


def rotate(image: Array, degrees: ArrayLike, *, fill: float = 0) -> Array:
    """The image turned counter-clockwise about its centre, with linear interpolation.

    Args:
      image: (height, width, channels), floating.
      degrees: the angle; it may be traced.
      fill: the value outside.

    Returns:
      The shape and dtype of `image`.

    Raises:
      ValueError: wrong rank.
      TypeError: an image that is not floating.

    Source: dm_pix.rotate.
    """
    need_package("dm_pix", "dm-pix", "rotate")
    import dm_pix

    _check_image("rotate", image)
    check_floating("rotate", image)
    angle: Any = jnp.deg2rad(jnp.asarray(degrees).astype(jnp.float32))
    # A ring of `fill` around it: dm-pix cuts at the outermost pixels, and a coordinate that
    # rounding puts 1e-7 outside would lose a whole side of the image.
    padded = _pad(image, 1, fill)
    # "highest": coordinates come of a matrix product, which in bf16 would be off by pixels
    with jax.numpy_dtype_promotion("standard"), jax.default_matmul_precision("highest"):
        turned = jnp.asarray(dm_pix.rotate(padded, angle, order=1, mode="constant", cval=fill))
    return turned[1:-1, 1:-1].astype(image.dtype)


def random_rotation(key: Array, image: Array, most: float, *, fill: float = 0) -> Array:
    """`rotate` by an angle uniform in −most ... most degrees.

    Raises:
      ValueError: wrong rank; `most` is negative.
      TypeError: an image that is not floating.
    """
    if not isinstance(most, Tracer) and not most >= 0:
        raise ValueError(
            f"random_rotation: most must be at least 0 degrees, got {most}; the angle goes to "
            "both sides"
        )
    return rotate(image, most * jax.random.uniform(key, (), jnp.float32, -1, 1), fill=fill)


def cutout(key: Array, image: Array, side: int, *, fill: float = 0) -> Array:
    """A square of `side` pixels set to `fill`, its centre on a uniformly random pixel.

    Of a square near the border only the part inside is seen, as in the source.

    Args:
      image: (height, width, channels), any dtype.

    Raises:
      ValueError: wrong rank; `side` is negative.

    Source: DeVries & Taylor, Improved Regularization of Convolutional Neural Networks with
    Cutout, 2017, arXiv 1708.04552.
    """
    _check_image("cutout", image)
    _check_count("cutout", "side", side, "pixels")
    height, width, _ = image.shape
    limit = jnp.asarray([height, width], jnp.int32)
    top, left = jax.random.randint(key, (2,), 0, limit, jnp.int32) - side // 2
    rows, columns = (jnp.arange(n, dtype=jnp.int32) for n in (height, width))
    hole = ((rows >= top) & (rows < top + side))[:, None] & (columns >= left)
    hole &= columns < left + side
    return jnp.where(hole[..., None], jnp.asarray(fill, image.dtype), image)


def mixup(
    key: Array, images: Array, labels: ArrayLike, classes: int, alpha: float = 0.2
) -> tuple[Array, Array]:
    """Weighted means of pairs of examples and of their labels.

        λ ~ Beta(alpha, alpha);  x = λ xᵢ + (1 − λ) xⱼ;  y = λ yᵢ + (1 − λ) yⱼ

    j is a permutation of the batch and λ one number for all of it, as in the authors' program.

    Args:
      images: (N, ...), floating.
      labels: integers (N,) in 0 ... classes − 1, checked outside jit; inside, a label out of
        range counts as no class. Or soft labels, floating (N, classes).
      alpha: small values mix little.

    Returns:
      Images, and soft labels (N, classes) in the dtype of the images.

    Raises:
      TypeError: images that are not floating.
      ValueError: labels of another shape or out of range; `alpha` not positive.

    Source: Zhang, Cissé, Dauphin & Lopez-Paz, mixup: Beyond Empirical Risk Minimization, 2018,
    arXiv 1710.09412.
    """
    check_floating("mixup", images)
    labels = labels if isinstance(labels, Tracer) else np.asarray(labels)
    hard = jnp.issubdtype(labels.dtype, jnp.integer)
    expected = images.shape[:1] if hard else (*images.shape[:1], classes)
    if labels.shape != expected:
        raise ValueError(
            f"mixup: labels must be integers {images.shape[:1]} or floating "
            f"{(*images.shape[:1], classes)}, got {labels.dtype} {labels.shape}; give one label "
            "for each image"
        )
    if not isinstance(alpha, Tracer) and not alpha > 0:
        raise ValueError(f"mixup: alpha must be positive, got {alpha}; the paper takes 0.1 ... 0.4")
    if hard and not isinstance(labels, Tracer):
        labels = check_labels("mixup", labels, classes)
    dtype = images.dtype
    soft = jax.nn.one_hot(labels, classes, dtype=dtype) if hard else jnp.asarray(labels, dtype)
    key_weight, key_order = jax.random.split(key)
    weight = jax.random.beta(key_weight, alpha, alpha, dtype=jnp.float32).astype(dtype)
    order = jax.random.permutation(key_order, len(images))
    rest = jnp.ones((), dtype) - weight
    return weight * images + rest * images[order], weight * soft + rest * soft[order]


def _pad(image: Array, pixels: int, fill: float) -> Array:
    edge = (pixels, pixels, 0)
    return lax.pad(jnp.asarray(image), jnp.asarray(fill, image.dtype), [edge, edge, (0, 0, 0)])


def _check_image(name: str, image: Any) -> None:
    check_array(f"{name}: image", image)
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(
            f"{name}: image must be (height, width, channels), none of them 0, got shape "
            f"{image.shape}; for (N, height, width, channels) use batched, and give a grey image "
            "a last axis of 1"
        )


def _check_count(name: str, what: str, value: int, unit: str) -> None:
    if value < 0:
        raise ValueError(f"{name}: {what} must be at least 0 {unit}, got {value}; give its size")
