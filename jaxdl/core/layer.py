"""The contract: a layer is three pure functions, and the backward pass is one of them.

    init(key, x)                                          -> params
    fwd(params, x, key=None)                              -> (y, residuals)
    bwd(params, residuals, dy, reduce=grads, slots=None)  -> (reduced, dx)
    apply(params, x, key=None) = fwd(params, x, key)[0]

- `params` are dicts of arrays in a leaf, tuples in a container. `bwd` is given them again:
  residuals never hold parameters.
- `key` given means training; None means evaluation. A deterministic leaf never sees it.
- `reduce` decides what becomes of the gradient factors of each leaf (`jaxdl.core.reducers`);
  `slots`, a tree beside `params`, is handed to it leaf by leaf.
- `dx` has the shape and dtype of `x`, and is None for integer inputs.
- `init` looks only at the shape and dtype of `x`: an array or a `jax.ShapeDtypeStruct`.

`jax.grad` of `apply` and `bwd` are two paths to one gradient.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core.factors import FactorError, Formed
from jaxdl.core.reducers import Reducer, grads
from jaxdl.numerics.checks import is_inexact
from jaxdl.numerics.pytree import as_jax


@dataclass(frozen=True)
class Layer:
    """One layer or model: a record of pure functions.

    Attributes:
      name: what it is, in one word; shown in errors, profiles and `print`.
      init: ``(key, x) -> params``.
      fwd: ``(params, x, key=None) -> (y, residuals)``.
      bwd: ``(params, residuals, dy, reduce=grads, slots=None) -> (reduced, dx)``.
      children: the layers inside a container, in order.
      rebuild: ``(*children) -> Layer``, the same container around other children.
      detail: its settings, for `print`.
      wraps: whether the parameters are those of the one child, not a tuple of the children's.
    """

    name: str
    init: Callable[..., Any]
    fwd: Callable[..., tuple[Any, Any]]
    bwd: Callable[..., tuple[Any, Any]]
    children: tuple["Layer", ...] = ()
    rebuild: Callable[..., "Layer"] | None = None
    detail: str = ""
    wraps: bool = False

    def __post_init__(self):
        for child in self.children:
            check_layer(self.name, child)

    def apply(self, params: Any, x: Any, key: Array | None = None) -> Any:
        """The output alone; what `jax.grad` differentiates."""
        return self.fwd(params, x, key)[0]

    @property
    def label(self) -> str:
        """Name and settings, e.g. ``dense(10)``."""
        return f"{self.name}({self.detail})" if self.detail else self.name

    def __repr__(self) -> str:
        return "\n".join(_tree_lines(self))


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
      detail: settings, for `print`.

    Raises (when called):
      ValueError: `params` does not have the keys it should, or bwd gives other factors.
    """
    expected = frozenset(params)

    def leaf_init(key, x):
        return init(key, as_jax(x))

    def leaf_fwd(params, x, key=None):
        if not isinstance(params, dict) or params.keys() != expected:
            raise ValueError(
                f"{name}: params must be a dict with the keys {sorted(expected)}, got "
                f"{_describe(params)}; use the params that init of this same model returned"
            )
        for entry, param in params.items():
            if not is_inexact(param):
                raise TypeError(
                    f"{name}: params[{entry!r}] must be floating point, got "
                    f"{jnp.result_type(param)} of shape {jnp.shape(param)}; integers have no "
                    "gradient: cast it"
                )
        params, x = as_jax((params, x))
        with jax.named_scope(name):
            return fwd(params, x, key) if keyed else fwd(params, x)

    def leaf_bwd(params, residuals, dy, reduce: Reducer = grads, slots=None):
        with jax.named_scope(f"{name}_bwd"):
            factors, dx = bwd(params, residuals, dy)
            if factors.keys() != expected:
                raise ValueError(
                    f"{name}: bwd must return one factor for each of {sorted(expected)}, got "
                    f"{sorted(factors)}; return Zero(examples) for a parameter without gradient"
                )
            try:
                return reduce(params, factors, slots), dx
            except FactorError as error:
                raise FactorError(f"{name}: {error}") from None

    return Layer(name, leaf_init, leaf_fwd, leaf_bwd, detail=detail)


