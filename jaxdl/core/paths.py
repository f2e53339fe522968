"""Names of the layers inside a container, paths through a model, and errors that say where.

A child is called as it was given, ``serial(embed=..., head=...)``, or after its kind: `dense`,
`dense_1`, … in order. The names on the way down, joined by "/", are the path of a layer, and with
the parameter's own name that of a parameter: "blocks/attention/w_qkv". What wraps one layer
(`skip`, `repeat`, `remat`, ...) has that layer's parameters, and adds nothing to a path.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any


def name_children(
    container: str, kinds: Sequence[str], named: Mapping[str, Any]
) -> tuple[str, ...]:
    """The names of children given by position, from their kinds, and of those given by name.

    Raises:
      ValueError: a name that a path could not hold.
    """
    for name in (*kinds, *named):
        if not name or any(sign in name for sign in "/*?[] "):
            raise ValueError(
                f"{container}: the name of a layer must fit into a path, got {name!r}; use "
                "letters, digits and underscores"
            )
    taken, names = set(named), []
    for kind in kinds:
        free = (kind if i == 0 else f"{kind}_{i}" for i in range(len(kinds) + len(named) + 1))
        names.append(next(name for name in free if name not in taken))
        taken.add(names[-1])
    return (*names, *named)


def join_path(path: str, name: str) -> str:
    """The path of what is called `name` inside the layer at `path`."""
    return f"{path}/{name}" if path and name else path or name


@contextmanager
def located(name: str, kinds: Sequence[str]) -> Iterator[None]:
    """Have errors that are raised inside begin with the path of the layer that raised them.

    Args:
      name: what the container calls the layer.
      kinds: the words with which its own messages begin: its kind, and those of what it wraps.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        _add_name(error, name, kinds)
        raise


def at_path(error: Any, path: str) -> Any:
    """The error, with the path of the layer that raised it, for containers to complete."""
    with suppress(AttributeError):  # an exception with fixed attributes gets no path
        error._jaxdl_path = path
    return error


def path_of(error: Any) -> str:
    """The path that `at_path` has put on the error, or ""."""
    return getattr(error, "_jaxdl_path", "")


def _add_name(error: Any, name: str, kinds: Sequence[str]) -> None:
    inside = path_of(error)
    path = join_path(name, inside)
    at_path(error, path)
    text = error.args[0] if error.args and isinstance(error.args[0], str) else ""
    head, colon, rest = text.partition(":")
    if colon and (head == inside if inside else head in kinds):
        error.args = (f"{path}:{rest}", *error.args[1:])
        return
    # not one of our messages: its text stays as it is
    notes = error.__dict__.setdefault("__notes__", [])
    notes[:] = [note for note in notes if not note.startswith("in the layer ")]
    notes.append(f"in the layer {path}")
