"""Builders of whole models: functions that return a Layer."""

from jaxdl.models.mlp import ACTIVATIONS as ACTIVATIONS
from jaxdl.models.mlp import mlp as mlp
from jaxdl.models.transformer import (
    transformer_block as transformer_block,
)
from jaxdl.models.transformer import (
    transformer_stack as transformer_stack,
)
