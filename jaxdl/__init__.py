"""jaxdl: deep learning on JAX in which the backward pass is a function you can hold."""

# fmt: off
# isort: off
import importlib
import sys
import types

from jaxdl.layers.activation import (
    elu, gelu, identity, leaky_relu, log_softmax, maxout, relu, sigmoid, silu, softmax, softplus,
    tanh,
)
from jaxdl.layers.attention import self_attention
from jaxdl.layers.cross_attention import cross_attention
from jaxdl.core.backprop import Trace, backprop_trace, value_and_grad
from jaxdl.core.clipping import add_noise, clipped_sum
from jaxdl.core.compose import branch, frozen, remat, repeat, serial, skip, tap
from jaxdl.layers.conv import conv, conv_transpose
from jaxdl.layers.dense import dense
from jaxdl.layers.dropout import dropout
from jaxdl.layers.embedding import embedding
from jaxdl.core.factors import (
    ConvOuter, Diag, Factor, FactorError, Formed, Local, Many, Outer, Scatter, Stacked, Sum, Zero,
    contract,
)
from jaxdl.layers.flatten import flatten
from jaxdl.core.flow import Flow, flow
from jaxdl.core.gram import gram, gram_between
from jaxdl.layers.image_norm import batch_norm, group_norm, set_statistics
from jaxdl.core.kronecker import Kronecker, kron
from jaxdl.core.doors import as_function
from jaxdl.core.layer import Layer, leaf, map_layers, walk_layers
from jaxdl.core.named_params import named_params
from jaxdl.core.side import With
from jaxdl.layers.locally_connected import locally_connected
from jaxdl.core.loss import (
    Loss, binary_cross_entropy, half_squared_error, hinge, huber, kl_sparsity, mean_squared_error,
    softmax_cross_entropy,
)
from jaxdl.core.moments import (
    Moments, Noise, critical_batch_size, gradient_noise, moments, noise_scale,
)
from jaxdl.layers.norm import layer_norm, rms_norm
from jaxdl.layers.positions import learned_positions, sinusoidal_positions
from jaxdl.layers.pool import average_pool, global_pool, lp_pool, max_pool, weighted_pool
from jaxdl.core.projection import example_vectors, project
from jaxdl.core.reducers import (
    TwoPass, combine, example_sq_norms, grads, keep, l2_norm, none, per_example, reduce_kept,
    select, total, trace, trace_with,
)
from jaxdl.layers.recurrent import gru, lstm, rnn
from jaxdl.layers.regions import adaptive_pool, pyramid_pool, region_pool
from jaxdl.core.scan_time import scan_time
from jaxdl.core.share import tied
from jaxdl.program.doors import from_function
from jaxdl.program.explain import explain
from jaxdl.program.gradient_flow import GradientFlow, gradient_flow
from jaxdl.program.value_and_reduce import value_and_reduce
from jaxdl.layers.spectral import SpectralOuter, fft_conv
from jaxdl.core.summary import summary
from jaxdl.layers.toeplitz import conv_matrix

__version__ = "0.1.0"

__all__ = [
    "ConvOuter", "Diag", "Factor", "FactorError", "Flow", "Formed", "GradientFlow", "Kronecker",
    "Layer", "Local", "Loss", "Many", "Moments", "Noise", "Outer", "Scatter", "SpectralOuter",
    "Stacked", "Sum", "Trace", "TwoPass", "With", "Zero", "adaptive_pool", "add_noise",
    "as_function", "average_pool", "backprop_trace", "batch_norm", "binary_cross_entropy", "branch",
    "clipped_sum", "combine", "contract", "conv", "conv_matrix", "conv_transpose",
    "critical_batch_size", "cross_attention", "dense", "dropout", "elu", "embedding",
    "example_sq_norms", "example_vectors", "explain", "fft_conv", "flatten", "flow",
    "from_function", "frozen", "gelu", "global_pool", "gradient_flow", "gradient_noise", "grads",
    "gram", "gram_between", "group_norm", "gru", "half_squared_error", "hinge", "huber", "identity",
    "keep", "kl_sparsity", "kron", "l2_norm", "layer_norm", "leaf", "leaky_relu",
    "learned_positions", "locally_connected", "log_softmax", "lp_pool", "lstm", "map_layers",
    "max_pool", "maxout", "mean_squared_error", "moments", "named_params", "noise_scale", "none",
    "per_example", "project", "pyramid_pool", "reduce_kept", "region_pool", "relu", "remat",
    "repeat", "rms_norm", "rnn", "scan_time", "select", "self_attention", "serial",
    "set_statistics", "sigmoid", "silu", "sinusoidal_positions", "skip", "softmax",
    "softmax_cross_entropy", "softplus", "summary", "tanh", "tap", "tied", "total", "trace",
    "trace_with", "value_and_grad", "value_and_reduce", "walk_layers", "weighted_pool",
]
# fmt: on
# isort: on


def __getattr__(name: str):
    """The parts that not everyone needs are loaded when first asked for."""
    if name in ("data", "gradcheck", "models", "train"):
        return importlib.import_module(f"jaxdl.{name}")
    raise AttributeError(f"module 'jaxdl' has no attribute {name!r}")


# Modules stood beside this file once: their names go on to work.
_rooms = ("jaxdl.core.", "jaxdl.layers.", "jaxdl.numerics.")
for _path in [name for name in sys.modules if name.startswith(_rooms)]:
    _name = _path.rpartition(".")[2]
    globals().setdefault(_name, sys.modules.setdefault(f"jaxdl.{_name}", sys.modules[_path]))
layer = sys.modules["jaxdl.layer"] = types.ModuleType("jaxdl.layer")
for _name in ("program.doors", "core.doors", "core.layer"):
    vars(layer).update(vars(sys.modules[f"jaxdl.{_name}"]))
