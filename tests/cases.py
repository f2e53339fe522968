"""One line per layer, combinator and loss, and what the property tests do with a line.

Every general property runs over every `Case`. The examples of a batch are on the first axis; its
size, 4, divides over the devices of the sharding test. Other sizes are pairwise distinct where
the layer allows it, so that nothing fits by accident. Parameters are drawn, not initialised:
zero biases and unit scales hide errors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from math import prod
from typing import Any, NamedTuple
from zlib import crc32

import chex
import jax
import jax.numpy as jnp
import numpy as np

import jaxdl
from jaxdl import (
    average_pool,
    branch,
    conv,
    conv_transpose,
    cross_attention,
    dense,
    embedding,
    flatten,
    frozen,
    global_pool,
    group_norm,
    gru,
    layer_norm,
    lp_pool,
    lstm,
    max_pool,
    remat,
    repeat,
    rnn,
    scan_time,
    self_attention,
    serial,
    skip,
    tanh,
    tap,
    tied,
    weighted_pool,
)
from jaxdl.core.factors import Factor, Formed, Outer, Sum
from jaxdl.core.layer import Layer, leaf
from jaxdl.core.loss import Loss
from jaxdl.core.reducers import Reducer, grads
from jaxdl.core.side import With
from jaxdl.models import (
    convnet,
    inception_module,
    mlp,
    residual_block,
    skips,
    sparse_autoencoder,
    sparse_autoencoder_loss,
    transformer_block,
    transformer_stack,
)
from jaxdl.numerics.checks import is_inexact
from jaxdl.numerics.dtypes import wide
from jaxdl.program.doors import from_function

N = 4
"""Examples in a batch."""

Draw = Callable[[np.random.Generator], Any]


@dataclass(frozen=True)
class Case:
    """One line: a layer and how to draw an input for it.

    Attributes:
      name: the id of its tests.
      layer: the layer.
      x: draws the input in float64 (or integers).
      training: whether `fwd` is given a key.
      formed: it has `Formed` factors, so reducers that need examples refuse it.
      held: it has parameters that `frozen` holds fixed: they matter, yet have no gradient.
      tapped: what `bwd` returns for a tap stands where the parameters have nothing.
    """

    name: str
    layer: Layer
    x: Draw
    training: bool = False
    formed: bool = False
    held: bool = False
    tapped: bool = False


def normal(*shape: int, scale: float = 1.0) -> Draw:
    """Draws independent normal numbers."""
    return lambda rng: scale * rng.standard_normal(shape)


def uniform(*shape: int) -> Draw:
    """Draws numbers in [0.1, 0.9]."""
    return lambda rng: rng.uniform(0.1, 0.9, shape)


def distinct(*shape: int) -> Draw:
    """Draws a permutation of multiples of 1/8: no two so close that a small step exchanges them."""
    size = prod(shape)
    return lambda rng: (rng.permutation(size).reshape(shape) - size // 2 + 0.5) / 8


def ids(rows: int, *shape: int, dtype: Any = np.int32) -> Draw:
    """Draws row numbers; some rows come twice."""
    return lambda rng: rng.integers(0, rows, shape, dtype=dtype)


def with_regions(x: Draw) -> Draw:
    """Images, and three regions of each: one inside, one with all of it, one empty."""

    def draw(rng):
        images = x(rng)
        n, *space, _ = images.shape
        whole = [[0, size] for size in space]
        inside = [[1, size - 1] for size in space]
        regions = np.tile([inside, whole, [[2, 2]] * len(space)], (n, 1, 1, 1))
        regions[0, 0, 0, 0] = 2
        return {"x": images, "regions": jnp.asarray(regions, jnp.int32)}

    return draw


def pair(first: Draw, second: Draw) -> Draw:
    """Draws a pair of inputs."""
    return lambda rng: (first(rng), second(rng))


# --- leaves that only the tests have ------------------------------------------------------------


def rnn_cell(features: int) -> Layer:
    """(h, x) to (h', y = h') with h' = tanh([h, x]·w + b): the simplest recurrent cell."""

    def init(key, x):
        h, x = x
        shape = (h.shape[-1] + x.shape[-1], features)
        return {"w": jax.random.normal(key, shape, x.dtype), "b": jnp.zeros(features, x.dtype)}

    def fwd(params, x):
        joined = jnp.concatenate(x, axis=-1)
        h = jnp.tanh(joined @ params["w"].astype(joined.dtype) + params["b"].astype(joined.dtype))
        return (h, h), {"joined": joined, "h": h}

    def bwd(params, residuals, dy):
        h = residuals["h"]
        du = (dy[0] + dy[1]) * (1 - h * h)
        djoined = du @ params["w"].astype(du.dtype).T
        dx = jnp.split(djoined, [h.shape[-1]], axis=-1)
        return {"w": Outer(residuals["joined"], du), "b": Sum(du)}, tuple(dx)

    return leaf("rnn_cell", init, fwd, bwd, params=("w", "b"), detail=str(features))


