"""Dtypes to accumulate in, and to count rows in."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.numerics.dtypes import row_numbers, wide


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


def test_bytes_become_row_numbers_that_can_be_compared_with_any_size():
    assert row_numbers(jnp.array([200, 255], jnp.uint8)).dtype == jnp.int32
    assert row_numbers(jnp.array([1], jnp.int64)).dtype == jnp.int64
