"""Embedding: rows of a table, read by integer ids.

Shapes: ids (...) integer, table E (rows, k), y (..., k).

    y  = E[ids]
    dE = Σ dy added to row ids       (Σ over examples and positions; ids have no cotangent)

An id outside 0 ... rows − 1 reads NaN, so that it cannot pass unnoticed under jit (JAX would clamp
it, and −1 would be the last row); its cotangent goes nowhere. Outside jit it is an error.

Reference: Bengio et al. (2003), JMLR 3, 1137-1155.
"""

from functools import partial

import jax
import jax.numpy as jnp

from jaxdl.core.factors import Scatter
from jaxdl.core.layer import Layer, leaf
from jaxdl.numerics.checks import check_array, check_params, check_range
from jaxdl.numerics.dtypes import row_numbers
from jaxdl.numerics.sharding import row_sharding


def _init(key, ids, *, rows, features, init, dtype):
    return {"table": init(key, (rows, features), dtype)}


def _fwd(params, ids, *, rows, features):
    table = params["table"]
    check_params("embedding", params, table=(rows, features))
    check_array("embedding: ids", ids)
    if not jnp.issubdtype(jnp.result_type(ids), jnp.integer):
        raise TypeError(
            f"embedding: ids must be integers, got {jnp.result_type(ids)} of shape "
            f"{jnp.shape(ids)}; use ids.astype(jnp.int32)"
        )
    ids = row_numbers(ids)
    check_range("embedding: ids", ids, rows)
    y = table.at[ids].get(
        mode="fill",
        fill_value=jnp.nan,
        wrap_negative_indices=False,
        out_sharding=row_sharding(table, ids),
    )
    return y, ids


def _bwd(params, ids, dy):
    return {"table": Scatter(ids, dy)}, None


def embedding(
    rows: int,
    features: int,
    *,
    init: jax.nn.initializers.Initializer = jax.nn.initializers.normal(0.02),
    dtype: jnp.dtype = jnp.float32,
) -> Layer:
    """A table of `rows` vectors: integer ids (...) to (..., features).

    Args:
      rows: size of the vocabulary.
      features: length of a row.
      init: initial table, from `jax.nn.initializers`.
      dtype: dtype of the table and of the output.

    Raises:
      TypeError: ids are not integers.
      ValueError: ids out of range, where their values are known (outside jit).
    """
    if rows < 1 or features < 1:
        raise ValueError(
            f"embedding: rows and features must be at least 1, got {rows} and {features}; "
            "give the vocabulary size and the width"
        )
    start = partial(_init, rows=rows, features=features, init=init, dtype=dtype)
    fwd = partial(_fwd, rows=rows, features=features)
    return leaf("embedding", start, fwd, _bwd, params=("table",), detail=f"{rows}, {features}")
