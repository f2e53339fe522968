"""A labelled data set, split for training and test."""

import hashlib
import importlib.util
from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """Examples on the first axis; NumPy arrays, so that nothing is on a device yet."""

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int

    @property
    def fingerprint(self) -> str:
        """SHA-256 over every array: two runs with the same one have seen the same data."""
        digest = hashlib.sha256()
        for array in (self.x_train, self.y_train, self.x_test, self.y_test):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def check_labels(name: str, labels: np.ndarray, classes: int) -> np.ndarray:
    """The labels as int32, every one in 0 ... classes − 1.

    Under jit a wrong label cannot raise any more; JAX would clamp it, wrap it or drop it.

    Raises:
      TypeError: labels that are not integers.
      ValueError: a label out of range, named with its place.
    """
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(
            f"{name}: labels must be integers, got {labels.dtype}; convert them, e.g. "
            "labels.astype(np.int32), if they are whole numbers"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise ValueError(
            f"{name}: labels must be in 0 ... {classes - 1}, got {labels.flat[wrong[0]]} at index "
            f"{wrong[0]} ({wrong.size} of {labels.size} are out of range); remove these examples, "
            "or give the number of classes"
        )
    return labels.astype(np.int32)


def stratified_split(
    name: str, x: np.ndarray, y: np.ndarray, classes: int, *, test: float = 0.2, seed: int = 0
) -> Dataset:
    """Split off the share `test` of every class; the same split for the same seed.

    Raises:
      ModuleNotFoundError: scikit-learn is not installed.
      TypeError, ValueError: labels that are no integers, out of range, or not one an example.
    """
    need_package("sklearn", "scikit-learn", name)
    from sklearn.model_selection import train_test_split

    y = check_labels(name, y, classes)
    if len(x) != len(y):
        raise ValueError(
            f"{name}: expected one label for each example, got {len(x)} examples and {len(y)} "
            "labels; the file may be damaged"
        )
    train_rows, test_rows = train_test_split(
        np.arange(len(y)), test_size=test, random_state=seed, stratify=y
    )
    return Dataset(name, x[train_rows], y[train_rows], x[test_rows], y[test_rows], classes)


def validation_split(data: Dataset, *, share: float = 0.1, seed: int = 0) -> Dataset:
    """The training part alone, `share` of every class held out of it as the new test part.

    For choosing settings: the test examples of `data` are in neither part.

    Raises:
      ModuleNotFoundError: scikit-learn is not installed.
      ValueError: `share` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(
            f"validation_split: share must be between 0 and 1, got {share}; 0.1 holds out a tenth"
        )
    return stratified_split(
        f"{data.name}-validation", data.x_train, data.y_train, data.classes, test=share, seed=seed
    )


def need_package(module: str, package: str, what: str) -> None:
    """Raise ModuleNotFoundError, with what to install, unless `module` can be imported."""
    if importlib.util.find_spec(module) is None:
        raise ModuleNotFoundError(
            f"{what}: needs the package {package}, which is not installed; "
            f"pip install {package}, or pip install -e '.[experiments]'"
        )
