"""Builders of whole models: functions that return a Layer."""

from jaxdl.models.mlp import ACTIVATIONS as ACTIVATIONS, mlp as mlp
from jaxdl.models.transformer import (
    transformer_block as transformer_block,
    transformer_stack as transformer_stack,
)
