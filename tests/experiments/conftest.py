"""Experiments are tested in the default mode of JAX, in which their users run them."""

import importlib
import sys

import jax
import pytest

FAKE = '''"""Does a [small] thing work?

The sources claim that x < 1 & y > 2.
"""
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    seeds: int = 3
    """How many seeds to train."""
    fail: bool = False  # stop half way

    def __post_init__(self):
        if self.seeds < 1:
            raise ValueError(f"seeds: must be at least 1, got {self.seeds}; give a larger number")


def run(settings, out):
    for step in out.progress(2, "steps"):
        out.log(step=step)
    out.result("seeds", settings.seeds)
    out.claim("A3", "It works", 1.0, 1.0, True)
    if settings.fail:
        raise RuntimeError("half way")
    out.table("Numbers", ["seed", "error"], [[0, 0.5]])
'''


@pytest.fixture(autouse=True, scope="module")
def default_mode():
    """For fixtures of a whole file, too: 32 bits, and dtypes that may mix."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A package of fake experiments, and an empty current directory to run them in."""
    name = "fakelab"
    folder = tmp_path / "code" / name
    (folder / "bench").mkdir(parents=True)
    (folder / "folded").mkdir()
    for file, code in {
        "__init__.py": "",
        "bench/__init__.py": "",
        "thing.py": FAKE,
        "bench/speed.py": FAKE.replace("Does a [small] thing work?", "How fast is it?"),
        "helpers.py": "raise RuntimeError('never imported')",
        "needy.py": "import no_such_package_here\n" + FAKE.replace('"""\n', '"""\n', 1),
        "_private.py": FAKE,
        "folded/__init__.py": FAKE,
        "folded/parts.py": FAKE,
        "clash.py": FAKE.replace("seeds: int = 3", "out: int = 3\n    seeds: int = 3"),
    }.items():
        (folder / file).write_text(code)
    monkeypatch.syspath_prepend(str(folder.parent))
    importlib.invalidate_caches()
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    yield name
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        del sys.modules[module]
