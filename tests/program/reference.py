"""What is right, by JAX alone: the gradient of every example, formed, and what follows from it.

Libraries rely on mixing dtypes, which the suite forbids: everything here is traced in `as_usual`.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.program.record import N, Program


def as_usual():
    """JAX's default mixing of dtypes, in which other libraries are written."""
    return jax.numpy_dtype_promotion("standard")


@dataclass(frozen=True)
class Truth:
    """Values (N,), and a tree like the parameters whose leaves have the examples in front."""

    values: np.ndarray
    gradients: Any

    def leaves(self) -> list[np.ndarray]:
        """One matrix of examples × entries for each parameter, in float64."""
        return [
            np.asarray(leaf, np.float64).reshape(N, -1) for leaf in jax.tree.leaves(self.gradients)
        ]

    def mean(self) -> Any:
        """The gradient of the mean loss."""
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64).mean(0), self.gradients)

    def sq_norms(self) -> list[np.ndarray]:
        """(N,) for each parameter."""
        return [np.square(leaf).sum(1) for leaf in self.leaves()]

    def gram(self) -> np.ndarray:
        """Inner products of the examples' gradients: (N, N)."""
        flat = np.concatenate(self.leaves(), axis=1)
        return flat @ flat.T

    def clipped_sum(self, clip: float) -> Any:
        """Σ min(1, clip/‖∇ᵢ‖)·∇ᵢ."""
        norms = np.sqrt(np.diagonal(self.gram()))
        kept = np.minimum(1.0, clip / np.maximum(norms, 1e-300))

        def weigh(leaf):
            return np.tensordot(kept, np.asarray(leaf, np.float64), 1)

        return jax.tree.map(weigh, self.gradients)


def of_one_example(program: Program, loss: Any) -> Any:
    """The loss as a function of an example without a batch axis."""
    if not program.keep_batch_dim:
        return loss
    return lambda params, *example: loss(params, *jax.tree.map(lambda leaf: leaf[None], example))


def mapped_axes(program: Program, batch: tuple[Any, ...]) -> tuple[Any, ...]:
    """`in_axes` of (params, *batch) for `jax.vmap`."""
    axes = program.in_axes
    return None, *(axes if isinstance(axes, tuple) else (axes,) * len(batch))


def reference(program: Program, dtype: Any) -> Truth:
    """Values and gradients of single examples, by `jax.vmap(jax.value_and_grad(loss))`."""
    with as_usual():
        loss, params, batch = program.make(dtype)
        one = jax.value_and_grad(of_one_example(program, loss))
        every = jax.jit(jax.vmap(one, in_axes=mapped_axes(program, batch)))
        values, gradients = every(params, *batch)
    return Truth(np.asarray(values), jax.tree.map(np.asarray, gradients))


def mean_loss(program: Program, loss: Any, batch: tuple[Any, ...]) -> Any:
    """The mean loss of the batch as a function of the parameters."""
    one = jax.vmap(of_one_example(program, loss), in_axes=mapped_axes(program, batch))
    return lambda params: jnp.mean(one(params, *batch))