def hidden(features: int) -> Callable[[Any], Any]:
    """The carry of `rnn_cell`, for `scan_time`."""
    return lambda x_t: jax.ShapeDtypeStruct((x_t.shape[0], features), x_t.dtype)


def with_side(x: Draw, features: int) -> Draw:
    """Draws an input, and a side input of numbers, a mask and integers, for `gated`."""

    def draw(rng):
        side = {
            "memory": rng.standard_normal((N, features)),
            "mask": rng.random((N, features)) < 0.7,
            "lengths": rng.integers(1, 5, N, dtype=np.int32),
        }
        return With(x(rng), side)

    return draw


def with_lengths(x: Draw, *lengths: int) -> Draw:
    """Draws a batch of padded sequences of these lengths."""
    return lambda rng: With(x(rng), {"lengths": np.array(lengths, np.int32)})


def with_pairs(x: Draw, heads: int) -> Draw:
    """Draws sequences, and all that attention can read about their positions."""

    def draw(rng):
        drawn = x(rng)
        n, t, _ = drawn.shape
        side = {
            "lengths": np.array([t, 1, 3, 4], np.int32),
            "segments": np.sort(rng.integers(0, 2, (n, t), dtype=np.int32)),
            "mask": rng.random((n, 1, t, t)) < 0.8,
            "bias": rng.standard_normal((n, heads, t, t)),
        }
        return With(drawn, side)

    return draw


def with_memory(x: Draw, memory: Draw) -> Draw:
    """Draws a sequence and another one to attend to, of which some positions are padding."""

    def draw(rng):
        drawn = memory(rng)
        # of one position alone there would be nothing to choose, and no cotangent of a query
        lengths = np.array([drawn.shape[1], 2, 3, 2], np.int32)
        return With(x(rng), {"memory": drawn, "memory_lengths": lengths})

    return draw


def gated(features: int) -> Layer:
    """x·w, times the memory where the mask says so: a layer that reads a side input."""

    def init(key, x):
        shape = (x.x.shape[-1], features)
        return {"w": jax.random.normal(key, shape, x.x.dtype)}

    def fwd(params, x):
        u, side = x.x @ params["w"].astype(x.x.dtype), x.side
        y = jnp.where(side["mask"], u * side["memory"], u)
        return y, {"x": x.x, "u": u}

    def bwd(params, residuals, dy):
        kept, side = residuals.x, residuals.side
        du = jnp.where(side["mask"], dy * side["memory"], dy)
        dmemory = jnp.where(side["mask"], dy * kept["u"], 0)
        dx = du @ params["w"].astype(du.dtype).T
        dside = {"memory": dmemory, "mask": None, "lengths": None}
        return {"w": Outer(kept["x"], du)}, With(dx, dside)

    return leaf("gated", init, fwd, bwd, params=("w",), side=True, detail=str(features))


def side_cell(features: int) -> Layer:
    """`rnn_cell` with the memory added to every input."""
    cell = rnn_cell(features)

    def init(key, x):
        return cell.init(key, x.x)

    def fwd(params, x):
        h, x_t = x.x
        return cell.fwd(params, (h, x_t + x.side["memory"]))

    def bwd(params, residuals, dy):
        factors, (dh, dx) = cell.bwd(params, residuals.x, dy, jaxdl.keep)
        return factors, With((dh, dx), {"memory": dx, "mask": None, "lengths": None})

    return leaf("side_cell", init, fwd, bwd, params=("w", "b"), side=True, detail=str(features))


def quadratic(keyed: bool = False) -> Layer:
    """x²·w by `from_function`; with a key, for a random half of the features."""

    def init(key, x):
        return {"w": jax.random.normal(key, (x.shape[-1], 3), x.dtype)}

    def apply(params, x, key=None):
        x = x * x
        if key is not None:
            x = jnp.where(jax.random.bernoulli(key, 0.5, x.shape[-1:]), x, 0)
        return x @ params["w"].astype(x.dtype)

    return from_function(init, apply, name="quadratic", params=("w",), keyed=keyed)


