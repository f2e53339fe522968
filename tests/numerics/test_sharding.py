"""Where results live on a mesh; under Explicit axes: tests/properties/test_sharding.py."""

import jax.numpy as jnp

from jaxdl.numerics.sharding import explicit_sharding


def test_no_sharding_is_asked_for_without_explicit_axes():
    assert explicit_sharding(jnp.ones(3)) is None
