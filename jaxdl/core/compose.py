"""Combinators: layers made of layers. Each passes `reduce` and `slots` down unchanged.

    serial(f, g)    y = g(f(x))             dx = f̄(ḡ(dy))       params (p_f, p_g)
    skip(f)         y = x + f(x)            dx = dy + f̄(dy)     params p_f
    branch(f, g)    y = f(x) + g(x)         dx = f̄(dy) + ḡ(dy)  params (p_f, p_g)
      or joined     y = [f(x), g(x)]        dy is split where y was joined
    repeat(f, n)    n blocks by lax.scan    the same, backwards  params p_f with a layer axis
    remat(f)        y = f(x), keeps x       f runs again in bwd  params p_f
    frozen(f)       y = f(x)                no dp_f              params p_f
    tap()           y = x                   dx = dy, reported    params {}

f̄ is `f.bwd`. A wrapper of one layer has that layer's parameters; serial and branch have a tuple.
`scan_time` and `tied` are in `jaxdl.core.share`: they use one parameter more than once.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxdl.core.factors import Zero, stack_factors
from jaxdl.core.layer import Layer, check_layer, no_params
from jaxdl.core.reducers import Reducer, grads
from jaxdl.numerics.checks import check_floating
from jaxdl.numerics.pytree import Static, describe, pack_unique, struct, unpack_unique


def split_keys(key: Array | None, n: int) -> Sequence[Array | None] | Array:
    """n keys; n times None if there is none (evaluation)."""
    return [None] * n if key is None else jax.random.split(key, n)


def split_tuple(name: str, what: str, tree: Any, n: int) -> tuple:
    """`tree` as the n parts of a container; None (no slots) as n times None."""
    if tree is None:
        return (None,) * n
    if not isinstance(tree, tuple) or len(tree) != n:
        got = f"a tuple of {len(tree)}" if isinstance(tree, tuple) else f"a {type(tree).__name__}"
        raise ValueError(
            f"{name}: {what} must be a tuple of {n}, one for each layer inside, got {got}; use the "
            "params that init of this same model returned"
        )
    return tree


def output_struct(layer: Layer, params: Any, x: Any) -> Any:
    """Shape and dtype of the layer's output, without computing it."""
    return jax.eval_shape(layer.apply, params, x)


def add_cotangents(parts: Sequence[Any]) -> Any:
    """The sum of the cotangents of one input; None (integers) if every part is None."""
    first, *rest = parts
    for part in rest:
        first = jax.tree.map(operator.add, first, part)
    return first


def serial(*layers: Layer) -> Layer:
    """One layer after the other: ``params`` is a tuple, one entry a layer."""
    n = len(layers)

    def init(key, x):
        params = []
        for layer, layer_key in zip(layers, jax.random.split(key, n), strict=True):
            params.append(layer.init(layer_key, x))
            x = output_struct(layer, params[-1], x)
        return tuple(params)

    def fwd(params, x, key=None):
        residuals = []
        parts = split_tuple("serial", "params", params, n)
        for layer, p, k in zip(layers, parts, split_keys(key, n), strict=True):
            x, kept = layer.fwd(p, x, k)
            residuals.append(kept)
        return x, tuple(residuals)

    def bwd(params, residuals, dy, reduce: Reducer = grads, slots=None):
        reduced = [None] * n
        slots = split_tuple("serial", "slots", slots, n)
        for i in reversed(range(n)):
            reduced[i], dy = layers[i].bwd(params[i], residuals[i], dy, reduce, slots[i])
        return tuple(reduced), dy

    return Layer("serial", init, fwd, bwd, layers, serial)


def skip(layer: Layer) -> Layer:
    """x + f(x), for an f that keeps shape and dtype (He et al. 2015, arXiv:1512.03385)."""
    check_layer("skip", layer)

    def fwd(params, x, key=None):
        y, residuals = layer.fwd(params, x, key)
        if struct(y) != struct(x):
            raise ValueError(
                f"skip: f(x) must have the shape and dtype of x, {describe(x)}, got {describe(y)} "
                f"from {layer.label}; end it with a layer of that width"
            )
        return jax.tree.map(operator.add, x, y), residuals

    def bwd(params, residuals, dy, reduce: Reducer = grads, slots=None):
        reduced, dx = layer.bwd(params, residuals, dy, reduce, slots)
        return reduced, add_cotangents((dy, dx))

    return Layer("skip", layer.init, fwd, bwd, (layer,), skip, wraps=True)


def branch(*layers: Layer, join: Literal["sum", "concat"] = "sum") -> Layer:
    """Every layer on the same input; outputs added, or concatenated along the last axis."""
    if join not in ("sum", "concat"):
        raise ValueError(f"branch: join must be 'sum' or 'concat', got {join!r}; choose one")
    if not layers:
        raise ValueError("branch: expected at least one layer, got none; use identity()")
    n = len(layers)

    def init(key, x):
        keys = jax.random.split(key, n)
        return tuple(layer.init(k, x) for layer, k in zip(layers, keys, strict=True))

    def fwd(params, x, key=None):
        parts = split_tuple("branch", "params", params, n)
        runs = zip(layers, parts, split_keys(key, n), strict=True)
        ys, residuals = zip(*(layer.fwd(p, x, k) for layer, p, k in runs), strict=True)
        _check_joinable(layers, ys, join)
        if join == "sum":
            return functools.reduce(jnp.add, ys), residuals
        widths = Static(tuple(y.shape[-1] for y in ys))
        return jnp.concatenate(ys, axis=-1), {"inside": residuals, "widths": widths}

    def bwd(params, residuals, dy, reduce: Reducer = grads, slots=None):
        dys = [dy] * n
        if join == "concat":
            ends = [sum(residuals["widths"].value[: i + 1]) for i in range(n - 1)]
            dys, residuals = jnp.split(dy, ends, axis=-1), residuals["inside"]
        slots = split_tuple("branch", "slots", slots, n)
        runs = zip(layers, params, residuals, dys, slots, strict=True)
        reduced, dxs = zip(*(f.bwd(p, r, d, reduce, s) for f, p, r, d, s in runs), strict=True)
        return reduced, add_cotangents(dxs)

    return Layer("branch", init, fwd, bwd, layers, lambda *new: branch(*new, join=join), join)


