"""Rules of maxima, pooling, sorting and selection, and their ties."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gradcheck_corpus.kinds import Mistake, Pair, normal
from experiments.gradcheck_corpus.pairs_tools import integers, kept, normals, of


def _first_maximum(x):
    return jax.nn.one_hot(jnp.argmax(x, -1), x.shape[-1], dtype=x.dtype)


def _max(x):
    return jnp.max(x, -1)


MAX = Pair(
    "maximum of rows", of(_max, lambda x, g: _first_maximum(x) * g[:, None]), normals((4, 6)),
    {
        "every tie in full": Mistake(
            of(_max, lambda x, g: jnp.where(x == x.max(-1, keepdims=True), g[:, None], 0)),
            diagnosis="no valid subgradient", source="Theano#4568",
        ),
        "mean over the row": Mistake(
            of(_max, lambda x, g: jnp.broadcast_to(g[:, None], x.shape) / x.shape[-1]),
            diagnosis="its mean over axis 1",
        ),
        "of the absolute values": Mistake(
            of(_max, lambda x, g: _first_maximum(jnp.abs(x)) * g[:, None])
        ),
        "place of the smallest": Mistake(of(_max, lambda x, g: _first_maximum(-x) * g[:, None])),
    },
)  # fmt: skip


def _windows(length, size, stride):
    return stride * np.arange((length - size) // stride + 1)[:, None] + np.arange(size)


def _pooled(x, size=3, stride=2):
    return x[:, _windows(x.shape[1], size, stride)].max(-1)


def _pooled_with(how="add", shift=0, last=True, ties=False):
    def bwd(x, g):
        rows = _windows(x.shape[1], 3, 2)
        taken = x[:, rows]
        chosen = jnp.argmax(taken, -1)
        if ties:
            g = jnp.where(taken == taken.max(-1, keepdims=True), g[..., None], 0)
            return (jnp.zeros_like(x).at[:, rows].add(g),)
        to = np.arange(len(rows)) * 2 + chosen + shift
        g = g if last else g.at[:, -1].set(0)
        at = jnp.zeros_like(x).at[np.arange(len(x))[:, None], to]
        return (at.add(g) if how == "add" else at.set(g),)

    return of(_pooled, lambda x, g: bwd(x, g)[0])


POOLED = Pair(
    "overlapping maximum pooling", _pooled_with(), normals((3, 11)),
    {
        "set for add": Mistake(_pooled_with(how="set"), source="NNlib.jl#205"),
        "off by one": Mistake(_pooled_with(shift=1), diagnosis="shifted by 1 along axis 1"),
        "last window dropped": Mistake(
            _pooled_with(last=False), diagnosis="they are exactly 0"
        ),
        "every tie in full": Mistake(_pooled_with(ties=True), diagnosis="no valid subgradient"),
    },
)  # fmt: skip


def _counts(length):
    return np.array([min(i + 2, length) - max(i - 1, 0) for i in range(length)])


def _averaged(x):
    """Means of three neighbours, two at the ends."""
    padded = jnp.pad(x, 1)
    sums = padded[:-2] + padded[1:-1] + padded[2:]
    return sums / _counts(len(x)).astype(x.dtype)


def _averaged_with(count=_counts, wide=True):
    def bwd(x, g):
        g = jnp.pad(g / jnp.asarray(count(len(x)), x.dtype), 1)
        return (g[:-2] * wide + g[1:-1] + g[2:],)

    return kept(_averaged, bwd)


AVERAGED = Pair(
    "average pooling", _averaged_with(), normals((10,)),
    {
        "padding counted": Mistake(_averaged_with(count=lambda n: np.full(n, 3.0))),
        "one neighbour forgotten": Mistake(_averaged_with(wide=False)),
    },
)  # fmt: skip


def _bins(length, out):
    return [(i * length // out, -(-(i + 1) * length // out)) for i in range(out)]


def _adaptive(x):
    """Means of four bins, which overlap where 4 does not divide the length."""
    return jnp.stack([x[a:b].mean(0) for a, b in _bins(len(x), 4)])


def _adaptive_with(overlap=True, even=False):
    def bwd(x, g):
        dx = jnp.zeros_like(x)
        for i, (a, b) in enumerate(_bins(len(x), 4)):
            part = g[i] / (len(x) / 4 if even else b - a)
            dx = dx.at[a:b].add(part) if overlap else dx.at[a:b].set(part)
        return (dx,)

    return kept(_adaptive, bwd)


ADAPTIVE = Pair(
    "adaptive pooling", _adaptive_with(), normals((10, 2)),
    {
        "overlap overwritten": Mistake(_adaptive_with(overlap=False)),
        "bins of equal size": Mistake(_adaptive_with(even=True)),
    },
)  # fmt: skip

# --- order --------------------------------------------------------------------------------------


def _sorted_with(back):
    return of(lambda x: jnp.sort(x), lambda x, g: back(jnp.argsort(x), g))


SORTED = Pair(
    "sort", _sorted_with(lambda order, g: jnp.zeros_like(g).at[order].set(g)), normals((9,)),
    {
        "order for its inverse": Mistake(_sorted_with(lambda order, g: g[order])),
        "not put back": Mistake(_sorted_with(lambda order, g: g)),
        "as if descending": Mistake(
            _sorted_with(lambda order, g: jnp.zeros_like(g).at[order].set(g[::-1]))
        ),
    },
)  # fmt: skip


def _median_with(share):
    def bwd(x, g):
        order = jnp.argsort(x)
        low, high = order[(len(x) - 1) // 2], order[len(x) // 2]
        return share(jnp.zeros_like(x), low, high, g)

    return of(jnp.median, bwd)


MEDIAN = Pair(
    "median",
    _median_with(lambda z, low, high, g: z.at[low].add(g / 2).at[high].add(g / 2)), normals((8,)),
    {
        "lower of the middle two": Mistake(_median_with(lambda z, low, high, g: z.at[low].add(g))),
        "both in full": Mistake(
            _median_with(lambda z, low, high, g: z.at[low].add(g).at[high].add(g)),
            diagnosis="2 times the right gradient: .*2",
        ),
    },
)  # fmt: skip


def _top(x):
    return jax.lax.top_k(x, 3)[0]


def _top_with(places):
    return of(_top, lambda x, g: jnp.zeros_like(x).at[
        jnp.arange(len(x))[:, None], places(x)].add(g))  # fmt: skip


TOP = Pair(
    "three largest", _top_with(lambda x: jax.lax.top_k(x, 3)[1]), normals((4, 8)),
    {
        "in order of place": Mistake(
            _top_with(lambda x: jnp.sort(jax.lax.top_k(x, 3)[1], -1))
        ),
        "of the first row": Mistake(_top_with(lambda x: jax.lax.top_k(x, 3)[1][:1])),
    },
)  # fmt: skip


def _range(x):
    return x.max() - x.min()


def _range_with(low):
    def bwd(x, g):
        dx = jnp.zeros_like(x).at[jnp.argmax(x)].add(g)
        return low(dx, jnp.argmin(x), g)

    return of(_range, bwd)


RANGE = Pair(
    "largest minus smallest", _range_with(lambda dx, i, g: dx.at[i].add(-g)), normals((10,)),
    {
        "sign of the smallest": Mistake(_range_with(lambda dx, i, g: dx.at[i].add(g))),
        "smallest overwrites": Mistake(  # wrong only where both are the same entry
            _range_with(lambda dx, i, g: dx.at[i].set(-g))
        ),
    },
)  # fmt: skip


def _chosen(x, temperature):
    """The softmax of x, hardened: 1 for the largest. Its gradient is meant to be softmax's."""
    return _first_maximum(x)


