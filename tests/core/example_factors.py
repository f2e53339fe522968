"""One factor of every kind, with what the reducers of single examples must make of it."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.core.composed_factors import Common
from jaxdl.core.factor import Factor, factor_kind
from jaxdl.core.factors import ConvOuter, Diag, Local, Many, Outer, Scatter, Sum, Zero
from jaxdl.numerics.window import place_window

assert_close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-11)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@factor_kind
class Reversed(Factor):
    """A kind that no reducer has heard of: another factor's parameter, turned round.

    Its examples are not all that it holds: `shared` is one for all of them.
    """

    inside: Factor
    shared: Any

    @property
    def examples(self):
        return self.inside.examples

    def form(self, param):
        return self.shared * self.inside.form(param)[::-1]

    def split(self):
        return self.inside, lambda some: replace(self, inside=some)


IDS = jnp.array([[0, 6, 6], [-1, 7, 3], [3, 3, 0], [6, 0, 2]])
"""Some rows twice, two that do not exist."""
OUTER = Outer(draw(4, 5), draw(4, 6, seed=1))
POSITIONS = Outer(draw(4, 50, 2), draw(4, 50, 3, seed=1))
SCATTER = Scatter(IDS, draw(4, 3, 5))


def conv(*space, groups=1, flip=False, time=()):
    window = place_window("conv", space, (2,) * len(space), (1,) * len(space), "valid",
                          (1,) * len(space), groups)  # fmt: skip
    out = [size - 1 for size in space]
    return ConvOuter(draw(4, *time, *space, 2), draw(4, *time, *out, 4, seed=1), window, flip)


FACTORS = {
    "outer": (OUTER, (5, 6)),
    "outer_by_pairs": (Outer(draw(4, 2, 20), draw(4, 2, 30, seed=1)), (20, 30)),
    "outer_formed": (POSITIONS, (2, 3)),
    "sum": (Sum(draw(4, 3, 5)), (5,)),
    "sum_of_scalars": (Sum(draw(4, 3)), ()),
    "sum_of_matrices": (Sum(draw(4, 3, 5, 2)), (5, 2)),
    "diag": (Diag(draw(4, 3, 5), draw(4, 3, 5, seed=1)), (5,)),
    "scatter": (SCATTER, (7, 5)),
    "scatter_of_few_rows": (Scatter(IDS[:, :1].repeat(3, 1) % 2, draw(4, 3, 5)), (2, 5)),
    "conv": (conv(3, 4), (2, 2, 2, 4)),
    "conv_flip": (conv(3, 4, flip=True), (2, 2, 2, 4)),
    "conv_groups": (conv(4, groups=2), (2, 1, 4)),
    "conv_over_time": (conv(4, time=(3,)), (2, 2, 4)),
    "local": (Local(draw(4, 3, 5), draw(4, 3, 2, seed=1)), (3, 5, 2)),
    "local_over_time": (Local(draw(4, 2, 3, 5), draw(4, 2, 3, 2, seed=1)), (3, 5, 2)),
    "many": (Many((OUTER, Outer(draw(4, 2, 5, seed=2), draw(4, 2, 6, seed=3)))), (5, 6)),
    "many_mixed": (Many((SCATTER, Outer(draw(4, 3, 7, seed=2), draw(4, 3, 5, seed=3)))), (7, 5)),
    "many_with_zero": (Many((Zero(4), OUTER)), (5, 6)),
    "many_unknown": (Many((Reversed(OUTER, jnp.asarray(2.0)), OUTER)), (5, 6)),
    "common": (Common(draw(4, 3), draw(5, 6, seed=1)), (5, 6)),
    "many_common": (Many((OUTER, Common(draw(4), draw(5, 6, seed=2)))), (5, 6)),
    "many_common_twice": (
        Many((SCATTER, Common(draw(4), draw(7, 5)), Common(draw(4, seed=1), draw(7, 5, seed=2)))),
        (7, 5),
    ),
    "many_common_conv": (
        Many((conv(3, 4), Common(draw(4), draw(2, 2, 2, 4, seed=2)))),
        (2, 2, 2, 4),
    ),
    "many_common_first": (Many((Common(draw(4), draw(5)), Sum(draw(4, 3, 5)))), (5,)),
    "many_common_unknown": (
        Many((Reversed(OUTER, jnp.asarray(2.0)), Common(draw(4), draw(5, 6)))),
        (5, 6),
    ),
    "zero": (Zero(4), (5, 6)),
    "unknown": (Reversed(POSITIONS, jnp.asarray(2.0)), (2, 3)),
}


def alone(factor, i):
    """The factor of one example."""
    rows, join = factor.split()
    return join(jax.tree.map(lambda array: array[i : i + 1], rows))


def gradients(factor, shape):
    """∇ᵢ of every example, formed one by one: (N, *shape)."""
    param = jnp.zeros(shape)
    if isinstance(factor, Zero):
        return np.zeros((factor.examples, *shape))
    return np.stack([np.asarray(alone(factor, i).form(param)) for i in range(factor.examples)])


def backwards(factor):
    """The same kind of factor, of another batch: the examples in another order, and fewer."""
    if isinstance(factor, Zero):
        return Zero(3)
    if isinstance(factor, Many):
        return Many(tuple(backwards(part) for part in factor.factors))
    rows, join = factor.split()
    return join(jax.tree.map(lambda array: array[:0:-1], rows))
