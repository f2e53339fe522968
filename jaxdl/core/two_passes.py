"""A `TwoPass` reducer over a model: examples are measured, weighted, and then reduced.

    w = weights(measure(∇₁, …, ∇_N))          then(w₁∇₁, …, w_N∇_N)

The forward runs once. For the second pass the factors of the first are kept and weighted, or the
backward runs again from the cotangent of the output with every example weighted: it is linear in
dy, and examples do not mix.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core.layer import Layer, walk_layers
from jaxdl.core.reducers import (
    TwoPass,
    combine,
    is_combined,
    keep_for,
    measured,
    reduce_kept,
)
from jaxdl.numerics.dtypes import wide


def weigh_and_reduce(
    model: Layer, params: Any, residuals: Any, dy: Any, reduce: TwoPass, slots: Any = None
) -> Any:
    """What the reducer makes of the model's factors, in the cheaper of the two ways."""
    if backward_again_pays(model):
        return backward_again(model, params, residuals, dy, reduce, slots)
    kept, _ = model.bwd(params, residuals, dy, keep_for(reduce))
    return reduce_kept(reduce, params, kept, slots)


def backward_again_pays(model: Layer) -> bool:
    """Whether to run the backward twice; else the factors are kept.

    To run it again costs every dx once more, and memory for one layer at a time. To keep is faster:
    factors are mostly made of what is there anyway, also in a scan; the cotangents are new. But a
    `remat` would keep, after all, what it is there to forget.

    Measured for `clipped_sum` (two CPU cores, jaxlib 0.10, 64 examples, `bench.examples`), time and
    temporary memory as multiples of the plain gradient's:

        transformer, 4 blocks, T = 64   kept           again
        repeated                        1.33  1.38     1.41  1.05
        repeated and rematerialised     1.33  2.85     1.57  1.40
        one by one                      1.25  1.21     1.44  1.14
        convolutional net               1.34  1.50     1.51  1.64
        MLP                             0.96  0.5 MB   1.09  0.3 MB
    """
    return any(layer.name == "remat" for _, layer in walk_layers(model))


def backward_again(
    model: Layer, params: Any, residuals: Any, dy: Any, reduce: TwoPass, slots: Any = None
) -> Any:
    """The second pass is a second backward, of weighted dy."""
    measure, only = measured(reduce.measure)
    first, _ = model.bwd(params, residuals, dy, measure)
    weights = reduce.weights(only(first))
    dy = jax.tree.map(lambda d: _weigh(d, weights), dy)
    second, _ = model.bwd(params, residuals, dy, combine(then=reduce.then), slots)
    # a tap reports the cotangent of the loss, not a weighted one
    return jax.tree.map(
        lambda one, two: two["then"] if is_combined(one) else one,
        first, second, is_leaf=is_combined,
    )  # fmt: skip


def _weigh(d: Array, weights: Array) -> Array:
    """d (N, ...) with every example times its weight, in the dtype of d."""
    dtype = wide(d.dtype)
    weights = jnp.expand_dims(weights.astype(dtype), tuple(range(1, d.ndim)))
    return (d.astype(dtype) * weights).astype(d.dtype)
