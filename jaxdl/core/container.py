"""What containers have in common: their children's names, parameters, side input and errors.

A container is written as `fwd` and `bwd` over its children, which it calls through `Children` (or
`Child`, for the one that a wrapper has): these find the parameters and slots of each by its name,
hand the side input to those that take one, and put the name into errors.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import jax
from jax import Array

from jaxdl.core.identity import SameByParts
from jaxdl.core.layer import Layer, check_layer, check_side
from jaxdl.core.paths import located, name_children
from jaxdl.core.reducers import Reducer, grads
from jaxdl.core.side import With, join_side, like_side, split_side
from jaxdl.numerics.pytree import as_jax


def split_keys(key: Array | None, n: int) -> Sequence[Array | None] | Array:
    """n keys; n times None if there is none (evaluation)."""
    return [None] * n if key is None else jax.random.split(key, n)


@dataclass(frozen=True, eq=False)
class Child(SameByParts):
    """A layer inside another, and what its container calls it ("" in a wrapper)."""

    layer: Layer
    name: str = ""

    def init(self, key: Any, x: Any, side: Any) -> Any:
        with self._located():
            return self.layer.init(key, self._joined(x, side))

    def fwd(self, params: Any, x: Any, side: Any, key: Any) -> tuple[Any, Any]:
        """(y, residuals), without the side in them."""
        with self._located():
            y, residuals = self.layer.fwd(params, self._joined(x, side), key)
        return y, split_side(residuals)[0] if self.layer.side else residuals

    def bwd(
        self, params: Any, residuals: Any, side: Any, dy: Any, reduce: Reducer, slots: Any
    ) -> tuple[Any, Any, Any]:
        """(reduced, dx, dside); dside is None from a layer that takes no side."""
        with self._located():
            kept = self._joined(residuals, side)
            reduced, dx = self.layer.bwd(params, kept, dy, reduce, slots)
        dx, dside = split_side(dx) if self.layer.side else (dx, None)
        return reduced, dx, dside

    def output(self, params: Any, x: Any, side: Any) -> Any:
        """Shape and dtype of the output, without computing it."""
        with self._located():
            return jax.eval_shape(self.layer.apply, params, self._joined(x, side))

    def _joined(self, value: Any, side: Any) -> Any:
        return join_side(value, side) if self.layer.side else value

    def _located(self):
        return located(self.name, kinds_of(self.layer)) if self.name else nullcontext()


def kinds_of(layer: Layer) -> tuple[str, ...]:
    """The words with which messages of the layer begin: its name, and those of what it wraps."""
    return (layer.name, *(kinds_of(layer.children[0]) if layer.wraps else ()))


@dataclass(frozen=True, eq=False)
class Children(SameByParts):
    """The layers inside a container, by name."""

    container: str
    layers: tuple[Layer, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, container: str, layers: Sequence[Layer], named: Mapping[str, Layer]) -> "Children":
        """Layers given by position, called after their kind, and then those given by name.

        Raises:
          TypeError: one of them is not a Layer.
          ValueError: a name that does not fit into a path.
        """
        for layer in (*layers, *named.values()):
            check_layer(container, layer)
        names = name_children(container, [layer.kind for layer in layers], named)
        return cls(container, (*layers, *named.values()), names)

    @property
    def each(self) -> tuple[Child, ...]:
        return tuple(map(Child, self.layers, self.names))

    def split(self, what: str, tree: Any) -> list[Any]:
        """The parts of `tree` (params or slots), one for each child; {} or None where it has none.

        Raises:
          ValueError: the tree is not a dict, or has a part that no child is called.
        """
        if tree is None and what == "slots":
            return [None] * len(self.names)
        if not isinstance(tree, Mapping):
            raise ValueError(
                f"{self.container}: {what} must be a dict of the parts of the layers inside, "
                f"{list(self.names)}, got a {type(tree).__name__}; use the params that init of "
                "this same model returned (named_params makes them of an earlier version's tuples)"
            )
        unknown = sorted(set(tree) - set(self.names))
        if unknown:
            raise ValueError(
                f"{self.container}: {what} must have parts called as the layers inside, "
                f"{list(self.names)}, got {unknown} too; use the params that init of this same "
                "model returned, or name the layers as they were"
            )
        return [tree.get(name, {} if what == "params" else None) for name in self.names]

    def gather(self, parts: Sequence[Any], params: Any = None) -> dict[str, Any]:
        """The children's parts by name, without those of children that have nothing."""
        has = {} if params is None else params
        pairs = zip(self.names, parts, strict=True)
        return {name: part for name, part in pairs if name in has or jax.tree.leaves(part)}

    def rebuild(self, make: Callable[..., Layer]) -> Callable[..., Layer]:
        """``make(**named)`` as a function of new children."""
        return lambda *new: make(**dict(zip(self.names, new, strict=True)))


def container(
    name: str,
    children: Children | Child,
    init: Callable[..., Any],
    fwd: Callable[..., tuple[Any, Any]],
    bwd: Callable[..., tuple[Any, Any, Any]],
    rebuild: Callable[..., Layer],
    *,
    detail: str = "",
    kind: str = "",
    side: bool = False,
) -> Layer:
    """Make a Layer of functions over its children that are given the side input apart.

    Args:
      name: one word.
      children: several, by name, or the one that is wrapped.
      init: ``(key, x, side) -> params``.
      fwd: ``(params, x, side, key) -> (y, residuals)``, without the side in the residuals.
      bwd: ``(params, residuals, side, dy, reduce, slots) -> (reduced, dx, dside)``; dside is a sum
        in float32 or wider (`zero_cotangent`, `add_to_side`), or None where nothing reads it.
      rebuild: ``(*children) -> Layer``.
      detail: settings, for `print`.
      kind: what a container around it calls it by default.
      side: whether it reads a side input itself, whatever its children do.
    """

    def container_init(key, x):
        if side:
            check_side(name, side, x)
        return init(key, *split_side(x))

    def container_fwd(params, x, key=None):
        if side:
            check_side(name, side, x)
        x, given = split_side(x)
        given = as_jax(given)  # bwd is given it as it is kept
        y, residuals = fwd(params, x, given, key)
        return y, join_side(residuals, given)

    def container_bwd(params, residuals, dy, reduce: Reducer = grads, slots=None):
        residuals, given = split_side(residuals)
        reduced, dx, dside = bwd(params, residuals, given, dy, reduce, slots)
        return reduced, dx if given is None else With(dx, like_side(dside, given))

    several = isinstance(children, Children)
    return Layer(
        name,
        container_init,
        container_fwd,
        container_bwd,
        children.layers if several else (children.layer,),
        rebuild,
        detail,
        children.names if several else (),
        kind,
        side,
    )
