"""Rules of linear maps: dense layers, products of matrices, broadcasting."""

from __future__ import annotations

import jax.numpy as jnp

from experiments.gradcheck_corpus.kinds import Mistake, Pair
from experiments.gradcheck_corpus.pairs_tools import kept, normals


def _dense(x, w, b):
    return x @ w + b


def _dense_with(
    dx=lambda x, w, g: g @ w.T, dw=lambda x, w, g: x.T @ g, db=lambda x, w, g: g.sum(0)
):
    return kept(_dense, lambda x, w, b, g: (dx(x, w, g), dw(x, w, g), db(x, w, g)))


def _one_entry(x, w, g):
    return (x.T @ g).at[1, 2].multiply(1 + 1e-6)


def _through_bfloat16(x, w, g):
    return (g @ w.T).astype(jnp.bfloat16).astype(g.dtype)


DENSE = Pair(
    "dense", _dense_with(), normals((5, 4), (4, 4), (4,)),
    {
        "weight not transposed": Mistake(_dense_with(dx=lambda x, w, g: g @ w)),
        "weights already updated": Mistake(
            _dense_with(dx=lambda x, w, g: g @ (w - 0.1 * (x.T @ g)).T),
            diagnosis="not a linear function of the cotangent", source="SOURCES.md A5",
        ),
        "mean over the batch": Mistake(
            _dense_with(db=lambda x, w, g: g.mean(0)), "args[2]",
            r"0\.2 times the right gradient: 1/axis 0",
        ),
        "a thousandth too large": Mistake(
            _dense_with(dw=lambda x, w, g: 1.001 * (x.T @ g)), "args[1]", r"1\.001 times"
        ),
        "a millionth too large": Mistake(
            _dense_with(dx=lambda x, w, g: 1.000001 * (g @ w.T)), "args[0]", r"1\.000001 times"
        ),
        "one entry, by a millionth": Mistake(
            _dense_with(dw=_one_entry), "args[1]", r"index \(1, 2\)"
        ),
        "one entry zero": Mistake(
            _dense_with(dw=lambda x, w, g: (x.T @ g).at[0, 3].set(0)), "args[1]",
            r"15 of 16 entries agree.*exactly 0",
        ),
        "zero": Mistake(
            _dense_with(db=lambda x, w, g: jnp.zeros_like(g[0])), "args[2]",
            "zero: the rule gives nothing",
        ),
        "sign": Mistake(_dense_with(db=lambda x, w, g: -g.sum(0)), "args[2]", "the sign"),
        "clipped": Mistake(
            _dense_with(dx=lambda x, w, g: jnp.clip(g @ w.T, -1, 1)), "args[0]",
            "not a linear function of the cotangent",
        ),
        "cotangent taken as ones": Mistake(
            _dense_with(dx=lambda x, w, g: jnp.ones_like(g) @ w.T), "args[0]",
            "the cotangent taken as ones",
        ),
        "scaled by its first entry": Mistake(
            _dense_with(dx=lambda x, w, g: g @ w.T * g[0, 0]), "args[0]",
            "not a linear function of the cotangent", "Liger-Kernel#1298",
        ),
        "returns bfloat16": Mistake(
            _dense_with(dx=lambda x, w, g: (g @ w.T).astype(jnp.bfloat16)), "args[0]",
            "as the argument, got bfloat16", "jax#32242",
        ),
        "rounded to bfloat16": Mistake(
            _dense_with(dx=_through_bfloat16), "args[0]", "bfloat16"
        ),
        "shifted rows": Mistake(
            _dense_with(dw=lambda x, w, g: jnp.roll(x.T @ g, 1, 0)), "args[1]",
            "shifted by 1 along axis 0",
        ),
        "weight decay": Mistake(
            _dense_with(dw=lambda x, w, g: x.T @ g + 1e-4 * w), "args[1]",
            "not a linear function of the cotangent|cotangent of zeros must give zeros",
        ),
        "swapped factors": Mistake(
            _dense_with(dw=lambda x, w, g: g.T @ x), "args[1]",
            r"the right gradient transposed, axes \(1, 0\)",
        ),
        "sum over the batch missing": Mistake(
            _dense_with(db=lambda x, w, g: g), "args[2]", "shapes? do(es)? not match|must be",
            "jax#6452",
        ),
    },
)  # fmt: skip


# A batch of matrices times one matrix: the gradient of the one adds up over the batch.


def _shared(x, w):
    return jnp.einsum("bnk,km->bnm", x, w)


def _shared_with(dx="bnm,km->bnk", dw=lambda x, g: jnp.einsum("bnk,bnm->km", x, g)):
    return kept(_shared, lambda x, w, g: (jnp.einsum(dx, g, w), dw(x, g)))


SHARED_WEIGHT = Pair(
    "one weight for a batch", _shared_with(), normals((3, 6, 4), (4, 5)),
    {
        "overwritten, not added": Mistake(
            _shared_with(dw=lambda x, g: x[-1].T @ g[-1]), "args[1]"
        ),
        "first block left out": Mistake(
            _shared_with(dw=lambda x, g: jnp.einsum("bnk,bnm->km", x[1:], g[1:])), "args[1]"
        ),
        "mean over the batch": Mistake(
            _shared_with(dw=lambda x, g: jnp.einsum("bnk,bnm->bkm", x, g).mean(0)), "args[1]",
            r"0\.333333333 times the right gradient: 1/axis 0 of args\[0\], 3",
        ),
    },
)  # fmt: skip


def _square_product(a, b):
    return a @ b


def _square_with(da=lambda a, b, g: g @ b.T, db=lambda a, b, g: a.T @ g):
    return kept(_square_product, lambda a, b, g: (da(a, b, g), db(a, b, g)))


