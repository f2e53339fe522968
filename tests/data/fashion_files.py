"""Small data sets in the four files of Fashion-MNIST, with checksums of their own."""

import gzip
import hashlib
import struct

from jaxdl.data import fashion


def write_files(folder, monkeypatch, parts):
    """Write {"train": (images, labels), "t10k": …}; `fashion` takes these files as right."""
    folder.mkdir(parents=True)
    for prefix, arrays in parts.items():
        for what, array in zip(("images-idx3", "labels-idx1"), arrays, strict=True):
            (folder / f"{prefix}-{what}-ubyte.gz").write_bytes(_idx(array))
    digests = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in fashion.FILES
    }
    monkeypatch.setattr(fashion, "FILES", digests)
    return folder


def hide_all(monkeypatch, folder):
    """No files in any of the usual places, and no network: all of them are below `folder`."""
    monkeypatch.delenv("JAXDL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr(fashion, "DEBIAN", folder / "debian")
    monkeypatch.setattr(fashion, "URL", (folder / "server").as_uri())


def _idx(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)
