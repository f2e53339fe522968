"""The form of a use: what kind of factor a parameter has that meets data in an equation.

Each form says which operands must be kept, and makes the factor of them and of the cotangents of
the outputs. Arrays come with the examples first and the steps of time loops behind them, as further
positions; what follows are the axes of the equation's operand, for one example.
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
from jaxdl.core.viewed_factors import Moved, Used
from jaxdl.numerics.dtypes import in_common
from jaxdl.numerics.jaxprs import bind
from jaxdl.numerics.window import Window
from jaxdl.program.own_layers import layer_of, own_factors
from jaxdl.program.scope import Kind, Step, size_of

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


class Equation:
    """An equation as a function of its operands; the same only as an object."""

    def __init__(self, eqn: Any, outs: Sequence[int]):
        self.eqn, self.outs = eqn, tuple(outs)

    def __call__(self, *operands: Any) -> list[Any]:
        results = bind(self.eqn, operands)
        return [results[i] for i in self.outs]


def derived_places(step: Step) -> list[int]:
    """The operands of a step that are derived."""
    return [k for k, v in enumerate(step.ins) if v.kind == Kind.DERIVED]


def operands_kept(step: Step, values: Sequence[Any], n: int) -> dict[str, Array]:
    """What a use keeps of its operands, each with the n examples on its first axis."""
    places = {j for k in derived_places(step) for j in form_of(step, k).needs}
    kept = {}
    for j in sorted(places):
        is_data = step.ins[j].kind == Kind.DATA
        value = values[j]
        kept[str(j)] = value if is_data else jnp.broadcast_to(value, (n, *jnp.shape(value)))
    return kept


def form_of(step: Step, k: int) -> Form:
    """The form in which operand k of a use has its gradient."""
    if step.eqn is None:
        return Form("Sum", (), lambda kept, shared, w, d: Sum(d[0]))
    if layer_of(step) is not None:
        return _layer(step, k)
    others = [v for i, v in enumerate(step.ins) if i != k]
    real = all(not jnp.issubdtype(v.dtype, jnp.complexfloating) for v in [step.ins[k], *step.outs])
    if real and step.name in _FORMS and any(v.kind == Kind.DATA for v in others):
        form = _FORMS[step.name](step, k)
        if form is not None:
            return form
    return _general(step, k)


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


def _add(step: Step, k: int) -> Form | None:
    if step.ins[k].shape != step.outs[0].shape:  # a number, added to all entries
        return None
    sign = -1 if step.name == "sub" and k == 1 else 1
    return Form("Sum", (), lambda kept, shared, w, d: Sum(d[0] if sign == 1 else -d[0]))


def _mul(step: Step, k: int) -> Form | None:
    if step.ins[0].shape != step.ins[1].shape:
        return None
    return Form("Diag", (1 - k,), lambda kept, shared, w, d: Diag(kept[1 - k], d[0]))


def _pad(step: Step, k: int) -> Form | None:
    """The number around an array. (JAX 0.10 and 0.12 cannot take its gradient alone.)"""
    if k != 1:
        return None
    config, inside = step.eqn.params["padding_config"], step.ins[0].shape

    def make(kept, shared, w, d):
        around = lax.pad(jnp.zeros(inside, w.dtype), jnp.ones((), w.dtype), config)
        return Sum(d[0] * around)

    return Form("Sum", (), make)


def _layer(step: Step, k: int) -> Form:
    """A layer of this library: its own backward pass says what the factor is."""
    data = tuple(j for j, v in enumerate(step.ins) if v.kind == Kind.DATA)

    def make(kept, shared, w, d):
        inputs = [kept[j] if j in kept else w if j == k else shared[j] for j in range(count)]
        places = kept[data[0]].ndim - 1 - len(step.ins[data[0]].shape)
        return own_factors(step, places, inputs, list(d))[k]

    count = len(step.ins)
    return Form("of its own", data, make)


def _general(step: Step, k: int) -> Form:
    """Any equation: by its `jax.vjp`. Where the operand is no larger than an output, its gradients
    for all examples are no larger than what is there anyway."""
    outs = [i for i, out in enumerate(step.outs) if out.is_inexact]
    equation = Equation(step.eqn, outs)
    mine = step.ins[k].loops
    kept = tuple(
        j for j, v in enumerate(step.ins) if j != k and (v.kind == Kind.DATA or not v.loops <= mine)
    )
    small = size_of(step.ins[k]) <= max(size_of(out) for out in step.outs)
    count = len(step.ins)
    steps = step.ins[kept[0]] if kept else None

    def function(w, shared, a):
        operands = dict(shared) | dict(a) | {k: w}
        return equation(*(operands[i] for i in range(count)))

    def make(kept, shared, w, d):
        first = next(iter(kept))
        places = kept[first].ndim - len(steps.shape) - 1 if steps is not None else 0
        used = Used(w, shared, kept, d, function, places)
        return Sum(used.each()) if small else used

    if small:
        return Form("Sum", kept, make)
    return Form("Used", kept, make, why=f"no lean form is known for {step.name}")


_FORMS: dict[str, Callable[[Step, int], Form | None]] = {
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
    "add": _add,
    "sub": _add,
    "mul": _mul,
    "pad": _pad,
}
