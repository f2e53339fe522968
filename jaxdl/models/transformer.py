"""Pre-norm transformer blocks (Vaswani et al. 2017; pre-norm: Xiong et al., arXiv:2002.04745).

    u = x + attention(norm(x))      y = u + mlp(norm(u))
    du = dy + norm̄(mlp̄(dy))         dx = du + norm̄(attention̄(du))         f̄ is `f.bwd`

The four layers of a block stand side by side in its parameters: "attention_norm", "attention",
"mlp_norm", "mlp". So the weights of the attention are at "blocks/attention/w_qkv", whatever norms
and dropouts stand around it.
"""

import itertools
from collections.abc import Mapping

import jax

from jaxdl.core.compose import repeat, serial
from jaxdl.core.container import Children, container, split_keys
from jaxdl.core.layer import Layer
from jaxdl.core.side import add_sides
from jaxdl.layers.activation import gelu
from jaxdl.layers.attention import self_attention
from jaxdl.layers.dense import dense
from jaxdl.layers.dropout import dropout
from jaxdl.layers.norm import layer_norm
from jaxdl.numerics.pytree import describe, struct


def skips(*arms: Mapping[str, Layer]) -> Layer:
    """x + f(x) for one arm f after the other; an arm is a chain of layers, by name.

    What nested `skip(serial(...))` would hold at two levels stands side by side here: the layers of
    all arms are children of the stream, under the names they are given.

    Args:
      arms: of each, its layers in order, under names that no other arm has.

    Raises:
      ValueError: an arm that does not keep shape and dtype.
    """
    named = [name for arm in arms for name in arm]
    if len(set(named)) < len(named):
        raise ValueError(
            f"skips: each layer must have a name of its own, got {named}; rename what comes twice"
        )
    inside = Children.of("skips", (), {k: f for arm in arms for k, f in arm.items()})
    arm_names = tuple(tuple(arm) for arm in arms)
    lengths, n = tuple(map(len, arm_names)), len(inside.names)

    def init(key, x, side):
        params, keys = [], jax.random.split(key, n)
        for arm in _cut(inside.each, lengths):
            h = x
            for child in arm:
                params.append(child.init(keys[len(params)], h, side))
                h = child.output(params[-1], h, side)
        return inside.gather(params)

    def fwd(params, x, side, key):
        residuals = []
        runs = zip(inside.each, inside.split("params", params), split_keys(key, n), strict=True)
        for arm in _cut(tuple(runs), lengths):
            h = x
            for child, p, k in arm:
                h, kept = child.fwd(p, h, side, k)
                residuals.append(kept)
            if struct(h) != struct(x):
                raise ValueError(
                    f"skips: an arm must keep the shape and dtype of x, {describe(x)}, "
                    f"got {describe(h)} from {arm[-1][0].name}; end it with a layer of that width"
                )
            x = x + h
        return x, tuple(residuals)

    def bwd(params, residuals, side, dy, reduce, slots):
        reduced, dsides = [], []
        runs = zip(
            inside.each, inside.split("params", params), residuals, inside.split("slots", slots),
            strict=True,
        )  # fmt: skip
        for arm in reversed(_cut(tuple(runs), lengths)):
            dh = dy
            for child, p, r, s in reversed(arm):
                part, dh, dside = child.bwd(p, r, side, dh, reduce, s)
                reduced.append(part)
                dsides.append(dside)
            dy = dy + dh
        return inside.gather(reduced[::-1], params), dy, add_sides(dsides)

    def rebuild(*new):
        pairs = _cut(new, lengths)
        return skips(*(dict(zip(k, f, strict=True)) for k, f in zip(arm_names, pairs, strict=True)))

    return container("skips", inside, init, fwd, bwd, rebuild)


def _cut(parts: tuple, lengths: tuple[int, ...]) -> list[tuple]:
    """The parts, so many at a time."""
    ends = itertools.accumulate(lengths)
    return [parts[end - n : end] for end, n in zip(ends, lengths, strict=True)]


def transformer_block(
    features: int,
    heads: int,
    *,
    hidden: int | None = None,
    causal: bool = True,
    dropout_rate: float = 0.0,
) -> Layer:
    """x + attention(norm(x)), then x + mlp(norm(x)): (..., T, features) to the same shape.

    Args:
      features: width of the stream, a multiple of heads.
      heads: attention heads.
      hidden: width inside the mlp; by default 4 × features.
      causal: whether a position sees only those before it and itself.
      dropout_rate: behind the attention and behind the mlp, in training.
    """
    width = 4 * features if hidden is None else hidden
    bodies = {
        "attention": self_attention(heads, causal=causal),
        "mlp": serial(dense(width), gelu(approximate=True), dense(features)),
    }
    arms = []
    for name, body in bodies.items():
        arms.append({f"{name}_norm": layer_norm(), name: body})
        if dropout_rate:
            arms[-1][f"{name}_dropout"] = dropout(dropout_rate)
    return skips(*arms)


def transformer_stack(
    blocks: int,
    features: int,
    heads: int,
    *,
    hidden: int | None = None,
    causal: bool = True,
    dropout_rate: float = 0.0,
) -> Layer:
    """`blocks` transformer blocks under one scan."""
    block = transformer_block(
        features, heads, hidden=hidden, causal=causal, dropout_rate=dropout_rate
    )
    return repeat(block, blocks)
