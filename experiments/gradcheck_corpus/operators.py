"""Changes of one equation: a term dropped, a sign, an axis, a bound, an index off by one.

Each applies to equations of some primitives, and gives outputs of the same shapes and dtypes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend import core

_ARITHMETIC = ("add", "add_any", "sub", "mul", "div", "dot_general", "conv_general_dilated",
               "reduce_sum", "exp", "tanh", "logistic", "erfc", "scatter-add", "pow")  # fmt: skip


@dataclass(frozen=True)
class Operator:
    """A change of equations of one sort."""

    kind: str
    name: str
    applies: Callable[[Any], bool]
    """Of an equation."""
    run: Callable[[Any, list[Any]], list[Any]]
    """Of an equation and its inputs: other outputs, of the same shapes and dtypes."""


def bind(eqn: Any, inputs: list[Any], **changed: Any) -> list[Any]:
    """The equation's outputs, for other inputs or parameters."""
    params = eqn.primitive.get_bind_params({**eqn.params, **changed})
    outputs = eqn.primitive.bind(*inputs, **params)
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def _is(*names: str) -> Callable[[Any], bool]:
    return lambda eqn: eqn.primitive.name in names


def _floating(eqn: Any) -> bool:
    return all(jnp.issubdtype(v.aval.dtype, jnp.floating) for v in eqn.outvars)


def _whole(i: int, *names: str) -> Callable[[Any], bool]:
    """Equations of which one operand has the shape and dtype of the result."""
    return lambda eqn: (
        eqn.primitive.name in names
        and (eqn.invars[i].aval.shape, eqn.invars[i].aval.dtype)
        == (eqn.outvars[0].aval.shape, eqn.outvars[0].aval.dtype)
        and _floating(eqn)
    )


def _then(g: Callable[[Any], Any]) -> Callable[[Any, list[Any]], list[Any]]:
    """What is done to each result."""
    return lambda eqn, inputs: [g(y) for y in bind(eqn, inputs)]


def _literal(eqn: Any) -> int | None:
    """Which operand is a number that is written down."""
    if eqn.primitive.name not in ("add", "sub", "mul", "div", "pow", "max", "min"):
        return None
    real = lambda atom: jnp.issubdtype(atom.aval.dtype, jnp.floating)  # noqa: E731
    return next((i for i, atom in enumerate(eqn.invars)
                 if isinstance(atom, core.Literal) and real(atom)), None)  # fmt: skip


def _plus_one(eqn, inputs):
    i = _literal(eqn)
    return bind(eqn, [x + jnp.ones((), jnp.result_type(x)) if k == i else x
                      for k, x in enumerate(inputs)])  # fmt: skip


def _without_last(x, axis):
    size = x.shape[axis]
    kept = lax.broadcasted_iota(jnp.int32, x.shape, axis) < size - 1
    return jnp.where(kept, x, jnp.zeros_like(x))


def _summed(eqn):
    """(operand, axis) over which an equation sums; None where it does not, or over one entry."""
    if not eqn.invars:
        return None
    name, shape = eqn.primitive.name, eqn.invars[0].aval.shape
    axes = {"reduce_sum": lambda p: p["axes"],
            "dot_general": lambda p: p["dimension_numbers"][0][0],
            "conv_general_dilated": lambda p: p["dimension_numbers"].lhs_spec[1:2],
            }.get(name, lambda p: ())(eqn.params)  # fmt: skip
    return next((a for a in axes if shape[a] > 1), None) if _floating(eqn) else None


def _square(shape):
    """Pairs of axes of equal length above 1."""
    return [(a, b) for b in range(len(shape)) for a in range(b) if shape[a] == shape[b] > 1]


def _contracted_square(eqn):
    """Pairs of axes of equal length of the right operand of a product, one of them summed over."""
    if eqn.primitive.name != "dot_general":
        return []
    (_, summed), (_, batch) = eqn.params["dimension_numbers"]
    shape = eqn.invars[1].aval.shape
    free = [a for a in range(len(shape)) if a not in (*summed, *batch)]
    return [(a, b) for a in summed for b in free if shape[a] == shape[b] > 1]


def _swapped_right(eqn, inputs):
    return bind(eqn, [inputs[0], jnp.swapaxes(inputs[1], *_contracted_square(eqn)[0])])


def _exchangeable(eqn):
    shapes = {(v.aval.shape, v.aval.dtype) for v in eqn.invars}
    return len(eqn.invars) > 1 and len(shapes) == 1


