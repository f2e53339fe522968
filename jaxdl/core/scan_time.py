"""`scan_time`: a cell over time, with one set of parameters.

    (hₜ, yₜ) = cell(hₜ₋₁, xₜ)          (dhₜ₋₁, dxₜ) = cell.bwd(dhₜ, dyₜ), backwards in t

The gradient of a shared weight is the sum over the steps (Rumelhart, Hinton & Williams 1986). That
sum is not taken in the loop: the factors of every step are kept, time becomes one more position
axis, and the reducer runs once behind the loop. One matrix product over all steps takes the place
of T small ones. A padded step passes the state on, its cotangents are 0, and so are its factors.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdl.core.container import Child, container
from jaxdl.core.factors import Factor, FactorError
from jaxdl.core.layer import Layer, check_layer
from jaxdl.core.padding import (
    check_truncate,
    choose,
    cuts,
    lengths_of,
    real_steps,
    turned,
    zeros_beside,
)
from jaxdl.core.paths import path_of
from jaxdl.core.reducers import keep_for, reduce_kept
from jaxdl.core.side import add_to_side, zero_cotangent
from jaxdl.numerics.checks import check_array, is_inexact
from jaxdl.numerics.pytree import Static, as_jax, describe, pack_unique, struct, unpack_unique


def scan_time(
    cell: Layer,
    carry: Callable[[jax.ShapeDtypeStruct], Any] | None = None,
    *,
    lengths: bool = False,
    reverse: bool = False,
    truncate: int | None = None,
) -> Layer:
    """Run a cell over the time axis, with one set of parameters.

    With `carry` the state starts as zeros: x (N, T, ...) to y (N, T, ...). Without it the state is
    given and returned, as it is by the cell: (h₀, x) to (h_T, y), each with its cotangent.

    Args:
      cell: a layer from the pair (carry, xₜ) to the pair (carry, yₜ).
      carry: from the shape and dtype of xₜ (N, ...) to those of the carry, a pytree of
        `jax.ShapeDtypeStruct` with leading axis N.
      lengths: whether sequences are padded: x comes as ``With(x, lengths)``, or with a dict that
        has the entry "lengths": (N,) integers, from 1 to T. Padded steps pass the state on and
        give 0.
      reverse: whether to run from the last step (of each sequence) to the first.
      truncate: after so many steps, counted from the first, the gradient goes no further back.

    Raises:
      ValueError: an x without an axis of time; a cell that returns another carry than it is given;
        lengths out of range.
    """
    check_layer("scan_time", cell)
    check_truncate("scan_time", truncate)
    child = Child(cell)

    def start(x):
        """The state before the first step, or its shapes, and x."""
        if carry is None:
            return _given_state(x)
        x = as_jax(x)
        return jax.tree.map(lambda s: zeros_beside(s, x), carry(_one_step(x))), x

    def lengths_in(side, x):
        return lengths_of("scan_time", side, x) if lengths else None

    def in_order(x, many):
        """Time on the first axis, in the order of the steps."""
        return jnp.moveaxis(turned(x, many) if reverse else x, 1, 0)

    def as_given(y, many):
        y = jnp.moveaxis(y, 0, 1)
        return turned(y, many) if reverse else y

    def init(key, x, side):
        x = as_jax(x)
        h, x = (carry(_one_step(x)), x) if carry is not None else _given_state(x)
        return child.init(key, (h, _one_step(x)), side)

    def fwd(params, x, side, key):
        h, x = start(x)
        _one_step(x)
        many, t = lengths_in(side, x), x.shape[1]
        keys = None if key is None else jax.random.split(key, t)

        def step(h, xs):
            x, key, here, cut = xs
            if cut is not None:
                h = jax.tree.map(lambda a: jnp.where(cut, lax.stop_gradient(a), a), h)
            (new, y), residuals = child.fwd(params, (h, x), side, key)
            if struct(new) != struct(h):
                raise ValueError(
                    f"scan_time: {cell.label} must return a carry of the shape and dtype it is "
                    f"given, {describe(h)}, got {describe(new)}; give a carry of its width"
                )
            y = choose(here, y, jnp.zeros_like(y))
            return choose(here, new, h), (y, pack_unique(residuals))

        xs = in_order(x, many), keys, real_steps(t, many), cuts(t, truncate)
        last, (y, steps) = lax.scan(step, h, xs)
        y = as_given(y, many)
        if carry is None:
            return (last, y), steps
        leaves, structure = jax.tree.flatten(struct(last))
        return y, {"steps": steps, "carry": Static((tuple(leaves), structure))}

    def bwd(params, residuals, side, dy, reduce, slots):
        steps = residuals
        if carry is None:
            dh, dy = dy
            dh = jax.tree.map(lambda d: d if is_inexact(d) else None, dh)
        else:
            leaves, structure = residuals["carry"].value
            dh = jax.tree.unflatten(
                structure, [zeros_beside(s, dy) if is_inexact(s) else None for s in leaves]
            )
            steps = residuals["steps"]
        many, t = lengths_in(side, dy), dy.shape[1]

        def step(carried, xs):
            (dh, dside), (dy, kept, here, cut) = carried, xs
            d = choose(here, (dh, dy), jax.tree.map(jnp.zeros_like, (dh, dy)))
            reduced, (dbefore, dx), part = child.bwd(
                params, unpack_unique(kept), side, d, keep_for(reduce), None
            )
            dbefore = choose(here, dbefore, dh)
            if cut is not None:
                dbefore = jax.tree.map(lambda d: jnp.where(cut, jnp.zeros_like(d), d), dbefore)
            # factors hold residuals, and share cotangents
            return (dbefore, add_to_side(dside, part)), (pack_unique(reduced, kept.arrays), dx)

        carried = (dh, zero_cotangent(side) if cell.side else None)
        xs = in_order(dy, many), steps, real_steps(t, many), cuts(t, truncate)
        (dh, dside), (kept, dx) = lax.scan(step, carried, xs, reverse=True)
        kept = jax.tree.map(
            lambda f: f.join_time() if isinstance(f, Factor) else f,
            unpack_unique(kept, steps.arrays),
            is_leaf=lambda f: isinstance(f, Factor),
        )
        dx = None if dx is None else as_given(dx, many)
        try:
            reduced = reduce_kept(reduce, params, kept, slots)
        except FactorError as error:
            if path_of(error):
                raise
            raise FactorError(f"{cell.name}: {error}") from None
        return reduced, dx if carry is not None else (dh, dx), dside

    settings = dict(lengths=lengths, reverse=reverse, truncate=truncate)
    said = [f"{name}={value}" if name == "truncate" else name for name, value in settings.items()
            if value]  # fmt: skip
    rebuild = functools.partial(scan_time, carry=carry, **settings)
    return container(
        "scan_time", child, init, fwd, bwd, rebuild, detail=", ".join(said), side=lengths
    )


def _given_state(x: Any) -> tuple[Any, Any]:
    if not isinstance(x, tuple) or len(x) != 2:
        raise TypeError(
            f"scan_time: without `carry`, x must be the pair (state, inputs), got {describe(x)}; "
            "give the state, or build it with a carry that starts as zeros"
        )
    return as_jax(x)


def _one_step(x: Any) -> jax.ShapeDtypeStruct:
    check_array("scan_time: x", x)
    if len(x.shape) < 2:
        raise ValueError(
            f"scan_time: x must have axes (examples, time, ...), got shape {x.shape}; add the "
            "missing axis"
        )
    return jax.ShapeDtypeStruct((x.shape[0], *x.shape[2:]), x.dtype)