def _describe(tree: Any) -> str:
    if isinstance(tree, dict):
        return f"a dict with the keys {sorted(tree)}"
    if isinstance(tree, tuple):
        return f"a tuple of {len(tree)}"
    return f"a {type(tree).__name__}"


def no_params(key: Array, x: Any) -> dict[str, Array]:
    """`init` of a leaf without parameters."""
    return {}


def map_layers(f: Callable[[str, Layer], Layer], model: Layer, path: str = "") -> Layer:
    """Rebuild `model` with every layer replaced by ``f(path, layer)``, children first.

    A path is the way down through `children`: "" is the model, "2/0" the first child of its
    third child. A container given to `f` has its new children already.
    """
    if model.children:
        children = [
            map_layers(f, child, f"{path}/{i}" if path else str(i))
            for i, child in enumerate(model.children)
        ]
        if model.rebuild is None:
            raise ValueError(
                f"{model.name}: a layer with layers inside must have `rebuild` to be changed, got "
                "None; give Layer(..., rebuild=a function of the new layers)"
            )
        model = model.rebuild(*children)
    return f(path, model)


# --- doors to the rest of JAX -------------------------------------------------------------------


def as_function(layer: Layer) -> Callable[..., Any]:
    """The layer as ``f(params, x, key=None) -> y`` whose derivative is the hand-written backward.

    A `jax.custom_vjp` function: `jax.grad`, `jax.vjp` and every program built on them (Flax and
    Equinox modules included) run `layer.bwd`. Reverse mode only, as for any custom_vjp.

    Raises:
      ValueError: the layer has a `tap`, whose reduced value is not a gradient.
    """
    check_no_taps("as_function", layer)

    @jax.custom_vjp
    def function(params, x, key):
        return layer.apply(params, x, key)

    def function_fwd(params, x, key):
        y, residuals = layer.fwd(params, x, key)
        return y, (params, residuals)

    def function_bwd(saved, dy):
        params, residuals = saved
        return *layer.bwd(params, residuals, dy), None

    function.defvjp(function_fwd, function_bwd)

    def call(params, x, key=None):
        return function(params, x, key)

    call.__name__ = call.__qualname__ = layer.name
    return call


def check_no_taps(name: str, model: Layer) -> None:
    """Raise ValueError if the model has a `tap`, where only a gradient will do."""
    taps = []
    map_layers(lambda path, part: taps.append(path) or part if part.name == "tap" else part, model)
    if taps:
        raise ValueError(
            f"{name}: {model.name} must not contain a tap, got one at {taps[0]!r}; a tap "
            "reduces to a cotangent, not to a gradient: build the model without it"
        )


def from_function(
    init: Callable[[Array, Any], dict[str, Array]],
    apply: Callable[..., Any],
    *,
    name: str = "function",
    params: Sequence[str] = (),
    keyed: bool = False,
) -> Layer:
    """Any JAX function as a layer; its backward is `jax.vjp`, its factors are `Formed`.

    Args:
      init: ``(key, x) -> params``, a dict with the keys `params`.
      apply: ``(params, x) -> y``, or ``(params, x, key)`` if `keyed`.
      name: one word, for errors and `print`.
      params: names of the parameters.
      keyed: whether `apply` takes a key.

    The residual is the input alone: the backward runs `apply` again under `jax.vjp`. Keeping
    the closure of `jax.vjp` would keep copies of the parameters. Inside one jit the repeated
    forward is merged with the first, except for its loops, which run twice.
    """

    def fwd(params, x, key=None):
        y = apply(params, x, key) if keyed else apply(params, x)
        return y, {"x": x, "key": key} if keyed else x

    def bwd(params, residuals, dy):
        x, key = (residuals["x"], residuals["key"]) if keyed else (residuals, None)
        call = (lambda p, v: apply(p, v, key)) if keyed else apply
        dparams, dx = jax.vjp(call, params, x)[1](dy)
        dx = jax.tree.map(lambda d: None if d.dtype == jax.dtypes.float0 else d, dx)
        return {k: Formed(g) for k, g in dparams.items()}, dx

    return leaf(name, init, fwd, bwd, params=params, keyed=keyed)
