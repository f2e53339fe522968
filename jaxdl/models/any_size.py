"""Three classifiers on one convolutional trunk: which sizes of image each of them takes.

    fixed_size_classifier        trunk → flatten → dense          one size: that of init
    variable_size_classifier     trunk → pool to a grid → dense   any: the regions scale with it
    global_average_classifier    trunk → 1×1 conv → global mean   any: no dense layer at all

Images (N, height, width, C) to logits (N, classes); the softmax belongs to the loss. Parameters are
those of the `trunk` and of the `head`, and the trunks of all three are the same, so that one can be
set for another.

References: He et al. (2014, arXiv:1406.4729), pooling to a grid; Lin, Chen & Yan (2013,
arXiv:1312.4400), one map a class.
"""

from collections.abc import Callable, Sequence
from math import isqrt
from typing import Literal

from jaxdl.core.compose import serial
from jaxdl.core.layer import Layer
from jaxdl.layers.activation import relu
from jaxdl.layers.conv import conv
from jaxdl.layers.dense import dense
from jaxdl.layers.flatten import flatten
from jaxdl.layers.pool import global_pool
from jaxdl.layers.regions import adaptive_pool
from jaxdl.models.convnet import Activation, conv_stages, he_normal

WIDTHS = (16, 32, 64)
"""Maps of the trunk's stages, by default; with 28 × 28 places in, 3 × 3 come out."""


def fixed_size_classifier(
    classes: int,
    *,
    widths: Sequence[int] = WIDTHS,
    convs_per_stage: int = 1,
    activation: Activation = relu,
    norm: Callable[[], Layer] | None = None,
) -> Layer:
    """Every place of every map has a weight of its own: works for the image size of init alone.

    Args:
      classes: width of the output.
      widths: maps in each stage of the trunk.
      convs_per_stage, activation, norm: of the trunk; see `conv_stages`.

    Raises:
      ValueError: an image of another size than init has seen, where flatten gives another width.
    """
    trunk = conv_stages(widths, convs_per_stage=convs_per_stage, activation=activation, norm=norm)
    return serial(trunk=trunk, head=serial(flatten(), dense(classes, w_init=he_normal)))


def variable_size_classifier(
    classes: int,
    features: int = 576,
    *,
    widths: Sequence[int] = WIDTHS,
    kind: Literal["mean", "max"] = "max",
    convs_per_stage: int = 1,
    activation: Activation = relu,
    norm: Callable[[], Layer] | None = None,
) -> Layer:
    """Maps are pooled to a fixed grid, in regions that scale with the image; then a dense layer.

    For 28 × 28 and the default settings the regions are single places, and this is
    `fixed_size_classifier`.

    Args:
      classes: width of the output.
      features: numbers that reach the dense layer: maps × grid²; 576 are 64 maps of 3 × 3.
      widths: maps in each stage of the trunk.
      kind: of the pooling.
      convs_per_stage, activation, norm: of the trunk; see `conv_stages`.

    Raises:
      ValueError: `features` is not the last width times a square; an image whose maps are smaller
        than the grid (by default: below 24 × 24).
    """
    maps = widths[-1] if widths else 1
    grid = isqrt(max(features, 0) // maps)
    if grid < 1 or maps * grid * grid != features:
        raise ValueError(
            "variable_size_classifier: features must be the last width times a square, "
            f"{maps} × 1, 4, 9, …, got {features}; e.g. {9 * maps}"
        )
    head = serial(adaptive_pool(grid, kind=kind), flatten(), dense(classes, w_init=he_normal))
    trunk = conv_stages(widths, convs_per_stage=convs_per_stage, activation=activation, norm=norm)
    return serial(trunk=trunk, head=head)


def global_average_classifier(
    classes: int,
    *,
    widths: Sequence[int] = WIDTHS,
    convs_per_stage: int = 1,
    activation: Activation = relu,
    norm: Callable[[], Layer] | None = None,
) -> Layer:
    """One map for each class, and its mean is the logit: no dense layer, any size of image.

    Args:
      classes: width of the output, and number of maps of the last convolution (1 × 1).
      widths: maps in each stage of the trunk.
      convs_per_stage, activation, norm: of the trunk; see `conv_stages`.
    """
    trunk = conv_stages(widths, convs_per_stage=convs_per_stage, activation=activation, norm=norm)
    return serial(trunk=trunk, head=serial(conv(classes, 1, w_init=he_normal), global_pool()))
