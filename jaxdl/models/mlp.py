"""The multi-layer perceptron: dense layers with an activation between them."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import jax

from jaxdl.core.compose import serial
from jaxdl.core.layer import Layer
from jaxdl.layers import activation as act
from jaxdl.layers.dense import dense
from jaxdl.layers.dropout import dropout

ACTIVATIONS: Mapping[str, Callable[[], Layer]] = MappingProxyType(
    {
        "relu": act.relu,
        "leaky_relu": act.leaky_relu,
        "elu": act.elu,
        "sigmoid": act.sigmoid,
        "tanh": act.tanh,
        "softplus": act.softplus,
        "silu": act.silu,
        "gelu": act.gelu,
        "identity": act.identity,
    }
)
"""Elementwise activations by name, for settings."""


def mlp(
    widths: Sequence[int],
    *,
    activation: Callable[[], Layer] = act.relu,
    dropout_rate: float = 0.0,
    w_init: jax.nn.initializers.Initializer = jax.nn.initializers.he_normal(),
) -> Layer:
    """(..., m) to (..., widths[-1]): dense, activation, ..., dense.

    Args:
      widths: of every hidden layer and of the output; `[10]` is (multinomial) regression.
      activation: between the dense layers, not behind the last.
      dropout_rate: after each activation, in training.
      w_init: initial weights; biases start at 0.
    """
    if not widths:
        raise ValueError("mlp: widths must name at least the output width, got none; e.g. [32, 10]")
    layers = []
    for width in widths[:-1]:
        layers += [dense(width, w_init=w_init), activation()]
        if dropout_rate:
            layers.append(dropout(dropout_rate))
    return serial(*layers, dense(widths[-1], w_init=w_init))
