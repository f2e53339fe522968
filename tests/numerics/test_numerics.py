"""Dtypes to accumulate in, and row numbers in range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.numerics.dtypes import check_range, explicit_sharding, row_numbers, wide


@pytest.mark.parametrize(
    ("dtype", "accumulated"),
    [
        (jnp.bfloat16, "float32"),
        (np.float16, "float32"),
        ("float32", "float32"),
        (float, "float64"),
    ],
)
def test_sums_are_taken_in_float32_or_wider(dtype, accumulated):
    assert jnp.dtype(wide(dtype)) == accumulated


def test_no_sharding_is_asked_for_without_explicit_axes():
    assert explicit_sharding(jnp.ones(3)) is None


def test_bytes_become_row_numbers_that_can_be_compared_with_any_size():
    assert row_numbers(jnp.array([200, 255], jnp.uint8)).dtype == jnp.int32
    assert row_numbers(jnp.array([1], jnp.int64)).dtype == jnp.int64


def test_range_of_known_numbers_and_of_traced_ones():
    check_range("rows", jnp.array([0, 4]), 5)
    check_range("rows", jnp.zeros(0, jnp.int32), 5)
    for wrong in ([-1, 2], [0, 5]):
        with pytest.raises(ValueError, match=r"rows must be in 0 \.\.\. 4, got values from"):
            check_range("rows", jnp.array(wrong), 5)
    jax.jit(lambda ids: check_range("rows", ids, 5))(jnp.array([9]))  # cannot be read: no error
