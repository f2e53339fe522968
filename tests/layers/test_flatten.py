"""Flatten."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl as jd


def test_flatten_and_back():
    x = jnp.arange(24.0).reshape(2, 3, 4)
    y, residuals = jd.flatten().fwd({}, x)
    np.testing.assert_array_equal(y, np.arange(24.0).reshape(2, 12))
    np.testing.assert_array_equal(jd.flatten().bwd({}, residuals, y)[1], x)


def test_a_scalar_has_no_examples():
    with pytest.raises(ValueError, match="flatten: x must have a first axis of examples, got a sc"):
        jd.flatten().apply({}, jnp.float32(1))
