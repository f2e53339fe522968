"""IDX files: what is read, and what each kind of damage says."""

import gzip
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxdl.data import read_idx
from jaxdl.data.idx import DTYPES, parse_idx

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
LABELS = np.array([7, 0, 9], np.uint8)


def encode(array):
    """The array as IDX bytes, by the format's table."""
    code = next(c for c, d in DTYPES.items() if np.dtype(d).newbyteorder("=") == array.dtype)
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, code, array.ndim]) + sizes + array.astype(DTYPES[code]).tobytes()


ARRAYS = st.sampled_from(list(DTYPES.values())).flatmap(
    lambda d: hnp.arrays(np.dtype(d).newbyteorder("="), hnp.array_shapes(min_dims=1, max_dims=4))
)


@given(ARRAYS, st.booleans())
def test_every_dtype_and_rank_comes_back(array, zipped):
    content = gzip.compress(encode(array)) if zipped else encode(array)
    read = parse_idx("file", content)
    assert read.dtype == array.dtype and read.dtype.isnative and read.flags.writeable
    np.testing.assert_array_equal(read, array)


def test_a_file_is_known_by_its_bytes_not_its_name(tmp_path):
    for name, content in (("a.gz", encode(IMAGES)), ("b", gzip.compress(encode(IMAGES)))):
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(read_idx(tmp_path / name, "images"), IMAGES)
    (tmp_path / "c").write_bytes(encode(LABELS))
    np.testing.assert_array_equal(read_idx(str(tmp_path / "c"), "labels"), LABELS)


def test_bytes_written_by_hand():
    content = bytes.fromhex("00 00 0b 02  00 00 00 01  00 00 00 03  00 01 ff ff 01 00")
    np.testing.assert_array_equal(parse_idx("file", content), [[1, -1, 256]])


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
def test_truncation_at_every_byte_is_an_error(zipped):
    whole = encode(IMAGES)
    content = gzip.compress(whole) if zipped else whole
    for length in range(len(content)):
        with pytest.raises(ValueError, match="read_idx: pictures") as caught:
            parse_idx("pictures", content[:length])
        assert "fetch it again" in str(caught.value) or "not an IDX file" in str(caught.value)


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (0, r"magic number of 4 bytes, got 0 bytes \(none\); the file is cut short"),
        (3, r"magic number of 4 bytes, got 3 bytes \(00 00 08\)"),
        (4, "header of rank 3 must have 16 bytes, got 4"),
        (15, "header of rank 3 must have 16 bytes, got 15"),
        (16, r"uint8 of shape \(2, 3, 4\) must have 24 bytes after the header, got 0"),
        (39, "must have 24 bytes after the header, got 23; the file is cut short"),
    ],
)
def test_truncation_says_what_is_missing(length, text):
    with pytest.raises(ValueError, match=text):
        parse_idx("pictures", encode(IMAGES)[:length])


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
def test_trailing_bytes(zipped):
    content = encode(LABELS) + b"\0"
    with pytest.raises(ValueError, match=r"must have 3 bytes .* got 4; something was added"):
        parse_idx("labels", gzip.compress(content) if zipped else content)


def changed(place, value):
    content = bytearray(encode(IMAGES))
    content[place] = value
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"PK\3\4" + bytes(40), "begin with the bytes 00 00, got 50 4b; this is not an IDX"),
        (changed(1, 8), "begin with the bytes 00 00, got 00 08"),
        (changed(2, 10), r"dtype byte must be one of 08 \(uint8\), .* got 0a; the file is damaged"),
        (changed(3, 0), "rank must be at least 1, got 0"),
        (changed(3, 9), "header of rank 9 must have 40 bytes|must have .* bytes after"),
        (changed(2, 0x0D), r"float32 of shape \(2, 3, 4\) must have 96 bytes .* got 24"),
        (changed(7, 3), r"\(3, 3, 4\) must have 36 bytes after the header, got 24"),
        (changed(4, 255), f"must have {(255 * 2**24 + 2) * 12} bytes"),
    ],
    ids=["zip", "zeros", "dtype", "rank0", "rank9", "float", "size", "huge"],
)
def test_a_damaged_header(content, text):
    with pytest.raises(ValueError, match=text):
        parse_idx("pictures", content)


def test_sizes_that_overflow_64_bits_are_counted():
    content = b"\0\0\x08\4" + b"\xff" * 16
    with pytest.raises(ValueError, match=f"must have {math.prod([2**32 - 1] * 4)} bytes .* got 0"):
        parse_idx("pictures", content)


def test_one_flipped_bit_in_gzip():
    content = bytearray(gzip.compress(encode(np.arange(256, dtype=np.uint8))))
    content[-6] ^= 1  # in the checksum at the end
    with pytest.raises(ValueError, match=r"must be a whole gzip file, got one .* fetch it again"):
        parse_idx("labels.gz", bytes(content))
    content[14] ^= 16
    with pytest.raises(ValueError, match="must be a whole gzip file"):
        parse_idx("labels.gz", bytes(content))


def test_images_for_labels_and_the_reverse():
    with pytest.raises(
        ValueError,
        match=r"train must hold images, uint8 of rank 3, got uint8 of shape \(3,\); this is a "
        "file of labels: check which",
    ):
        parse_idx("train", encode(LABELS), "images")
    with pytest.raises(ValueError, match=r"must hold labels, .* \(2, 3, 4\); this is a file of im"):
        parse_idx("train", encode(IMAGES), "labels")
    with pytest.raises(ValueError, match=r"got float32 of shape \(2, 3, 4\); check which file"):
        parse_idx("train", encode(IMAGES.astype(np.float32)), "images")
    with pytest.raises(ValueError, match=r"kind must be one of .*, got 'image'"):
        read_idx("train", "image")  # pyright: ignore[reportArgumentType]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected the IDX file .*absent, found none"):
        read_idx(tmp_path / "absent")
