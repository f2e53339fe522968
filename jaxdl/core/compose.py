"""Combinators: layers made of layers. Each passes `reduce` and `slots` down unchanged.

    serial(f, g)    y = g(f(x))             dx = f̄(ḡ(dy))       params {"f": p_f, "g": p_g}
    skip(f)         y = x + f(x)            dx = dy + f̄(dy)     params p_f
    branch(f, g)    y = f(x) + g(x)         dx = f̄(dy) + ḡ(dy)  params {"f": p_f, "g": p_g}
      or joined     y = [f(x), g(x)]        dy is split where y was joined
    repeat(f, n)    n blocks by lax.scan    the same, backwards  params p_f with a layer axis
    remat(f)        y = f(x), keeps x       f runs again in bwd  params p_f
    frozen(f)       y = f(x)                no dp_f              params p_f
    tap()           y = x                   dx = dy, reported    params {}

f̄ is `f.bwd`. A wrapper of one layer has that layer's parameters; serial and branch have a dict of
their children's, without those that have none. All of them take side inputs (`jaxdl.core.side`).
`jaxdl.core.scan_time` and `tied` (in `jaxdl.core.share`) use one parameter more than once.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxdl.core.container import Child, Children, container, split_keys
from jaxdl.core.factors import Zero, stack_factors
from jaxdl.core.layer import Layer, check_layer, no_params
from jaxdl.core.reducers import Reducer, grads, like_reducer
from jaxdl.core.side import add_cotangents, add_sides, add_to_side, zero_cotangent
from jaxdl.numerics.checks import check_floating
from jaxdl.numerics.pytree import Static, describe, pack_unique, struct, unpack_unique


def serial(*layers: Layer, **named: Layer) -> Layer:
    """One layer after the other, those given by position before those given by name.

    ``serial(embed=embedding(100, 32), head=dense(10))`` has parameters
    ``{"embed": {"table": ...}, "head": {"w": ..., "b": ...}}``. Without names they are called after
    their kind: ``serial(dense(32), relu(), dense(10))`` has ``{"dense": ..., "dense_1": ...}``.
    """
    inside = Children.of("serial", layers, named)
    each = inside.each

    def init(key, x, side):
        params = []
        for child, child_key in zip(each, jax.random.split(key, len(each)), strict=True):
            params.append(child.init(child_key, x, side))
            x = child.output(params[-1], x, side)
        return inside.gather(params)

    def fwd(params, x, side, key):
        residuals = []
        parts, keys = inside.split("params", params), split_keys(key, len(each))
        for child, p, k in zip(each, parts, keys, strict=True):
            x, kept = child.fwd(p, x, side, k)
            residuals.append(kept)
        return x, tuple(residuals)

    def bwd(params, residuals, side, dy, reduce, slots):
        reduced, dsides = [], []
        parts = zip(
            each, inside.split("params", params), residuals, inside.split("slots", slots),
            strict=True,
        )  # fmt: skip
        for child, p, r, s in reversed(list(parts)):
            part, dy, dside = child.bwd(p, r, side, dy, reduce, s)
            reduced.append(part)
            dsides.append(dside)
        return inside.gather(reduced[::-1], params), dy, add_sides(dsides)

    return container("serial", inside, init, fwd, bwd, inside.rebuild(serial))


def skip(layer: Layer) -> Layer:
    """x + f(x), for an f that keeps shape and dtype (He et al. 2015, arXiv:1512.03385)."""
    check_layer("skip", layer)
    child = Child(layer)

    def fwd(params, x, side, key):
        y, residuals = child.fwd(params, x, side, key)
        if struct(y) != struct(x):
            raise ValueError(
                f"skip: f(x) must have the shape and dtype of x, {describe(x)}, got {describe(y)} "
                f"from {layer.label}; end it with a layer of that width"
            )
        return jax.tree.map(operator.add, x, y), residuals

    def bwd(params, residuals, side, dy, reduce, slots):
        reduced, dx, dside = child.bwd(params, residuals, side, dy, reduce, slots)
        return reduced, add_cotangents((dy, dx)), dside

    return container("skip", child, child.init, fwd, bwd, skip)


Join = Literal["sum", "concat", "tuple", "dict"]
JOINS = ("sum", "concat", "tuple", "dict")


def branch(*layers: Layer, join: Join = "sum", **named: Layer) -> Layer:
    """Every layer on the same input; what becomes of the outputs is `join`.

    Args:
      layers, named: called as in `serial`.
      join: "sum" adds the outputs, "concat" joins them along the last axis, "tuple" returns them in
        order, "dict" by the names of the layers.
    """
    if join not in JOINS:
        raise ValueError(f"branch: join must be one of {JOINS}, got {join!r}; choose one")
    inside = Children.of("branch", layers, named)
    each, n = inside.each, len(inside.each)
    if not n:
        raise ValueError("branch: expected at least one layer, got none; use identity()")

    def init(key, x, side):
        keys = jax.random.split(key, n)
        return inside.gather([c.init(k, x, side) for c, k in zip(each, keys, strict=True)])

    def fwd(params, x, side, key):
        runs = zip(each, inside.split("params", params), split_keys(key, n), strict=True)
        ys, residuals = zip(*(child.fwd(p, x, side, k) for child, p, k in runs), strict=True)
        if join == "tuple":
            return ys, residuals
        if join == "dict":
            return dict(zip(inside.names, ys, strict=True)), residuals
        _check_joinable(inside.layers, ys, join)
        if join == "sum":
            return functools.reduce(jnp.add, ys), residuals
        widths = Static(tuple(y.shape[-1] for y in ys))
        return jnp.concatenate(ys, axis=-1), {"inside": residuals, "widths": widths}

    def bwd(params, residuals, side, dy, reduce, slots):
        dys = [dy] * n if join == "sum" else dy
        if join == "dict":
            dys = [dy[name] for name in inside.names]
        if join == "concat":
            ends = [sum(residuals["widths"].value[: i + 1]) for i in range(n - 1)]
            dys, residuals = jnp.split(dy, ends, axis=-1), residuals["inside"]
        parts = zip(
            each, inside.split("params", params), residuals, dys, inside.split("slots", slots),
            strict=True,
        )  # fmt: skip
        runs = (child.bwd(p, r, side, d, reduce, s) for child, p, r, d, s in parts)
        reduced, dxs, dsides = zip(*runs, strict=True)
        return inside.gather(reduced, params), add_cotangents(dxs), add_sides(dsides)

    rebuild = inside.rebuild(functools.partial(branch, join=join))
    return container("branch", inside, init, fwd, bwd, rebuild, detail=join)


def _check_joinable(layers, ys, join):
    def key(y):
        return (y.shape if join == "sum" else y.shape[:-1], y.dtype)

    for layer, y in zip(layers, ys, strict=True):
        if key(y) != key(ys[0]):
            axes = "shape" if join == "sum" else "shape up to the last axis"
            raise ValueError(
                f"branch: outputs joined by {join} must agree in dtype and {axes}, got "
                f"{describe(ys[0])} from {layers[0].label} and {describe(y)} from {layer.label}; "
                "make them agree, or give join='tuple'"
            )


def repeat(layer: Layer, n: int) -> Layer:
    """n blocks of one kind, each with its own parameters, compiled once (`lax.scan`).

    Parameters, residuals and reduced values have a leading layer axis of length n. Residuals
    that several layers of a block share (the output of one is the input of the next) are
    stacked once; a side input is not stacked at all.
    """
    if n < 1:
        raise ValueError(f"repeat: n must be at least 1, got {n}; leave the stack out instead")
    check_layer("repeat", layer)
    child = Child(layer)

    def init(key, x, side):
        params = jax.vmap(lambda k: child.init(k, x, side))(jax.random.split(key, n))
        one = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape[1:], p.dtype), params)
        _check_shape_kept(layer, x, child.output(one, x, side))
        return params

    def fwd(params, x, side, key):
        for p in jax.tree.leaves(params):
            if jnp.shape(p)[:1] != (n,):
                raise ValueError(
                    f"repeat: every parameter must have a leading axis of {n} layers, got shape "
                    f"{jnp.shape(p)}; use the params that init of this same model returned"
                )

        def step(x, xs):
            p, k = xs
            y, residuals = child.fwd(p, x, side, k)
            _check_shape_kept(layer, x, y)
            return y, pack_unique(residuals)

        keys = None if key is None else jax.random.split(key, n)
        return lax.scan(step, x, (params, keys), length=n)

    def bwd(params, residuals, side, dy, reduce, slots):
        def step(carry, xs):
            dy, dside = carry
            p, packed, s = xs
            reduced, dx, part = child.bwd(p, unpack_unique(packed), side, dy, reduce, s)
            # factors hold residuals, and share cotangents
            return (dx, add_to_side(dside, part)), pack_unique(reduced, packed.arrays)

        carry = (dy, zero_cotangent(side) if layer.side else None)
        (dx, dside), reduced = lax.scan(
            step, carry, (params, residuals, slots), length=n, reverse=True
        )
        return stack_factors(unpack_unique(reduced, residuals.arrays)), dx, dside

    return container(
        "repeat", child, init, fwd, bwd, functools.partial(repeat, n=n), detail=str(n)
    )  # fmt: skip


def _check_shape_kept(layer, x, y):
    if struct(y) != struct(x):
        raise ValueError(
            f"repeat: {layer.label} must keep shape and dtype so that it can follow itself, got "
            f"{describe(y)} from {describe(x)}; end it with a layer of that width"
        )


def remat(layer: Layer) -> Layer:
    """Keep only the input; run the forward again in the backward. Less memory, more time."""
    check_layer("remat", layer)
    child = Child(layer)

    def fwd(params, x, side, key):
        # the checkpoint is for jax.grad of this forward, which would keep everything otherwise
        forward = jax.checkpoint(lambda *args: child.fwd(*args)[0])
        return forward(params, x, side, key), {"x": x, "key": key}

    def bwd(params, residuals, side, dy, reduce, slots):
        # The barrier makes the second forward wait for dy; without it the compiler would see
        # that it equals the first, run it once, and keep everything after all.
        (residuals, dy) = lax.optimization_barrier((residuals, dy))
        _, inside = child.fwd(params, residuals["x"], side, residuals["key"])
        return child.bwd(params, inside, side, dy, reduce, slots)

    return container("remat", child, child.init, fwd, bwd, remat, kind=layer.kind)


def frozen(layer: Layer) -> Layer:
    """The layer with its parameters held fixed: cotangents pass, parameter gradients are zero.

    Their products do not exist in the compiled program. Every reducer sees `Zero` factors.
    Weight decay moves parameters even at zero gradient: mask it (`optax.masked`).
    """
    check_layer("frozen", layer)
    child = Child(layer)

    def fwd(params, x, side, key):
        return child.fwd(lax.stop_gradient(params), x, side, key)

    def bwd(params, residuals, side, dy, reduce, slots):
        @like_reducer(reduce)
        def reduce_zero(params, factors, slots):
            held = {name: Zero.like(factor) for name, factor in factors.items()}
            return reduce(params, held, slots)

        # a constant in the backward too: second derivatives are those of the forward
        return child.bwd(lax.stop_gradient(params), residuals, side, dy, reduce_zero, slots)

    return container("frozen", child, child.init, fwd, bwd, frozen, kind=layer.kind)


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
