"""Rules of whole networks and steps: layers behind one another, microbatches, unrolled descent."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from experiments.gradcheck_corpus.kinds import Mistake, Pair, normal
from experiments.gradcheck_corpus.pairs_tools import integers, kept, normals

_RATE = 0.05


def _network(x, a, b):
    return jnp.tanh(x @ a) @ b


def _network_with(second=lambda b, db: b, slope=lambda h, z: 1 - h * h, clip=False, decay=0.0,
                  noise=lambda db: db):  # fmt: skip
    def bwd(x, a, b, g):
        z = x @ a
        h = jnp.tanh(z)
        db = h.T @ g
        dz = g @ second(b, db).T * slope(h, z)
        da = x.T @ dz + decay * a
        if clip:  # to norm 1
            da = da / jnp.maximum(jnp.sqrt((da * da).sum()), 1)
        return dz @ a.T, da, noise(db)

    return kept(_network, bwd)


NETWORK = Pair(
    "network of two layers", _network_with(), normals((6, 4), (4, 5), (5, 3)),
    {
        "through weights already updated": Mistake(
            _network_with(second=lambda b, db: b - _RATE * db), "args",
            "not a linear function of the cotangent", "SOURCES.md A5",
        ),
        "slope of the activation's input": Mistake(
            _network_with(slope=lambda h, z: 1 - z * z), "args"
        ),
        "slope of the logistic function": Mistake(
            _network_with(slope=lambda h, z: h * (1 - h)), "args"
        ),
        "clipped by its norm": Mistake(
            _network_with(clip=True), "args[1]", "not a linear function of the cotangent"
        ),
        "weight decay": Mistake(
            _network_with(decay=1e-3), "args[1]", "cotangent of zeros must give zeros"
        ),
        "learning rate inside": Mistake(
            _network_with(noise=lambda db: -_RATE * db), "args[2]", r"-0\.05 times"
        ),
        "normalised by its largest": Mistake(
            _network_with(noise=lambda db: db / jnp.abs(db).max()), "args[2]",
            "not a linear function of the cotangent",
        ),
    },
)  # fmt: skip


def _relu_network(x, a, b):
    return jnp.maximum(x @ a, 0) @ b


def _relu_network_with(gate=lambda z, h, dh: z > 0):
    def bwd(x, a, b, g):
        z = x @ a
        h = jnp.maximum(z, 0)
        dh = g @ b.T
        dz = jnp.where(gate(z, h, dh), dh, 0)
        return dz @ a.T, x.T @ dz, h.T @ g

    return kept(_relu_network, bwd)


RELU_NETWORK = Pair(
    "network with relu", _relu_network_with(), normals((5, 3), (3, 6), (6, 2)),
    {
        "gate of the cotangent": Mistake(
            _relu_network_with(lambda z, h, dh: dh > 0), "args",
            "not a linear function of the cotangent",
        ),
        "gate is open": Mistake(_relu_network_with(lambda z, h, dh: z == z), "args"),
    },
)  # fmt: skip


# --- microbatches -------------------------------------------------------------------------------


def _error(w, x, y):
    return ((x @ w - y) ** 2).mean()


def _error_with(drop=0, total="sum"):
    """The gradient of w, a microbatch of 4 rows at a time, the last one filled with zeros."""

    def bwd(w, x, y, g):
        residual = 2 * g * (x @ w - y) / y.size
        rows = [jnp.pad(a, ((0, -len(a) % 4), (0, 0))) for a in (x, residual)]
        parts = [a.reshape(-1, 4, a.shape[1]) for a in rows]

        def step(dw, at):
            new = at[0].T @ at[1]
            return (dw + new if total == "sum" else new), None

        parts = [part[: len(part) - drop] for part in parts]
        dw = lax.scan(step, jnp.zeros_like(w), tuple(parts))[0]
        return dw, residual @ w.T, -residual

    return kept(_error, bwd)


MICROBATCHES = Pair(
    "squared error by microbatches", _error_with(), normals((3, 2), (12, 3), (12, 2)),
    {
        "last microbatch dropped": Mistake(_error_with(drop=1), "args[0]"),
        "last microbatch alone": Mistake(_error_with(total="last"), "args[0]"),
    },
)  # fmt: skip

# --- unrolled descent ---------------------------------------------------------------------------


def _descended(w, rate):
    """Five steps of descent with momentum on ¼w⁴."""

    def step(i, at):
        w, m = at
        m = 0.9 * m + w**3
        return w - rate * m, m

    return lax.fori_loop(0, 5, step, (w, jnp.zeros_like(w)))[0]


def _descended_with(momentum=0.9, state="before", rate="all"):
    def bwd(w, rate_, g):
        path, m = [], jnp.zeros_like(w)
        for _ in range(5):
            m = 0.9 * m + w**3
            after = w - rate_ * m
            path.append((w if state == "before" else after, m))
            w = after
        dw, dm, drate = g, jnp.zeros_like(g), jnp.zeros_like(rate_)
        for w, m in reversed(path):
            new = -(dw * m).sum()
            drate = drate + new if rate == "all" else new
            dm = dm - rate_ * dw
            dw, dm = dw + dm * 3 * w**2, momentum * dm
        return dw, drate

    return kept(_descended, bwd)


DESCENDED = Pair(
    "unrolled descent", _descended_with(),
    lambda rng, dtype: (normal(rng, dtype, 4), jnp.asarray(_RATE, dtype)),
    {
        "momentum's path dropped": Mistake(_descended_with(momentum=0.0), "args"),
        "weights after the step": Mistake(_descended_with(state="after"), "args"),
        "first step's rate alone": Mistake(_descended_with(rate="first"), "args[1]"),
    },
)  # fmt: skip


# --- a cell with gates --------------------------------------------------------------------------


def _cell(z, h):
    """h' = (1 − u)·h + u·tanh(c) of gates z = (u, c)."""
    u, c = z
    u, c = jax.nn.sigmoid(u), jnp.tanh(c)
    return (1 - u) * h + u * c


