"""Dropout.

Shapes: any. With keep probability p = 1 − rate and mask m ~ Bernoulli(p), in training only:

    y  = x·m / p
    dx = dy·m / p

Reference: Srivastava et al. (2014), JMLR 15, 1929-1958; scaled in training ("inverted").
"""

from functools import partial

import jax
import jax.numpy as jnp

from jaxdl.core.layer import Layer, leaf, no_params
from jaxdl.numerics.checks import check_floating


def _fwd(params, x, key, *, rate):
    check_floating("dropout", x)
    if key is None or rate == 0:
        return x, None
    mask = jax.random.bernoulli(key, 1 - rate, x.shape)
    # the mask, a byte an element, is kept: drawing it again would cost more than reading it
    return jnp.where(mask, x / (1 - rate), 0), mask


def _bwd(params, mask, dy, *, rate):
    if mask is None:
        return {}, dy
    return {}, jnp.where(mask, dy / (1 - rate), 0)


def dropout(rate: float) -> Layer:
    """Set a fraction `rate` of the elements to 0 in training and scale up the others.

    Training means that a key is given to `fwd`; without one this is the identity.

    Args:
      rate: probability of an element being dropped, in [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(
            f"dropout: rate is the fraction dropped and must be in [0, 1), got {rate}; "
            "to keep 90 % use 0.1"
        )
    fwd, bwd = partial(_fwd, rate=float(rate)), partial(_bwd, rate=float(rate))
    return leaf("dropout", no_params, fwd, bwd, keyed=True, detail=str(rate))