def formed_scale() -> Layer:
    """x·w entry by entry, with a gradient that its bwd has formed already."""

    def init(key, x):
        return {"w": jax.random.normal(key, x.shape[-1:], x.dtype)}

    def fwd(params, x):
        return x * params["w"].astype(x.dtype), x

    def bwd(params, x, dy):
        dw = jnp.sum(x * dy, axis=tuple(range(x.ndim - 1)), dtype=wide(x.dtype))
        return {"w": Formed(dw)}, dy * params["w"].astype(dy.dtype)

    return leaf("formed", init, fwd, bwd, params=("w",))


def loss_layer(loss: Loss, target: Any = None, where: Any = None) -> Layer:
    """A loss with its data filled in, as a layer from y to a scalar."""

    def fwd(params, y):
        return loss.fwd(y, target, where)

    def bwd(params, residuals, dvalue):
        return {}, loss.bwd(residuals, dvalue)

    return leaf(loss.name, lambda key, y: {}, fwd, bwd, mixes=loss.mixes)


# --- the lines ----------------------------------------------------------------------------------

LAYERS = (
    Case("dense", dense(3), normal(N, 6)),
    Case("dense-no_bias", dense(3, use_bias=False), normal(N, 6)),
    Case("dense-positions", dense(3), normal(N, 5, 6)),
    Case("relu", jaxdl.relu(), normal(N, 6)),
    Case("leaky_relu", jaxdl.leaky_relu(0.1), normal(N, 6)),
    Case("elu", jaxdl.elu(1.3), normal(N, 6)),
    Case("sigmoid", jaxdl.sigmoid(), normal(N, 6)),
    Case("tanh", tanh(), normal(N, 6)),
    Case("softplus", jaxdl.softplus(), normal(N, 6)),
    Case("silu", jaxdl.silu(), normal(N, 6)),
    Case("gelu", jaxdl.gelu(), normal(N, 6)),
    Case("gelu-tanh", jaxdl.gelu(approximate=True), normal(N, 6)),
    Case("softmax", jaxdl.softmax(), normal(N, 6)),
    Case("log_softmax", jaxdl.log_softmax(), normal(N, 6)),
    Case("maxout", jaxdl.maxout(2), normal(N, 6)),
    Case("identity", jaxdl.identity(), normal(N, 6)),
    Case("layer_norm", layer_norm(), normal(N, 6)),
    Case("layer_norm-positions", layer_norm(), normal(N, 5, 6)),
    Case("rms_norm", jaxdl.rms_norm(), normal(N, 5, 6)),
    Case("dropout", jaxdl.dropout(0.4), normal(N, 6), training=True),
    Case("dropout-evaluation", jaxdl.dropout(0.4), normal(N, 6)),
    Case("embedding", embedding(7, 3), ids(7, N)),
    Case("embedding-positions", embedding(7, 3), ids(7, N, 5)),
    Case("embedding-bytes", embedding(300, 3), ids(256, N, 5, dtype=np.uint8)),
    Case("self_attention", self_attention(2), normal(N, 5, 6)),
    Case("self_attention-causal", self_attention(2, causal=True), normal(N, 5, 6)),
    Case("self_attention-heads", self_attention(3, head_features=2), normal(N, 5, 7)),
    Case(
        "self_attention-grouped",
        self_attention(4, kv_heads=2, head_features=2, causal=True, window=3, rotary=100.0),
        normal(N, 5, 6),
    ),
    Case("self_attention-soft_cap", self_attention(2, soft_cap=0.7), normal(N, 5, 6)),
    Case("self_attention-dropout", self_attention(2, dropout=0.4), normal(N, 5, 6), training=True),
    Case("learned_positions", jaxdl.learned_positions(7), normal(N, 5, 6)),
    Case("sinusoidal_positions", jaxdl.sinusoidal_positions(), normal(N, 5, 6)),
    Case("rnn", rnn(3), normal(N, 5, 6)),
    Case("rnn-relu", rnn(3, activation="relu"), normal(N, 5, 6)),
    Case("rnn-state", rnn(3), pair(normal(N, 3), normal(N, 5, 6))),
    Case("lstm", lstm(3), normal(N, 5, 6)),
    Case("lstm-reverse", lstm(3, reverse=True), normal(N, 5, 6)),
    Case("lstm-peepholes", lstm(3, peepholes=True), normal(N, 5, 6)),
    Case("lstm-states", lstm(3), pair(pair(normal(N, 3), normal(N, 3)), normal(N, 5, 6))),
    Case("gru", gru(3), normal(N, 5, 6)),
    Case("gru-both_ways", branch(gru(3), gru(3, reverse=True), join="concat"), normal(N, 5, 6)),
    Case("conv", conv(5, 3), normal(N, 7, 6, 2)),
    Case("conv-1d", conv(5, 3, rank=1), normal(N, 7, 2)),
    Case("conv-3d", conv(3, (3, 2, 1), rank=3), normal(N, 4, 3, 2, 2)),
    Case("conv-1x1", conv(3, 1), normal(N, 4, 5, 2)),
    Case("conv-no_bias", conv(5, (2, 3), use_bias=False), normal(N, 4, 6, 2)),
    Case("conv-same", conv(5, (2, 3), strides=2, padding="same"), normal(N, 7, 6, 2)),
    Case("conv-full", conv(5, (2, 3), padding="full"), normal(N, 4, 6, 2)),
    Case("conv-dilation", conv(5, 2, strides=(2, 1), dilation=2), normal(N, 7, 6, 3)),
    Case("conv-padding", conv(5, 3, padding=((0, 2), 1)), normal(N, 4, 6, 2)),
    Case("conv-groups", conv(6, (2, 3), groups=2), normal(N, 5, 7, 4)),
    Case("conv-depthwise", conv(6, 3, groups=3, padding="same"), normal(N, 5, 4, 3)),
    Case("conv-flip", conv(5, (2, 3), flip=True), normal(N, 5, 6, 2)),
    Case("conv_transpose", conv_transpose(5, (2, 3), strides=2), normal(N, 4, 3, 2)),
    Case(
        "conv_transpose-same",
        conv_transpose(5, (2, 3), strides=(3, 2), padding="same"),
        normal(N, 3, 4, 2),
    ),
    Case(
        "conv_transpose-groups",
        conv_transpose(6, 2, rank=1, strides=2, padding=1, dilation=2, groups=2, use_bias=False),
        normal(N, 5, 4),
    ),
    Case("max_pool", max_pool(2), distinct(N, 6, 4, 3)),
    Case("max_pool-overlap", max_pool(3, strides=(1, 2)), distinct(N, 6, 5, 2)),
    Case("max_pool-ceil", max_pool(3, strides=2, ceil=True), distinct(N, 6, 5, 2)),
    Case("max_pool-same", max_pool((2, 3), strides=2, padding="same"), distinct(N, 5, 6, 2)),
    Case("average_pool", average_pool(3, strides=2, padding=1), normal(N, 5, 6, 2)),
    Case(
        "average_pool-count_padding",
        average_pool(3, strides=2, padding=1, ceil=True, count_padding=True),
        normal(N, 6, 4, 2),
    ),
    Case("lp_pool", lp_pool(2, p=3.0), distinct(N, 4, 6, 2)),
    Case("lp_pool-overlap", lp_pool(3, strides=2, padding=1, ceil=True), distinct(N, 4, 5, 2)),
    Case("weighted_pool", weighted_pool(3, strides=2, spread=0.8), normal(N, 5, 7, 2)),
    Case("global_pool-mean", global_pool(), normal(N, 5, 3, 2)),
    Case("global_pool-max", global_pool("max"), distinct(N, 5, 3, 2)),
    Case("flatten", flatten(), normal(N, 5, 3, 2)),
    Case("locally_connected", jaxdl.locally_connected(3, (2, 3)), normal(N, 4, 5, 2)),
    Case(
        "locally_connected-settings",
        jaxdl.locally_connected(3, 3, rank=1, strides=2, padding="same", dilation=2),
        normal(N, 5, 2),
    ),
    Case("fft_conv", jaxdl.fft_conv(5, (2, 3)), normal(N, 4, 6, 2)),
    Case("fft_conv-flip", jaxdl.fft_conv(5, 3, padding="full", flip=True), normal(N, 4, 5, 2)),
    Case("adaptive_pool-mean", jaxdl.adaptive_pool((2, 3)), normal(N, 5, 4, 2)),
    Case("adaptive_pool-max", jaxdl.adaptive_pool((2, 3), kind="max"), distinct(N, 5, 4, 2)),
    Case("pyramid_pool", jaxdl.pyramid_pool((1, 3)), distinct(N, 5, 4, 2)),
    Case("region_pool-mean", jaxdl.region_pool("mean"), with_regions(normal(N, 5, 4, 2))),
    Case("region_pool-max", jaxdl.region_pool("max"), with_regions(distinct(N, 5, 4, 2))),
    Case("rnn_cell", rnn_cell(3), pair(normal(N, 3), normal(N, 6))),
    Case("from_function", quadratic(), normal(N, 6)),
    Case("from_function-keyed", quadratic(True), normal(N, 6), training=True),
    Case("formed", formed_scale(), normal(N, 6), formed=True),
)

MODELS = (
    Case("serial", serial(dense(5), tanh(), dense(3)), normal(N, 6)),
    Case("skip", skip(serial(layer_norm(), dense(6))), normal(N, 6)),
    Case("branch-sum", branch(dense(3), serial(dense(5), dense(3))), normal(N, 6)),
    Case("branch-concat", branch(dense(3), dense(5), join="concat"), normal(N, 6)),
    Case("branch-tuple", branch(dense(3), tanh(), join="tuple"), normal(N, 6)),
    Case("branch-dict", branch(small=dense(3), large=dense(7), join="dict"), normal(N, 6)),
    Case("branch-ids", branch(embedding(7, 3), embedding(7, 3)), ids(7, N, 5)),
    Case("repeat", repeat(serial(dense(6), tanh()), 3), normal(N, 6)),
    Case("repeat-positions", repeat(skip(serial(layer_norm(), dense(6))), 3), normal(N, 5, 6)),
    Case("repeat-dropout", repeat(serial(dense(6), jaxdl.dropout(0.4)), 3), normal(N, 6), True),
    Case("repeat-repeat", repeat(repeat(serial(dense(6), tanh()), 2), 3), normal(N, 6)),
    Case("scan_time", scan_time(rnn_cell(3), hidden(3)), normal(N, 5, 6)),
    Case("scan_time-states", scan_time(rnn_cell(3)), pair(normal(N, 3), normal(N, 5, 6))),
    Case("scan_time-repeat", scan_time(repeat(rnn_cell(3), 2), hidden(3)), normal(N, 5, 3)),
    Case("repeat-scan_time", repeat(scan_time(rnn_cell(3), hidden(3)), 2), normal(N, 5, 3)),
    Case(
        "tied",
        tied(serial(embedding(7, 6), tanh(), dense(7)), {"dense/w": "embedding/table.T"}),
        ids(7, N, 5),
    ),
    Case(
        "tied-square",
        tied(serial(dense(6), tanh(), dense(6)), {"dense_1/w": "dense/w"}),
        normal(N, 6),
    ),
    Case(
        "repeat-tied",
        repeat(
            tied(
                serial(dense(6), tanh(), dense(6)),
                {"dense_1/w": "dense/w.T", "dense_1/b": "dense/b"},
            ),
            3,
        ),
        normal(N, 6),
    ),
    Case("frozen", serial(dense(5), frozen(dense(3)), tanh()), normal(N, 6), held=True),
    Case("frozen-repeat", frozen(repeat(serial(dense(6), tanh()), 3)), normal(N, 6), held=True),
    Case(
        "repeat-frozen",
        repeat(serial(frozen(dense(6)), layer_norm()), 3),
        normal(N, 6),
        held=True,
    ),
    Case("remat", remat(serial(dense(5), tanh(), dense(3))), normal(N, 6)),
    Case("remat-dropout", remat(serial(dense(5), jaxdl.dropout(0.4))), normal(N, 6), True),
    Case("repeat-remat", repeat(remat(serial(dense(6), tanh())), 3), normal(N, 6)),
    Case("tap", serial(dense(5), tap(), tanh(), dense(3)), normal(N, 6), tapped=True),
    Case("mlp", mlp([5, 3, 2]), normal(N, 6)),
    Case("mlp-dropout", mlp([5, 3], dropout_rate=0.4), normal(N, 6), True),
    Case(
        "convnet",
        convnet([3], classes=5, hidden=[6], activation=tanh, pool=average_pool),
        normal(N, 5, 4, 2),
    ),
    Case("inception", inception_module(2, 3, 1, 2, 1, 3, activation=tanh), distinct(N, 3, 4, 2)),
    Case(
        "residual_block",
        residual_block(4, strides=2, change=True, norm=partial(group_norm, 2), activation=tanh),
        normal(N, 3, 5, 2),
    ),
    Case("sparse_autoencoder", sparse_autoencoder(5, 6), normal(N, 6)),
    Case(
        "serial-lenet",
        serial(
            conv(3, 3, padding="same"),
            tanh(),
            average_pool(2),
            conv(5, 2),
            tanh(),
            flatten(),
            dense(6),
        ),
        normal(N, 6, 8, 2),
    ),
    Case(
        "repeat-conv",
        repeat(serial(conv(2, (3, 2), padding="same"), tanh()), 3),
        normal(N, 4, 5, 2),
    ),
    Case("transformer_block", transformer_block(6, 2, hidden=7), normal(N, 5, 6)),
    Case("transformer_stack", transformer_stack(3, 6, 2, hidden=7), normal(N, 5, 6)),
    Case(
        "transformer-tied",
        tied(
            serial(
                embed=embedding(7, 6),
                blocks=transformer_stack(2, 6, 2, hidden=8),
                norm=layer_norm(),
                head=dense(7, use_bias=False),
            ),
            {"head/w": "embed/table.T"},
        ),
        ids(7, N, 5),
    ),
)

SIDE = (
    Case("gated", gated(5), with_side(normal(N, 6), 5)),
    Case(
        "self_attention-reads",
        self_attention(2, reads=("lengths", "segments", "mask", "bias"), soft_cap=0.7),
        with_pairs(normal(N, 5, 6), 2),
    ),
    Case(
        "repeat-self_attention",
        repeat(skip(self_attention(2, causal=True, reads=("lengths", "bias"))), 2),
        with_pairs(normal(N, 5, 6), 2),
    ),
    Case(
        "cross_attention",
        cross_attention(4, kv_heads=2, head_features=3, reads=("memory_lengths",)),
        with_memory(normal(N, 5, 6), normal(N, 3, 7)),
    ),
    Case(
        "repeat-cross_attention",
        repeat(skip(serial(layer_norm(), cross_attention(2))), 2),
        with_memory(normal(N, 5, 6), normal(N, 3, 7)),
    ),
    Case(
        "scan_time-lengths",
        scan_time(rnn_cell(3), hidden(3), lengths=True, reverse=True),
        with_lengths(normal(N, 5, 6), 5, 1, 3, 4),
    ),
    Case("rnn-lengths", rnn(3, lengths=True), with_lengths(normal(N, 5, 6), 5, 1, 3, 4)),
    Case(
        "lstm-lengths",
        lstm(3, lengths=True, reverse=True, peepholes=True),
        with_lengths(normal(N, 5, 6), 5, 1, 3, 4),
    ),
    Case(
        "gru-lengths",
        serial(gru(6, lengths=True), gru(3, lengths=True, reverse=True)),
        with_lengths(normal(N, 5, 6), 5, 1, 3, 4),
    ),
    Case("serial-side", serial(gated(5), tanh(), gated(5)), with_side(normal(N, 6), 5)),
    Case("serial-unread", serial(dense(5), tanh()), with_side(normal(N, 6), 5)),
    Case("skip-side", skip(serial(dense(5), gated(6))), with_side(normal(N, 6), 6)),
    Case("branch-side", branch(gated(5), dense(5), gated(5)), with_side(normal(N, 6), 5)),
    Case("repeat-side", repeat(serial(gated(6), tanh()), 3), with_side(normal(N, 6), 6)),
    Case("remat-side", remat(serial(gated(5), tanh())), with_side(normal(N, 6), 5)),
    Case(
        "repeat-remat-side",
        serial(dense(6), repeat(remat(serial(gated(6), tanh())), 3), gated(6)),
        with_side(normal(N, 7), 6),
    ),
    Case("frozen-side", serial(gated(6), frozen(gated(6))), with_side(normal(N, 6), 6), held=True),
    Case(
        "tied-side",
        tied(serial(gated(6), tanh(), gated(6)), {"gated_1/w": "gated/w.T"}),
        with_side(normal(N, 6), 6),
    ),
    Case(
        "scan_time-side",
        scan_time(side_cell(3), hidden(3)),
        with_side(normal(N, 5, 6), 6),
    ),
    Case(
        "repeat-scan_time-side",
        repeat(scan_time(serial(side_cell(3)), hidden(3)), 2),
        with_side(normal(N, 5, 3), 3),
    ),
    Case(
        "skips-side",
        skips({"a": gated(6), "b": tanh()}, {"c": gated(6)}),
        with_side(normal(N, 6), 6),
    ),
)
"""Layers with a side input, and all that hand one on."""

_DATA = np.random.default_rng(0)
_TARGET = _DATA.standard_normal((N, 5)).astype(np.float32)
_SIGN = np.where(_TARGET > 0, 1, -1).astype(np.float32)
_SHARE = _DATA.uniform(0, 1, (N, 5)).astype(np.float32)
_SOFT = _SHARE / _SHARE.sum(axis=-1, keepdims=True)
_LABELS = _DATA.integers(0, 5, N, dtype=np.int32)
_TOKENS = _DATA.integers(0, 5, (N, 3), dtype=np.int32)
_BYTES = np.array([0, 44, 200, 255], np.uint8)
"""300 classes do not fit into a byte, these labels do."""
_REAL = np.array([True, True, False, True])
"""The third example is padding."""
_WEIGHTS = np.array([[0.5], [2.0], [0.0], [1.0]], np.float32)

mse, cross_entropy = jaxdl.mean_squared_error, jaxdl.softmax_cross_entropy

LOSSES = (
    Case("half_squared_error", loss_layer(jaxdl.half_squared_error(), _TARGET), normal(N, 5)),
    Case("mean_squared_error", loss_layer(mse(), _TARGET), normal(N, 5)),
    Case("mean_squared_error-where", loss_layer(mse(), _TARGET, _WEIGHTS), normal(N, 5)),
    Case("huber", loss_layer(jaxdl.huber(0.8), _TARGET), normal(N, 5)),
    Case("huber-sum", loss_layer(jaxdl.huber(reduction="sum"), _TARGET), normal(N, 5)),
    Case("hinge", loss_layer(jaxdl.hinge(), _SIGN), normal(N, 5)),
    Case("hinge-where", loss_layer(jaxdl.hinge(), _SIGN, _REAL[:, None]), normal(N, 5)),
    Case(
        "binary_cross_entropy",
        loss_layer(jaxdl.binary_cross_entropy(), _SHARE),
        normal(N, 5),
    ),
    Case(
        "binary_cross_entropy-where",
        loss_layer(jaxdl.binary_cross_entropy(reduction="sum"), _SHARE, _WEIGHTS),
        normal(N, 5),
    ),
    Case("cross_entropy-labels", loss_layer(cross_entropy(), _LABELS), normal(N, 5)),
    Case("cross_entropy-tokens", loss_layer(cross_entropy(), _TOKENS), normal(N, 3, 5)),
    Case("cross_entropy-bytes", loss_layer(cross_entropy(), _BYTES), normal(N, 300)),
    Case("cross_entropy-soft", loss_layer(cross_entropy(), _SOFT), normal(N, 5)),
    Case("cross_entropy-unnormalised", loss_layer(cross_entropy(), _SHARE), normal(N, 5)),
    Case(
        "cross_entropy-smoothed",
        loss_layer(cross_entropy(label_smoothing=0.1), _LABELS),
        normal(N, 5),
    ),
    Case(
        "cross_entropy-where",
        loss_layer(cross_entropy(reduction="sum"), _LABELS, _REAL),
        normal(N, 5),
    ),
    Case("kl_sparsity", loss_layer(jaxdl.kl_sparsity(0.2)), uniform(N, 5)),
    Case("kl_sparsity-where", loss_layer(jaxdl.kl_sparsity(), None, _REAL), uniform(N, 5)),
    Case(
        "sparse_autoencoder_loss-where",
        loss_layer(sparse_autoencoder_loss(0.2, 1.5), _TARGET[:, :2], _REAL),
        uniform(N, 5),
    ),
)

CASES = (*LAYERS, *MODELS, *SIDE, *LOSSES)
LEAVES = frozenset(case.name for case in (*LAYERS, *LOSSES))
"""Where a container only passes on what a leaf must do, leaves are enough for every day."""


# --- what a property test does with a line ------------------------------------------------------


class Sample(NamedTuple):
    """Arguments for one run of a layer, forward and backward."""

    params: Any
    x: Any
    dy: Any
    key: jax.Array | None


def cast(tree: Any, dtype: Any) -> Any:
    """Arrays of that dtype; integers stay what they are."""
    return jax.tree.map(lambda a: jnp.asarray(a, dtype if is_inexact(a) else a.dtype), tree)


@lru_cache(maxsize=64)
def draw(case: Case, dtype: Any = jnp.float64, seed: int = 0) -> Sample:
    """Parameters, input and cotangent for a case: the same numbers in every dtype."""
    rng = np.random.default_rng([seed, crc32(case.name.encode())])
    x = case.x(rng)
    params = jax.tree.map(lambda s: 0.5 * rng.standard_normal(s.shape), params_struct(case, x))
    params, x = cast(params, dtype), cast(x, dtype)
    key = jax.random.key(seed + 1) if case.training else None
    y = jax.eval_shape(case.layer.apply, params, x, key)
    dy = jax.tree.map(lambda s: jnp.asarray(rng.standard_normal(s.shape), s.dtype), y)
    return Sample(params, x, dy, key)