def _check_joinable(layers, ys, join):
    def key(y):
        return (y.shape if join == "sum" else y.shape[:-1], y.dtype)

    for layer, y in zip(layers, ys, strict=True):
        if key(y) != key(ys[0]):
            axes = "shape" if join == "sum" else "shape up to the last axis"
            raise ValueError(
                f"branch: outputs joined by {join} must agree in dtype and {axes}, got "
                f"{describe(ys[0])} from {layers[0].label} and {describe(y)} from {layer.label}; "
                "make them agree"
            )


def repeat(layer: Layer, n: int) -> Layer:
    """n blocks of one kind, each with its own parameters, compiled once (`lax.scan`).

    Parameters, residuals and reduced values have a leading layer axis of length n. Residuals
    that several layers of a block share (the output of one is the input of the next) are
    stacked once.
    """
    if n < 1:
        raise ValueError(f"repeat: n must be at least 1, got {n}; leave the stack out instead")

    def init(key, x):
        params = jax.vmap(lambda k: layer.init(k, x))(jax.random.split(key, n))
        one = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape[1:], p.dtype), params)
        _check_shape_kept(layer, x, output_struct(layer, one, x))
        return params

    def fwd(params, x, key=None):
        for p in jax.tree.leaves(params):
            if jnp.shape(p)[:1] != (n,):
                raise ValueError(
                    f"repeat: every parameter must have a leading axis of {n} layers, got shape "
                    f"{jnp.shape(p)}; use the params that init of this same model returned"
                )

        def step(x, xs):
            p, k = xs
            y, residuals = layer.fwd(p, x, k)
            _check_shape_kept(layer, x, y)
            return y, pack_unique(residuals)

        keys = None if key is None else jax.random.split(key, n)
        return lax.scan(step, x, (params, keys), length=n)

    def bwd(params, residuals, dy, reduce: Reducer = grads, slots=None):
        def step(dy, xs):
            p, packed, s = xs
            reduced, dx = layer.bwd(p, unpack_unique(packed), dy, reduce, s)
            return dx, reduced

        dx, reduced = lax.scan(step, dy, (params, residuals, slots), length=n, reverse=True)
        return stack_factors(reduced), dx

    return Layer("repeat", init, fwd, bwd, (layer,), lambda new: repeat(new, n), str(n), True)


def _check_shape_kept(layer, x, y):
    if struct(y) != struct(x):
        raise ValueError(
            f"repeat: {layer.label} must keep shape and dtype so that it can follow itself, got "
            f"{describe(y)} from {describe(x)}; end it with a layer of that width"
        )


def remat(layer: Layer) -> Layer:
    """Keep only the input; run the forward again in the backward. Less memory, more time."""
    check_layer("remat", layer)

    def fwd(params, x, key=None):
        # the checkpoint is for jax.grad of this forward, which would keep everything otherwise
        return jax.checkpoint(layer.apply)(params, x, key), {"x": x, "key": key}

    def bwd(params, residuals, dy, reduce: Reducer = grads, slots=None):
        # The barrier makes the second forward wait for dy; without it the compiler would see
        # that it equals the first, run it once, and keep everything after all.
        (residuals, dy) = lax.optimization_barrier((residuals, dy))
        _, inside = layer.fwd(params, residuals["x"], residuals["key"])
        return layer.bwd(params, inside, dy, reduce, slots)

    return Layer("remat", layer.init, fwd, bwd, (layer,), remat, wraps=True)


def frozen(layer: Layer) -> Layer:
    """The layer with its parameters held fixed: cotangents pass, parameter gradients are zero.

    Their products do not exist in the compiled program. Every reducer sees `Zero` factors.
    Weight decay moves parameters even at zero gradient: mask it (`optax.masked`).
    """
    check_layer("frozen", layer)

    def fwd(params, x, key=None):
        return layer.fwd(lax.stop_gradient(params), x, key)

    def bwd(params, residuals, dy, reduce: Reducer = grads, slots=None):
        def reduce_zero(params, factors, slots):
            held = {name: Zero.like(factor) for name, factor in factors.items()}
            return reduce(params, held, slots)

        # a constant in the backward too: second derivatives are those of the forward
        return layer.bwd(lax.stop_gradient(params), residuals, dy, reduce_zero, slots)

    return Layer("frozen", layer.init, fwd, bwd, (layer,), frozen, wraps=True)


def tap(measure: Callable[[Array], Any] = lambda dy: dy) -> Layer:
    """The identity; what `bwd` reports for it is ``measure(dy)``, whatever the reducer.

    By default the cotangent itself; give `jaxdl.l2_norm` to see its norm alone.
    """

    def fwd(params, x, key=None):
        check_floating("tap", x)
        return x, None

    def bwd(params, residuals, dy, reduce: Reducer = grads, slots=None):
        return measure(dy), dy

    return Layer("tap", no_params, fwd, bwd)
