"""Mean and variance of gradients over the examples of a batch, and the noise scale.

With ∇ᵢ the gradients of N examples:

    m   = Σ ∇ᵢ / N                    s = Σ ∇ᵢ∘∇ᵢ / N            entry by entry
    var = (s − m∘m)·N/(N − 1)
    tr  = (Σ‖∇ᵢ‖² − ‖Σ∇ᵢ‖²/N)/(N − 1)                     unbiased for tr Σ, the noise
    G²  = (‖Σ∇ᵢ‖² − Σ‖∇ᵢ‖²)/(N(N − 1))                    unbiased for |G|², the signal
    B   = tr / G²                                          the noise scale

Σᵢ ∇ᵢ∘∇ᵢ of a matrix used at one position is (a∘a)ᵀ(d∘d), one product as large as the gradient's.
With several positions the gradients of a few examples at a time are formed, and let go of.

References: McCandlish et al. (2018, arXiv:1812.06162), equations 2.8 and A.1 to A.3; the product
of squares, Dangel et al. (2020, arXiv:1912.10985).
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core.composed_factors import Common
from jaxdl.core.example_norms import example_sq_norms
from jaxdl.core.examples import check_apart, rows_of, scaled, sum_over_examples, summed
from jaxdl.core.factors import Diag, Factor, Local, Many, Outer, Scatter, Sum, Zero
from jaxdl.core.reducer import Factors, per_example
from jaxdl.core.viewed_factors import Moved
from jaxdl.numerics.dtypes import wide


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Noise:
    """Unbiased estimates, of one parameter or of a stack: both add up over parameters."""

    trace: Array
    """tr Σ, the sum of the variances of a single example's gradient."""
    sq_norm: Array
    """|G|² of the true gradient; below 0 where the noise drowns it."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    """What `moments` gives for each parameter, entry by entry, in float32 or wider."""

    mean: Array
    """Σ∇ᵢ/N: of the gradients of single examples."""
    second: Array
    """Σ∇ᵢ∘∇ᵢ/N."""
    examples: int = field(metadata={"static": True})
    """N."""

    @property
    def variance(self) -> Array:
        """Of the gradient of one example, unbiased; from sums of squares, so that digits are lost
        where it is far below the square of the mean."""
        n = _two("moments", self.examples)
        return jnp.maximum(self.second - jnp.square(self.mean), 0) * (n / (n - 1))


@per_example
def moments(params: dict[str, Array], factors: Factors, slots: Any = None) -> dict[str, Moments]:
    """Mean and second moment over examples of each entry of each parameter's gradient: `Moments`.

    They are those of ∇ᵢ, the example's own contribution to the loss: with a mean loss, 1/N and 1/N²
    of those of its loss. An example of weight 0 (padding) counts as one whose gradient is 0. No
    array of examples × a matrix's entries is formed.

    Raises:
      FactorError: an already formed gradient, which has no examples in it.
    """
    return {name: _moments(factors[name], param) for name, param in params.items()}


def _moments(factor: Factor, param: Array) -> Moments:
    check_apart("moments", factor)
    if isinstance(factor, Moved):
        viewed = _moments(factor.factor, factor.view(param))
        return jax.tree.map(lambda x: factor.back(x, param.shape), viewed)
    n = factor.examples
    squares = _sum_of_squares(factor, param)
    whole = summed(factor, param.astype(wide(param.dtype)))
    return Moments(whole / n, squares.astype(whole.dtype) / n, n)


def _sum_of_squares(factor: Factor, param: Array) -> Array:
    """Σᵢ ∇ᵢ∘∇ᵢ."""
    if isinstance(factor, Zero):
        return jnp.zeros_like(param, dtype=wide(param.dtype))
    *apart, common = factor.factors if isinstance(factor, Many) else (factor,)
    if isinstance(common, Common) and not jnp.iscomplexobj(param):
        # (∇ᵢ + cᵢg)∘(∇ᵢ + cᵢg), and what is mixed of it is linear in ∇ᵢ
        g, c = _wide(common.g), common.weights
        own = jnp.sum(jnp.square(c)) * jnp.square(g)
        if not apart:
            return own
        rest = Many(tuple(apart)) if len(apart) > 1 else apart[0]
        mixed = 2 * g * _wide(scaled(rest, c).form(param))
        return own + mixed + _sum_of_squares(rest, param)
    if isinstance(factor, Diag):
        factor = factor.summed()
    if isinstance(factor, Sum):
        positions = tuple(range(1, factor.d.ndim - param.ndim))
        per_example = jnp.sum(factor.d, axis=positions, dtype=wide(factor.d.dtype))
        return jnp.sum(jnp.square(per_example), axis=0)
    if isinstance(factor, Outer) and rows_of(factor.d).shape[1] == 1:
        return Outer(_square(factor.a), _square(factor.d)).form(param)
    if isinstance(factor, Local) and factor.a.ndim == 3:
        return Local(_square(factor.a), _square(factor.d)).form(param)
    if isinstance(factor, Scatter) and rows_of(factor.d).shape[1] <= param.shape[0]:
        # (Σₜ dₜ)² of a row is Σₜ dₜ∘(the sum of all that go to the same row): no table an example
        ids, d = factor.ids.reshape(len(factor.ids), -1), rows_of(factor.d)
        d = d.astype(wide(d.dtype))
        same = (ids[:, :, None] == ids[:, None, :]).astype(d.dtype)
        return Scatter(ids, d * jnp.einsum("nts,nsk->ntk", same, d)).form(param)
    return sum_over_examples(jnp.square, factor, param)


def _wide(array: Array) -> Array:
    return array.astype(wide(array.dtype))


def _square(array: Array) -> Array:
    return jnp.square(_wide(array))


# --- the noise scale ----------------------------------------------------------------------------


@per_example
def gradient_noise(
    params: dict[str, Array], factors: Factors, slots: Any = None
) -> dict[str, Noise]:
    """tr Σ and |G|² for each parameter, from norms alone: `Noise`, scalars. See `noise_scale`.

    Every example counts, also one of weight 0 in the loss: leave padding out of the batch.

    Raises:
      ValueError: one example, which tells nothing of noise.
      FactorError: as `example_sq_norms`.
    """
    sq_norms = example_sq_norms(params, factors)
    return {name: _noise(factors[name], sq_norms[name], param) for name, param in params.items()}


def _noise(factor: Factor, sq_norms: Array, param: Array) -> Noise:
    n = _two("gradient_noise", len(sq_norms))
    whole = summed(factor, param.astype(wide(param.dtype)))
    return noise_of_sums(n, jnp.sum(sq_norms), jnp.sum(jnp.square(whole)).astype(sq_norms.dtype))


def noise_of_sums(n: int, sq_norms: Array, whole: Array) -> Noise:
    """The estimates, from Σ‖∇ᵢ‖² and ‖Σ∇ᵢ‖² of n > 1 examples."""
    return Noise((sq_norms - whole / n) / (n - 1), (whole - sq_norms) / (n * (n - 1)))


def noise_scale(tree: Any) -> Array:
    """tr Σ/|G|² of the whole model, a scalar, from a tree that `gradient_noise` or `moments` made.

    It does not matter whether the loss is a mean or a sum. A ratio of two noisy figures: for one to
    go by, use `critical_batch_size`. NaN if no parameter has a gradient.
    """
    noise = _total_noise(tree)
    return noise.trace / noise.sq_norm


def critical_batch_size(trees: Iterable[Any]) -> Array:
    """The ratio of the means of tr Σ and |G|² over the batches of some steps, a scalar.

    It predicts the batch size up to which training needs about as many fewer steps as the batch is
    larger: at this one it takes twice the fewest steps, and twice the fewest examples. (The
    estimate holds as far as the Hessian is a multiple of the identity.)

    Args:
      trees: what `gradient_noise` or `moments` made of batches of one size, at successive steps.

    Raises:
      ValueError: no trees.
    """
    found = [_total_noise(tree) for tree in trees]
    if not found:
        raise ValueError("critical_batch_size: there must be at least one tree, got none")
    noise = functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), found)
    return noise.trace / noise.sq_norm


def _is_node(node: Any) -> bool:
    return isinstance(node, (Noise, Moments))


def _total_noise(tree: Any) -> Noise:
    found = [node for node in jax.tree.leaves(tree, is_leaf=_is_node) if _is_node(node)]
    if not found:
        raise ValueError(
            "noise_scale: the tree must be one that gradient_noise or moments made, got one without"
            " their results; use reduce=gradient_noise"
        )
    traces, sq_norms = zip(*map(_sums, found), strict=True)
    return Noise(functools.reduce(jnp.add, traces), functools.reduce(jnp.add, sq_norms))


def _sums(node: Noise | Moments) -> tuple[Array, Array]:
    if isinstance(node, Moments):
        n = _two("moments", node.examples)
        node = noise_of_sums(
            n, n * jnp.sum(node.second), n * n * jnp.sum(jnp.square(node.mean))
        )  # fmt: skip
    return jnp.sum(node.trace), jnp.sum(node.sq_norm)


def _two(name: str, examples: int) -> int:
    if examples < 2:
        raise ValueError(
            f"{name}: a variance needs at least two examples, got {examples}; use a larger batch"
        )
    return examples
