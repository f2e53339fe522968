"""One step of the cells of `jaxdl.layers.recurrent`, forwards and backwards: see there."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxdl.core.identity import SameByParts

State = tuple[Array, ...]


@dataclass(frozen=True, eq=False)
class Cell(SameByParts):
    """One step of a recurrent layer, forwards and backwards.

    Attributes:
      name: of the layer.
      blocks: how many times the width of the state goes into the gates.
      state: how many arrays the state has; the first is the output.
      step: ``(params, u, h·w_h (+ b_h), state) -> (new state, what to keep)``.
      back: ``(params, kept, state before, new state, d(new state)) ->
        (du, dv, what reaches the state before by itself)``; du and dv are one array if they agree.
    """

    name: str
    blocks: int
    state: int
    step: Callable[..., tuple[State, Any]]
    back: Callable[..., tuple[Array, Array, State]]


# --- the cells ----------------------------------------------------------------------------------


def _rnn_step(params, u, v, state, *, activation):
    h = u + v
    h = jnp.tanh(h) if activation == "tanh" else jnp.where(h > 0, h, 0)
    return (h,), ()


def _rnn_back(params, kept, before, new, dnew, *, activation):
    (h,), (dh,) = new, dnew
    du = dh * (1 - h * h) if activation == "tanh" else jnp.where(h > 0, dh, 0)
    return du, du, (jnp.zeros_like(dh),)


def _lstm_step(params, u, v, state):
    _, c = state
    i, f, g, o = jnp.split(u + v, 4, axis=-1)
    if "p" in params:
        p_i, p_f, p_o = params["p"].astype(c.dtype)
        i, f = i + p_i * c, f + p_f * c
    i, f, g = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g)
    c = f * c + i * g
    o = jax.nn.sigmoid(o + p_o * c if "p" in params else o)
    return (o * jnp.tanh(c), c), (i, f, g, o)


def _lstm_back(params, kept, before, new, dnew):
    (i, f, g, o), (_, c_before), (_, c), (dh, dc) = kept, before, new, dnew
    tanh_c = jnp.tanh(c)
    # h = o·tanh(c)
    do = dh * tanh_c * o * (1 - o)
    dc = dc + dh * o * (1 - tanh_c * tanh_c)
    if "p" in params:
        p_i, p_f, p_o = params["p"].astype(c.dtype)
        dc = dc + p_o * do
    # c = f·c₋₁ + i·g
    di, df, dg = dc * g * i * (1 - i), dc * c_before * f * (1 - f), dc * i * (1 - g * g)
    dc_before = dc * f
    if "p" in params:
        dc_before = dc_before + p_i * di + p_f * df
    du = jnp.concatenate([di, df, dg, do], axis=-1)
    return du, du, (jnp.zeros_like(dh), dc_before)


def _gru_step(params, u, v, state):
    (h,) = state
    (u_r, u_z, u_n), (v_r, v_z, v_n) = (jnp.split(part, 3, axis=-1) for part in (u, v))
    r, z = jax.nn.sigmoid(u_r + v_r), jax.nn.sigmoid(u_z + v_z)
    n = jnp.tanh(u_n + r * v_n)
    return (n + z * (h - n),), (r, z, n, v_n)


def _gru_back(params, kept, before, new, dnew):
    (r, z, n, v_n), (h,), (dh,) = kept, before, dnew
    # h = (1−z)·n + z·h₋₁
    dn, dz = dh * (1 - z) * (1 - n * n), dh * (h - n) * z * (1 - z)
    # n = tanh(u_n + r·v_n)
    dr = dn * v_n * r * (1 - r)
    du = jnp.concatenate([dr, dz, dn], axis=-1)
    return du, jnp.concatenate([dr, dz, dn * r], axis=-1), (dh * z,)


def rnn_cell(activation: str) -> Cell:
    """φ(u + v), φ being "tanh" or "relu"."""
    step = partial(_rnn_step, activation=activation)
    return Cell("rnn", 1, 1, step, partial(_rnn_back, activation=activation))


LSTM = Cell("lstm", 4, 2, _lstm_step, _lstm_back)
GRU = Cell("gru", 3, 1, _gru_step, _gru_back)
