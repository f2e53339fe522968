"""One strict configuration for the whole suite.

- Mixing dtypes is an error (`jax_numpy_dtype_promotion="strict"`): no silent widening. A test
  that calls a library which relies on it opens `jax.numpy_dtype_promotion("standard")`.
- float64 exists, so that gradients can be judged by it: say float32 where float32 is meant.
  The fixture `x64_off` gives a test the default mode of JAX instead.
- CPU, products in full precision, no compilation cache: every run compiles what it tests, so that
  machine code is not optimised.
"""

import gc
import os
import resource
import threading
from importlib.metadata import version
from pathlib import Path

import hypothesis
import jax
import pytest

# XLA of jaxlib 0.10 compiles the suite's many small programs six times as fast by its older code
# generator and in one piece; later versions do not know the flag, and end on unknown ones. Set
# before JAX starts XLA; processes that tests start have it too.
QUICK = version("jaxlib").startswith("0.10.")
if QUICK:
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_default_matmul_precision", "highest")
# Where in the code an operation came from is read by nobody here.
jax.config.update("jax_traceback_in_locations_limit", 0)

# Traced programs are many small objects that live long: looking for garbage among them took a
# tenth of the time.
gc.set_threshold(200_000, 50, 1000)


def share_mlir_contexts(programs=64):
    """Lower that many programs in one MLIR context. JAX makes a new one, with all its dialects,
    for each, which took a fifth of the time."""
    from jax._src.interpreters import mlir

    make, here = mlir.make_ir_context, threading.local()

    def shared():
        if getattr(here, "left", 0) == 0:
            here.context, here.left = make(), programs
        here.left -= 1
        return here.context

    mlir.make_ir_context = shared


if QUICK:
    share_mlir_contexts()

# Each example of another shape is another compilation: few, and the same in every run.
hypothesis.settings.register_profile(
    "suite", max_examples=8, deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser):
    parser.addoption(
        "--long",
        default="none",
        help="of the tests marked `long`: 'none', 'all', or a part such as '3/8'",
    )


def chosen(items, part):
    """The items without the long ones, or with all, or with every n-th of them."""
    if part == "all":
        return items
    long = [item for item in items if item.get_closest_marker("long")]
    kept = []
    if part != "none":
        first, of = map(int, part.split("/"))
        kept = long[first % of :: of]
    left_out = set(long) - set(kept)
    return [item for item in items if item not in left_out]


@pytest.fixture
def x64_off():
    """The default mode of JAX: 32 bits, whatever is asked for."""
    with jax.enable_x64(False):
        yield


def pytest_collection_modifyitems(config, items):
    """Put all properties of a case side by side: in one worker they share compiled functions."""
    kept = chosen(items, config.getoption("--long"))
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept
    place = {}
    for item in items:
        callspec = getattr(item, "callspec", None)
        case = callspec.params.get("case") if callspec else None
        name = getattr(case, "name", None)
        place[item] = 0 if name is None else place.setdefault(name, len(place) + 1)
    items.sort(key=place.__getitem__)


MOST_GROWTH = 2**31
"""Bytes by which a worker may grow before it lets go of compiled programs."""
_held = {"bytes": 2 * MOST_GROWTH}


def pytest_runtest_teardown():
    """Thousands of small compiled programs add up: they are dropped before memory runs out."""
    statm = Path("/proc/self/statm")
    if not statm.exists():  # only Linux tells
        return
    held = int(statm.read_text().split()[1]) * resource.getpagesize()
    if held > _held["bytes"] + MOST_GROWTH:
        jax.clear_caches()
        _held["bytes"] = held
