"""Finding experiments by reading their files, so that a listing never imports JAX."""

from __future__ import annotations

import ast
import difflib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

BENCH = "bench"


@dataclass(frozen=True)
class Entry:
    """One experiment file: its name on the command line, its module, and what it asks."""

    name: str
    module: str
    summary: str
    path: Path

    @property
    def is_bench(self) -> bool:
        """Whether the file lies in the folder of benchmarks."""
        return self.name.startswith(f"{BENCH}.")


def find_experiments(package: str = "experiments") -> list[Entry]:
    """All files of `package` and its folder `bench` that define `Settings` and `run`, by name.

    A folder with such an `__init__.py` is one too. Files whose name starts with an underscore are
    the framework's and are skipped. A file that does not parse is listed with its error as the
    summary: it is better seen than missing.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"find_experiments: expected the name of a package, got {package!r}")
    folder = Path(next(iter(spec.submodule_search_locations)))
    entries = [*_entries_of(folder, package, ""), *_entries_of(folder / BENCH, package, BENCH)]
    return sorted(entries, key=lambda entry: (entry.is_bench, entry.name))


def _entries_of(folder: Path, package: str, group: str) -> Iterable[Entry]:
    for path in sorted([*folder.glob("[!_]*.py"), *folder.glob("[!_]*/__init__.py")]):
        own = path.parent.name if path.name == "__init__.py" else path.stem
        name = f"{group}.{own}" if group else own
        module = f"{package}.{name}"
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError) as error:
            yield Entry(name, module, f"(cannot be read: {error})", path)
            continue
        if {"Settings", "run"} <= _top_level_names(tree):
            doc = ast.get_docstring(tree) or ""
            yield Entry(name, module, doc.split("\n", 1)[0] or "(no docstring)", path)


def _top_level_names(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):  # two benchmarks may share one Settings
            names.update(alias.asname or alias.name for alias in node.names)
    return names


def pick(name: str, entries: list[Entry]) -> Entry:
    """The entry called `name`; `-` for `_` and `bench/x` for `bench.x` are understood.

    Raises:
        ValueError: no such experiment; the text names the closest one and lists all.
    """
    wanted = name.removesuffix(".py").replace("-", "_").replace("/", ".")
    known = {entry.name: entry for entry in entries}
    if wanted in known:
        return known[wanted]
    commands = [*known, "claims"]
    close = difflib.get_close_matches(wanted, commands, n=1)
    # `step` is short for `bench.step`, which may be too far away to count as a typing error.
    close = close or [full for full in known if full.split(".")[-1] == wanted.split(".")[-1]]
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(
        f"experiments: expected one of {', '.join(commands)}; got {name!r}; "
        f"{hint}`python -m experiments` explains each in a line"
    )
