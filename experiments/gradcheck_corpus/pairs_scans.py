"""Rules of sums and recurrences along an axis."""

from __future__ import annotations

from itertools import pairwise

import jax
import jax.numpy as jnp
from jax import lax

from experiments.gradcheck_corpus.kinds import Mistake, Pair, normal
from experiments.gradcheck_corpus.pairs_tools import kept, normals, of, uniforms


def _from_the_end(g):
    return jnp.cumsum(g[::-1])[::-1]


CUMSUM = Pair(
    "cumsum", of(jnp.cumsum, lambda x, g: _from_the_end(g)), normals((11,)),
    {
        "not reversed": Mistake(of(jnp.cumsum, lambda x, g: jnp.cumsum(g))),
        "not turned back": Mistake(
            of(jnp.cumsum, lambda x, g: jnp.cumsum(g[::-1])), diagnosis="turned round along axis 0"
        ),
        "own entry left out": Mistake(of(jnp.cumsum, lambda x, g: _from_the_end(g) - g)),
        "shifted": Mistake(
            of(jnp.cumsum, lambda x, g: jnp.roll(_from_the_end(g), -1)),
            diagnosis="shifted by -1 along axis 0",
        ),
    },
)  # fmt: skip

CUMPROD = Pair(
    "cumprod", of(jnp.cumprod, lambda x, g: jax.vjp(jnp.cumprod, x)[1](g)[0]), normals((6,)),
    {
        "division by the input": Mistake(
            of(jnp.cumprod, lambda x, g: _from_the_end(g * jnp.cumprod(x)) / x), diagnosis="NaN",
            source="tensorflow#3862",
        ),
    },
)  # fmt: skip
PRODUCT = Pair(
    "product of all",
    of(jnp.prod, lambda x, g: g * jax.grad(lambda z: jnp.prod(z))(x)), normals((5,)),
    {
        "division by the input": Mistake(
            of(jnp.prod, lambda x, g: g * jnp.prod(x) / x), diagnosis="NaN",
            source="tensorflow#3862",
        ),
    },
)  # fmt: skip

# --- recurrences --------------------------------------------------------------------------------


def _states(x, w, u, h):
    """hₜ = tanh(xₜ w + hₜ₋₁ u): all of them, the first one given."""

    def step(h, x):
        h = jnp.tanh(x @ w + h @ u)
        return h, h

    return lax.scan(step, h, x)[1]


def _recurrent_with(hidden=True, before=True, first=True, late=False, last=False, turn=False):
    def bwd(x, w, u, h, g):
        states = _states(x, w, u, h)
        earlier = jnp.concatenate([h[None], states[:-1]])

        def step(dh, at):
            new, g = at
            dz = (dh + g) * (1 - new**2)
            if late:  # the output's part joins after the slope
                dz = dh * (1 - new**2) + g
            return hidden * dz @ (u if turn else u.T), dz

        dh, dz = lax.scan(step, jnp.zeros_like(h), (states, g), reverse=True)
        du = (earlier if before else states).T @ dz
        dw = x[-1:].T @ dz[-1:] if last else x.T @ dz
        return dz @ w.T, dw, du, dh if first else jnp.zeros_like(h)

    return kept(_states, bwd)


RECURRENT = Pair(
    "recurrent layer", _recurrent_with(), normals((7, 3), (3, 4), (4, 4), (4,), scale=0.6),
    {
        "hidden to hidden dropped": Mistake(_recurrent_with(hidden=False), "args"),
        "state after the step kept": Mistake(_recurrent_with(before=False), "args[2]"),
        "first state gets nothing": Mistake(
            _recurrent_with(first=False), "args[3]", "zero: the rule gives nothing"
        ),
        "slope before the sum": Mistake(_recurrent_with(late=True), "args"),
        "last step alone": Mistake(_recurrent_with(last=True), "args[1]"),
        "recurrent weight not transposed": Mistake(_recurrent_with(turn=True), "args"),
    },
)  # fmt: skip


def _linear(a, x):
    """hₜ = aₜ hₜ₋₁ + xₜ from 0."""
    return lax.scan(lambda h, at: (at[0] * h + at[1],) * 2, jnp.zeros_like(x[0]), (a, x))[1]


def _linear_with(before=True, shift=1):
    def bwd(a, x, g):
        h = _linear(a, x)
        earlier = jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]]) if before else h
        later = jnp.concatenate([a[shift:], jnp.zeros_like(a[:shift])])
        step = lambda dh, at: (at[0] * dh + at[1],) * 2  # noqa: E731
        dx = lax.scan(step, jnp.zeros_like(x[0]), (later, g), reverse=True)[1]
        return dx * earlier, dx

    return kept(_linear, bwd)


LINEAR = Pair(
    "linear recurrence", _linear_with(),
    lambda rng, dtype: (jnp.asarray(rng.uniform(0.3, 0.95, (9, 2)), dtype),
                        normal(rng, dtype, 9, 2)),
    {
        "state after the step": Mistake(_linear_with(before=False), "args[0]"),
        "decay of the same step": Mistake(_linear_with(shift=0), "args"),
    },
)  # fmt: skip