def _cell_with(carry=lambda u: 1 - u, difference=lambda c, h: c - h):
    def bwd(z, h, g):
        u, c = jax.nn.sigmoid(z[0]), jnp.tanh(z[1])
        du = g * difference(c, h) * u * (1 - u)
        return jnp.stack([du, g * u * (1 - c * c)]), g * carry(u)

    return kept(_cell, bwd)


CELL = Pair(
    "gated cell", _cell_with(), normals((2, 7), (7,)),
    {
        "carries by the other gate": Mistake(_cell_with(carry=lambda u: u), "args[1]"),
        "old state forgotten in the gate": Mistake(
            _cell_with(difference=lambda c, h: c), "args[0]", r"\[0:1\] of axis 0"
        ),
    },
)  # fmt: skip


def _mixed(x, labels, w):
    """Mean loss of rows weighted by class."""
    losses = -jnp.take_along_axis(jax.nn.log_softmax(x), labels[:, None], 1)[:, 0]
    return (w[labels] * losses).sum() / w[labels].sum()


def _mixed_with(weighted=True, mean="weights", through=True):
    def bwd(x, labels, w, g):
        chosen = w[labels]
        total = chosen.sum() if mean == "weights" else jnp.asarray(len(x), x.dtype)
        hot = jax.nn.one_hot(labels, x.shape[1], dtype=x.dtype)
        rows = (chosen if weighted else jnp.ones_like(chosen))[:, None]
        dx = g * rows * (jax.nn.softmax(x) - hot) / total
        losses = -jnp.take_along_axis(jax.nn.log_softmax(x), labels[:, None], 1)[:, 0]
        dchosen = g * (losses - through * _mixed(x, labels, w)) / chosen.sum()
        return dx, None, jnp.zeros_like(w).at[labels].add(dchosen)

    return kept(_mixed, bwd)


MIXED = Pair(
    "cross entropy with weights of classes", _mixed_with(),
    lambda rng, dtype: (normal(rng, dtype, 8, 3), integers(rng, 3, 8),
                        jnp.asarray(rng.uniform(0.5, 2, 3), dtype)),
    {
        "weights forgotten": Mistake(_mixed_with(weighted=False), "args[0]"),
        "mean over rows": Mistake(_mixed_with(mean="rows"), "args[0]", "times the right gradient"),
        "normaliser detached": Mistake(_mixed_with(through=False), "args[2]"),
    },
)  # fmt: skip

PAIRS = (NETWORK, RELU_NETWORK, MICROBATCHES, DESCENDED, CELL, MIXED)
