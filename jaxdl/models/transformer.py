"""Pre-norm transformer blocks (Vaswani et al. 2017; pre-norm: Xiong et al., arXiv:2002.04745)."""

from jaxdl.core.compose import repeat, serial, skip
from jaxdl.core.layer import Layer
from jaxdl.layers.activation import gelu
from jaxdl.layers.attention import self_attention
from jaxdl.layers.dense import dense
from jaxdl.layers.dropout import dropout
from jaxdl.layers.norm import layer_norm


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
    drop = [dropout(dropout_rate)] if dropout_rate else []
    attend = serial(layer_norm(), self_attention(heads, causal=causal), *drop)
    width = 4 * features if hidden is None else hidden
    think = serial(layer_norm(), dense(width), gelu(approximate=True), dense(features), *drop)
    return serial(skip(attend), skip(think))


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
