"""The lean forms: the factor of an operand of one equation, read off the equation.

Arrays come with the examples first and the steps of time loops behind them, as further positions;
what follows are the axes of the equation's operand, for one example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from jaxdl.core.factor import Factor
from jaxdl.core.factors import ConvOuter, Diag, Local, Outer, Scatter, Sum
from jaxdl.core.viewed_factors import Moved
from jaxdl.numerics.dtypes import in_common
from jaxdl.numerics.window import Window
from jaxdl.program.scope import Step

Operands = dict[int, Any]


@dataclass(frozen=True)
class Form:
    """How the factor of one operand of a use is made.

    Attributes:
      kind: the factor's, for people.
      needs: the operands to keep, by their place.
      make: ``(kept, shared, w, d) -> factor``: the kept operands and those that are the same for
        all examples, by place; the operand itself; the cotangents of the outputs that have one.
      why: what is the matter, if no lean form fits.
    """

    kind: str
    needs: tuple[int, ...]
    make: Callable[[Operands, Operands, Any, tuple[Array, ...]], Factor]
    why: str = ""


# --- matrix products ----------------------------------------------------------------------------


def _dot(step: Step, k: int) -> Form | None:
    """y = x·w over some axes of both, beside some that both have."""
    contracted, beside = step.eqn.params["dimension_numbers"]
    x, w = step.ins[1 - k], step.ins[k]
    w_in, x_in = contracted[k], contracted[1 - k]
    w_by, x_by = beside[k], beside[1 - k]
    w_out = tuple(i for i in range(len(w.shape)) if i not in (*w_in, *w_by))
    x_out = tuple(i for i in range(len(x.shape)) if i not in (*x_in, *x_by))
    p, m, o = (prod(w.shape[i] for i in axes) for axes in (w_by, w_in, w_out))
    # the axes of y: those beside, then what is free on the left, then on the right
    b, first, second = len(w_by), *((len(x_out), len(w_out)) if k else (len(w_out), len(x_out)))
    left, right = tuple(range(b, b + first)), tuple(range(b + first, b + first + second))
    y_x, y_w = (left, right) if k else (right, left)
    axes = (*w_by, *w_in, *w_out)
    shape = (p, m, o) if w_by else (m, o)

    def make(kept, shared, w, d):
        x, (dy,) = kept[1 - k], d
        a = _joined(x, (*x_out, *x_by, *x_in), (len(x_by),) * bool(x_by) + (len(x_in),))
        dy = _joined(dy, (*y_x, *range(b), *y_w), (b,) * bool(w_by) + (len(y_w),))
        if w_by:
            return moved(Local(a, dy), axes, shape, w.shape)
        return moved(Outer(a, dy), axes, shape, w.shape)

    return Form("Local" if w_by else "Outer", (1 - k,), make)


def _joined(x: Array, axes: Sequence[int], sizes: Sequence[int]) -> Array:
    """The last axes in another order, and the last groups of them, of these sizes, made one each.

    `axes` counts from the first axis of the operand of one example.
    """
    lead = x.ndim - len(axes)
    x = x.transpose(*range(lead), *(lead + i for i in axes))
    free = x.ndim - sum(sizes)
    shape, at = list(x.shape[:free]), free
    for size in sizes:
        shape.append(prod(x.shape[at : at + size]))
        at += size
    return x.reshape(shape)


def moved(factor: Factor, axes: tuple[int, ...], shape: tuple[int, ...], whole) -> Factor:
    """`factor`, or `Moved` of it if it is not that of the parameter as it is."""
    if axes == tuple(range(len(axes))) and shape == tuple(whole):
        return factor
    return Moved(factor, axes, shape)


# --- convolutions and lookups -------------------------------------------------------------------


def _conv(step: Step, k: int) -> Form | None:
    params = step.eqn.params
    numbers = params["dimension_numbers"]
    if k != 1 or params["batch_group_count"] != 1 or not params["window_strides"]:
        return None
    w = step.ins[1]
    lhs, rhs, out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    size = tuple(w.shape[i] for i in rhs[2:])
    padding = tuple(map(tuple, params["padding"]))
    spread = tuple(params["lhs_dilation"])
    strides, dilation = tuple(params["window_strides"]), tuple(params["rhs_dilation"])
    # zeros between the entries of x, or entries that are cut away: x is made so beforehand
    beforehand = max(spread, default=1) > 1 or min(map(min, padding), default=0) < 0
    window = Window(
        size, strides, tuple((0, 0) for _ in size) if beforehand else padding, dilation,
        params["feature_group_count"],
    )  # fmt: skip
    channels_last = (*rhs[2:], rhs[1], rhs[0])

    def make(kept, shared, w, d):
        x, dy = _joined(kept[0], (lhs[0], *lhs[2:], lhs[1]), ()), d[0]
        dy = _joined(dy, (out[0], *out[2:], out[1]), ())
        x, dy = in_common(x, dy)  # the sum may have more bits than its terms
        if beforehand:
            around = [(lo, hi, by - 1) for (lo, hi), by in zip(padding, spread, strict=True)]
            none = [(0, 0, 0)]
            lead = none * (x.ndim - 1 - len(around))
            x = lax.pad(x, jnp.zeros((), x.dtype), [*lead, *around, *none])
        shape = tuple(w.shape[i] for i in channels_last)
        return moved(ConvOuter(x, dy, window), channels_last, shape, w.shape)

    return Form("ConvOuter", (0,), make)


def _gather(step: Step, k: int) -> Form | None:
    """Whole rows of a table by their number."""
    table, ids = step.ins[0], step.ins[1]
    params = step.eqn.params
    numbers, sizes = params["dimension_numbers"], tuple(params["slice_sizes"])
    rows, rest = table.shape[0] if table.shape else 0, table.shape[1:]
    batch = len(ids.shape) - 1
    whole_rows = (
        k == 0
        and numbers.start_index_map == (0,)
        and numbers.collapsed_slice_dims == (0,)
        and not numbers.operand_batching_dims
        and sizes == (1, *rest)
        and numbers.offset_dims == tuple(range(batch, batch + len(rest)))
    )
    if not whole_rows:
        return None
    clip = params["mode"] == lax.GatherScatterMode.CLIP

    def make(kept, shared, w, d):
        i = kept[1][..., 0].astype(jnp.int32)
        i = jnp.clip(i, 0, rows - 1) if clip else jnp.where(i < 0, rows, i)
        dy = d[0].reshape(*i.shape, prod(rest))
        return moved(Scatter(i, dy), tuple(range(len(w.shape))), (rows, prod(rest)), w.shape)

    return Form("Scatter", (1,), make)


def _dynamic_slice(step: Step, k: int) -> Form | None:
    """One whole row of a table by its number."""
    rows, *rest = step.ins[0].shape or (0,)
    if k != 0 or tuple(step.eqn.params["slice_sizes"]) != (1, *rest):
        return None

    def make(kept, shared, w, d):
        i = jnp.clip(kept[1], 0, rows - 1).astype(jnp.int32)
        dy = d[0].reshape(*i.shape, prod(rest))
        return moved(Scatter(i, dy), tuple(range(len(w.shape))), (rows, prod(rest)), w.shape)

    return Form("Scatter", (1,), make)


# --- entry by entry, and the rest ---------------------------------------------------------------


def spread(x: Array, own: Sequence[int], after: Sequence[int], before: Sequence[int]) -> Array:
    """What has the axes `after` at its end, in the shape `before`: its axes `own` are those of that
    shape, the others, over which it was repeated, are positions."""
    lead = x.ndim - len(after)
    new = [i for i in range(len(after)) if i not in own]
    x = x.transpose(*range(lead), *(lead + i for i in (*new, *own)))
    return x.reshape(*x.shape[: lead + len(new)], *before)


def _repeated(step: Step, k: int) -> Callable[[Array], Array] | None:
    """How what belongs to the output belongs to operand k, which may be repeated along axes of
    length 1. None for a single number: the sum of its terms is smaller than they are."""
    before, after = step.ins[k].shape, step.outs[0].shape
    if before == after:
        return lambda x: x
    if len(before) != len(after) or prod(before) == 1:
        return None
    own = [i for i, (size, wide) in enumerate(zip(before, after, strict=True)) if size == wide]
    return lambda x: spread(x, own, after, before)


def _add(step: Step, k: int) -> Form | None:
    turn = _repeated(step, k)
    if turn is None:
        return None
    sign = -1 if step.name == "sub" and k == 1 else 1
    return Form("Sum", (), lambda kept, shared, w, d: Sum(turn(d[0] if sign == 1 else -d[0])))


def _mul(step: Step, k: int) -> Form | None:
    turn = _repeated(step, k)
    if turn is None or step.ins[1 - k].shape != step.outs[0].shape:
        return None  # one number times many: their products are one array, and both would be two
    return Form("Diag", (1 - k,), lambda kept, shared, w, d: Diag(turn(kept[1 - k]), turn(d[0])))


def _pad(step: Step, k: int) -> Form | None:
    """The number around an array. (JAX 0.10 and 0.12 cannot take its gradient alone.)"""
    if k != 1:
        return None
    config, inside = step.eqn.params["padding_config"], step.ins[0].shape

    def make(kept, shared, w, d):
        around = lax.pad(jnp.zeros(inside, w.dtype), jnp.ones((), w.dtype), config)
        return Sum(d[0] * around)

    return Form("Sum", (), make)


FORMS: dict[str, Callable[[Step, int], Form | None]] = {
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
    "add": _add,
    "sub": _add,
    "mul": _mul,
    "pad": _pad,
}
"""By the name of the primitive: ``(step, operand) -> Form``, None where it does not fit."""
