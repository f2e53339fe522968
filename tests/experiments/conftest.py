"""Experiments are tested in the default mode of JAX, in which their users run them."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def default_mode():
    """For fixtures of a whole file, too: 32 bits, and dtypes that may mix."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield
