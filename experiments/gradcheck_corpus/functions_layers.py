"""Layers and losses of jaxdl as functions whose derivative is their hand-written backward."""

from __future__ import annotations

from typing import Any

import jax

import jaxdl
from experiments.gradcheck_corpus.functions_draw import integers, normal
from experiments.gradcheck_corpus.kinds import Function


def _layer(
    name: str, layer: jaxdl.Layer, *shape: int, ids: int = 0, key: int | None = None
) -> Function:
    """A layer with parameters drawn, not initialised; its input is of that shape."""
    f = jaxdl.as_function(layer)

    def make_args(rng, dtype):
        x = integers(rng, ids, *shape) if ids else normal(rng, dtype, *shape)
        start = jax.eval_shape(layer.init, jax.random.key(0), x)
        params = jax.tree.map(lambda p: 0.7 * normal(rng, dtype, *p.shape), start)
        return (params, x) if key is None else (params, x, jax.random.key(key))

    return Function(name, f, make_args)


def _loss(name: str, loss: jaxdl.Loss, target: Any, *shape: int) -> Function:
    """A loss of y; its target is data."""

    @jax.custom_vjp
    def f(y, t):
        return loss(y, t)

    f.defvjp(lambda y, t: loss.fwd(y, t), lambda kept, g: (loss.bwd(kept, g), None))
    return Function(name, lambda y, t: f(y, jax.lax.stop_gradient(t)),
                    lambda rng, dtype: (normal(rng, dtype, *shape), target(rng, dtype)),
                    settings={"wrt": ["args[0]"]})  # fmt: skip


def _mlp() -> jaxdl.Layer:
    return jaxdl.serial(
        jaxdl.dense(4),
        jaxdl.tanh(),
        jaxdl.skip(jaxdl.serial(jaxdl.dense(4), jaxdl.gelu())),
        jaxdl.dense(2),
    )


LAYERS: tuple[Function, ...] = (
    _layer("layer: dense", jaxdl.dense(3), 5, 4),
    _layer("layer: conv", jaxdl.conv(3, (3, 2), padding="same", strides=2), 2, 5, 4, 2),
    _layer("layer: conv_transpose", jaxdl.conv_transpose(2, 3, strides=2), 1, 3, 4, 3),
    _layer("layer: layer_norm", jaxdl.layer_norm(), 3, 6),
    _layer("layer: rms_norm", jaxdl.rms_norm(), 4, 5),
    _layer("layer: group_norm", jaxdl.group_norm(2), 2, 3, 2, 4),
    _layer("layer: max_pool", jaxdl.max_pool(3, strides=2), 1, 5, 7, 2),
    _layer("layer: self_attention", jaxdl.self_attention(2), 2, 3, 4),
    _layer("layer: embedding", jaxdl.embedding(7, 3), 2, 5, ids=7),
    _layer("layer: mlp", _mlp(), 5, 3),
    _layer("layer: dropout", jaxdl.dropout(0.3), 4, 6, key=3),
    _layer("layer: softmax", jaxdl.softmax(), 3, 5),
    _layer("layer: locally_connected", jaxdl.locally_connected(2, 3, rank=1), 2, 6, 3),
    _layer("layer: fft_conv", jaxdl.fft_conv(2, 3, rank=1), 2, 7, 2),
    _loss(
        "loss: softmax_cross_entropy",
        jaxdl.softmax_cross_entropy(),
        lambda rng, dtype: integers(rng, 4, 6),
        6,
        4,
    ),
    _loss("loss: huber", jaxdl.huber(), lambda rng, dtype: normal(rng, dtype, 3, 4), 3, 4),
)
