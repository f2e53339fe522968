"""Parameters of earlier versions, which were tuples, as the dicts by name that they are now."""

from collections.abc import Iterator
from typing import Any

from jaxdl.core.layer import Layer, walk_layers


def named_params(model: Layer, tuples: Any) -> dict[str, Any]:
    """A tree of an earlier version (a tuple for a container, a dict for a leaf), by names.

    Works on parameters and on what has their structure: gradients, the moments of an optimiser.
    Leaves are taken in order, so that a model whose containers are arranged otherwise now (the
    transformer blocks are) finds its own too.

    Args:
      model: the same model, built with this version.
      tuples: the tree.

    Raises:
      ValueError: the tree has more or fewer leaves than the model.
    """
    if isinstance(tuples, dict) and any(layer.names for _, layer in walk_layers(model)):
        raise ValueError(
            f"named_params: the tree must be a tuple, as parameters of {model.label} were, got a "
            "dict; it may have its names already"
        )
    paths = [path for path, layer in walk_layers(model) if not layer.children]
    leaves = list(_leaves(tuples))
    if len(paths) != len(leaves):
        raise ValueError(
            f"named_params: the tree must have a dict for each of the {len(paths)} leaves of "
            f"{model.label}, got {len(leaves)}; give the model that the parameters belong to"
        )
    named: dict[str, Any] = {}
    for path, part in zip(paths, leaves, strict=True):
        node = named
        for name in path.split("/") if path and part else ():
            node = node.setdefault(name, {})
        node |= part
    return named


def _leaves(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
    else:
        for part in tree:
            yield from _leaves(part)
