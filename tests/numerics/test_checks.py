"""The checks that leaves make of inputs and parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.numerics.checks import (
    check_array,
    check_floating,
    check_params,
    check_range,
    is_inexact,
)


def test_inexact():
    assert is_inexact(jnp.ones(1, jnp.bfloat16)) and is_inexact(1j) and not is_inexact(3)


def test_one_array_and_no_list():
    check_array("thing: x", np.ones(2))
    with pytest.raises(TypeError, match=r"thing: x must be an array, got a list; use"):
        check_array("thing: x", [1.0])


@pytest.mark.parametrize("x", [jnp.ones(2, jnp.int32), jnp.ones(2, complex), jnp.ones(2, bool)])
def test_floating(x):
    with pytest.raises(TypeError, match=rf"thing: x must be floating point, got {x.dtype} of"):
        check_floating("thing", x)


def test_shapes_of_parameters():
    params = {"w": jnp.ones((3, 4)), "b": jnp.ones(1)}
    check_params("thing", params, w=(None, 4), absent=(7,))
    with pytest.raises(ValueError, match=r"params\['b'\] must have shape \(4,\), got \(1,\); use"):
        check_params("thing", params, w=(3, 4), b=(4,))
    with pytest.raises(ValueError, match=r"must have shape \(any,\), got \(3, 4\)"):
        check_params("thing", params, w=(None,))


def test_range_of_known_numbers_and_of_traced_ones():
    check_range("rows", jnp.array([0, 4]), 5)
    check_range("rows", jnp.zeros(0, jnp.int32), 5)
    for wrong in ([-1, 2], [0, 5]):
        with pytest.raises(ValueError, match=r"rows must be in 0 \.\.\. 4, got values from"):
            check_range("rows", jnp.array(wrong), 5)
    jax.jit(lambda ids: check_range("rows", ids, 5))(jnp.array([9]))  # cannot be read: no error