def _average(x, beta):
    """mₜ = β mₜ₋₁ + (1 − β) xₜ, the last one."""
    return lax.scan(lambda m, x: (beta * m + (1 - beta) * x, None), jnp.zeros_like(x[0]), x)[0]


def _average_with(weighted=True, order=-1, both=True):
    def bwd(x, beta, g):
        later = jnp.arange(len(x))[::-1].astype(x.dtype)  # so many steps follow
        weights = (1 - beta if weighted else 1) * beta ** later[::-order]
        slope = (1 - beta) * later * beta ** jnp.maximum(later - 1, 0) - both * beta**later
        return weights[:, None] * g, (slope[:, None] * x * g).sum()

    return kept(_average, bwd)


AVERAGE = Pair(
    "moving average", _average_with(),
    lambda rng, dtype: (normal(rng, dtype, 8, 3), jnp.asarray(0.9, dtype)),
    {
        "1 − β forgotten": Mistake(
            _average_with(weighted=False), "args[0]", r"(10|9\.9+\d*) times"
        ),
        "newest counted as oldest": Mistake(
            _average_with(order=1), "args[0]", "turned round along axis 0"
        ),
        "β in one place alone": Mistake(_average_with(both=False), "args[1]"),
    },
)  # fmt: skip


def _leapfrog(x, v):
    """Three steps of a pendulum: half a kick, a drift, half a kick."""
    for _ in range(3):
        v = v - 0.1 * jnp.sin(x)
        x = x + 0.2 * v
        v = v - 0.1 * jnp.sin(x)
    return x, v


def _leapfrog_with(early=False, start=False):
    def bwd(x, v, g):
        places = [x]
        for _ in range(3):
            v = v - 0.1 * jnp.sin(x)
            x = x + 0.2 * v
            v = v - 0.1 * jnp.sin(x)
            places.append(x)
        dx, dv = g
        for before, after in reversed(list(pairwise(places))):
            drift = dx
            dx = dx - 0.1 * dv * jnp.cos(before if start else after)
            dv = dv + 0.2 * (drift if early else dx)
            dx = dx - 0.1 * dv * jnp.cos(before)
        return dx, dv

    return kept(_leapfrog, bwd)


LEAPFROG = Pair(
    "leapfrog steps", _leapfrog_with(), normals((5,), (5,)),
    {
        "drift undone before the kick": Mistake(_leapfrog_with(early=True), "args"),
        "second kick at the first place": Mistake(_leapfrog_with(start=True), "args"),
    },
)  # fmt: skip


def _decay(y0, rate):
    """Euler's steps of y' = −rate·y²."""
    return lax.fori_loop(0, 10, lambda i, y: y - 0.05 * rate * y * y, y0)


def _decay_with(at="before", accumulate=True):
    def bwd(y0, rate, g):
        ys = [y0]
        for _ in range(10):
            ys.append(ys[-1] - 0.05 * rate * ys[-1] ** 2)
        dy, drate = g, jnp.zeros_like(rate)
        for before, after in reversed(list(pairwise(ys))):
            y = before if at == "before" else after
            new = -0.05 * (dy * y * y).sum()
            drate = drate + new if accumulate else new
            dy = dy * (1 - 0.1 * rate * y)
        return dy, drate

    return kept(_decay, bwd)


DECAY = Pair(
    "steps of Euler", _decay_with(),
    lambda rng, dtype: (jnp.asarray(rng.uniform(0.5, 1.5, 4), dtype), jnp.asarray(1.3, dtype)),
    {
        "slope at the end of the step": Mistake(_decay_with(at="after"), "args"),
        "first step's rate alone": Mistake(_decay_with(accumulate=False), "args[1]"),
    },
)  # fmt: skip


def _log_cumulative(x):
    return lax.associative_scan(jnp.logaddexp, x)


def _log_cumulative_with(weights):
    return of(_log_cumulative, lambda x, g: weights(x, _log_cumulative(x), g))


LOG_CUMULATIVE = Pair(
    "logcumsumexp",
    _log_cumulative_with(
        lambda x, y, g: (jnp.tril(jnp.exp(x[None] - y[:, None])) * g[:, None]).sum(0)
    ),
    uniforms((8,), low=-2.0, high=2.0),
    {
        "the sum without its weights": Mistake(
            _log_cumulative_with(lambda x, y, g: _from_the_end(g) * jnp.exp(x - y))
        ),
        "diagonal left out": Mistake(
            _log_cumulative_with(
                lambda x, y, g: (jnp.tril(jnp.exp(x[None] - y[:, None]), -1) * g[:, None]).sum(0)
            )
        ),
        "overflow": Mistake(
            _log_cumulative_with(lambda x, y, g: jnp.exp(x) * _from_the_end(g * jnp.exp(-y))),
            diagnosis="NaN|not be|beyond",
        ),
    },
)  # fmt: skip

PAIRS = (
    CUMSUM, CUMPROD, PRODUCT, RECURRENT, LINEAR, AVERAGE, LEAPFROG, DECAY, LOG_CUMULATIVE,
)  # fmt: skip
