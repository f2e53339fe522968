"""A function, its arguments, and which of their leaves are differentiated."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Leaves = list[Any]
_TRACED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.UnexpectedTracerError,
)


class GradcheckError(ValueError):
    """The function or its arguments cannot be checked; the message says why and what to do."""


def x64(enabled: bool = True) -> AbstractContextManager[Any]:
    """A context in which arrays may be float64; or, if not, in which nothing is changed."""
    return jax.enable_x64(True) if enabled else nullcontext()


@dataclass(frozen=True)
class Problem:
    """f as a function of its differentiated leaves alone."""

    f: Callable[..., Any]
    structure: Any
    leaves: Leaves
    """All leaves of (args, kwargs); those that are differentiated are arrays."""
    names: list[str]
    wrt: tuple[int, ...]
    """Which leaves are differentiated."""

    @property
    def name(self) -> str:
        """Of the function, for messages."""
        return getattr(self.f, "__name__", None) or type(self.f).__name__

    @property
    def inputs(self) -> list[Array]:
        """The differentiated leaves."""
        return [self.leaves[i] for i in self.wrt]

    @property
    def input_names(self) -> list[str]:
        """Their paths, such as args[1]['scale']."""
        return [self.names[i] for i in self.wrt]

    def at(self, inputs: Sequence[Any]) -> Problem:
        """The same function at another point."""
        leaves = list(self.leaves)
        for i, value in zip(self.wrt, inputs, strict=True):
            leaves[i] = value
        return replace(self, leaves=leaves)

    def widened(self, dtype: Any = jnp.float64) -> Problem:
        """The same point in another dtype; of float64 call it inside `x64()`."""
        leaves = [
            jnp.asarray(np.asarray(x, np.float64), dtype)
            if _is_inexact(x) and type(x) is not float
            else x
            for x in self.leaves
        ]
        return replace(self, leaves=leaves)

    def call(self, *inputs: Any) -> Any:
        """All of f's results, for other values of the differentiated leaves."""
        args, kwargs = jax.tree.unflatten(self.structure, self.at(inputs).leaves)
        return self.f(*args, **kwargs)

    def outputs(self, *inputs: Any) -> list[Array]:
        """f's results that can be differentiated, as a list."""
        return [y for y in jax.tree.leaves(self.call(*inputs)) if _is_inexact(y)]


def _is_inexact(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return isinstance(value, float | complex)
    return not jnp.issubdtype(dtype, jax.dtypes.extended) and jnp.issubdtype(dtype, jnp.inexact)


def state(
    f: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    wrt: Sequence[str] | None,
) -> Problem:
    """Take arguments apart; NumPy arrays are copied, Python floats become arrays.

    Raises:
      GradcheckError: complex leaves, nothing to differentiate, patterns that match nothing.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path((tuple(args), dict(kwargs or {})))
    names = [_path(path) for path, _ in paths]
    # arrays of NumPy become JAX's: in its default dtypes, and none is written to
    leaves = [_taken(leaf) for _, leaf in paths]
    inexact = [i for i, leaf in enumerate(leaves) if _is_inexact(leaf)]
    for pattern in wrt or ():
        if not fnmatch.filter([names[i] for i in inexact], _literal(pattern)):
            raise GradcheckError(
                f"gradcheck: wrt pattern {pattern!r} matches no floating-point leaf; there "
                f"are {', '.join(names[i] for i in inexact) or 'none'}"
            )
    chosen = [
        i for i in inexact
        if wrt is None or any(fnmatch.fnmatch(names[i], _literal(p)) for p in wrt)
    ]  # fmt: skip
    for i in inexact:
        if i not in chosen and type(leaves[i]) is float:
            continue  # held as it is: f may want a number, and no array
        taken = jnp.array(leaves[i])
        leaves[i] = taken if taken.ndim == 0 else jnp.array(taken, taken.dtype)  # no weak type
        if jnp.issubdtype(taken.dtype, jnp.complexfloating):
            raise GradcheckError(
                f"gradcheck: {names[i]} is complex ({taken.dtype}), which is not supported; "
                "check a function of the real and the imaginary part as two arguments"
            )
    inexact = chosen
    inexact = [i for i in inexact if leaves[i].size]
    if not inexact:
        kinds = ", ".join(f"{n}: {getattr(v, 'dtype', type(v).__name__)}"
                          for n, v in zip(names, leaves, strict=True))  # fmt: skip
        raise GradcheckError(
            "gradcheck: no argument can be differentiated: it takes at least one floating-point "
            f"array that is not empty, got {kinds or 'no arguments'}"
        )
    return Problem(f, structure, leaves, names, tuple(inexact))


def like(x: Any, values: Any) -> Array:
    """Values as an array of x's dtype, which a Python float lends to what it meets if x does."""
    if np.ndim(x) == 0 and jax.typeof(x).weak_type:
        return jnp.asarray(float(values))
    return jnp.asarray(values, x.dtype)


def _taken(leaf: Any) -> Any:
    if not isinstance(leaf, np.ndarray) or leaf.dtype == object:
        return leaf
    return jnp.array(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype))


def _path(path: tuple[Any, ...]) -> str:
    which, name, *rest = path
    if which.idx == 0:
        return f"args[{name.idx}]" + jax.tree_util.keystr(tuple(rest))
    return f"{name.key}" + jax.tree_util.keystr(tuple(rest))


def _literal(pattern: str) -> str:
    """A leaf path as a pattern: * and ? are wild, brackets are themselves."""
    return pattern.replace("[", "[[]")


def checked_outputs(problem: Problem) -> list[jax.ShapeDtypeStruct]:
    """Shapes of f's differentiable results, found without running it.

    Raises:
      GradcheckError: no floating-point result, or a complex one; an argument that f cannot have
        traced.
    """
    try:
        shapes = jax.eval_shape(problem.outputs, *problem.inputs)
    except _TRACED as error:
        floats = [
            name for name, x in zip(problem.input_names, problem.inputs, strict=True) if x.ndim == 0
        ]
        raise GradcheckError(
            f"gradcheck: {problem.name} uses an argument as a plain number or as a static one, "
            f"which is differentiated here ({', '.join(floats) or 'an array'}): name the others in "
            f"wrt, or close over it; JAX says: {str(error).splitlines()[0]}"
        ) from error
    shapes = [s for s in shapes if s.size]
    if not shapes:
        raise GradcheckError(
            f"gradcheck: {problem.name} returns nothing that can be differentiated: it takes at "
            "least one floating-point result that is not empty"
        )
    for shape in shapes:
        if jnp.issubdtype(shape.dtype, jnp.complexfloating):
            raise GradcheckError(
                f"gradcheck: {problem.name} returns a complex array, which is not supported; "
                "return its real and imaginary part"
            )
    return shapes
