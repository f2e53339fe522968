"""The sparse autoencoder and its loss (Ng 2011, CS294A lecture notes; Olshausen & Field 1996).

Shapes: x (N, m), code a (N, h), reconstruction r (N, m).

    a = σ(x·w₁ + b₁)        r = a·w₂ + b₂
    loss = ½ Σₙ ‖rₙ − xₙ‖²/N + β Σⱼ KL(ρ ‖ mean of aⱼ over the batch)

The loss needs the code beside the reconstruction. So the model returns both in one array, [a, r]
(N, h + m): a `branch` joins the code, passed on as it is, with what the decoder makes of it. All
that works on a model of one output, on either path and with every reducer, works on this one. The
cotangents of both parts meet again at the code, where the branches do. Weight decay, the third term
of the notes, is the optimiser's: `optax.add_decayed_weights`, masked to spare biases.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core.compose import branch, serial
from jaxdl.core.layer import Layer
from jaxdl.core.loss import Loss, half_squared_error, kl_sparsity
from jaxdl.layers.activation import identity, sigmoid
from jaxdl.layers.dense import dense
from jaxdl.models.convnet import Activation, Initializer
from jaxdl.numerics.checks import check_array
from jaxdl.numerics.dtypes import wide

glorot_uniform = jax.nn.initializers.glorot_uniform()


def sparse_autoencoder(
    hidden: int,
    inputs: int,
    *,
    output: Activation = identity,
    w_init: Initializer = glorot_uniform,
) -> Layer:
    """Sigmoid encoder and dense decoder: x (N, inputs) to [code, reconstruction], joined.

    The output is (N, hidden + inputs); `split_code` takes it apart. Parameters are those of the
    encoder and of the decoder: `params["encoder"]["w"]` (inputs, hidden) holds a feature in each
    column, `params["decoder"]["dense"]["w"]` gives them back.

    Args:
      hidden: units of the code.
      inputs: width of x, and so of the reconstruction.
      output: behind the decoder; `sigmoid` for data in (0, 1).
      w_init: initial weights; biases start at 0.

    Raises:
      ValueError: a width below 1.
    """
    decoder = serial(dense(inputs, w_init=w_init), output())
    return serial(
        encoder=dense(hidden, w_init=w_init),
        sigmoid=sigmoid(),
        decoder=branch(identity(), decoder, join="concat"),
    )


def split_code(y: Array, inputs: int) -> tuple[Array, Array]:
    """(code, reconstruction) of what `sparse_autoencoder` returns, for x of width `inputs`."""
    return y[..., :-inputs], y[..., -inputs:]


def _fwd(y, target, where=None, *, sparsity, beta):
    name = "sparse_autoencoder_loss"
    check_array(f"{name}: y", y)
    check_array(f"{name}: target", target)
    y, target = jnp.asarray(y), jnp.asarray(target)
    if y.shape[:-1] != target.shape[:-1] or not y.shape[-1:] > target.shape[-1:]:
        raise ValueError(
            f"{name}: y must hold a code and a reconstruction of the target {target.shape}, joined "
            f"along the last axis, got shape {y.shape}; give the output of sparse_autoencoder and "
            "its input as the target"
        )
    code, reconstruction = split_code(y, target.shape[-1])
    dtype = wide(y.dtype)
    weights = jnp.ones(y.shape[:-1], dtype) if where is None else jnp.asarray(where).astype(dtype)
    if weights.shape != y.shape[:-1]:
        raise ValueError(
            f"{name}: where must have one weight an example, {y.shape[:-1]}, got shape "
            f"{weights.shape}; both parts of the loss use it"
        )
    mass = jnp.sum(weights)
    shares = (weights / jnp.where(mass == 0, 1, mass))[..., None]
    error, d_reconstruction = half_squared_error().fwd(reconstruction, target, shares)
    penalty, d_code = sparsity.fwd(code, None, where)
    dy = jnp.concatenate([beta * d_code, d_reconstruction], axis=-1)
    return error + beta * penalty, dy  # the cotangent itself, as the losses it is made of


def _bwd(dy: Array, dvalue: Any = 1.0) -> Array:
    return dy * jnp.asarray(dvalue).astype(dy.dtype)


def sparse_autoencoder_loss(rho: float = 0.05, beta: float = 3.0) -> Loss:
    """½ squared error of the reconstruction, a mean over examples, + β · `kl_sparsity` of the code.

    ``loss(y, x)`` for the output y (N, hidden + inputs) of `sparse_autoencoder` and its input x
    (N, inputs); `where` is one weight an example, (N,). The penalty is about the mean activation
    of each unit over the batch: it mixes the examples, and means little for one example alone.

    Args:
      rho: the mean activation aimed at, in (0, 1).
      beta: weight of the penalty, at least 0; 0 gives a plain autoencoder.

    Raises:
      ValueError: `rho` or `beta` out of range; shapes that do not fit together (when called).
    """
    if not beta >= 0:
        raise ValueError(
            f"sparse_autoencoder_loss: beta must be at least 0, got {beta}; a usual one is 3.0"
        )
    fwd = partial(_fwd, sparsity=kl_sparsity(rho), beta=float(beta))
    return Loss("sparse_autoencoder_loss", fwd, _bwd, mixes=beta > 0)
