"""Scaled dot-product attention, forwards and backwards, whole or in blocks of queries.

Shapes: q, o (N, T, H, h); k, v (N, S, K, h), where G = H/K heads of queries share one of keys;
scores s, probabilities p (N, K, G, T, S).

    s = c·tanh(q·kᵀ/c·√h⁻¹) with a soft cap c, else q·kᵀ·√h⁻¹;  + bias;  −∞ where not allowed
    p = softmax(s)       lse = log Σ exp s       o = (p∘m)·v         (m: dropout, 0 or 1/(1−rate))

    dv = (p∘m)ᵀ·do                    dp = (do·vᵀ)∘m
    ds = p∘(dp − Σ do∘o)              (Σ over h: equal to Σ p∘dp over the keys, and shorter)
    dbias = ds        dq = ds'·k·√h⁻¹        dk = ds'ᵀ·q·√h⁻¹        ds' = ds∘(1 − tanh²)

In blocks of queries only lse is kept, (N, K, G, T), and p = exp(s − lse) is made again: no array of
T × S exists. A query that may see nothing has the output 0, and no cotangent.

References: Vaswani et al. (2017, arXiv:1706.03762); the log-sum-exp, Dao et al. (2022,
arXiv:2205.14135); grouped queries, Ainslie et al. (2023, arXiv:2305.13245); soft cap, Gemma 2
(2024, arXiv:2408.00118).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxdl.core.identity import SameByParts
from jaxdl.numerics.dtypes import wide

BLOCK = 128
"""Queries in a block."""
WHOLE = 512 * 512
"""So many pairs of positions are held whole: a block would save little, and cost a product."""


@dataclass(frozen=True, eq=False)
class Settings(SameByParts):
    """What the scores are, and who sees whom by place alone.

    Attributes:
      causal: whether a position sees only itself and those before it.
      window: how far a position sees: those less than so many places away.
      soft_cap: the largest score in size.
      dropout: the rate at which probabilities are dropped, where there is a key.
    """

    causal: bool = False
    window: int | None = None
    soft_cap: float | None = None
    dropout: float = 0.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Side:
    """What belongs to the examples: each an array, or None.

    Attributes:
      lengths: how many keys of each example are real, (N,).
      segments: to which of several packed sequences a query and a key belong, (N, T) and (N, S).
      mask: which pairs are allowed, boolean, broadcast to (N, H, T, S).
      bias: what is added to the scores, broadcast to (N, H, T, S).
    """

    lengths: Array | None = None
    segments: tuple[Array, Array] | None = None
    mask: Array | None = None
    bias: Array | None = None


@dataclass(frozen=True)
class _Blocks:
    """Queries in blocks of one size, the last one filled up, each with the keys it may see.

    Attributes:
      count, size: how many blocks, and of how many queries.
      keys, width: how many keys there are, and how many a block looks at.
    """

    count: int
    size: int
    keys: int
    width: int

    @classmethod
    def of(cls, t: int, s: int, settings: Settings) -> "_Blocks":
        """All queries at once where the pairs are few."""
        size = t if t * s <= WHOLE else min(t, BLOCK)
        width, window = s, settings.window
        if window is not None:
            width = min(s, size + (window - 1) * (1 if settings.causal else 2))
        return cls(-(-t // size), size, s, width)

    def rows(self, x: Array, axis: int = 1) -> Array:
        """An axis of queries in blocks, on the first axis."""
        short = self.count * self.size - x.shape[axis]
        x = jnp.pad(x, [(0, short if i == axis else 0) for i in range(x.ndim)])
        x = x.reshape(*x.shape[:axis], self.count, self.size, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    def back(self, x: Array, t: int, axis: int = 1) -> Array:
        """What `rows` made as it was."""
        x = jnp.moveaxis(x, 0, axis)
        x = x.reshape(*x.shape[:axis], self.count * self.size, *x.shape[axis + 2 :])
        return lax.slice_in_dim(x, 0, t, axis=axis)

    def first_key(self, number: Any, settings: Settings) -> Any:
        """Where the keys of a block begin."""
        if self.width == self.keys:
            return 0
        first = number * self.size - (settings.window or 0) + 1
        return jnp.clip(first, 0, self.keys - self.width)

    def columns(self, x: Array, first: Any, axis: int = 1) -> Array:
        """The keys of a block out of an axis of keys."""
        if self.width == self.keys or x.shape[axis] == 1:
            return x
        return lax.dynamic_slice_in_dim(x, first, self.width, axis)

    def run(self, step: Any, carry: Any, xs: Any) -> tuple[Any, Any]:
        """`lax.scan` over the blocks; one block is no loop."""
        numbered = (jnp.arange(self.count, dtype=jnp.int32), xs)
        if self.count > 1:
            # autodiff too makes the scores again, block by block
            return lax.scan(jax.checkpoint(step), carry, numbered)
        first = jax.tree.map(lambda x: x[0], numbered)
        carry, ys = step(carry, (0, first[1]))
        return carry, jax.tree.map(lambda y: y[None], ys)


def _rows_of_side(side: Side, blocks: _Blocks) -> dict[str, Array]:
    """What the side input says of queries, in blocks: each is sliced along the keys later."""
    found = {}
    if side.segments is not None:
        found["segments"] = blocks.rows(side.segments[0])
    for name in ("mask", "bias"):
        array = getattr(side, name)
        if array is not None:
            array = array.reshape((1,) * (4 - array.ndim) + array.shape)
            if array.shape[2] == 1:
                array = jnp.broadcast_to(array[None], (blocks.count, *array.shape))
            else:
                array = blocks.rows(array, axis=2)
            found[name] = array
    return found


def _by_group(array: Array, groups: int) -> Array:
    """(N, H, t, s) as (N, K, G, t, s), H being 1 or K·G."""
    n, h, *pairs = array.shape
    return array.reshape(n, *((1, 1) if h == 1 else (h // groups, groups)), *pairs)


def _scores(q, k, number, rows, blocks: _Blocks, settings: Settings, side: Side):
    """(s, tanh) of a block, s (N, K, G, t, s) in float32 or wider; q is scaled already."""
    first = blocks.first_key(number, settings)
    keys = blocks.columns(k, first)
    s = jnp.einsum("ntkgh,nskh->nkgts", q, keys, preferred_element_type=wide(q.dtype))
    bent = None
    if settings.soft_cap is not None:
        bent = jnp.tanh(s / settings.soft_cap)
        s = settings.soft_cap * bent
    groups = q.shape[3]
    if "bias" in rows:
        bias = blocks.columns(rows["bias"], first, axis=3)
        s = s + _by_group(bias, groups).astype(s.dtype)
    i = number * blocks.size + jnp.arange(blocks.size, dtype=jnp.int32)[:, None]
    j = first + jnp.arange(blocks.width, dtype=jnp.int32)
    allowed = []
    if settings.causal:
        allowed.append(j <= i)
    if settings.window is not None:
        allowed.append((i - j < settings.window) & (j - i < settings.window))
    if side.lengths is not None:
        allowed.append((j < side.lengths[:, None])[:, None, None, None, :])
    if side.segments is not None:
        others = blocks.columns(side.segments[1], first)
        allowed.append((rows["segments"][:, :, None] == others[:, None, :])[:, None, None])
    if "mask" in rows:
        allowed.append(_by_group(blocks.columns(rows["mask"], first, axis=3), groups))
    for some in allowed:
        s = jnp.where(some, s, -jnp.inf)
    return s, bent


def _multiplier(key: Array | None, number: Any, p: Array, settings: Settings) -> Array | None:
    """By what the probabilities of a block are multiplied in training; None in evaluation."""
    if key is None or not settings.dropout:
        return None
    keep = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - settings.dropout, p.shape)
    return keep.astype(p.dtype) / (1 - settings.dropout)


def attend(
    q: Array, k: Array, v: Array, settings: Settings, side: Side, key: Array | None = None
) -> tuple[Array, dict[str, Array]]:
    """(o, what the backward pass needs beside q, k, v and o)."""
    n, t, heads, h = q.shape
    blocks = _Blocks.of(t, k.shape[1], settings)
    scaled = (q * h**-0.5).reshape(n, t, k.shape[2], -1, h)

    def step(carry, block):
        number, (q, rows) = block
        s, _ = _scores(q, k, number, rows, blocks, settings, side)
        most = lax.stop_gradient(jnp.max(s, axis=-1, keepdims=True))
        most = jnp.where(jnp.isfinite(most), most, 0)
        p = jnp.exp(s - most)
        total = jnp.sum(p, axis=-1, keepdims=True)
        seen = total > 0  # a query may be allowed no key at all
        total = jnp.where(seen, total, 1)
        p = (p / total).astype(q.dtype)
        # the scores being few, p is kept: making it again costs a product and an exponential;
        # else the log-sum-exp, +∞ where nothing is seen: exp(s − lse) is 0 there
        lse = jnp.where(seen, most + jnp.log(total), jnp.inf)[..., 0]
        kept = p if blocks.count == 1 else lse
        m = _multiplier(key, number, p, settings)
        values = blocks.columns(v, blocks.first_key(number, settings))
        return carry, (jnp.einsum("nkgts,nskh->ntkgh", p if m is None else p * m, values), kept)

    _, (o, kept) = blocks.run(step, None, (blocks.rows(scaled), _rows_of_side(side, blocks)))
    kept = {"p": kept[0]} if blocks.count == 1 else {"lse": kept}
    return blocks.back(o, t).reshape(n, t, heads, h), kept


def attend_back(
    q: Array, k: Array, v: Array, o: Array, kept: dict[str, Array], do: Array,
    settings: Settings, side: Side, key: Array | None = None,
) -> tuple[Array, Array, Array, Array | None]:  # fmt: skip
    """(dq, dk, dv, dbias), dbias None without a bias."""
    n, t, heads, h = q.shape
    blocks = _Blocks.of(t, k.shape[1], settings)
    grouped = (n, t, k.shape[2], heads // k.shape[2], h)
    scaled, o, do = (q * h**-0.5).reshape(grouped), o.reshape(grouped), do.reshape(grouped)
    dot = jnp.sum(do * o, axis=-1, dtype=wide(q.dtype)).astype(q.dtype)  # (N, T, K, G)

    def step(carry, block):
        (dk, dv, dbias), (number, (q, do, dot, lse, rows)) = carry, block
        first = blocks.first_key(number, settings)
        p, bent = kept.get("p"), None
        if p is None or settings.soft_cap is not None:
            s, bent = _scores(q, k, number, rows, blocks, settings, side)
            p = jnp.exp(s - lse[..., None]).astype(q.dtype) if p is None else p
        dp = jnp.einsum("ntkgh,nskh->nkgts", do, blocks.columns(v, first))
        m = _multiplier(key, number, p, settings)
        # o = (p∘m)·v
        dv_here = jnp.einsum("nkgts,ntkgh->nskh", p if m is None else p * m, do)
        # p = softmax(s)
        ds = p * ((dp if m is None else dp * m) - jnp.moveaxis(dot, 1, -1)[..., None])
        dbias_here = None
        if side.bias is not None:
            dbias, dbias_here = _of_bias(dbias, ds, rows["bias"].shape, first, blocks)
        if bent is not None:
            ds = ds * (1 - bent * bent).astype(ds.dtype)
        # s = q·kᵀ, with √h⁻¹ already in q
        dq = jnp.einsum("nkgts,nskh->ntkgh", ds, blocks.columns(k, first)) * h**-0.5
        dk_here = jnp.einsum("nkgts,ntkgh->nskh", ds, q)
        dk, dv = (_add(x, part, first, 1) for x, part in ((dk, dk_here), (dv, dv_here)))
        return (dk, dv, dbias), (dq, dbias_here)

    zeros = [jnp.zeros_like(x, dtype=wide(x.dtype)) for x in (k, v)]
    per_block = (scaled, do, dot)
    rows = _rows_of_side(side, blocks)
    common = None
    if side.bias is not None and rows["bias"].shape[3] == 1:  # one row of biases for all queries
        common = jnp.zeros(rows["bias"].shape[1:], wide(side.bias.dtype))
    xs = (*map(blocks.rows, per_block), kept.get("lse"), rows)
    (dk, dv, common), (dq, dbias) = blocks.run(step, (*zeros, common), xs)
    if side.bias is not None:
        if common is None:
            common = blocks.back(dbias, side.bias.shape[-2], axis=2)
        dbias = common.reshape(side.bias.shape).astype(side.bias.dtype)
    dq = blocks.back(dq, t).reshape(q.shape)
    return dq, dk.astype(k.dtype), dv.astype(v.dtype), dbias


def _add(total: Array, part: Array, first: Any, axis: int) -> Array:
    """`part` added along an axis of keys, from the first key of a block on."""
    part = part.astype(total.dtype)
    if part.shape == total.shape:
        return total + part
    before = lax.dynamic_slice_in_dim(total, first, part.shape[axis], axis)
    return lax.dynamic_update_slice_in_dim(total, before + part, first, axis)


def _of_bias(total: Array | None, ds: Array, shape: tuple[int, ...], first: Any, blocks: _Blocks):
    """(the sum so far of a bias that all queries share, the cotangent of a block's own biases)."""
    n, k, g, t, s = ds.shape
    ds = ds.astype(wide(ds.dtype)).reshape(n, k * g, t, s)
    repeated = tuple(i for i in range(3) if shape[i] == 1) + ((3,) if shape[3] == 1 < s else ())
    ds = jnp.sum(ds, axis=repeated, keepdims=True)
    whole = (*ds.shape[:3], shape[3])
    if total is not None:
        return _add(total, ds, first, 3), None
    return None, ds if ds.shape == whole else _add(jnp.zeros(whole, ds.dtype), ds, first, 3)
