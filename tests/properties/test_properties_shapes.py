"""Manual = autodiff for shapes that nobody chose."""

from math import prod

import jax.numpy as jnp
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from jaxdl import dense, layer_norm, self_attention, softmax_cross_entropy
from jaxdl.core.factors import Sum
from tests.cases import (
    assert_same,
    compiled_autodiff,
    cotangents,
    draw,
    loss_layer,
    normal,
    planted,
    wrong_dense,
)

sizes = st.integers(1, 9)
leading = st.lists(sizes, min_size=1, max_size=3).map(tuple)
"""Examples, and up to two axes of positions."""


def check(layer, *shape):
    case = planted(layer, normal(*shape))
    sample = draw(case)
    assert_same(cotangents(case, sample), compiled_autodiff(layer)(*sample), 1e-10)


@given(leading, sizes, sizes)
@example((1,), 1, 1)
def test_dense(lead, m, k):
    check(dense(k), *lead, m)


@given(leading, st.integers(2, 9))
def test_layer_norm(lead, m):
    check(layer_norm(), *lead, m)


@given(leading, sizes, st.floats(0, 0.9))
@example((1,), 1, 0.0)
def test_softmax_cross_entropy(lead, classes, smoothing):
    labels = jnp.arange(prod(lead)).reshape(lead) % classes
    check(loss_layer(softmax_cross_entropy(label_smoothing=smoothing), labels), *lead, classes)


@settings(max_examples=5)
@given(st.integers(1, 3), sizes, st.integers(1, 3), st.integers(1, 4), st.booleans())
@example(1, 1, 1, 1, True)
def test_self_attention(n, t, heads, width, causal):
    check(self_attention(heads, causal=causal), n, t, heads * width)


def test_random_shapes_catch_a_dropped_tail():
    """Blocks of four positions, the rest forgotten: right for every multiple of four."""

    def change(params, x, dy, factors, dx):
        whole = dy.shape[0] // 4 * 4
        return factors | {"b": Sum(dy.at[whole:].set(0))}, dx

    layer = wrong_dense(change)
    check(layer, 8, 6)

    @settings(phases=[Phase.generate])  # found is enough; the smallest one costs compilations
    @given(leading, sizes)
    def property(lead, m):
        check(layer, *lead, m)

    with pytest.raises(AssertionError):
        property()
