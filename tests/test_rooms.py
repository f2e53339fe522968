"""The structure of the code: no circles, one direction, files that can be read."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("jaxdl", "experiments")
    for path in sorted((ROOT / package).rglob("*.py"))
}
ROOMS = ("numerics", "core", "program", "layers", "models", "train")
"""Each may import those before it."""
WALKER = "jaxdl.numerics.jaxprs"
"""What reads programs is one module, for the library and for the gradient checker."""


def imported(name, path):
    """The modules of the project that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    modules = found & SOURCES.keys()
    # `from package import module` runs the module, not what the package's __init__ shows
    return {m for m in modules if not any(n != m and n.startswith(f"{m}.") for n in modules)} - {
        name
    }


GRAPH = {name: imported(name, path) for name, path in SOURCES.items()}


def test_no_module_imports_another_that_imports_it():
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(f"circular imports: {' ← '.join(error.args[1])}")


def test_a_circle_would_be_found():
    with pytest.raises(CycleError):
        TopologicalSorter(GRAPH | {"jaxdl.core.factor": {"jaxdl.core.layer"}}).prepare()


def room(name):
    parts = name.split(".")
    return parts[1] if parts[0] == "jaxdl" and len(parts) > 1 else parts[0]


def test_rooms_import_only_those_below_them():
    for name, others in GRAPH.items():
        for other in others:
            here, there = room(name), room(other)
            assert here == "experiments" or there != "experiments", (name, other)
            if here in ROOMS and there in ROOMS:
                assert ROOMS.index(there) <= ROOMS.index(here), (name, other)
            if here == "gradcheck" and not name.endswith("layer"):
                assert there == "gradcheck" or other == WALKER, (name, other)


def test_files_of_the_library_can_be_read_at_a_sitting():
    for name, path in SOURCES.items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 320 or room(name) == "experiments", f"{path} has {lines} lines"