def in_float64(sample: Sample) -> Sample:
    """The same numbers, wider."""
    params, x, dy = cast((sample.params, sample.x, sample.dy), jnp.float64)
    return Sample(params, x, dy, sample.key)


def params_struct(case: Case, x: Any) -> Any:
    """Shapes and dtypes of what `init` returns."""
    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
    return jax.eval_shape(lambda key: case.layer.init(key, x), jax.random.key(0))


def manual(layer: Layer, reduce: Reducer = grads, slots: Any = None) -> Callable[..., Any]:
    """``(params, x, dy, key) -> (reduced, dx)`` by the hand-written backward."""

    def run(params, x, dy, key=None, slots=slots):
        _, residuals = layer.fwd(params, x, key)
        return layer.bwd(params, residuals, dy, reduce, slots)

    return run


def autodiff(apply: Callable[..., Any]) -> Callable[..., Any]:
    """``(params, x, dy, key) -> (dparams, dx)`` by differentiating ``apply(params, x, key)``."""

    def run(params, x, dy, key=None):
        _, pullback = jax.vjp(lambda p, v: apply(p, v, key), params, x)
        dparams, dx = pullback(dy)
        return dparams, jax.tree.map(lambda g: None if g.dtype == jax.dtypes.float0 else g, dx)

    return run


@cache
def compiled_manual(layer: Layer, reduce: Reducer = grads) -> Callable[..., Any]:
    """`manual`, compiled once for all the tests of one process."""
    return jax.jit(manual(layer, reduce))


@cache
def compiled_autodiff(layer: Layer) -> Callable[..., Any]:
    """`autodiff` of the forward, compiled once for all the tests of one process."""
    return jax.jit(autodiff(layer.apply))


@cache
def compiled_example_gradients(layer: Layer) -> Callable[..., Any]:
    """``(params, x, dy, key) -> ∇ᵢ of every parameter, examples first``, by `jax.vjp`.

    Of one example's part of dy at a time.
    """

    def run(params, x, dy, key):
        _, pullback = jax.vjp(lambda p: layer.apply(p, x, key), params)

        def one(i):
            return pullback(jax.tree.map(lambda d: jnp.zeros_like(d).at[i].set(d[i]), dy))[0]

        return jax.vmap(one)(jnp.arange(N))

    return jax.jit(run)


def cotangents(case: Case, sample: Sample) -> tuple[Any, Any]:
    """(dparams, dx) by the hand-written backward, without what taps report."""
    reduced, dx = compiled_manual(case.layer)(*sample)
    return (without_taps(reduced, sample.params) if case.tapped else reduced), dx


def without_taps(reduced: Any, params: Any) -> Any:
    """`reduced` with nothing where the parameters have nothing."""
    if not isinstance(params, dict):
        return reduced
    return {name: without_taps(reduced[name], part) for name, part in params.items()}


def is_factor(node: Any) -> bool:
    """For `jax.tree` functions that stop at factors."""
    return isinstance(node, Factor)


def assert_same(got: Any, want: Any, tolerance: float) -> None:
    """Equal trees, shapes and dtypes; values within `tolerance`, relative and absolute."""
    chex.assert_trees_all_equal_structs(got, want)
    chex.assert_trees_all_equal_shapes_and_dtypes(got, want)
    chex.assert_trees_all_close(got, want, rtol=tolerance, atol=tolerance)


def case_id(case: Case) -> str:
    """For `pytest.mark.parametrize`."""
    return case.name


def planted(layer: Layer, x: Draw | None = None, **flags: Any) -> Case:
    """A case with a bug in it, for a property to catch."""
    return Case("planted", layer, normal(N, 6) if x is None else x, **flags)


def wrong_dense(change: Callable[..., Any], features: int = 3) -> Layer:
    """A dense layer whose (factors, dx) are replaced by ``change(params, x, dy, factors, dx)``."""
    right = dense(features)

    def bwd(params, x, dy):
        factors, dx = right.bwd(params, x, dy, jaxdl.keep)
        return change(params, x, dy, factors, dx)

    return leaf("wrong_dense", right.init, right.fwd, bwd, params=("w", "b"))
