"""IDX files: the format of MNIST and its successors, gzipped or plain.

    offset  bytes  content
    0       2      0
    2       1      dtype: 08 uint8, 09 int8, 0B int16, 0C int32, 0D float32, 0E float64
    3       1      rank
    4       4×rank sizes, the largest byte first (as everything that follows)
    …              the elements, row by row, and nothing after them

Source: "The IDX file format", LeCun, Cortes & Burges, yann.lecun.com/exdb/mnist.
"""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP = b"\x1f\x8b"
KINDS = {"images": 3, "labels": 1}  # rank of each; both are uint8


def read_idx(
    path: str | os.PathLike[str], kind: Literal["images", "labels"] | None = None
) -> np.ndarray:
    """The array of an IDX file: its shape and dtype as the file says, in native byte order.

    Args:
      path: gzipped or plain; told apart by the first bytes, not by the name.
      kind: what the file must hold: "images" uint8 (N, height, width), "labels" uint8 (N,).

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: damaged gzip; a wrong magic number, dtype byte or rank; a payload shorter or
        longer than the sizes say; images where labels were asked for, or the reverse.
    """
    path = Path(path)
    if kind is not None and kind not in KINDS:
        raise ValueError(f"read_idx: kind must be one of {sorted(KINDS)} or None, got {kind!r}")
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"read_idx: expected the IDX file {path}, found none; check the path"
        ) from error
    return parse_idx(str(path), content, kind)


def parse_idx(
    name: str, content: bytes, kind: Literal["images", "labels"] | None = None
) -> np.ndarray:
    """`read_idx` of bytes that are in memory already; `name` is for errors."""
    if content.startswith(GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error, struct.error) as error:
            raise ValueError(
                f"read_idx: {name} must be a whole gzip file, got one that does not decompress "
                f"({error}); it is cut short or damaged: fetch it again"
            ) from error
    if len(content) < 4:
        raise ValueError(
            f"read_idx: {name} must begin with a magic number of 4 bytes, got {len(content)} bytes "
            f"({content.hex(' ') or 'none'}); the file is cut short: fetch it again"
        )
    zeros, code, rank = content[:2], content[2], content[3]
    if zeros != b"\0\0":
        raise ValueError(
            f"read_idx: {name} must begin with the bytes 00 00, got {zeros.hex(' ')}; this is not "
            "an IDX file: check the path, and that the file was unpacked if it came in an archive"
        )
    if code not in DTYPES:
        known = ", ".join(f"{c:02x} ({np.dtype(d).name})" for c, d in DTYPES.items())
        raise ValueError(
            f"read_idx: {name}: the dtype byte must be one of {known}, got {code:02x}; the file "
            "is damaged: fetch it again"
        )
    if rank < 1:
        raise ValueError(
            f"read_idx: {name}: the rank must be at least 1, got {rank}; the file is damaged: "
            "fetch it again"
        )
    start = 4 + 4 * rank
    if len(content) < start:
        raise ValueError(
            f"read_idx: {name}: a header of rank {rank} must have {start} bytes, got "
            f"{len(content)}; the file is cut short: fetch it again"
        )
    sizes = struct.unpack(f">{rank}I", content[4:start])
    dtype = np.dtype(DTYPES[code])
    if kind is not None and (rank, dtype) != (KINDS[kind], np.dtype("u1")):
        looks = next((k for k, r in KINDS.items() if r == rank and code == 0x08), None)
        raise ValueError(
            f"read_idx: {name} must hold {kind}, uint8 of rank {KINDS[kind]}, got {dtype.name} of "
            f"shape {sizes}; "
            + (f"this is a file of {looks}: " if looks else "")
            + "check which file is which"
        )
    # counted in Python integers, which do not overflow; np.frombuffer would take what is there
    expected, got = math.prod(sizes) * dtype.itemsize, len(content) - start
    if got != expected:
        raise ValueError(
            f"read_idx: {name}: {dtype.name} of shape {sizes} must have {expected} bytes after the "
            f"header, got {got}; "
            + ("the file is cut short" if got < expected else "something was added at its end")
            + ", or its header is damaged: fetch it again"
        )
    array = np.frombuffer(content, dtype, offset=start).reshape(sizes)
    return array.astype(dtype.newbyteorder("="))  # a copy, which can be written to
