"""Fashion-MNIST: 70,000 grey images of clothes, 28×28 pixels, in ten classes.

Source: Xiao, Rasul & Vollgraf, Fashion-MNIST, 2017, arXiv 1708.07747; Zalando SE, MIT licence.
Test accuracies of its repository's table: dense 256-128-100 88.3 %, two convolutions under
100 K parameters 92.5 %, ResNet18 94.9 %, people 83.5 %.
"""

import contextlib
import hashlib
import http.client
import os
import tempfile
import urllib.request
from pathlib import Path

import numpy as np

from jaxdl.data.dataset import Dataset, check_labels
from jaxdl.data.idx import parse_idx

# fmt: off
CLASSES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle boot",
)
# fmt: on
# Files and their SHA-256.
FILES = {
    "train-images-idx3-ubyte.gz": (
        "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7"
    ),
    "train-labels-idx1-ubyte.gz": (
        "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05"
    ),
}
URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
TIMEOUT = 60  # seconds without an answer
ELSEWHERE = (
    "fetch the four files by hand and set JAXDL_DATA to their folder, or install the Debian "
    "package dataset-fashion-mnist"
)


class DownloadError(OSError):
    """A data set could not be fetched; nothing of the file was kept."""


def fashion_mnist(folder: str | os.PathLike[str] | None = None) -> Dataset:
    """Fashion-MNIST: x uint8 (N, 28, 28, 1) in 0 ... 255, y int32 (N,); 60,000 and 10,000.

    Pixels stay uint8, a quarter of the memory: scale them in the step, e.g.
    ``make_epoch(step, batch=64, prepare=lambda x: x.astype(jnp.float32) / 255)``.

    The four files are taken from the first place that has them: $JAXDL_DATA (that folder or its
    `fashion-mnist`), the folder of the Debian package dataset-fashion-mnist, the cache
    ($XDG_CACHE_HOME/jaxdl or ~/.cache/jaxdl). Else they are downloaded (31 MB) into the cache.
    Wherever they come from, their SHA-256 is verified.

    Args:
      folder: read them from here, or from its `fashion-mnist`, and from nowhere else.

    Raises:
      FileNotFoundError: `folder` does not have the files, or another place only some of them.
      ValueError: a file whose SHA-256 is not that of the data set.
      DownloadError: they are nowhere and cannot be fetched.
    """
    place = _find(folder)
    contents = {name: _verified(place / name) for name in FILES}

    def split(prefix):
        images = parse_idx(name := f"{prefix}-images-idx3-ubyte.gz", contents[name], "images")
        labels = parse_idx(name := f"{prefix}-labels-idx1-ubyte.gz", contents[name], "labels")
        if len(images) != len(labels):
            raise ValueError(
                f"fashion_mnist: expected one label for each image, got {len(images)} images and "
                f"{len(labels)} labels in {prefix}; fetch the files again"
            )
        return images[..., np.newaxis], check_labels("fashion_mnist", labels, len(CLASSES))

    return Dataset("fashion-mnist", *split("train"), *split("t10k"), len(CLASSES))


def _find(folder: str | os.PathLike[str] | None) -> Path:
    """The folder that has all files; the cache, filled, where there is none."""
    if folder is not None:
        place = _either(Path(folder))
        if place is None:
            raise FileNotFoundError(
                f"fashion_mnist: folder must hold {', '.join(FILES)}, itself or in "
                f"fashion-mnist/, got {os.fspath(folder)!r} without any; check the path, or leave "
                "it out to look in the usual places and download"
            )
        return place
    data = os.environ.get("JAXDL_DATA")
    for root in ([Path(data)] if data else []) + [DEBIAN]:
        place = _either(root)
        if place is not None:
            return place
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxdl"
    place = cache / "fashion-mnist"
    for name in FILES:
        if not (place / name).is_file():
            _download(name, place)
    return place


def _either(root: Path) -> Path | None:
    """`root` or its fashion-mnist, whichever has the files; None if neither has any of them."""
    for place in (root, root / "fashion-mnist"):
        missing = [name for name in FILES if not (place / name).is_file()]
        if not missing:
            return place
        if len(missing) < len(FILES):
            raise FileNotFoundError(
                f"fashion_mnist: expected {len(FILES)} files in {place}, found none of "
                f"{', '.join(missing)}; put it there, or remove the others"
            )
    return None


def _verified(path: Path) -> bytes:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != FILES[path.name]:
        raise ValueError(
            f"fashion_mnist: {path} must have the SHA-256 {FILES[path.name]}, got {digest} of "
            f"{len(content)} bytes; it is damaged or another file: delete it and fetch it again"
        )
    return content


def _download(name: str, place: Path) -> None:
    """Fetch one file, verify it, and only then give it its name."""
    url = f"{URL}/{name}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(
            f"fashion_mnist: expected {name} from {url}, got {type(error).__name__}: {error}; "
            f"check the network connection, or {ELSEWHERE}"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != FILES[name]:
        raise DownloadError(
            f"fashion_mnist: {url} must have the SHA-256 {FILES[name]}, got {digest} of "
            f"{len(content)} bytes; the transfer was cut short or something answered in its "
            f"place: try again, or {ELSEWHERE}"
        )
    place.mkdir(parents=True, exist_ok=True)
    # a kill while writing leaves a stray file, never half of one under the name
    handle, temporary = tempfile.mkstemp(dir=place, prefix=f"{name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, place / name)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
