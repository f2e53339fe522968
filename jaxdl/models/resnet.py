"""Residual networks for small images (He et al. 2016, arXiv:1512.03385 and arXiv:1603.05027).

    preactivation=True    y = x + f(x),       f: norm, act, conv, norm, act, conv
    preactivation=False   y = act(x + f(x)),  f: conv, norm, act, conv, norm

Where a stage begins with other maps or half the places, x goes through a 1×1 convolution with the
stride of the block: with it the sum is `branch(join="sum")`, elsewhere `skip`.
"""

from collections.abc import Callable, Sequence
from functools import partial

from jaxdl.core.compose import branch, repeat, serial, skip
from jaxdl.core.layer import Layer
from jaxdl.layers.activation import relu
from jaxdl.layers.conv import conv
from jaxdl.layers.dense import dense
from jaxdl.layers.image_norm import group_norm
from jaxdl.layers.pool import global_pool
from jaxdl.models.convnet import Activation, Initializer, he_normal

Norm = Callable[[], Layer]
group_norm_8 = partial(group_norm, 8)


def residual_block(
    features: int,
    *,
    strides: int = 1,
    change: bool = False,
    norm: Norm = group_norm_8,
    activation: Activation = relu,
    preactivation: bool = True,
    w_init: Initializer = he_normal,
) -> Layer:
    """Two 3×3 convolutions around which x passes: (N, h, w, C) to (N, ⌈h/s⌉, ⌈w/s⌉, features).

    Args:
      features: maps of the output; with `change=False` also those of the input.
      strides: of the first convolution; above 1 only with `change`.
      change: whether x goes through a 1×1 convolution, so that maps and places may change.
      norm: of each convolution, called without arguments, e.g. `batch_norm`.
      activation: where the equations above have it.
      preactivation: which of the two forms.
      w_init: initial weights; the convolutions have no bias, the norms shift.

    Raises:
      ValueError: strides without `change`; an input of other maps without `change`.
    """
    if strides != 1 and not change:
        raise ValueError(
            f"residual_block: strides must be 1 where x passes unchanged, got {strides}; give "
            "change=True"
        )
    convolve = partial(conv, features, padding="same", use_bias=False, w_init=w_init)
    if preactivation:
        # Both ways begin with the same norm and activation where x must change (2016b, section 4).
        start = [norm(), activation()]
        rest = [convolve(3, strides=strides), norm(), activation(), convolve(3)]
        if not change:
            return skip(serial(*start, *rest))
        return serial(*start, branch(shortcut=convolve(1, strides=strides), inside=serial(*rest)))
    inside = serial(convolve(3, strides=strides), norm(), activation(), convolve(3), norm())
    if not change:
        return serial(skip(inside), activation())
    shortcut = serial(convolve(1, strides=strides), norm())
    return serial(branch(shortcut=shortcut, inside=inside), activation())


def resnet(
    blocks: int,
    widths: Sequence[int] = (16, 32, 64),
    *,
    classes: int = 10,
    norm: Norm = group_norm_8,
    activation: Activation = relu,
    preactivation: bool = True,
    w_init: Initializer = he_normal,
) -> Layer:
    """A residual network of 2·stages·blocks + 2 layers: images (N, h, w, C) to logits (N, classes).

    A 3×3 convolution, a stage of `blocks` blocks for each width, the mean of each map, and a dense
    layer. Every stage but the first halves the image, rounding up. The equal blocks of a stage run
    under one scan: depth costs no compile time. `resnet(3, norm=batch_norm, preactivation=False)`
    is ResNet-20. The softmax belongs to the loss.

    Args:
      blocks: in each stage, at least 1.
      widths: maps of each stage.
      classes: width of the output.
      norm: called without arguments. By default group norm with 8 groups (widths are multiples of
        8), which keeps the examples apart, so that reducers of single examples work; `batch_norm`
        mixes them in training, and needs `set_statistics` before evaluation.
      activation: of all blocks.
      preactivation: see the module's head; True is the later form.
      w_init: initial weights.

    Raises:
      ValueError: `blocks` below 1 or no width; widths that the norm's groups do not divide.
    """
    if blocks < 1 or not widths:
        raise ValueError(
            "resnet: blocks must be at least 1 and widths name at least one stage, got "
            f"{blocks} and {tuple(widths)}; e.g. 3 and (16, 32, 64)"
        )
    block = partial(
        residual_block,
        norm=norm, activation=activation, preactivation=preactivation, w_init=w_init,
    )  # fmt: skip
    layers = {"stem": conv(widths[0], 3, padding="same", use_bias=False, w_init=w_init)}
    # Without preactivation the first block is given what is normed and active, like all others.
    normed = {"norm": norm(), "activation": activation()}
    layers |= {} if preactivation else normed
    for stage, width in enumerate(widths):
        equal = blocks
        if stage > 0:
            layers[f"stage_{stage}_first"] = block(width, strides=2, change=True)
            equal -= 1
        if equal:
            layers[f"stage_{stage}"] = repeat(block(width), equal)
    layers |= normed if preactivation else {}
    return serial(**layers, pool=global_pool(), head=dense(classes, w_init=w_init))
