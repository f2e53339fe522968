"""The sum of clipped gradients: none of the examples can pull harder than C.

    Σᵢ min(1, C/‖∇ᵢ‖)·∇ᵢ        ‖∇ᵢ‖² = Σ over the parameters

No gradient of a single example is formed: norms come from the factors (`example_sq_norms`), and the
weights min(1, C/‖∇ᵢ‖) go into them. The sum is then one contraction for each parameter, as the
plain gradient is. On two CPU cores (64 examples, `bench.examples`) it takes 0.96 to 1.34 times as
long as that, where clipping the gradients of `vmap(grad)` takes 34 (an MLP), 5.7 (a convolutional
net) and 1.7 or 1.2 times as long (narrow transformers, repeated or one by one: an example of many
positions has small matrices), with 650 to 1.1 times the memory.

References: Abadi et al. (2016, arXiv:1607.00133); in two passes, Lee & Kifer (2021,
arXiv:2009.03106); by parameter or layer, McMahan et al. (2018, arXiv:1710.06963).
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxdl.core.example_norms import example_sq_norms
from jaxdl.core.examples import scaled, summed
from jaxdl.core.reducer import Factors, Reducer, TwoPass, per_example, per_layer
from jaxdl.core.reducers import total
from jaxdl.numerics.dtypes import wide

Per = Literal["model", "layer", "parameter"]
PER = ("model", "layer", "parameter")


def clipped_sum(max_norm: float | Array, *, per: Per = "model") -> Reducer:
    """A reducer: the sum over examples of gradients clipped to `max_norm`, like `params`.

    What is clipped is the example's own contribution to the loss: with a loss that is a mean over N
    examples, ∇ᵢ carries 1/N, and so must `max_norm`. (`reduction="sum"` has no 1/N to think of.)

    Clipping bounds what one example can do to the sum. It is not privacy: that takes noise of that
    scale (`add_noise`), examples drawn at random, and an account of all steps.

    Args:
      max_norm: C, above 0; a number or a scalar array.
      per: whose norm is clipped to C. "model": that of all parameters together, which must be known
        before any sum is: a reducer of two passes, `TwoPass`. "layer": that of the parameters of a
        leaf together; "parameter": that of each alone. Both are done in one pass, and the norm of
        an example's part in the sum is at most C·√(layers, or parameters; those of a stack count
        one by one). `value_and_reduce` meets parameters one by one and refuses "layer"; keep the
        factors there, and `reduce_kept` takes each dict of parameters for a layer.

    Raises:
      ValueError: `max_norm` is not above 0; unknown `per`.
      FactorError (when used): as `example_sq_norms`; "layer" where a parameter comes alone.
    """
    if isinstance(max_norm, (int, float)) and not max_norm > 0:
        raise ValueError(
            f"clipped_sum: max_norm must be above 0, got {max_norm}; a usual one is the median norm"
        )
    if per not in PER:
        raise ValueError(f"clipped_sum: per must be one of {PER}, got {per!r}; choose one")
    if per == "model":
        weights = partial(_weights_of_model, max_norm=max_norm)
        return TwoPass("clipped_sum", example_sq_norms, weights, _sum)
    clip = per_example(partial(_clip_here, max_norm=max_norm, together=per == "layer"))
    return per_layer(clip) if per == "layer" else clip


def clip_weights(sq_norms: Array, max_norm: float | Array) -> Array:
    """min(1, C/‖∇ᵢ‖) from ‖∇ᵢ‖² (N,); an example without gradient has weight 1."""
    c = jnp.asarray(max_norm, sq_norms.dtype)
    return jnp.where(sq_norms > c * c, c * lax.rsqrt(sq_norms), 1)


def add_noise(key: Array, tree: Any, scale: float | Array) -> Any:
    """The tree with independent normal noise of standard deviation `scale` on every entry.

    For a sum clipped to C and a noise multiplier σ: ``add_noise(key, sums, σ * C)``, once a step,
    with a new key. A reducer cannot draw it: inside a scan it would be the same for every layer.
    """
    leaves, structure = jax.tree.flatten(tree)
    noisy = []
    for leaf, leaf_key in zip(leaves, jax.random.split(key, max(1, len(leaves))), strict=False):
        dtype = wide(leaf.dtype)
        noise = jnp.asarray(scale, dtype) * jax.random.normal(leaf_key, leaf.shape, dtype)
        noisy.append((leaf.astype(dtype) + noise).astype(leaf.dtype))
    return jax.tree.unflatten(structure, noisy)


def _weights_of_model(sq_norms: Any, *, max_norm: float | Array) -> Array:
    return clip_weights(total(sq_norms), max_norm)


def _sum(params: dict[str, Array], factors: Factors, slots: Any = None) -> dict[str, Array]:
    return {name: summed(factors[name], param) for name, param in params.items()}


def _clip_here(
    params: dict[str, Array],
    factors: Factors,
    slots: Any = None,
    *,
    max_norm: float | Array,
    together: bool,
) -> dict[str, Array]:
    sq_norms = example_sq_norms(params, factors)
    if together:
        sq_norms = dict.fromkeys(params, total(sq_norms))
    return {
        name: summed(scaled(factors[name], clip_weights(sq_norms[name], max_norm)), param)
        for name, param in params.items()
    }
