"""Rules in pairs: a right one, and wrong ones that differ from it by one mistake.

The mistakes are those of rules that were shipped, and the classics. A checker earns a kill only
where it passes the right twin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Rule = Callable[..., Any]


@dataclass(frozen=True)
class Pair:
    """A function, its rule, and mistakes in the rule by name."""

    f: Rule
    fwd: Rule
    bwd: Rule
    args: tuple[Any, ...]
    wrong: dict[str, Rule] = field(default_factory=dict)
    standard: tuple[str, ...] = ()
    """Mistakes that only the level 'standard' can see."""

    def ruled(self, bwd: Rule) -> Rule:
        """f with that backward."""
        f = jax.custom_vjp(self.f)
        f.defvjp(self.fwd, bwd)
        return f


_rng = np.random.default_rng(0)


def drawn(*shape: int) -> Array:
    """float32."""
    return jnp.asarray(_rng.normal(size=shape), jnp.float32)


# --- dense --------------------------------------------------------------------------------------


def _dense(x, w, b):
    return x @ w + b


def _dense_fwd(x, w, b):
    return _dense(x, w, b), (x, w)


def _dense_with(dx=lambda x, w, g: g @ w.T, dw=lambda x, w, g: x.T @ g, db=lambda g: g.sum(0)):
    return lambda kept, g: (dx(*kept, g), dw(*kept, g), db(g))


DENSE = Pair(
    _dense, _dense_fwd, _dense_with(), (drawn(5, 4), drawn(4, 4), drawn(4)),
    {
        "transposed weight": _dense_with(dx=lambda x, w, g: g @ w),
        "mean over the batch": _dense_with(db=lambda g: g.mean(0)),
        "a thousandth too large": _dense_with(dw=lambda x, w, g: 1.001 * (x.T @ g)),
        "one entry, by a millionth": _dense_with(
            dw=lambda x, w, g: (x.T @ g).at[1, 2].multiply(1 + 1e-6)
        ),
        "zero": _dense_with(db=lambda g: jnp.zeros_like(g[0])),
        "clipped": _dense_with(dx=lambda x, w, g: jnp.clip(g @ w.T, -1, 1)),
        "cotangent taken as ones": _dense_with(dx=lambda x, w, g: jnp.ones_like(g) @ w.T),
        "scaled by its first entry": _dense_with(dx=lambda x, w, g: g @ w.T * g[0, 0]),
        "bfloat16": _dense_with(dx=lambda x, w, g: (g @ w.T).astype(jnp.bfloat16)),
        "through bfloat16": _dense_with(
            dx=lambda x, w, g: (g @ w.T).astype(jnp.bfloat16).astype(g.dtype)
        ),
        "shifted rows": _dense_with(dw=lambda x, w, g: jnp.roll(x.T @ g, 1, 0)),
        "weight decay": _dense_with(dw=lambda x, w, g: x.T @ g + 1e-4 * w),
        "swapped": lambda kept, g: (g @ kept[1].T, g.T @ kept[0][:, :4], g.sum(0)),
    },
    standard=("through bfloat16",),
)  # fmt: skip


# --- one argument -------------------------------------------------------------------------------


def _of(f: Rule, derivative: Rule, x: Any, standard: tuple[str, ...] = (), **wrong: Rule) -> Pair:
    """An elementwise function of one array: rules are functions of x and the cotangent."""
    bwds = {name: lambda x, g, rule=rule: (rule(x, g),) for name, rule in wrong.items()}
    return Pair(f, lambda x: (f(x), x), lambda x, g: (derivative(x, g),), (x,), bwds, standard)


TANH = _of(
    jnp.tanh, lambda x, g: g * (1 - jnp.tanh(x) ** 2), drawn(17),
    no_square=lambda x, g: g * (1 - jnp.tanh(x)),
    stopped=lambda x, g: g * lax.stop_gradient(1 - jnp.tanh(x) ** 2),
    standard=("stopped",),
)  # fmt: skip
RELU = _of(
    lambda x: jnp.maximum(x, 0), lambda x, g: jnp.where(x > 0, g, 0), drawn(4, 6),
    leaky=lambda x, g: jnp.where(x > 0, g, 0.01 * g),
    twice_at_zero=lambda x, g: jnp.where(x > 0, g, 0) + jnp.where(x == 0, 2 * g, 0),
    below_zero=lambda x, g: jnp.where(x >= -1e-3, g, 0),
    standard=("twice_at_zero", "below_zero"),
)  # fmt: skip
RELU_AT_ZERO = _of(lambda x: jnp.maximum(x, 0), lambda x, g: jnp.where(x >= 0, g, 0), drawn(4, 6))
SQUARE = _of(
    lambda x: x**2, lambda x, g: 2 * x * g, drawn(4),
    one_is_ignored=lambda x, g: jnp.where(g == 1, 1, 2 * x * g),
)  # fmt: skip
MAX = _of(
    lambda x: jnp.max(x, -1),
    lambda x, g: jax.nn.one_hot(jnp.argmax(x, -1), x.shape[-1], dtype=x.dtype) * g[:, None],
    drawn(4, 6),
    every_tie=lambda x, g: jnp.where(x == x.max(-1, keepdims=True), g[:, None], 0),
    standard=("every_tie",),
)  # fmt: skip
SOFTMAX = _of(
    lambda x: jax.nn.softmax(x, -1),
    lambda x, g: (y := jax.nn.softmax(x, -1)) * (g - (g * y).sum(-1, keepdims=True)),
    drawn(3, 7),
    diagonal=lambda x, g: (y := jax.nn.softmax(x, -1)) * (1 - y) * g,
)  # fmt: skip
GELU = _of(
    lambda x: jax.nn.gelu(x, approximate=False),
    lambda x, g: g * (jax.scipy.stats.norm.cdf(x) + x * jax.scipy.stats.norm.pdf(x)),
    drawn(5, 5),
    of_tanh_form=lambda x, g: jax.vjp(jax.nn.gelu, x)[1](g)[0],
)  # fmt: skip
CUMPROD = _of(
    lambda x: jnp.cumprod(x), lambda x, g: jax.vjp(jnp.cumprod, x)[1](g)[0], drawn(6),
    division=lambda x, g: jnp.cumsum((g * jnp.cumprod(x))[::-1])[::-1] / x,
    standard=("division",),
)  # fmt: skip
TWO = Pair(
    lambda x: (jnp.sin(x), jnp.cos(x)), lambda x: ((jnp.sin(x), jnp.cos(x)), x),
    lambda x, g: (g[0] * jnp.cos(x) - g[1] * jnp.sin(x),), (drawn(9),),
    {"second output dropped": lambda x, g: (g[0] * jnp.cos(x),)},
)  # fmt: skip
MISMATCH = Pair(
    lambda x: jnp.sin(x), lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),), (drawn(5),)
)


# --- several arguments --------------------------------------------------------------------------


def _layer_norm(x, scale):
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale


def _layer_norm_fwd(x, scale):
    centred = x - x.mean(-1, keepdims=True)
    inverse = lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return centred * inverse * scale, (centred * inverse, inverse, scale)


def _layer_norm_with(mean=True, hat=True, count=0, scale=lambda d: d):
    def bwd(kept, g):
        x, inverse, weight = kept
        d = g * weight
        inner = (d * x).sum(-1, keepdims=True) / (x.shape[-1] - count)
        dx = d - mean * d.mean(-1, keepdims=True) - hat * x * inner
        return inverse * dx, scale((g * x).sum(0))

    return bwd


LAYER_NORM = Pair(
    _layer_norm, _layer_norm_fwd, _layer_norm_with(), (drawn(8, 19), drawn(19)),
    {
        "without its mean": _layer_norm_with(mean=False),
        "without x̂": _layer_norm_with(hat=False),
        "n − 1": _layer_norm_with(count=1),
        "tail of a block dropped": _layer_norm_with(scale=lambda d: d.at[16:].set(0)),
        "times the batch": _layer_norm_with(scale=lambda d: 8 * d),
    },
)  # fmt: skip


def _attention(q, k, v):
    scores = q @ k.T / q.shape[-1] ** 0.5
    visible = np.tril(np.ones(scores.shape, bool))
    return jax.nn.softmax(jnp.where(visible, scores, -1e30), -1) @ v


def _attention_with(scale=None, shift=0):
    def bwd(kept, g):
        q, k, v = kept
        visible = np.tril(np.ones((len(q), len(k)), bool))
        root = q.shape[-1] ** -0.5
        p = jax.nn.softmax(jnp.where(visible, q @ k.T * root, -1e30), -1)
        p = jnp.where(np.tril(visible, -shift), p, 0)
        dp = g @ v.T
        ds = p * (dp - (dp * p).sum(-1, keepdims=True)) * (root if scale is None else scale)
        return ds @ k, ds.T @ q, p.T @ g

    return bwd


ATTENTION = Pair(
    _attention, lambda q, k, v: (_attention(q, k, v), (q, k, v)), _attention_with(),
    (drawn(6, 4), drawn(6, 4), drawn(6, 4)),
    {
        "scale missing": _attention_with(scale=1.0),
        "mask off by one": _attention_with(shift=1),
    },
)  # fmt: skip
EMBEDDING = Pair(
    lambda table, ids: table[ids], lambda table, ids: (table[ids], (table, ids)),
    lambda kept, g: (jnp.zeros_like(kept[0]).at[kept[1]].add(g), None),
    (drawn(10, 3), jnp.array([1, 2, 2, 5], jnp.int32)),
    {"set for add": lambda kept, g: (jnp.zeros_like(kept[0]).at[kept[1]].set(g), None)},
)  # fmt: skip
BROADCAST = Pair(
    lambda x, b: x * b, lambda x, b: (x * b, (x, b)),
    lambda kept, g: (g * kept[1], (g * kept[0]).sum(0, keepdims=True)), (drawn(4, 3), drawn(1, 3)),
    {"mean for sum": lambda kept, g: (g * kept[1], (g * kept[0]).mean(0, keepdims=True))},
)  # fmt: skip

PAIRS = {name.lower(): value for name, value in globals().items() if isinstance(value, Pair)}
MISTAKES = [(name, mistake) for name, pair in PAIRS.items() for mistake in pair.wrong]