SQUARE_PRODUCT = Pair(
    "product of square matrices", _square_with(), normals((4, 4), (4, 4)),
    {
        "gradients swapped": Mistake(
            _square_with(da=lambda a, b, g: a.T @ g, db=lambda a, b, g: g @ b.T), "args",
            r"the gradient of args\[1\]",
        ),
        "both on the wrong side": Mistake(
            _square_with(da=lambda a, b, g: b.T @ g), "args[0]"
        ),
    },
)  # fmt: skip


# --- broadcasting -------------------------------------------------------------------------------


def _scaled(x, b):
    return x * b


def _scaled_with(dx=lambda x, b, g: g * b, db=lambda x, b, g: (g * x).sum(0, keepdims=True)):
    return kept(_scaled, lambda x, b, g: (dx(x, b, g), db(x, b, g)))


BROADCAST = Pair(
    "broadcast product", _scaled_with(), normals((4, 3), (1, 3)),
    {
        "mean for sum": Mistake(
            _scaled_with(db=lambda x, b, g: (g * x).mean(0, keepdims=True)), "args[1]",
            r"0\.25 times the right gradient: 1/axis 0",
        ),
        "first row for sum": Mistake(_scaled_with(db=lambda x, b, g: (g * x)[:1]), "args[1]"),
        "one sum for all": Mistake(
            _scaled_with(db=lambda x, b, g: jnp.broadcast_to((g * x).sum(), b.shape)), "args[1]",
            "its sum over axis 1",
        ),
        "factor forgotten": Mistake(_scaled_with(dx=lambda x, b, g: g), "args[0]", r"args\[1\]"),
        "cotangent overwritten": Mistake(  # g *= b, then used again
            _scaled_with(db=lambda x, b, g: (g * b * x).sum(0, keepdims=True)), "args[1]",
            r"args\[1\]", "Liger-Kernel#370",
        ),
    },
)  # fmt: skip


def _bias_of_rows(x, b):
    return x + b[:, None]


ROW_BIAS = Pair(
    "bias of rows", kept(_bias_of_rows, lambda x, b, g: (g, g.sum(1))), normals((4, 4), (4,)),
    {
        "sum over the wrong axis": Mistake(
            kept(_bias_of_rows, lambda x, b, g: (g, g.sum(0))), "args[1]"
        ),
    },
)  # fmt: skip


# --- products with several factors --------------------------------------------------------------


def _bilinear(x, a, y):
    return x @ a @ y


def _bilinear_with(da=lambda x, y, g: g * jnp.outer(x, y), dy=lambda x, a, g: g * (x @ a)):
    return kept(_bilinear, lambda x, a, y, g: (g * (a @ y), da(x, y, g), dy(x, a, g)))


BILINEAR = Pair(
    "bilinear form", _bilinear_with(), normals((5,), (5, 5), (5,)),
    {
        "outer product turned": Mistake(
            _bilinear_with(da=lambda x, y, g: g * jnp.outer(y, x)), "args[1]", "transposed"
        ),
        "as if symmetric": Mistake(_bilinear_with(dy=lambda x, a, g: g * (a @ x)), "args[2]"),
    },
)  # fmt: skip

_ALPHA = 8.0


def _adapter(x, w, a, b):
    return x @ w + _ALPHA / a.shape[1] * (x @ a) @ b


def _adapter_with(scale_a=None, through=True):
    def bwd(x, w, a, b, g):
        s = _ALPHA / a.shape[1]
        dx = g @ w.T + through * s * (g @ b.T) @ a.T
        return dx, x.T @ g, (s if scale_a is None else scale_a) * x.T @ (g @ b.T), s * (x @ a).T @ g

    return kept(_adapter, bwd)


LOW_RANK = Pair(
    "low-rank adapter", _adapter_with(), normals((7, 6), (6, 5), (6, 2), (2, 5)),
    {
        "scale forgotten": Mistake(_adapter_with(scale_a=1.0), "args[2]", r"0\.25 times"),
        "rank forgotten in the scale": Mistake(
            _adapter_with(scale_a=_ALPHA), "args[2]", "2 times the right gradient: .*axis"
        ),
        "input not through the adapter": Mistake(_adapter_with(through=False), "args[0]"),
    },
)  # fmt: skip


def _tied(x, w):
    return jnp.tanh(x @ w) @ w.T


def _tied_with(both=True):
    def bwd(x, w, g):
        h = jnp.tanh(x @ w)
        dz = (g @ w) * (1 - h**2)
        return dz @ w.T, x.T @ dz + both * g.T @ h

    return kept(_tied, bwd)


TIED = Pair(
    "tied autoencoder", _tied_with(), normals((5, 6), (6, 3)),
    {"one use of the weight": Mistake(_tied_with(both=False), "args[1]")},
)  # fmt: skip


def _complex_linear(a, b, c, d):
    """(a + bi)(c + di) as its real and imaginary part."""
    return a * c - b * d, a * d + b * c


def _complex_with(sign):
    def bwd(a, b, c, d, g):
        u, v = g
        return (u * c + sign * v * d, v * c - sign * u * d,
                u * a + sign * v * b, v * a - sign * u * b)  # fmt: skip

    return kept(_complex_linear, bwd)


COMPLEX = Pair(
    "complex product", _complex_with(1), normals((6,), (6,), (6,), (6,)),
    {"conjugate missing": Mistake(_complex_with(-1), "args", source="ChainRules.jl#600")},
)  # fmt: skip

PAIRS = (
    DENSE, SHARED_WEIGHT, SQUARE_PRODUCT, BROADCAST, ROW_BIAS, BILINEAR, LOW_RANK, TIED, COMPLEX,
)  # fmt: skip
