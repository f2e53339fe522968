"""jaxdl: deep learning on JAX in which the backward pass is a function you can hold."""
# fmt: off
# isort: off

from jaxdl.activation import (
    elu, gelu, identity, leaky_relu, log_softmax, maxout, relu, sigmoid, silu, softmax, softplus,
    tanh,
)
from jaxdl.attention import self_attention
from jaxdl.backprop import Trace, backprop_trace, value_and_grad
from jaxdl.compose import branch, frozen, remat, repeat, serial, skip, tap
from jaxdl.dense import dense
from jaxdl.dropout import dropout
from jaxdl.embedding import embedding
from jaxdl.factors import (
    Factor, FactorError, Formed, Many, Outer, Scatter, Stacked, Sum, Zero, contract,
)
from jaxdl.layer import Layer, as_function, from_function, leaf, map_layers
from jaxdl.loss import (
    Loss, binary_cross_entropy, half_squared_error, hinge, huber, kl_sparsity, mean_squared_error,
    softmax_cross_entropy,
)
from jaxdl.norm import layer_norm, rms_norm
from jaxdl.reducers import (
    combine, example_sq_norms, grads, keep, l2_norm, none, reduce_kept, select, total, trace,
    trace_with,
)
from jaxdl.share import scan_time, tied
from jaxdl.summary import summary

__version__ = "0.1.0"

__all__ = [
    "Factor", "FactorError", "Formed", "Layer", "Loss", "Many", "Outer", "Scatter", "Stacked",
    "Sum", "Trace", "Zero", "as_function", "backprop_trace", "binary_cross_entropy", "branch",
    "combine", "contract", "dense", "dropout", "elu", "embedding", "example_sq_norms",
    "from_function", "frozen", "gelu", "grads", "half_squared_error", "hinge", "huber", "identity",
    "keep", "kl_sparsity", "l2_norm", "layer_norm", "leaf", "leaky_relu", "log_softmax",
    "map_layers", "maxout", "mean_squared_error", "none", "reduce_kept", "relu", "remat", "repeat",
    "rms_norm", "scan_time", "select", "self_attention", "serial", "sigmoid", "silu", "skip",
    "softmax", "softmax_cross_entropy", "softplus", "summary", "tanh", "tap", "tied", "total",
    "trace", "trace_with", "value_and_grad",
]
