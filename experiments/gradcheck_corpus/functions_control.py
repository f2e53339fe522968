"""Recurrences, loops and branches with rules by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from experiments.gradcheck_corpus.functions_draw import (
    from_inputs,
    normal,
    of,
    ruled,
)
from experiments.gradcheck_corpus.kinds import Function

# --- recurrences --------------------------------------------------------------------------------


def _states(w, u, h, xs):
    def step(h, x):
        h = jnp.tanh(h @ w + x @ u)
        return h, h

    return lax.scan(step, h, xs)[1]


def _states_fwd(w, u, h, xs):
    hs = _states(w, u, h, xs)
    return hs, (w, u, h, xs, hs)


def _states_bwd(kept, g):
    w, u, h, xs, hs = kept
    before = jnp.concatenate([h[None], hs[:-1]])

    def step(carry, row):
        dh, dw, du = carry
        x, h, y, gy = row
        dz = (dh + gy) * (1 - y * y)
        return (dz @ w.T, dw + jnp.outer(h, dz), du + jnp.outer(x, dz)), dz @ u.T

    start = jnp.zeros_like(h), jnp.zeros_like(w), jnp.zeros_like(u)
    (dh, dw, du), dxs = lax.scan(step, start, (xs, before, hs, g), reverse=True)
    return dw, du, dh, dxs


def _lstm_cell(w, x, h, c):
    """Gates from one product; returns the new h and c."""
    i, f, o, z = jnp.split(jnp.concatenate([x, h]) @ w, 4)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(z)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _lstm_cell_bwd(g, w, x, h, c):
    gh, gc = g
    xh = jnp.concatenate([x, h])
    i, f, o, z = jnp.split(xh @ w, 4)
    i, f, o, z = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jax.nn.sigmoid(o), jnp.tanh(z)
    t = jnp.tanh(f * c + i * z)
    dc = gc + gh * o * (1 - t * t)
    gates = [dc * z * i * (1 - i), dc * c * f * (1 - f), gh * t * o * (1 - o), dc * i * (1 - z * z)]
    d = jnp.concatenate(gates)
    dxh = w @ d
    return jnp.outer(xh, d), dxh[: x.shape[0]], dxh[x.shape[0] :], dc * f


def _linear(a, b):
    """hₜ = aₜ·hₜ₋₁ + bₜ, in parallel."""
    return lax.associative_scan(lambda p, q: (q[0] * p[0], q[0] * p[1] + q[1]), (a, b))[1]


def _linear_fwd(a, b):
    h = _linear(a, b)
    return h, (a, h)


def _linear_bwd(kept, g):
    """The same recurrence from the back, with the decays one place on."""
    a, h = kept
    later = jnp.concatenate([a[1:], jnp.zeros_like(a[:1])])
    r = _linear(later[::-1], g[::-1])[::-1]
    return r * jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]]), r


def _average(decay, xs):
    return lax.scan(
        lambda m, x: ((n := decay * m + (1 - decay) * x), n), jnp.zeros_like(xs[0]), xs
    )[1]


def _average_bwd(g, decay, xs):
    ys = _average(decay, xs)
    before = jnp.concatenate([jnp.zeros_like(ys[:1]), ys[:-1]])
    _, r = lax.scan(lambda r, gy: ((s := gy + decay * r), s), jnp.zeros_like(g[0]), g, reverse=True)
    return jnp.sum(r * (before - xs)), (1 - decay) * r


def _forward_algorithm(start, moves, emissions):
    """log p of a hidden Markov model; all in logarithms."""

    def step(a, e):
        a = jax.nn.logsumexp(a[:, None] + moves, 0) + e
        return a, a

    first = start + emissions[0]
    last, rest = lax.scan(step, first, emissions[1:])
    return jax.nn.logsumexp(last), jnp.concatenate([first[None], rest])


def _forward_algorithm_fwd(start, moves, emissions):
    value, alphas = _forward_algorithm(start, moves, emissions)
    return value, (start, moves, emissions, alphas, value)


def _forward_algorithm_bwd(kept, g):
    """The posteriors of states and moves, by the backward algorithm."""
    start, moves, emissions, alphas, value = kept

    def step(b, row):
        alpha, e = row
        pair = jnp.exp(alpha[:, None] + moves + e + b - value)
        return jax.nn.logsumexp(moves + e + b, 1), pair

    first, pairs = lax.scan(step, jnp.zeros_like(start), (alphas[:-1], emissions[1:]), reverse=True)
    initial = jnp.exp(alphas[0] + first - value)
    states = jnp.concatenate([initial[None], pairs.sum(1)])
    return g * initial, g * pairs.sum(0), g * states


def _hidden_markov(rng, dtype):
    moves = jax.nn.log_softmax(normal(rng, dtype, 3, 3), -1)
    return jax.nn.log_softmax(normal(rng, dtype, 3)), moves, normal(rng, dtype, 5, 3)


CONTROL: tuple[Function, ...] = (
    Function(
        "tanh recurrence",
        ruled(_states, _states_fwd, _states_bwd),
        of((4, 4), (3, 4), (4,), (6, 3), scale=0.6),
    ),
    Function("lstm cell", from_inputs(_lstm_cell, _lstm_cell_bwd), of((7, 16), (3,), (4,), (4,))),
    Function(
        "linear recurrence", ruled(_linear, _linear_fwd, _linear_bwd), of((9, 2), (9, 2), scale=0.8)
    ),
    Function(
        "moving average",
        from_inputs(_average, _average_bwd),
        lambda rng, dtype: (jnp.asarray(0.8, dtype), normal(rng, dtype, 10, 2)),
    ),
    Function(
        "hidden markov model",
        ruled(lambda *a: _forward_algorithm(*a)[0], _forward_algorithm_fwd, _forward_algorithm_bwd),
        _hidden_markov,
    ),
)
