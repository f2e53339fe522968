"""The arguments of a program: parameters, and examples on the axes where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.numerics.sharding import as_varying, explicit_sharding, varying_axes


@dataclass(frozen=True, eq=False)
class Arguments:
    """Parameters and examples as lists of leaves, the examples on the first axis.

    Attributes:
      params, paths: the leaves of the parameters and where they are, as "layers/0/kernel".
      examples: the leaves of the other arguments.
      axes: where each of these had the examples; None for one that all examples share.
      n: how many examples there are.
    """

    params: list[Array]
    paths: list[str]
    params_tree: Any
    examples: list[Array]
    examples_tree: Any
    axes: list[int | None]
    n: int

    @property
    def shared(self) -> list[bool]:
        """For each leaf of the examples, whether it is one for all of them."""
        return [axis is None for axis in self.axes]

    def one(self) -> list[Any]:
        """Shapes and dtypes of one example."""
        return [
            x if axis is None else _first(x)
            for x, axis in zip(self.examples, self.axes, strict=True)
        ]

    def batches_of_one(self, example: Sequence[Array]) -> list[Array]:
        """One example with its axis put back where it was, of length one."""
        return [
            x if axis is None else jnp.expand_dims(x, axis)
            for x, axis in zip(example, self.axes, strict=True)
        ]

    def like_params(self, leaves: Sequence[Any]) -> Any:
        """A tree like the parameters."""
        return jax.tree.unflatten(self.params_tree, leaves)

    def like_examples(self, leaves: Sequence[Any]) -> Any:
        """A tuple of trees like the arguments behind the parameters."""
        return jax.tree.unflatten(self.examples_tree, leaves)

    def beside(self, slots: Any) -> list[Any]:
        """A slot for each parameter.

        Raises:
          ValueError: the slots are no tree like the parameters.
        """
        if slots is None:
            return [None] * len(self.params)
        try:
            return self.params_tree.flatten_up_to(slots)
        except ValueError:
            raise ValueError(
                f"slots must be a tree like params, {self.params_tree}, with anything at its "
                f"leaves, got {jax.tree.structure(slots)}; make them with jax.tree.map over params"
            ) from None


def read_arguments(name: str, params: Any, examples: tuple, in_axes: Any) -> Arguments:
    """Check the arguments of a program and bring the examples to the first axis.

    Raises:
      ValueError: no parameters, no examples, or axes that do not fit.
      TypeError: parameters that are not floating point.
    """
    with_paths, params_tree = jax.tree_util.tree_flatten_with_path(params)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in with_paths]
    leaves = [leaf for _, leaf in with_paths]
    _check_params(name, paths, leaves)
    named, examples_tree = jax.tree_util.tree_flatten_with_path(examples)
    axes = _flat_axes(name, in_axes, examples)
    places = [f"argument {path[0].idx + 1}{jax.tree_util.keystr(path[1:])}" for path, _ in named]
    arrays = [jnp.asarray(x) for _, x in named]
    n = _count(name, places, arrays, axes)
    for place, x in zip(places, arrays, strict=True):
        if explicit_sharding(x) is not None:
            raise ValueError(
                f"{name}: programs are read under Auto mesh axes, got {place} split over Explicit "
                f"ones, {jax.typeof(x)}; make the mesh with axis_types=(AxisType.Auto, ...)"
            )
    axes = [None if a is None else a % x.ndim for x, a in zip(arrays, axes, strict=True)]
    arrays = [
        x if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(arrays, axes, strict=True)
    ]
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    # inside a shard_map, what is made of its examples is each device's own
    axes_of_devices = varying_axes(*leaves, *arrays)
    leaves, arrays = ([as_varying(x, axes_of_devices) for x in some] for some in (leaves, arrays))
    return Arguments(leaves, paths, params_tree, arrays, examples_tree, axes, n)


def _first(x: Array) -> Any:
    """What is to be known of the first example: its shape and dtype, and where it differs."""
    if varying_axes(x):
        return x[0]
    return jax.ShapeDtypeStruct(x.shape[1:], x.dtype, weak_type=jax.typeof(x).weak_type)


def _check_params(name: str, paths: list[str], leaves: list[Any]) -> None:
    if not leaves:
        raise ValueError(
            f"{name}: params must hold at least one array, got an empty tree; the parameters are "
            "the first argument of the loss"
        )
    for path, leaf in zip(paths, leaves, strict=True):
        try:
            dtype = jnp.result_type(leaf)
        except TypeError:
            raise TypeError(
                f"{name}: params must be arrays, got a {type(leaf).__name__} at {path!r}; take "
                "apart what is no array first (equinox.partition, flax.nnx.split)"
            ) from None
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"{name}: params must be floating point, got {dtype} at {path!r}; what has no "
                "gradient goes into the loss by other ways: a closure, or an argument of "
                "in_axes=None"
            )


def _flat_axes(name: str, in_axes: Any, examples: tuple) -> list[int | None]:
    """The axis of each leaf of the examples."""
    if isinstance(in_axes, int) or in_axes is None:
        in_axes = (in_axes,) * len(examples)
    if not isinstance(in_axes, tuple | list) or len(in_axes) != len(examples):
        raise ValueError(
            f"{name}: in_axes must be one axis, or one entry for each of the {len(examples)} "
            f"arguments behind the parameters, got {in_axes!r}"
        )
    flat: list[int | None] = []
    for place, (axis, example) in enumerate(zip(in_axes, examples, strict=True), start=1):
        try:
            spread = jax.tree.map(
                lambda a, part: [a] * len(jax.tree.leaves(part)),
                axis, example, is_leaf=lambda a: a is None,
            )  # fmt: skip
        except ValueError:
            raise ValueError(
                f"{name}: in_axes must be a prefix of its argument, as in jax.vmap, got {axis!r} "
                f"for argument {place}, a {jax.tree.structure(example)}"
            ) from None
        flat += jax.tree.leaves(spread, is_leaf=lambda a: a is None)
    return flat


def _count(name: str, places: list[str], arrays: list[Array], axes: list[int | None]) -> int:
    """How many examples there are."""
    sizes: dict[str, int] = {}
    for place, x, axis in zip(places, arrays, axes, strict=True):
        if axis is None:
            continue
        if not isinstance(axis, int) or not -x.ndim <= axis < x.ndim:
            raise ValueError(
                f"{name}: {place} must have the axis {axis!r} that in_axes gives, got shape "
                f"{x.shape}; None is for what all examples share"
            )
        sizes[place] = x.shape[axis]
    if not sizes:
        raise ValueError(
            f"{name}: at least one argument must hold the examples, got none; give the loss's "
            "arguments behind the parameters, and an axis in in_axes for one of them"
        )
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"{name}: all arguments must have as many examples, got {sizes}; check in_axes"
        )
    n = next(iter(sizes.values()))
    if n == 0:
        raise ValueError(f"{name}: a batch must hold at least one example, got none; skip it")
    return n
