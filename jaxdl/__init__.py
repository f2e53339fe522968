"""jaxdl: deep learning on JAX in which the backward pass is a function you can hold."""

from jaxdl.activation import (
    elu as elu,
    gelu as gelu,
    identity as identity,
    leaky_relu as leaky_relu,
    log_softmax as log_softmax,
    maxout as maxout,
    relu as relu,
    sigmoid as sigmoid,
    silu as silu,
    softmax as softmax,
    softplus as softplus,
    tanh as tanh,
)
from jaxdl.attention import self_attention as self_attention
from jaxdl.backprop import (
    Trace as Trace,
    backprop_trace as backprop_trace,
    value_and_grad as value_and_grad,
)
from jaxdl.compose import (
    branch as branch,
    frozen as frozen,
    remat as remat,
    repeat as repeat,
    serial as serial,
    skip as skip,
    tap as tap,
)
from jaxdl.dense import dense as dense
from jaxdl.dropout import dropout as dropout
from jaxdl.embedding import embedding as embedding
from jaxdl.factors import contract as contract
from jaxdl.layer import (
    Layer as Layer,
    as_function as as_function,
    from_function as from_function,
    leaf as leaf,
    map_layers as map_layers,
)
from jaxdl.loss import (
    Loss as Loss,
    binary_cross_entropy as binary_cross_entropy,
    half_squared_error as half_squared_error,
    hinge as hinge,
    huber as huber,
    kl_sparsity as kl_sparsity,
    mean_squared_error as mean_squared_error,
    softmax_cross_entropy as softmax_cross_entropy,
)
from jaxdl.norm import layer_norm as layer_norm, rms_norm as rms_norm
from jaxdl.reducers import (
    combine as combine,
    example_sq_norms as example_sq_norms,
    grads as grads,
    keep as keep,
    l2_norm as l2_norm,
    none as none,
    reduce_kept as reduce_kept,
    select as select,
    total as total,
    trace as trace,
    trace_with as trace_with,
)
from jaxdl.share import scan_time as scan_time, tied as tied
from jaxdl.summary import summary as summary

__version__ = "0.1.0"
