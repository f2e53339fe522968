"""Recurrent layers: plain, LSTM and GRU, over sequences of one length or of many.

Shapes: x (N, T, m), state h and c (N, k), y (N, T, k); u = x·w_x + b for all steps at once.

    rnn    h = φ(u + h₋₁·w_h)                       φ: tanh or relu
    lstm   i, f, g, o = σ, σ, tanh, σ of u + h₋₁·w_h      c = f·c₋₁ + i·g      h = o·tanh(c)
           with peepholes, i and f also see p·c₋₁, and o sees p·c
    gru    r, z = σ of u + v     n = tanh(u_n + r·v_n)     v = h₋₁·w_h + b_h     h = (1−z)·n + z·h₋₁

Backwards in t, with du the cotangent of what goes into the gates, dv that of v (dv = du but in
a GRU, where dv_n = r·du_n):

    dh₋₁ = dv·w_hᵀ + what reaches h₋₁ by itself           (the loop carries dh and dc, nothing else)
    dx   = du·w_xᵀ        dw_x = Σ x ⊗ du      db = Σ du       (over all examples and steps,
                          dw_h = Σ h₋₁ ⊗ dv    db_h = Σ dv      behind the loop)

A padded step passes the state on as it is, and gives 0: the gradients of a padded batch are those
of the sequences themselves.

References: Hochreiter & Schmidhuber (1997); forget gate, Gers et al. (2000); peepholes, Gers &
Schmidhuber (2000); GRU, Cho et al. (2014, arXiv:1406.1078), the reset behind the product as in
cuDNN and PyTorch; truncation, Williams & Peng (1990).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdl.core.factors import Diag, Outer, Sum
from jaxdl.core.layer import Layer, leaf
from jaxdl.core.padding import check_truncate, choose, cuts, lengths_of, real_steps, turned
from jaxdl.core.side import With, like_side, split_side
from jaxdl.layers.recurrent_cells import GRU, LSTM, Cell, State, rnn_cell
from jaxdl.layers.recurrent_inputs import (
    as_given,
    check_axes,
    check_input,
    check_state,
    given_state,
)

# --- over time ----------------------------------------------------------------------------------


def _init(key, x, *, cell, features, lengths, w_init, h_init, forget_bias=0.0, peepholes=False):
    x = x.x if lengths else x
    x = x[1] if isinstance(x, tuple) else x
    check_axes(cell, x)
    x_key, h_key, p_key = jax.random.split(key, 3)

    def gate_by_gate(key, draw, rows):
        keys = jax.random.split(key, cell.blocks)
        return jnp.concatenate([draw(k, (rows, features), x.dtype) for k in keys], axis=1)

    params = {
        "w_x": gate_by_gate(x_key, w_init, x.shape[-1]),
        "w_h": gate_by_gate(h_key, h_init, features),
        "b": jnp.zeros(cell.blocks * features, x.dtype),
    }
    if cell.name == "lstm":
        params["b"] = params["b"].at[features : 2 * features].set(forget_bias)
    if cell.name == "gru":
        params["b_h"] = jnp.zeros(cell.blocks * features, x.dtype)
    if peepholes:
        params["p"] = features**-0.5 * jax.random.normal(p_key, (3, features), x.dtype)
    return params


def _fwd(params, x, *, cell, features, lengths, reverse, truncate):
    x, side = split_side(x)
    given = isinstance(x, tuple)
    start, x = (given_state(cell, x[0]), x[1]) if given else (None, x)
    check_input(cell, params, x, features)
    many = lengths_of(cell.name, side, x) if lengths else None
    start = check_state(cell, start, x, features)
    w_x, w_h, b = (params[name].astype(x.dtype) for name in ("w_x", "w_h", "b"))
    b_h = params["b_h"].astype(x.dtype) if "b_h" in params else None
    xs = jnp.moveaxis(turned(x, many) if reverse else x, 1, 0)
    real, ends = real_steps(x.shape[1], many), cuts(x.shape[1], truncate)

    def step(state, inputs):
        u, here, cut = inputs
        if cut is not None:
            state = tuple(jnp.where(cut, lax.stop_gradient(s), s) for s in state)
        v = state[0] @ w_h if b_h is None else state[0] @ w_h + b_h
        new, kept = cell.step(params, u, v, state)
        new = choose(here, new, state)
        return new, (new, kept)

    last, (states, kept) = lax.scan(step, start, (xs @ w_x + b, real, ends))
    y = jnp.moveaxis(choose(real, states[:1], _zeros(states[:1]))[0], 0, 1)
    y = turned(y, many) if reverse else y
    # of the gates what a step of `back` reads; the products of all steps before them are forgotten
    residuals = {"x": x, "start": start, "states": states, "kept": kept}
    return (as_given(last), y) if given else y, residuals


def _bwd(params, residuals, dy, *, cell, lengths, reverse, truncate):
    residuals, side = split_side(residuals)
    x, start, states, kept = (residuals[name] for name in ("x", "start", "states", "kept"))
    many = lengths_of(cell.name, side, x) if lengths else None
    given = isinstance(dy, tuple)
    dlast, dy = (given_state(cell, dy[0]), dy[1]) if given else (_zeros(start), dy)
    dys = jnp.moveaxis(turned(dy, many) if reverse else dy, 1, 0)
    real, ends = real_steps(x.shape[1], many), cuts(x.shape[1], truncate)
    before = tuple(
        jnp.concatenate([s[None], new[:-1]]) for s, new in zip(start, states, strict=True)
    )
    w_x, w_h = params["w_x"].astype(dy.dtype), params["w_h"].astype(dy.dtype)
    (dys,) = choose(real, (dys,), _zeros((dys,)))

    def step(dnew, inputs):
        dy, kept, before, new, here, cut = inputs
        dnew = (dnew[0] + dy, *dnew[1:])
        du, dv, (dh, *rest) = cell.back(params, kept, before, new, dnew)
        dbefore = choose(here, (dv @ w_h.T + dh, *rest), dnew)
        if cut is not None:
            dbefore = tuple(jnp.where(cut, 0, d) for d in dbefore)
        gates = (du,) if dv is du else (du, dv)
        return dbefore, choose(here, gates, _zeros(gates))

    inputs = (dys, kept, before, states, real, ends)
    dstart, gates = lax.scan(step, dlast, inputs, reverse=True)
    du, dv = gates[0], gates[-1]
    dx = jnp.moveaxis(du @ w_x.T, 0, 1)
    dx = turned(dx, many) if reverse else dx
    x = turned(x, many) if reverse else x
    du, dv, h = (jnp.moveaxis(array, 0, 1) for array in (du, dv, before[0]))
    factors = {"w_x": Outer(x, du), "w_h": Outer(h, dv), "b": Sum(du)}
    if "b_h" in params:
        factors["b_h"] = Sum(dv)
    if "p" in params:
        di, df, _, do = jnp.split(du, 4, axis=-1)
        c_before, c = jnp.moveaxis(before[1], 0, 1), jnp.moveaxis(states[1], 0, 1)
        cells, cotangents = (c_before, c_before, c), (di, df, do)
        factors["p"] = Diag(jnp.stack(cells, axis=2), jnp.stack(cotangents, axis=2))
    dx = (as_given(dstart), dx) if given else dx
    return factors, With(dx, like_side(None, side)) if lengths else dx


def _zeros(arrays: State) -> State:
    return tuple(map(jnp.zeros_like, arrays))


# --- constructors -------------------------------------------------------------------------------


def _recurrent(cell: Cell, features: int, settings: dict[str, Any], init: dict[str, Any]) -> Layer:
    if features < 1:
        raise ValueError(f"{cell.name}: features must be at least 1, got {features}")
    truncate = settings["truncate"]
    check_truncate(cell.name, truncate)
    names = ["w_x", "w_h", "b"]
    names += ["b_h"] if cell.name == "gru" else []
    names += ["p"] if init.get("peepholes") else []
    said = [str(features)]
    said += [name for name in ("reverse", "lengths") if settings[name]]
    said += [f"truncate={truncate}"] if truncate is not None else []
    lengths = settings["lengths"]
    return leaf(
        cell.name,
        partial(_init, cell=cell, features=features, lengths=lengths, **init),
        partial(_fwd, cell=cell, features=features, **settings),
        partial(_bwd, cell=cell, **settings),
        params=names,
        side=lengths,
        detail=", ".join(said),
    )


def rnn(
    features: int,
    *,
    activation: str = "tanh",
    lengths: bool = False,
    reverse: bool = False,
    truncate: int | None = None,
    w_init: jax.nn.initializers.Initializer = jax.nn.initializers.lecun_normal(),
    h_init: jax.nn.initializers.Initializer = jax.nn.initializers.orthogonal(),
) -> Layer:
    """A plain recurrent layer: (N, T, m) to (N, T, features), from a state of zeros.

    Given the pair (state, x) it returns (last state, y), the state being (N, features). Both ways:
    ``branch(rnn(k), rnn(k, reverse=True))``; several layers: `serial`.

    Args:
      features: width of the state, which is the output.
      activation: "tanh" or "relu".
      lengths: whether sequences are padded. x comes as ``With(x, lengths)``, or with a dict that
        has the entry "lengths": (N,) integers, from 1 to T. Padded steps pass the state on and
        give 0.
      reverse: whether to run from the last step (of each sequence) to the first.
      truncate: after so many steps, counted from the first, the gradient goes no further back.
      w_init, h_init: initial weights of the input and of the state, drawn gate by gate.

    Raises:
      ValueError: settings or lengths out of range; shapes that init has not seen.
      TypeError: an integer input, or a state of another structure.
    """
    if activation not in ("tanh", "relu"):
        raise ValueError(f"rnn: activation must be 'tanh' or 'relu', got {activation!r}")
    settings = dict(lengths=lengths, reverse=reverse, truncate=truncate)
    init = dict(w_init=w_init, h_init=h_init)
    return _recurrent(rnn_cell(activation), features, settings, init)


def lstm(
    features: int,
    *,
    forget_bias: float = 1.0,
    peepholes: bool = False,
    lengths: bool = False,
    reverse: bool = False,
    truncate: int | None = None,
    w_init: jax.nn.initializers.Initializer = jax.nn.initializers.lecun_normal(),
    h_init: jax.nn.initializers.Initializer = jax.nn.initializers.orthogonal(),
) -> Layer:
    """A layer of LSTM cells: (N, T, m) to (N, T, features); the state is the pair (h, c).

    The gates stand in the order i, f, g, o. All else is as in `rnn`.

    Args:
      forget_bias: the first bias of the forget gates: above 0 the cells begin by remembering.
      peepholes: whether the gates see the cell, each unit its own.
    """
    settings = dict(lengths=lengths, reverse=reverse, truncate=truncate)
    init = dict(w_init=w_init, h_init=h_init, forget_bias=forget_bias, peepholes=peepholes)
    return _recurrent(LSTM, features, settings, init)


def gru(
    features: int,
    *,
    lengths: bool = False,
    reverse: bool = False,
    truncate: int | None = None,
    w_init: jax.nn.initializers.Initializer = jax.nn.initializers.lecun_normal(),
    h_init: jax.nn.initializers.Initializer = jax.nn.initializers.orthogonal(),
) -> Layer:
    """A layer of gated recurrent units: (N, T, m) to (N, T, features).

    The gates stand in the order r, z, n; the reset gate acts behind the product with the state.
    All else is as in `rnn`.
    """
    settings = dict(lengths=lengths, reverse=reverse, truncate=truncate)
    init = dict(w_init=w_init, h_init=h_init)
    return _recurrent(GRU, features, settings, init)
