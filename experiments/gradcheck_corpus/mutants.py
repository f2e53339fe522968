"""Automatic mutants: the hand-written rules of our own layers with one change in one equation.

A mutant computes the same as its layer; its backward rule is the layer's, traced to a jaxpr, with
one equation changed (`mutate.py`). Of losses the derivative is found in the forward rule and kept:
there the forward rule is traced with the backward.

Not every change is a mistake. The gradients of a mutant and of the right rule are compared in
float64 at the given arguments, at two others, and at stress points: zeros, ties, equal extremes,
thirty times as large, a thousandth, other signs. Dropped are

- equivalents: equal to 1e-12 at all points;
- those that differ only at ties and zeros, where they give numbers: there a function may have a
  kink and any subgradient is right, and whether theirs is one is for hand-made pairs to say;
- twins: changes that give the same gradients as a mutant of the layer that is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np

import jaxdl as dl
from experiments.gradcheck_corpus import mutate
from experiments.gradcheck_corpus.kinds import Rule
from jaxdl.models import transformer_block

_EQUAL = 1e-12
_COTANGENTS = 2
_OF_A_KIND = {"scaled": 1, "bfloat16": 1, "zeroed": 1}  # of one layer; 2 of all others
Draw = Callable[[np.random.Generator], Any]


@dataclass(frozen=True)
class Mutant:
    """A layer with a wrong rule."""

    name: str
    """Such as 'dense: a factor dropped, mul 0'."""
    layer: str
    kind: str
    """Of the change: one of `operators.KINDS`."""
    f: Rule
    right: Rule
    args: tuple[Any, ...]
    """For either: (params, x), with a key where the layer draws random numbers."""


@dataclass(frozen=True)
class Subject:
    """A layer and how to draw its input."""

    layer: dl.Layer
    x: Draw
    keyed: bool = False
    whole: bool = False
    """Whether the forward rule is traced with the backward."""


@dataclass
class Sieved:
    """What was made of one layer, and how many changes were dropped."""

    kept: list[Mutant] = field(default_factory=list)
    equivalents: list[str] = field(default_factory=list)
    at_kinks: list[str] = field(default_factory=list)
    twins: list[str] = field(default_factory=list)


# --- the layers ---------------------------------------------------------------------------------


def _normal(*shape: int) -> Draw:
    return lambda rng: rng.standard_normal(shape)


def _rows(rows: int, *shape: int) -> Draw:
    """Row numbers, some of them twice."""
    return lambda rng: np.concatenate([a := rng.integers(0, rows, shape, np.int32), a[:1]])


def _regions(rng: np.random.Generator) -> Any:
    edges = np.array([[[0, 3], [1, 4]], [[1, 5], [0, 2]], [[2, 4], [1, 3]]], np.int32)
    return {"x": rng.standard_normal((2, 5, 4, 2)), "regions": np.stack([edges, edges[::-1]])}


def _loss(loss: dl.Loss, *data: Any) -> dl.Layer:
    return dl.leaf(loss.name, lambda key, y: {}, lambda params, y: loss.fwd(y, *data),
                   lambda params, kept, dvalue: ({}, loss.bwd(kept, dvalue)))  # fmt: skip


_TARGET = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
_WEIGHTS = np.array([[0.5], [2.0], [0.0], [1.0]], np.float32)
_LABELS = np.array([0, 3, 3, 1], np.int32)

SUBJECTS = {
    "dense": Subject(dl.dense(3), _normal(4, 6)),
    "relu": Subject(dl.relu(), _normal(4, 6)),
    "elu": Subject(dl.elu(1.3), _normal(4, 6)),
    "tanh": Subject(dl.tanh(), _normal(4, 6)),
    "gelu": Subject(dl.gelu(), _normal(4, 6)),
    "softmax": Subject(dl.softmax(), _normal(4, 6)),
    "maxout": Subject(dl.maxout(3), _normal(4, 6)),
    "layer_norm": Subject(dl.layer_norm(), _normal(4, 5, 6)),
    "rms_norm": Subject(dl.rms_norm(), _normal(4, 5, 6)),
    "group_norm": Subject(dl.group_norm(2), _normal(3, 5, 4)),
    "batch_norm": Subject(dl.batch_norm(), _normal(5, 3, 4), keyed=True),
    "dropout": Subject(dl.dropout(0.4), _normal(4, 6), keyed=True),
    "self_attention": Subject(dl.self_attention(2, causal=True), _normal(3, 5, 6)),
    "embedding": Subject(dl.embedding(7, 3), _rows(7, 4)),
    "conv": Subject(dl.conv(3, (2, 3), padding="same"), _normal(2, 5, 6, 2)),
    "conv-settings": Subject(
        dl.conv(4, 2, strides=(2, 1), dilation=2, groups=2), _normal(3, 7, 6, 4)),
    "conv_transpose": Subject(dl.conv_transpose(3, (2, 3), strides=2), _normal(3, 4, 3, 2)),
    "fft_conv": Subject(dl.fft_conv(3, (2, 3)), _normal(3, 4, 6, 2)),
    "locally_connected": Subject(dl.locally_connected(3, 3, rank=1, strides=2), _normal(3, 7, 2)),
    "max_pool": Subject(dl.max_pool(3, rank=1, strides=2, padding=1), _normal(3, 8, 2)),
    "lp_pool": Subject(dl.lp_pool(2, p=3.0, rank=1), _normal(3, 6, 2)),
    "adaptive_pool": Subject(dl.adaptive_pool((2, 3), kind="max"), _normal(2, 5, 4, 2)),
    "region_pool": Subject(dl.region_pool("mean"), _regions),
    "serial": Subject(dl.serial(dl.dense(5), dl.tanh(), dl.dense(3)), _normal(4, 6)),
    "skip": Subject(dl.skip(dl.serial(dl.layer_norm(), dl.dense(6))), _normal(4, 6)),
    "branch": Subject(dl.branch(dl.dense(3), dl.dense(3), join="concat"), _normal(4, 6)),
    "repeat": Subject(dl.repeat(dl.serial(dl.dense(6), dl.tanh()), 3), _normal(4, 6)),
    "transformer_block": Subject(transformer_block(6, 2, hidden=7), _normal(3, 5, 6)),
    "huber": Subject(_loss(dl.huber(0.8), _TARGET), _normal(4, 5), whole=True),
    "binary_cross_entropy": Subject(
        _loss(dl.binary_cross_entropy(), _TARGET > 0, _WEIGHTS), _normal(4, 5), whole=True),
    "cross_entropy": Subject(
        _loss(dl.softmax_cross_entropy(label_smoothing=0.1), _LABELS), _normal(4, 5), whole=True),
}  # fmt: skip


def _cast(tree: Any, dtype: Any) -> Any:
    """Floating-point arrays in that dtype; others as they are."""
    real = lambda a: np.issubdtype(np.asarray(a).dtype, np.floating)  # noqa: E731
    return jax.tree.map(lambda a: jnp.asarray(a, dtype if real(a) else None), tree)


def _draw(subject: Subject, rng: np.random.Generator) -> tuple[Any, Any]:
    """Parameters and input as NumPy has them: drawn, since zero biases hide mistakes."""
    x = subject.x(rng)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, np.dtype(
        np.float32 if a.dtype == np.float64 else a.dtype)), x)  # fmt: skip
    params = jax.eval_shape(lambda key: subject.layer.init(key, shapes), jax.random.key(0))
    return jax.tree.map(lambda s: 0.5 * rng.standard_normal(s.shape), params), x


# --- rules --------------------------------------------------------------------------------------


def _backward(subject: Subject) -> Callable[..., Any]:
    """(params, x, key, residuals, dy) to gradients: what is traced and changed."""

    def backward(params, x, key, residuals, dy):
        if subject.whole:
            residuals = subject.layer.fwd(params, x, key)[1]
        return subject.layer.bwd(params, residuals, dy)

    return backward


def _function(layer: dl.Layer, backward: Callable[..., Any]) -> Rule:
    """The layer with another backward rule, as `as_function` gives it with its own."""

    @jax.custom_vjp
    def function(params, x, key):
        return layer.apply(params, x, key)

    def fwd(params, x, key):
        y, residuals = layer.fwd(params, x, key)
        return y, (params, x, key, residuals)

    function.defvjp(fwd, lambda saved, dy: (*backward(*saved, dy), None))
    return lambda params, x, key=None: function(params, x, key)


def _stressed(tree: Any, rng: np.random.Generator) -> list[tuple[bool, Any]]:
    """The given point and others; whether each is without exact ties and zeros."""
    at = lambda g: jax.tree.map(  # noqa: E731
        lambda a: g(a) if a.dtype == np.float64 and a.size else a, tree
    )
    return [
        (True, tree),
        (True, at(lambda a: 30 * a)),
        (True, at(lambda a: 1e-3 * a)),
        (True, at(lambda a: np.where(rng.random(a.shape) < 0.5, -a, a))),
        (False, at(lambda a: np.where(rng.random(a.shape) < 0.5, 0.0, a))),
        (False, at(lambda a: np.round(2 * a) / 2)),
        (False, at(lambda a: np.clip(a, *np.quantile(a, [0.35, 0.65])))),
    ]


@dataclass(frozen=True)
class _Point:
    smooth: bool
    leaves: list[Any]
    """Arguments of the backward rule."""
    want: list[np.ndarray]


class _Sieve:
    """The backward jaxpr of a layer in float64, and the right gradients at many points."""

    def __init__(self, subject: Subject, given: Any, key: Any, rng: np.random.Generator):
        points = _stressed(given, rng)
        points += [(True, _draw(subject, rng)) for _ in range(2)]
        backward, forward = _backward(subject), jax.jit(subject.layer.fwd)
        self.points: list[_Point] = []
        for smooth, point in points:
            params, x = _cast(point, jnp.float64)
            y, residuals = forward(params, x, key)
            if not all(np.all(np.isfinite(a)) for a in jax.tree.leaves(y)):
                continue  # outside the domain
            for _ in range(_COTANGENTS):
                dy = jax.tree.map(lambda a: jnp.asarray(rng.standard_normal(a.shape)), y)
                args = (params, x, key, residuals, dy)
                if not self.points:
                    self.jaxpr = jax.make_jaxpr(backward)(*args)
                leaves = jax.tree.leaves(args)
                want = list(map(np.asarray, mutate.evaluate(self.jaxpr, leaves)))
                self.points.append(_Point(smooth, leaves, want))

    def gradients(self, change: mutate.Change) -> list[list[np.ndarray]]:
        """By the changed rule, point by point."""
        return [list(map(np.asarray, mutate.apply(self.jaxpr, p.leaves, change)))
                for p in self.points]  # fmt: skip

    def sort(self, found: list[list[np.ndarray]]) -> str:
        """'equivalent', 'kink' or 'wrong'."""
        off = [not _equal(got, p.want) for got, p in zip(found, self.points, strict=True)]
        if not any(off):
            return "equivalent"
        numbers = all(np.all(np.isfinite(a)) for got in found for a in got)
        smooth = any(o for o, p in zip(off, self.points, strict=True) if p.smooth)
        return "wrong" if smooth or not numbers else "kink"


def _equal(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> bool:
    for g, w in zip(got, want, strict=True):
        size = np.abs(w) + np.sqrt(np.mean(np.square(w)))
        with np.errstate(invalid="ignore"):
            if not np.all((np.abs(g - w) <= _EQUAL * size) | (np.isnan(g) & np.isnan(w))):
                return False
    return True


def _order(changes: list[mutate.Change], rng: np.random.Generator) -> list[mutate.Change]:
    """Shuffled, one of each kind after another."""
    kinds: dict[str, list[mutate.Change]] = {}
    for i in rng.permutation(len(changes)):
        kinds.setdefault(changes[i].operator.kind, []).append(changes[i])
    ranked = [(k, i, c) for i, of_kind in enumerate(kinds.values()) for k, c in enumerate(of_kind)]
    return [change for *_, change in sorted(ranked, key=lambda r: r[:2])]


def sieved(name: str, most: int = 20, seed: int = 0, subject: Subject | None = None) -> Sieved:
    """Mutants of a layer, one of `SUBJECTS` or another, and what was dropped on the way."""
    subject = subject or SUBJECTS[name]
    rng = np.random.default_rng([seed, crc32(name.encode())])
    given = _draw(subject, rng)
    key = jax.random.key(seed + 1) if subject.keyed else None
    args = (*_cast(given, jnp.float32), *([key] if subject.keyed else []))
    right = _function(subject.layer, _backward(subject))
    found, seen, counts = Sieved(), [], Counter()
    with jax.enable_x64(True):
        sieve = _Sieve(subject, given, key, rng)
        for change in _order(mutate.changes(sieve.jaxpr), rng):
            if len(found.kept) == most:
                break
            kind = change.operator.kind
            if counts[kind] == _OF_A_KIND.get(kind, 2):
                continue
            label = f"{name}: {change.label}"
            gradients = sieve.gradients(change)
            sort = sieve.sort(gradients)
            if sort != "wrong":
                (found.equivalents if sort == "equivalent" else found.at_kinks).append(label)
            elif any(all(map(_equal, gradients, other)) for other in seen):
                found.twins.append(label)
            else:
                seen.append(gradients)
                counts[kind] += 1
                f = _function(subject.layer, mutate.changed(_backward(subject), change))
                f.__name__ = f.__qualname__ = label
                found.kept.append(Mutant(label, name, kind, f, right, args))
    return found


def mutants(most_per_layer: int = 20, seed: int = 0) -> list[Mutant]:
    """Of every layer, as many of each kind as there are and are asked for; the same every time."""
    return [mutant for name in SUBJECTS for mutant in sieved(name, most_per_layer, seed).kept]
