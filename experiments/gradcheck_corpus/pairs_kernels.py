"""Rules by Pallas kernels, run by its interpreter, and one over several devices."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from experiments.gradcheck_corpus.kinds import Mistake, Pair, normal
from experiments.gradcheck_corpus.pairs_tools import kept, normals

_BLOCK = 4


def _call(kernel, out, grid, in_specs, out_specs, *args, aliases=None):
    shape = jax.ShapeDtypeStruct(out, args[0].dtype)
    return pl.pallas_call(
        kernel, out_shape=shape, grid=grid, in_specs=in_specs, out_specs=out_specs,
        interpret=True, input_output_aliases=aliases or {},
    )(*args)  # fmt: skip


# --- row by row ---------------------------------------------------------------------------------


def _silu(x):
    return x / (1 + jnp.exp(-x))


def _silu_kernel(x, out):
    out[...] = _silu(x[...])


def _silu_slope_kernel(x, g, zero, out):
    s = 1 / (1 + jnp.exp(-x[...]))
    out[...] = g[...] * (s + x[...] * s * (1 - s))


def _by_rows(kernel, *args, blocks=pl.cdiv, aliases=None, at=lambda i: (i, 0)):
    spec = pl.BlockSpec((_BLOCK, args[0].shape[1]), lambda i: (i, 0))
    first = pl.BlockSpec((_BLOCK, args[0].shape[1]), at)
    grid = (blocks(args[0].shape[0], _BLOCK),)
    specs = [first, *[spec] * (len(args) - 1)]
    return _call(kernel, args[0].shape, grid, specs, spec, *args, aliases=aliases)


def _silu_kernel_with(blocks=pl.cdiv, at=lambda i: (i, 0)):
    def bwd(x, g):
        zeros = jnp.zeros_like(x)  # the output is written over it
        return (_by_rows(_silu_slope_kernel, x, g, zeros, blocks=blocks, aliases={2: 0}, at=at),)

    return kept(lambda x: _by_rows(_silu_kernel, x), bwd)


SILU = Pair(
    "silu kernel", _silu_kernel_with(), normals((10, 3)),
    {
        "tail of the rows": Mistake(
            _silu_kernel_with(blocks=lambda n, block: n // block),
            diagnosis=r"\[8:10\] of axis 0.*exactly 0", source="FlagGems#5392",
        ),
        "first block read again": Mistake(_silu_kernel_with(at=lambda i: (0, 0))),
    },
    {"ref": _silu},
)  # fmt: skip

# --- sums over the grid -------------------------------------------------------------------------


def _weighted(x, w):
    return x * w


def _weighted_kernel(x, w, out):
    out[...] = x[...] * w[...]


def _scale_sum_kernel(x, g, out, *, how, rows):
    i = pl.program_id(0)
    inside = lax.broadcasted_iota(jnp.int32, x.shape, 0) + i * _BLOCK < rows
    part = jnp.where(inside, x[...] * g[...], 0).sum(0, keepdims=True)

    @pl.when(i == 0)
    def _():
        out[...] = jnp.zeros_like(out)

    if how == "overwritten":
        out[...] = part
    elif how == "twice":
        out[...] += jnp.where(i == 0, 2.0, 1.0).astype(part.dtype) * part
    else:
        out[...] += part


def _weighted_with(how="added", blocks=pl.cdiv):
    def forward(x, w):
        row = pl.BlockSpec((_BLOCK, x.shape[1]), lambda i: (i, 0))
        one = pl.BlockSpec((1, x.shape[1]), lambda i: (0, 0))
        grid = (pl.cdiv(len(x), _BLOCK),)
        return _call(_weighted_kernel, x.shape, grid, [row, one], row, x, w)

    def bwd(x, w, g):
        row = pl.BlockSpec((_BLOCK, x.shape[1]), lambda i: (i, 0))
        one = pl.BlockSpec((1, x.shape[1]), lambda i: (0, 0))
        kernel = partial(_scale_sum_kernel, how=how, rows=len(x))
        return forward(g, w), _call(
            kernel, w.shape, (blocks(len(x), _BLOCK),), [row, row], one, x, g
        )  # fmt: skip

    return kept(forward, bwd)


WEIGHTED = Pair(
    "kernel with a scale for every column", _weighted_with(), normals((10, 3), (1, 3)),
    {
        "last block overwrites": Mistake(_weighted_with(how="overwritten"), "args[1]"),
        "first block twice": Mistake(_weighted_with(how="twice"), "args[1]"),
        "last block not visited": Mistake(
            _weighted_with(blocks=lambda n, block: n // block), "args[1]", source="FlagGems#5392"
        ),
    },
    {"ref": _weighted},
)  # fmt: skip

# --- tiles --------------------------------------------------------------------------------------


def _product_kernel(a, b, out):
    out[...] = a[...] @ b[...]


def _tiled(a, b, left=lambda i, j: (i, 0), place=lambda i, j: (i, j)):
    m, k = a.shape
    n = b.shape[1]
    grid = (pl.cdiv(m, _BLOCK), pl.cdiv(n, _BLOCK))
    specs = [pl.BlockSpec((_BLOCK, k), left), pl.BlockSpec((k, _BLOCK), lambda i, j: (0, j))]
    return _call(_product_kernel, (m, n), grid, specs, pl.BlockSpec((_BLOCK, _BLOCK), place), a, b)


def _tiled_with(**wrong):
    return kept(lambda a, b: _tiled(a, b), lambda a, b, g: (
        _tiled(g, b.T, **wrong), _tiled(a.T, g)))  # fmt: skip


TILED = Pair(  # its users gave no plain function
    "product by tiles", _tiled_with(), normals((8, 8), (8, 8)),
    {
        "tiles swapped": Mistake(_tiled_with(place=lambda i, j: (j, i)), "args[0]"),
        "rows by the other index": Mistake(_tiled_with(left=lambda i, j: (j, 0)), "args[0]"),
    },
)  # fmt: skip

# --- over devices -------------------------------------------------------------------------------


def _spread(x, w):
    return x @ w


def _spread_with(sums=1, mean=False):
    def bwd(x, w, g):
        def part(x, g):
            dw = x.T @ g
            for _ in range(sums):
                # rows are spread over devices, the weight is on all of them
                dw = lax.pmean(dw, "devices") if mean else lax.psum(dw, "devices")
            return dw

        mesh = Mesh(np.array(jax.devices()), ("devices",))
        spread = jax.shard_map(
            part, mesh=mesh, in_specs=(P("devices"), P("devices")), out_specs=P(), check_vma=False
        )
        rest = -len(x) % jax.device_count()  # rows of zeros, so that all have the same number
        dw = spread(*(jnp.pad(a, ((0, rest), (0, 0))) for a in (x, g)))
        return g @ w.T, dw

    return kept(_spread, bwd)


SPREAD = Pair(
    "rows over devices", _spread_with(),
    lambda rng, dtype: (normal(rng, dtype, 8, 3), normal(rng, dtype, 3, 2)),
    {
        # both show with more than one device alone
        "times the number of devices": Mistake(_spread_with(sums=2), "args[1]", source="jax#3970"),
        "mean over devices": Mistake(_spread_with(mean=True), "args[1]", source="jax#3970"),
    },
)  # fmt: skip

PAIRS = (SILU, WEIGHTED, TILED, SPREAD)
