"""Convolutional classifiers: LeNet, a general one, a small one for traffic signs.

All take images (N, height, width, channels) and return logits (N, classes): the softmax belongs to
the loss, `softmax_cross_entropy`.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import jax

from jaxdl.core.compose import serial
from jaxdl.core.layer import Layer
from jaxdl.layers.activation import relu
from jaxdl.layers.conv import conv
from jaxdl.layers.dense import dense
from jaxdl.layers.dropout import dropout
from jaxdl.layers.flatten import flatten
from jaxdl.layers.pool import global_pool, max_pool

Activation = Callable[[], Layer]
Initializer = jax.nn.initializers.Initializer
he_normal = jax.nn.initializers.he_normal()


def lenet(
    classes: int = 10,
    *,
    activation: Activation = relu,
    pool: Callable[[int], Layer] = max_pool,
    w_init: Initializer = he_normal,
) -> Layer:
    """LeNet-5 (LeCun et al. 1998, Proc. IEEE 86, section II.B) in today's terms.

    (N, 28, 28, 1) to logits (N, classes): two stages of convolution, activation and pooling, with
    6 and 16 maps, and dense layers of 120, 84 and `classes` units. Of 28 × 28 places 400 numbers
    are left before the first dense layer; with 10 classes there are 61,706 parameters. The first
    convolution pads, where the paper gives 32 × 32 images; the second sees all 6 maps. Other
    image sizes of at least 12 × 12 do as well.

    Args:
      classes: width of the output.
      activation: behind convolutions and hidden dense layers; the paper has `tanh`.
      pool: called with the window's size, 2; the paper has a mean with two parameters.
      w_init: initial weights; biases start at 0.

    Raises:
      ValueError: `classes` below 1; images below 12 × 12 (when init or apply sees them).
    """
    return serial(
        conv(6, 5, padding="same", w_init=w_init),
        activation(),
        pool(2),
        conv(16, 5, w_init=w_init),
        activation(),
        pool(2),
        flatten(),
        dense(120, w_init=w_init),
        activation(),
        dense(84, w_init=w_init),
        activation(),
        dense(classes, w_init=w_init),
    )


def conv_stages(
    widths: Sequence[int],
    *,
    size: int = 3,
    convs_per_stage: int = 1,
    activation: Activation = relu,
    norm: Callable[[], Layer] | None = None,
    pool: Callable[[int], Layer] = max_pool,
    dropout_rate: float = 0.0,
    w_init: Initializer = he_normal,
) -> Layer:
    """The convolutional part of a classifier: (N, height, width, C) to (N, h, w, widths[-1]).

    One stage for each width: `convs_per_stage` times convolution, norm if any, and activation,
    then pooling. A stage halves the image, rounding down: h = ⌊height / 2ˢ⌋ behind s stages.

    Args:
      widths: maps in each stage.
      size: of the kernels; the padding keeps the size of the image.
      convs_per_stage: convolutions before each pooling.
      activation: behind each convolution.
      norm: between convolution and activation, e.g. `batch_norm`, or
        `functools.partial(group_norm, 4)`; the convolutions then have no bias.
      pool: called with the window's size, 2.
      dropout_rate: behind each pooling, in training.
      w_init: initial weights.

    Raises:
      ValueError: no width; `convs_per_stage` below 1; an image that the stages leave empty.
    """
    if not widths or convs_per_stage < 1:
        raise ValueError(
            "conv_stages: widths must name the maps of at least one stage, and convs_per_stage be "
            f"at least 1, got {tuple(widths)} and {convs_per_stage}; e.g. [16, 32] and 1"
        )
    layers = []
    for width in widths:
        for _ in range(convs_per_stage):
            layers.append(conv(width, size, padding="same", use_bias=norm is None, w_init=w_init))
            layers += [activation()] if norm is None else [norm(), activation()]
        layers.append(pool(2))
        if dropout_rate:
            layers.append(dropout(dropout_rate))
    return serial(*layers)


def convnet(
    widths: Sequence[int],
    *,
    classes: int = 10,
    size: int = 3,
    convs_per_stage: int = 1,
    hidden: Sequence[int] = (),
    activation: Activation = relu,
    norm: Callable[[], Layer] | None = None,
    pool: Callable[[int], Layer] = max_pool,
    join: Literal["flatten", "mean", "max"] = "flatten",
    dropout_rate: float = 0.0,
    w_init: Initializer = he_normal,
) -> Layer:
    """A small classifier of images: (N, height, width, C) to logits (N, classes).

    `conv_stages`, then one vector an image, then dense layers. Parameters are those of the
    `stages`, and those of the `head`. `convnet([16, 32])` suits images of 8 × 8, `convnet([32, 64],
    hidden=[128], dropout_rate=0.25)` those of 28 × 28.

    Args:
      widths: maps in each stage; each stage halves the image.
      classes: width of the output.
      size: of the kernels.
      convs_per_stage: convolutions before each pooling.
      hidden: widths of dense layers, with activation, before the last.
      activation: behind convolutions and hidden dense layers.
      norm: of each convolution, e.g. `batch_norm`; see `conv_stages`.
      pool: called with the window's size, 2.
      join: how maps become a vector: "flatten" keeps every place, for one size of image; the
        "mean" or "max" of each map serves all sizes.
      dropout_rate: behind each pooling and each hidden dense layer, in training.
      w_init: initial weights; biases start at 0.

    Raises:
      ValueError: no width; an unknown `join`; an image that the stages leave empty.
    """
    if join not in ("flatten", "mean", "max"):
        raise ValueError(
            f"convnet: join must be 'flatten', 'mean' or 'max', got {join!r}; choose one"
        )
    stages = conv_stages(
        widths,
        size=size,
        convs_per_stage=convs_per_stage,
        activation=activation,
        norm=norm,
        pool=pool,
        dropout_rate=dropout_rate,
        w_init=w_init,
    )
    head = [flatten() if join == "flatten" else global_pool(join)]
    for width in hidden:
        head += [dense(width, w_init=w_init), activation()]
        if dropout_rate:
            head.append(dropout(dropout_rate))
    return serial(stages=stages, head=serial(*head, dense(classes, w_init=w_init)))


def traffic_sign_net(
    classes: int,
    *,
    maps: tuple[int, int] = (4, 10),
    size: int = 5,
    activation: Activation = relu,
    pool: Callable[[int], Layer] = max_pool,
    w_init: Initializer = he_normal,
) -> Layer:
    """4 kernels of 5 × 5, pooling, 10 kernels of 5 × 5, pooling, a dense layer: logits.

    (N, height, width, C) to (N, classes), for images of at least 16 × 16. Of 32 × 32 places 250
    numbers reach the dense layer; with three colours and 43 classes there are 12,107 parameters.
    The softmax belongs to the loss.

    Args:
      classes: width of the output.
      maps: kernels of the first and of the second convolution.
      size: of the kernels; without padding.
      activation: behind each convolution; `identity` leaves it out.
      pool: called with the window's size, 2.
      w_init: initial weights; biases start at 0.

    Raises:
      ValueError: `classes` below 1; an image too small.
    """
    layers = []
    for features in maps:
        layers += [conv(features, size, w_init=w_init), activation(), pool(2)]
    return serial(*layers, flatten(), dense(classes, w_init=w_init))
