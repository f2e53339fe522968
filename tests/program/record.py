"""A program of the zoo, and how its parameters, examples and targets are drawn.

A program is a loss of ONE example in plain JAX, with the layers of whatever library it was written
in. Shapes are small, since every program is compiled; parameters are drawn, not initialised: zero
biases and unit scales hide errors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

N = 5
"""Examples in a batch; no other axis has this size where it can be avoided."""

Made = tuple[Callable[..., Any], Any, tuple[Any, ...]]
"""A loss of one example, its parameters and the examples of a batch."""


@dataclass(frozen=True, eq=False)
class Program:
    """One line of the zoo.

    Attributes:
      name: the family, a dash and what the program is: the id of its tests.
      make: from a dtype to (loss, params, batch), where ``loss(params, *example)`` is a scalar
        and the inexact leaves of `params` and `batch` have that dtype.
      in_axes: the axes of the examples in `batch`, as for `jax.vmap`.
      keep_batch_dim: the loss is written for a batch, and gets a batch of one example.
      zeros: parts of the paths of parameters whose gradient is zero by the structure.
      surrogate: the gradient is not the forward's: it is stopped, passed straight through, or
        computed in another precision; finite differences say nothing about it.
      linear: no rule in it does to a cotangent what is not linear. With such a rule the gradient of
        the mean is not the mean of the examples' gradients, and the latter is what we ask for.
      rtol: how far apart right answers may be, where the program rounds in less than its dtype.
    """

    name: str
    make: Callable[[Any], Made]
    in_axes: Any = 0
    keep_batch_dim: bool = False
    zeros: tuple[str, ...] = ()
    surrogate: bool = False
    linear: bool = True
    rtol: float | None = None


def family(name: str, programs: list[Program]) -> Callable[..., Any]:
    """A decorator that adds a function from a dtype to a program, with its fields."""

    def register(**fields: Any) -> Callable[[Callable[[Any], Made]], Callable[[Any], Made]]:
        def add(make):
            programs.append(Program(f"{name}-{make.__name__}", make, **fields))
            return make

        return add

    return register


# --- drawing ------------------------------------------------------------------------------------


def normal(dtype: Any, *shape: int, seed: int = 1, scale: float = 1.0) -> jax.Array:
    """Normal numbers of that shape."""
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), dtype)


def integers(below: int, *shape: int, seed: int = 2) -> jax.Array:
    """Integers from 0 to `below` - 1."""
    return jnp.asarray(np.random.default_rng(seed).integers(below, size=shape), jnp.int32)


def weights(dtype: Any, seed: int = 3, **shapes: Any) -> dict[str, Any]:
    """A dict of parameters: ``weights(dtype, w=(3, 4), b=4)``."""
    sized = {
        name: jax.ShapeDtypeStruct((shape,) if isinstance(shape, int) else shape, dtype)
        for name, shape in shapes.items()
    }
    return drawn(sized, dtype, seed)


def drawn(shapes: Any, dtype: Any, seed: int = 3) -> Any:
    """Parameters for the inexact leaves of a tree of arrays or of their shapes.

    Vectors are around 1/2, so that they serve as scales as well as biases.
    """
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)):
            return leaf
        middle = 0.5 if len(leaf.shape) <= 1 else 0.0
        return jnp.asarray(middle + 0.4 * rng.normal(size=leaf.shape), dtype)

    return jax.tree.map(draw, shapes)


# --- losses -------------------------------------------------------------------------------------


def half_square(y: jax.Array) -> jax.Array:
    """Half the sum of the squares."""
    return 0.5 * jnp.sum(jnp.square(y))


def cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Mean cross-entropy over all positions."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), label[..., None], axis=-1)
    return -jnp.mean(picked)


def first(batch: Any) -> Any:
    """The first example of a batch."""
    return jax.tree.map(lambda leaf: leaf[0], batch)


def squared_error(
    apply: Callable[..., Any],
    params: Any,
    inputs: tuple[Any, ...],
    dtype: Any,
    keep_batch_dim: bool = False,
) -> Made:
    """The squared error of ``apply(params, *inputs)`` against a drawn target."""
    example = jax.tree.map(lambda leaf: leaf[:1], inputs) if keep_batch_dim else first(inputs)
    shape = jax.eval_shape(apply, params, *example).shape
    targets = normal(dtype, N, *(shape[1:] if keep_batch_dim else shape), seed=4)

    def loss(params, *example):
        *xs, target = example
        return half_square(apply(params, *xs).astype(target.dtype) - target)

    return loss, params, (*inputs, targets)


def classification(
    apply: Callable[..., Any], params: Any, inputs: tuple[Any, ...], labels: jax.Array
) -> Made:
    """The cross-entropy of the logits ``apply(params, *inputs)`` against labels."""

    def loss(params, *example):
        *xs, label = example
        return cross_entropy(apply(params, *xs), label)

    return loss, params, (*inputs, labels)


# --- what the small programs share --------------------------------------------------------------


def sequence(dtype: Any) -> tuple[jax.Array]:
    """Examples of 4 positions with 6 features."""
    return (normal(dtype, N, 4, 6),)


def one_layer(dtype: Any) -> dict[str, jax.Array]:
    """The parameters of one dense layer."""
    return weights(dtype, w=(6, 6), b=6)


def stack(dtype: Any, **more: Any) -> dict[str, jax.Array]:
    """Those of three, in one stack."""
    return weights(dtype, w=(3, 6, 6), b=(3, 6), **more)


def dense_tanh(params: Any, x: jax.Array) -> jax.Array:
    """A dense layer and tanh."""
    return jnp.tanh(x @ params["w"] + params["b"])