def _slid(step):
    """(start, limit) of a slice moved by one place along the first axis where there is room."""

    def axis_of(eqn):
        sizes = eqn.invars[0].aval.shape
        p = eqn.params
        return next((a for a, (lo, hi, n) in enumerate(
            zip(p["start_indices"], p["limit_indices"], sizes, strict=True))
            if lo + step >= 0 and hi + step <= n), None)  # fmt: skip

    def run(eqn, inputs):
        axis = axis_of(eqn)
        move = lambda ends: tuple(e + step * (a == axis) for a, e in enumerate(ends))  # noqa: E731
        return bind(eqn, inputs, start_indices=move(eqn.params["start_indices"]),
                    limit_indices=move(eqn.params["limit_indices"]))  # fmt: skip

    return Operator("offset", f"a slice {'later' if step > 0 else 'earlier'} by one",
                    lambda eqn: _is("slice")(eqn) and axis_of(eqn) is not None, run)  # fmt: skip


def _padded(eqn):
    key = "padding_config" if eqn.primitive.name == "pad" else "padding"
    config = eqn.params[key]
    return key, next((a for a, pair in enumerate(config) if pair[0] > 0 or pair[1] > 0), None)


def _padding_moved(eqn, inputs):
    key, axis = _padded(eqn)
    step = 1 if eqn.params[key][axis][1] > 0 else -1
    config = [(lo + step, hi - step, *rest) if a == axis else (lo, hi, *rest)
              for a, (lo, hi, *rest) in enumerate(eqn.params[key])]  # fmt: skip
    return bind(eqn, inputs, **{key: tuple(config)})


def _other_order(eqn, inputs):
    return bind(eqn, [jnp.swapaxes(inputs[0], -1, -2).reshape(inputs[0].shape)])


def _set_for_add(eqn, inputs):
    rows, indices, updates = inputs
    p = eqn.params
    return [lax.scatter(rows, indices, updates, p["dimension_numbers"], mode=p["mode"])]


_COMPARED = {"gt": lax.gt, "ge": lax.ge, "lt": lax.lt, "le": lax.le, "eq": lax.eq}


def _compared(name, pairs):
    def run(eqn, inputs):
        a, b = (jnp.broadcast_to(x, eqn.outvars[0].aval.shape) for x in inputs)
        return [_COMPARED[pairs[eqn.primitive.name]](a, b)]

    return Operator("comparison", name, _is(*pairs), run)


def _linearised(primitive, f):
    return Operator("linearised", f"{primitive} taken as its tangent", _is(primitive),
                    lambda eqn, x: [f(x[0])])  # fmt: skip


def _half(i):
    return lambda eqn, x: [x[i]]