def _chosen_with(t=lambda t: t):
    def bwd(x, temperature, g):
        y = jax.nn.softmax(x / t(temperature), -1)
        return y * (g - (g * y).sum(-1, keepdims=True)) / temperature, jnp.zeros_like(temperature)

    return kept(_chosen, bwd)


def _of_softmax(g, x, temperature):
    dx = jax.vjp(lambda x: jax.nn.softmax(x / temperature, -1), x)[1](g)[0]
    return dx, jnp.zeros_like(temperature)


HARDENED = Pair(
    "hardened softmax", _chosen_with(),
    lambda rng, dtype: (normal(rng, dtype, 3, 5), jnp.asarray(0.5, dtype)),
    {"temperature forgotten inside": Mistake(_chosen_with(lambda t: 1.0), "args[0]")},
    {"expect": _of_softmax, "wrt": ["args[0]"]},
)  # fmt: skip


def _by_expert(x, w, expert):
    return jnp.einsum("nd,ndk->nk", x, w[expert])


def _by_expert_with(how="add"):
    def bwd(x, w, expert, g):
        at = jnp.zeros_like(w).at[expert]
        dw = x[:, :, None] * g[:, None]
        dw = at.add(dw) if how == "add" else at.set(dw)
        return jnp.einsum("nk,ndk->nd", g, w[expert]), dw, None

    return kept(_by_expert, bwd)


EXPERTS = Pair(
    "a matrix for every row", _by_expert_with(),
    lambda rng, dtype: (normal(rng, dtype, 6, 3), normal(rng, dtype, 4, 3, 2),
                        integers(rng, 4, 6)),
    {"last row of an expert alone": Mistake(_by_expert_with(how="set"), "args[1]")},
)  # fmt: skip

PAIRS = (
    MAX, POOLED, AVERAGED, ADAPTIVE, SORTED, MEDIAN, TOP, RANGE, HARDENED, EXPERTS,
)  # fmt: skip
