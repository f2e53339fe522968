"""The contract: a layer is three pure functions, and the backward pass is one of them.

    init(key, x)                                          -> params
    fwd(params, x, key=None)                              -> (y, residuals)
    bwd(params, residuals, dy, reduce=grads, slots=None)  -> (reduced, dx)
    apply(params, x, key=None) = fwd(params, x, key)[0]

- `params` are a dict: of arrays in a leaf, of the children's dicts in a container, where children
  without parameters are left out. `bwd` is given them again: residuals never hold parameters.
- `key` given means training; None means evaluation. A deterministic leaf never sees it.
- `reduce` decides what becomes of the gradient factors of each leaf (`jaxdl.core.reducers`);
  `slots`, a tree beside `params`, is handed to it leaf by leaf.
- `dx` has the shape and dtype of `x`, and is None for integer inputs.
- `init` looks only at the shape and dtype of `x`: an array or a `jax.ShapeDtypeStruct`.
- `x` may be ``With(x, side)``: see `jaxdl.core.side`.

`jax.grad` of `apply` and `bwd` are two paths to one gradient.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core.factors import FactorError
from jaxdl.core.identity import SameByParts
from jaxdl.core.paths import join_path, name_children
from jaxdl.core.reducers import Reducer, grads, needs_examples
from jaxdl.core.side import With, split_side
from jaxdl.numerics.checks import is_inexact
from jaxdl.numerics.pytree import as_jax, describe


@dataclass(frozen=True, repr=False, eq=False)
class Layer(SameByParts):
    """One layer or model: a record of pure functions.

    Two layers that are built alike, of the same functions and settings, are equal and have equal
    hashes, so that jit takes one for the other.

    Attributes:
      name: what it is, in one word; shown in errors, profiles and `print`.
      init: ``(key, x) -> params``.
      fwd: ``(params, x, key=None) -> (y, residuals)``.
      bwd: ``(params, residuals, dy, reduce=grads, slots=None) -> (reduced, dx)``.
      children: the layers inside a container, in order.
      rebuild: ``(*children) -> Layer``, the same container around other children.
      detail: its settings, for `print`.
      names: what the children are called, one name each; by default after their kinds. None for
        the child of a layer that wraps it: the parameters of both are the same.
      kind: what a container calls it that is not told a name; by default `name`.
      side: whether it takes a side input; it does if a child does.
      mixes: whether the output of one example depends on the others; it does if a child's does.
    """

    name: str
    init: Callable[..., Any]
    fwd: Callable[..., tuple[Any, Any]]
    bwd: Callable[..., tuple[Any, Any]]
    children: tuple["Layer", ...] = ()
    rebuild: Callable[..., "Layer"] | None = None
    detail: str = ""
    names: tuple[str, ...] = ()
    kind: str = ""
    side: bool = False
    mixes: bool = False

    def __post_init__(self):
        for child in self.children:
            check_layer(self.name, child)
        if len(self.children) > 1 and not self.names:
            _set(self, "names", name_children(self.name, [c.kind for c in self.children], {}))
        if self.names and len(self.names) != len(self.children):
            raise ValueError(
                f"{self.name}: there must be a name for each of the {len(self.children)} layers "
                f"inside, got {self.names}; or give none"
            )
        _set(self, "kind", self.kind or self.name)
        _set(self, "side", self.side or any(child.side for child in self.children))
        _set(self, "mixes", self.mixes or any(child.mixes for child in self.children))

    @property
    def wraps(self) -> bool:
        """Whether it has one child, and its parameters."""
        return bool(self.children) and not self.names

    def apply(self, params: Any, x: Any, key: Array | None = None) -> Any:
        """The output alone; what `jax.grad` differentiates."""
        return self.fwd(params, x, key)[0]

    @property
    def label(self) -> str:
        """Name and settings, e.g. ``dense(10)``."""
        return f"{self.name}({self.detail})" if self.detail else self.name

    def __repr__(self) -> str:
        return "\n".join(_tree_lines(self))


def _set(layer: Layer, field: str, value: Any) -> None:
    object.__setattr__(layer, field, value)


def check_layer(name: str, child: Any) -> None:
    """Raise TypeError unless `child`, which is to go into `name`, is a Layer."""
    if not isinstance(child, Layer):
        raise TypeError(
            f"{name}: every layer inside must be a Layer, got {child!r}; call its constructor, "
            "e.g. relu(), and give layers one by one, e.g. serial(*layers)"
        )


def _tree_lines(layer: Layer) -> list[str]:
    lines = [layer.label]
    for i, child in enumerate(layer.children):
        last = i == len(layer.children) - 1
        head, *rest = _tree_lines(child)
        if layer.names and layer.names[i] != child.name:
            head = f"{layer.names[i]}: {head}"
        lines.append(("└─ " if last else "├─ ") + head)
        lines += [("   " if last else "│  ") + line for line in rest]
    return lines


def leaf(
    name: str,
    init: Callable[[Array, Any], dict[str, Array]],
    fwd: Callable[..., tuple[Any, Any]],
    bwd: Callable[..., tuple[dict[str, Any], Any]],
    *,
    params: Sequence[str] = (),
    keyed: bool = False,
    side: bool = False,
    mixes: bool | Callable[[Any], bool] = False,
    detail: str = "",
) -> Layer:
    """Make a Layer of functions that know nothing of reducers.

    Args:
      name: one word.
      init: ``(key, x) -> params``, a dict with the keys `params`.
      fwd: ``(params, x) -> (y, residuals)``, or ``(params, x, key)`` if `keyed`.
      bwd: ``(params, residuals, dy) -> (factors, dx)``, one factor for each parameter.
      params: the names of the parameters.
      keyed: whether `fwd` takes a key (it draws random numbers in training).
      side: whether it reads a side input. The x of `init` and `fwd` is then ``With(x, side)``, the
        residuals that `bwd` gets are ``With(residuals, side)``, where `fwd` returns the residuals
        alone, and the dx it returns is ``With(dx, dside)``, with None in dside for integers.
      mixes: whether an example's output depends on the other examples of the batch, so that there
        is no gradient of its own; or a function of the residuals that tells whether it did.
      detail: settings, for `print`.

    Raises (when called):
      ValueError: `params` does not have the keys it should, or bwd gives other factors.
      TypeError: a side input where none is taken, or none where one is.
      FactorError: the layer mixes examples and the reducer needs them apart.
    """
    expected = tuple(sorted(params))

    def leaf_init(key, x):
        check_side(name, side, x)
        return init(key, as_jax(x))

    def leaf_fwd(params, x, key=None):
        check_params(name, expected, params)
        check_side(name, side, x)
        params, x = as_jax((params, x))
        with jax.named_scope(name):
            y, residuals = fwd(params, x, key) if keyed else fwd(params, x)
        return y, With(residuals, x.side) if side else residuals

    def leaf_bwd(params, residuals, dy, reduce: Reducer = grads, slots=None):
        mixed = mixes(split_side(residuals)[0]) if callable(mixes) else mixes
        if mixed and needs_examples(reduce):
            raise FactorError(
                f"{name}: the reducer needs the examples apart, but this layer mixes them: the "
                "output of one depends on the others; use another layer, or another reducer"
            )
        with jax.named_scope(f"{name}_bwd"):
            factors, dx = bwd(params, residuals, dy)
            if factors.keys() != set(expected):
                raise ValueError(
                    f"{name}: bwd must return one factor for each of {list(expected)}, got "
                    f"{sorted(factors)}; return Zero(examples) for a parameter without gradient"
                )
            if not expected:
                return {}, dx
            try:
                return reduce(params, factors, slots), dx
            except FactorError as error:
                raise FactorError(f"{name}: {error}") from None

    return Layer(
        name, leaf_init, leaf_fwd, leaf_bwd, detail=detail, side=side, mixes=bool(mixes)
    )  # fmt: skip


def check_params(name: str, expected: tuple[str, ...], params: Any) -> None:
    """Raise unless `params` is a dict of floating-point arrays with these keys."""
    if not isinstance(params, dict) or params.keys() != set(expected):
        kind = type(params).__name__
        got = f"a dict with the keys {sorted(params)}" if kind == "dict" else f"a {kind}"
        raise ValueError(
            f"{name}: params must be a dict with the keys {list(expected)}, got {got}; use the "
            "params that init of this same model returned"
        )
    for entry, param in params.items():
        if not is_inexact(param):
            raise TypeError(
                f"{name}: params[{entry!r}] must be floating point, got "
                f"{jnp.result_type(param)} of shape {jnp.shape(param)}; integers have no "
                "gradient: cast it"
            )


def check_side(name: str, side: bool, x: Any) -> None:
    """Raise unless x comes with a side input where one is read, and without where none is."""
    if side and (not isinstance(x, With) or x.side is None):
        got = "one without a side" if isinstance(x, With) else describe(x)
        raise TypeError(
            f"{name}: it reads a side input, so x must be a With, got {got}; give the model "
            "With(x, side)"
        )
    if not side and isinstance(x, With):
        raise TypeError(
            f"{name}: it reads no side input, got x = With(x, side); give it x.x, or put it into "
            "a container, e.g. serial, which hands the side only to those who read it"
        )


def no_params(key: Array, x: Any) -> dict[str, Array]:
    """`init` of a leaf without parameters."""
    return {}


# --- walking a model ----------------------------------------------------------------------------


def walk_layers(model: Layer, path: str = "") -> Iterator[tuple[str, Layer]]:
    """(path, layer) of the model and all layers inside, a container before what it holds.

    The path of the model is "". A wrapper and the layer that it wraps have one path.
    """
    yield path, model
    for name, child in zip(_names(model), model.children, strict=True):
        yield from walk_layers(child, join_path(path, name))


def map_layers(f: Callable[[str, Layer], Layer], model: Layer, path: str = "") -> Layer:
    """Rebuild `model` with every layer replaced by ``f(path, layer)``, children first.

    A path is the names on the way down: "" is the model, "blocks/dense_1" what is called dense_1
    in what is called blocks. A wrapper (`skip`, `repeat`, `remat`, ...) and the layer that it wraps
    have one path. A container given to `f` has its new children already.

    Raises:
      ValueError: a layer of the user's with layers inside and no `rebuild`.
    """
    if model.children:
        children = [
            map_layers(f, child, join_path(path, name))
            for name, child in zip(_names(model), model.children, strict=True)
        ]
        model = rebuilt(model, *children)
    return f(path, model)


def rebuilt(layer: Layer, *children: Layer) -> Layer:
    """The container around other children.

    Raises:
      ValueError: a layer of the user's with layers inside and no `rebuild`.
    """
    if layer.rebuild is None:
        raise ValueError(
            f"{layer.name}: a layer with layers inside must have `rebuild` to be changed, got "
            "None; give Layer(..., rebuild=a function of the new layers)"
        )
    return layer.rebuild(*children)


def _names(layer: Layer) -> tuple[str, ...]:
    return layer.names or ("",) * len(layer.children)