_SUMS = ("add", "add_any")
OPERATORS = (
    Operator("addend", "the first addend dropped", _whole(1, *_SUMS), _half(1)),
    Operator("addend", "the second addend dropped", _whole(0, *_SUMS), _half(0)),
    Operator("addend", "the subtrahend dropped", _whole(0, "sub"), _half(0)),
    Operator("addend", "the minuend dropped", _whole(1, "sub"), lambda eqn, x: [-x[1]]),
    Operator("factor", "the first factor dropped", _whole(1, "mul"), _half(1)),
    Operator("factor", "the second factor dropped", _whole(0, "mul"), _half(0)),
    Operator("factor", "the divisor dropped", _whole(0, "div"), _half(0)),
    Operator("factor", "times for divided by", _whole(0, "div"), lambda eqn, x: [x[0] * x[1]]),
    Operator("factor", "a power dropped", _whole(0, "pow", "integer_pow", "square"), _half(0)),
    Operator("sign", "plus for minus", _whole(0, "sub"), lambda eqn, x: [x[0] + x[1]]),
    Operator("sign", "minus for plus", _whole(0, *_SUMS), lambda eqn, x: [x[0] - x[1]]),
    Operator("sign", "the sign dropped", _whole(0, "neg", "abs"), _half(0)),
    Operator("sign", "the sign function dropped", _is("sign"),
             lambda eqn, x: [jnp.ones_like(x[0])]),
    Operator("sign", "negated", lambda e: _is("dot_general", "reduce_sum", "div")(e)
             and _floating(e), _then(lambda y: -y)),
    Operator("swapped", "the operands exchanged", lambda e: _is("sub", "div", "pow", "concatenate",
             "stack", "dot_general")(e) and _floating(e) and _exchangeable(e),
             lambda eqn, x: bind(eqn, x[::-1])),
    Operator("swapped", "the pieces exchanged", lambda e: _is("split")(e)
             and len(set(e.params["sizes"])) == 1, lambda eqn, x: bind(eqn, x)[::-1]),
    *(_linearised(name, f) for name, f in {
        "exp": lambda x: 1 + x, "tanh": lambda x: x, "log": lambda x: x - 1,
        "logistic": lambda x: 0.5 + x / 4, "erfc": lambda x: 1 - 1.1283791670955126 * x,
        "rsqrt": lambda x: (3 - x) / 2, "sqrt": lambda x: (1 + x) / 2}.items()),
    Operator("mean", "the mean for the sum", lambda e: _is("reduce_sum")(e)
             and _summed(e) is not None, lambda eqn, x: [
                 bind(eqn, x)[0] / prod(x[0].shape[a] for a in eqn.params["axes"])]),
    Operator("left out", "the last of a sum left out", lambda e: _summed(e) is not None,
             lambda eqn, x: bind(eqn, [_without_last(x[0], _summed(eqn)), *x[1:]])),
    Operator("left out", "the last update left out", _is("scatter-add"),
             lambda eqn, x: bind(eqn, [*x[:2], _without_last(x[2], 0)])),
    Operator("transposed", "the right operand transposed",
             lambda e: bool(_contracted_square(e)), _swapped_right),
    Operator("transposed", "the result transposed", lambda e: _is("dot_general", "transpose",
             "conv_general_dilated")(e) and bool(_square(e.outvars[0].aval.shape)),
             _then(lambda y: jnp.swapaxes(y, *_square(y.shape)[-1]))),
    Operator("layout", "reshaped in another order", lambda e: _is("reshape")(e)
             and len(e.invars[0].aval.shape) > 1 and min(e.invars[0].aval.shape[-2:]) > 1,
             _other_order),
    _slid(1), _slid(-1),
    Operator("offset", "the padding moved by one", lambda e: _is("pad", "conv_general_dilated")(e)
             and _padded(e)[1] is not None, _padding_moved),
    Operator("offset", "indices later by one", _is("scatter-add"),
             lambda eqn, x: bind(eqn, [x[0], x[1] + jnp.ones_like(x[1]), x[2]])),
    Operator("offset", "counted from one", _is("iota"), _then(lambda y: y + jnp.ones_like(y))),
    Operator("scaled", "times 1.001", lambda e: _is(*_ARITHMETIC)(e) and _floating(e),
             _then(lambda y: y * 1.001)),
    Operator("bfloat16", "through bfloat16", lambda e: _is(*_ARITHMETIC)(e) and _floating(e),
             _then(lambda y: y.astype(jnp.bfloat16).astype(y.dtype))),
    Operator("branch", "always the first case", lambda e: _whole(1, "select_n")(e), _half(1)),
    Operator("branch", "always the second case", lambda e: _whole(2, "select_n")(e), _half(2)),
    Operator("branch", "the cases exchanged", lambda e: _whole(1, "select_n")(e),
             lambda eqn, x: bind(eqn, [x[0], x[2], x[1]])),
    _compared("another strictness", {"gt": "ge", "ge": "gt", "lt": "le", "le": "lt"}),
    _compared("another direction", {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge"}),
    _compared("at least for equal", {"eq": "ge"}),
    Operator("comparison", "one condition of two", _is("and", "or"), _half(0)),
    Operator("constant", "a constant larger by one", lambda e: _literal(e) is not None
             and _floating(e), _plus_one),
    Operator("constant", "the power larger by one", _is("integer_pow"),
             lambda eqn, x: bind(eqn, x, y=eqn.params["y"] + 1)),
    Operator("scatter", "set for add", _is("scatter-add"), _set_for_add),
    Operator("reversed", "not reversed", _is("rev"), _half(0)),
    Operator("reversed", "an axis reversed", lambda e: _is("transpose", "concatenate", "stack",
             "dot_general")(e) and _floating(e) and e.outvars[0].aval.shape[:1] > (1,),
             _then(lambda y: jnp.flip(y, 0))),
    Operator("reversed", "the kernel reversed", _is("conv_general_dilated"), lambda eqn, x:
             bind(eqn, [x[0], jnp.flip(x[1], eqn.params["dimension_numbers"].rhs_spec[2])])),
    Operator("reversed", "from the other end", _is("cumsum", "cumprod", "cumlogsumexp", "scan"),
             lambda eqn, x: bind(eqn, x, reverse=not eqn.params["reverse"])),
    Operator("clamp", "a bound dropped", _whole(1, "max", "min", "clamp"), _half(1)),
    Operator("clamp", "the other bound", _is("max", "min"),
        lambda eqn, x: [(lax.min if _is("max")(eqn) else lax.max)(
            *(jnp.broadcast_to(a, eqn.outvars[0].aval.shape) for a in x))]),
    Operator("conjugate", "the conjugate dropped", lambda e: _is("conj")(e)
             and e.invars[0].aval.dtype == e.outvars[0].aval.dtype, _half(0)),
)  # fmt: skip
ZEROED = Operator("zeroed", "zeros", lambda eqn: False, bind)
KINDS = tuple(dict.fromkeys([*(operator.kind for operator in OPERATORS), ZEROED.kind]))
