"""Fashion-MNIST: where it is looked for, and what a missing or damaged file says.

The files here are small ones of the same names, with checksums put in place of the real ones.
"""

import os
import shutil
import urllib.error
import urllib.request

import numpy as np
import pytest

from jaxdl.data import DownloadError, fashion, fashion_mnist
from tests.data.fashion_files import hide_all, write_files

LABELS = {"train": np.arange(30, dtype=np.uint8) % 10, "t10k": np.arange(10, dtype=np.uint8)}


def write(folder, monkeypatch, labels=LABELS):
    parts = {}
    for prefix, y in labels.items():
        shape = (len(LABELS[prefix]), 28, 28)
        parts[prefix] = np.random.default_rng(0).integers(0, 256, shape, np.uint8), y
    return write_files(folder, monkeypatch, parts)


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No files in any of the usual places, and no network."""
    hide_all(monkeypatch, tmp_path)
    return tmp_path


def check(data):
    assert data.name == "fashion-mnist" and data.classes == 10
    assert data.x_train.shape == (30, 28, 28, 1) and data.x_test.shape == (10, 28, 28, 1)
    assert data.x_train.dtype == np.uint8 and data.y_train.dtype == np.int32
    np.testing.assert_array_equal(data.y_train, LABELS["train"])
    np.testing.assert_array_equal(data.y_test, LABELS["t10k"])


@pytest.mark.parametrize("inside", ["", "fashion-mnist"])
def test_from_a_folder_or_the_folder_in_it(nowhere, monkeypatch, inside):
    write(nowhere / "mine" / inside, monkeypatch)
    check(fashion_mnist(nowhere / "mine"))
    check(fashion_mnist(str(nowhere / "mine")))
    monkeypatch.setenv("JAXDL_DATA", str(nowhere / "mine"))
    check(fashion_mnist())


def test_from_the_debian_package(nowhere, monkeypatch):
    write(nowhere / "debian", monkeypatch)
    check(fashion_mnist())
    monkeypatch.setenv("JAXDL_DATA", str(nowhere))  # a folder of other data sets
    check(fashion_mnist())
    assert not (nowhere / "cache").exists()


def test_the_environment_comes_before_the_debian_package(nowhere, monkeypatch):
    shutil.copytree(write(nowhere / "debian", monkeypatch), nowhere / "data")
    (nowhere / "debian" / "train-labels-idx1-ubyte.gz").write_bytes(b"other")
    monkeypatch.setenv("JAXDL_DATA", str(nowhere / "data"))
    check(fashion_mnist())


def test_downloaded_once_into_the_cache(nowhere, monkeypatch):
    server = write(nowhere / "server", monkeypatch)
    check(fashion_mnist())
    cache = nowhere / "cache" / "jaxdl" / "fashion-mnist"
    assert sorted(os.listdir(cache)) == sorted(fashion.FILES)  # and no temporary files
    shutil.rmtree(server)
    check(fashion_mnist())


def test_a_download_that_stopped_goes_on_with_what_is_missing(nowhere, monkeypatch):
    server = write(nowhere / "server", monkeypatch)
    names = list(fashion.FILES)
    (server / names[2]).rename(nowhere / "aside")
    with pytest.raises(DownloadError, match=f"expected {names[2]} from file:.*JAXDL_DATA"):
        fashion_mnist()
    (nowhere / "aside").rename(server / names[2])
    (server / names[0]).unlink()  # it is in the cache already
    check(fashion_mnist())


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route"), TimeoutError("timed out")], ids=["url", "time"]
)
def test_without_network(nowhere, monkeypatch, error):
    def opener(url, timeout):
        assert url.endswith(".gz") and timeout == 60
        raise error

    monkeypatch.setattr(urllib.request, "urlopen", opener)
    with pytest.raises(
        DownloadError,
        match=r"fashion_mnist: expected train-images.* got (URLError|TimeoutError): .*check the "
        "network connection, or fetch the four files by hand and set JAXDL_DATA",
    ):
        fashion_mnist()
    assert not (nowhere / "cache").exists()


def test_a_download_of_something_else_is_not_kept(nowhere, monkeypatch):
    server = write(nowhere / "server", monkeypatch)
    (server / next(iter(fashion.FILES))).write_bytes(b"<html>sign in</html>")
    with pytest.raises(DownloadError, match=r"must have the SHA-256 .* of 20 bytes.*try again"):
        fashion_mnist()
    assert not (nowhere / "cache").exists()


def test_a_write_that_fails_leaves_nothing(nowhere, monkeypatch):
    write(nowhere / "server", monkeypatch)

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        fashion_mnist()
    assert os.listdir(nowhere / "cache" / "jaxdl" / "fashion-mnist") == []


@pytest.mark.parametrize("name", list(fashion.FILES))
def test_one_flipped_bit_is_found(nowhere, monkeypatch, name):
    folder = write(nowhere / "mine", monkeypatch)
    content = bytearray((folder / name).read_bytes())
    content[4] ^= 1  # the time stamp of gzip: it would decompress to the same
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} must have the SHA-256 .*, got .*delete it"):
        fashion_mnist(folder)


def test_a_folder_without_the_files_is_named(nowhere, monkeypatch):
    (nowhere / "empty").mkdir()
    write(nowhere / "debian", monkeypatch)  # not taken instead of what was asked for
    with pytest.raises(FileNotFoundError, match=r"folder must hold train-images.*empty' without"):
        fashion_mnist(nowhere / "empty")
    (nowhere / "debian" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"found none of t10k-labels-idx1-ubyte.gz; put it"):
        fashion_mnist(nowhere / "debian")
    with pytest.raises(FileNotFoundError, match=r"found none of t10k-labels-idx1-ubyte.gz; put it"):
        fashion_mnist()


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (np.arange(30, dtype=np.uint8), r"labels must be in 0 \.\.\. 9, got 10 at index 10"),
        (np.zeros(29, np.uint8), "one label for each image, got 30 images and 29 labels in train"),
        (np.zeros((30, 1, 1), np.uint8), "must hold labels.*this is a file of images"),
    ],
    ids=["range", "count", "images"],
)
def test_labels_are_checked(nowhere, monkeypatch, labels, text):
    folder = write(nowhere / "mine", monkeypatch, LABELS | {"train": labels})
    with pytest.raises(ValueError, match=text):
        fashion_mnist(folder)


def test_the_real_files():
    if not os.environ.get("JAXDL_DATA"):
        pytest.skip("needs Fashion-MNIST: set JAXDL_DATA to a folder that has it")
    data = fashion_mnist(os.environ["JAXDL_DATA"])
    assert data.x_train.shape == (60_000, 28, 28, 1) and data.x_test.shape == (10_000, 28, 28, 1)
    np.testing.assert_array_equal(np.bincount(data.y_train), [6_000] * 10)
    np.testing.assert_array_equal(np.bincount(data.y_test), [1_000] * 10)
    # mean and deviation as they are commonly given for the set
    pixels = data.x_train / np.float32(255)
    np.testing.assert_allclose([pixels.mean(), pixels.std()], [0.2860, 0.3530], atol=1e-4)
    assert fashion.CLASSES[data.y_train[0]] == "ankle boot"
