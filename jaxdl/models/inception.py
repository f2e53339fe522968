"""Inception modules: several kernel sizes side by side (Szegedy et al. 2015, arXiv:1409.4842)."""

from collections.abc import Callable

from jaxdl.core.compose import branch, serial
from jaxdl.core.layer import Layer
from jaxdl.layers.activation import relu
from jaxdl.layers.conv import conv
from jaxdl.layers.dense import dense
from jaxdl.layers.dropout import dropout
from jaxdl.layers.pool import global_pool, max_pool
from jaxdl.models.convnet import Activation, Initializer, he_normal

GOOGLENET_3A = (64, 96, 128, 16, 32, 32)
"""Of 192 maps of 28 × 28 it makes 256: the arguments of `inception_module`."""
GOOGLENET_3B = (128, 128, 192, 32, 96, 64)
"""Of the 256 maps of 3a it makes 480."""


def inception_module(
    ones: int,
    reduce3: int | None,
    threes: int,
    reduce5: int | None,
    fives: int,
    pooled: int | None,
    *,
    activation: Activation = relu,
    w_init: Initializer = he_normal,
) -> Layer:
    """Four branches on the same maps, joined: (N, h, w, C) to (N, h, w, K).

        1×1 to `ones`
        1×1 to `reduce3`   → 3×3 to `threes`
        1×1 to `reduce5`   → 5×5 to `fives`
        3×3 max, stride 1  → 1×1 to `pooled`

    K = ones + threes + fives + pooled, in that order; with `pooled=None` all C maps come through
    the pooling. An activation stands behind every convolution, the reductions included. Without
    reductions this is the naive module of the paper's figure 2a.

    Args:
      ones, threes, fives: maps of the 1×1, 3×3 and 5×5 convolutions.
      reduce3, reduce5: maps to which a 1×1 convolution reduces before them; None: no reduction.
      pooled: maps of the 1×1 convolution behind the pooling; None: no convolution.
      activation: behind every convolution.
      w_init: initial weights; biases start at 0.

    Raises:
      ValueError: a number of maps below 1.
    """

    def conv_act(features: int, size: int) -> list[Layer]:
        return [conv(features, size, padding="same", w_init=w_init), activation()]

    def reduced(reduce: int | None, features: int, size: int) -> Layer:
        return serial(*([] if reduce is None else conv_act(reduce, 1)), *conv_act(features, size))

    pooling = max_pool(3, strides=1, padding="same")
    return branch(
        ones=serial(*conv_act(ones, 1)),
        threes=reduced(reduce3, threes, 3),
        fives=reduced(reduce5, fives, 5),
        pooled=serial(pooling, *([] if pooled is None else conv_act(pooled, 1))),
        join="concat",
    )


def small_googlenet(
    classes: int,
    *,
    activation: Activation = relu,
    pool: Callable[[int], Layer] = max_pool,
    dropout_rate: float = 0.0,
    w_init: Initializer = he_normal,
) -> Layer:
    """GoogLeNet's design for small images: (N, height, width, C) to logits (N, classes).

    A 3×3 convolution of 32 maps and pooling; modules 3a and 3b with a quarter of GoogLeNet's maps,
    pooling, and a third with that of 4a; the mean of each of its 128 maps; a dense layer. Any
    image of at least 4 × 4. The softmax belongs to the loss.

    Args:
      classes: width of the output.
      activation: behind every convolution.
      pool: called with the window's size, 2.
      dropout_rate: before the dense layer, in training; the paper has 0.4.
      w_init: initial weights; biases start at 0.

    Raises:
      ValueError: `classes` below 1; an image below 4 × 4.
    """

    def module(*maps: int) -> Layer:
        return inception_module(*maps, activation=activation, w_init=w_init)

    return serial(
        stem=conv(32, 3, padding="same", w_init=w_init),
        stem_activation=activation(),
        stem_pool=pool(2),
        module_3a=module(*(maps // 4 for maps in GOOGLENET_3A)),
        module_3b=module(*(maps // 4 for maps in GOOGLENET_3B)),
        pool=pool(2),
        module_4a=module(48, 24, 52, 4, 12, 16),
        mean=global_pool(),
        **({"dropout": dropout(dropout_rate)} if dropout_rate else {}),
        head=dense(classes, w_init=w_init),
    )
