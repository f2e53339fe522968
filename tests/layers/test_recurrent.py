"""Recurrent layers: against PyTorch and Flax from the same weights, padded and not, with states."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import jaxdl as jd
from jaxdl import With
from tests.layers.compiled import both_ways

assert_close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-11)
N, T, M, K = 3, 6, 4, 5
LENGTHS = np.array([6, 2, 4], np.int32)
MAKE = {
    "rnn": jd.rnn,
    "rnn-relu": partial(jd.rnn, activation="relu"),
    "lstm": jd.lstm,
    "gru": jd.gru,
}
every_kind = pytest.mark.parametrize("kind", MAKE)


def draw(*shape, seed=0, scale=0.5):
    return scale * np.random.default_rng(seed).normal(size=shape)


def parameters(layer, x, seed=0):
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    return {name: draw(*shapes[name].shape, seed=seed + i) for i, name in enumerate(sorted(shapes))}


def states(kind, seed=5):
    parts = draw(N, K, seed=seed), draw(N, K, seed=seed + 1)
    return parts if kind == "lstm" else parts[0]


# --- PyTorch ------------------------------------------------------------------------------------


def in_torch(torch, kind, params, reverse_params=None):
    """The module of PyTorch with these weights; of both directions, if two are given."""
    kinds = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
    settings = {"nonlinearity": kind.removeprefix("rnn-")} if kind == "rnn-relu" else {}
    both = reverse_params is not None
    module = kinds.get(kind, torch.nn.RNN)(M, K, batch_first=True, bidirectional=both, **settings)
    module = module.double()
    for end, own in (("", params), ("_reverse", reverse_params)):
        if own is not None:
            hidden = own.get("b_h", np.zeros_like(own["b"]))
            for name, value in {
                "weight_ih_l0": own["w_x"].T, "weight_hh_l0": own["w_h"].T,
                "bias_ih_l0": own["b"], "bias_hh_l0": hidden,
            }.items():  # fmt: skip
                getattr(module, name + end).data = torch.tensor(np.ascontiguousarray(value))
    return module


def gradients_of(module, end=""):
    grads = {
        "w_x": module.__getattr__("weight_ih_l0" + end).grad.T,
        "w_h": module.__getattr__("weight_hh_l0" + end).grad.T,
        "b": module.__getattr__("bias_ih_l0" + end).grad,
        "b_h": module.__getattr__("bias_hh_l0" + end).grad,
    }
    return {name: grad.numpy() for name, grad in grads.items()}


@every_kind
def test_states_outputs_and_all_cotangents_are_those_of_pytorch(torch, kind):
    layer, x, state = MAKE[kind](K), draw(N, T, M), states(kind)
    params = parameters(layer, x)
    dstate, dy = states(kind, seed=9), draw(N, T, K, seed=8)
    (last, y), grads, (dstart, dx) = both_ways(layer, params, (state, x), (dstate, dy))

    module = in_torch(torch, kind, params)
    x_t = torch.tensor(x, requires_grad=True)
    start = [torch.tensor(s[None], requires_grad=True) for s in jax.tree.leaves(state)]
    y_t, last_t = module(x_t, tuple(start) if kind == "lstm" else start[0])
    last_t = last_t if kind == "lstm" else (last_t,)
    parts = zip((y_t, *last_t), (dy, *(d[None] for d in jax.tree.leaves(dstate))), strict=True)
    torch.stack([(out * torch.tensor(d)).sum() for out, d in parts]).sum().backward()
    assert_close(y, y_t.detach())
    for ours, theirs in zip(jax.tree.leaves(last), last_t, strict=True):
        assert_close(ours, theirs.detach()[0])
    assert_close(dx, x_t.grad)
    for ours, theirs in zip(jax.tree.leaves(dstart), start, strict=True):
        assert_close(ours, theirs.grad[0])
    theirs = gradients_of(module)
    for name, grad in grads.items():
        assert_close(grad, theirs[name], err_msg=name)


@every_kind
def test_padded_sequences_both_ways_are_those_of_pytorch(torch, kind):
    there, back = MAKE[kind](K, lengths=True), MAKE[kind](K, lengths=True, reverse=True)
    layer = jd.branch(there=there, back=back, join="concat")
    x, dy = draw(N, T, M), draw(N, T, 2 * K, seed=8)
    given = With(x, LENGTHS)
    params = {
        "there": parameters(there, given), "back": parameters(back, given, seed=20)
    }  # fmt: skip
    y, grads, dx = both_ways(layer, params, given, dy)

    module = in_torch(torch, kind, params["there"], params["back"])
    x_t = torch.tensor(x, requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        x_t, torch.tensor(LENGTHS.astype(np.int64)), batch_first=True, enforce_sorted=False
    )
    y_t, _ = torch.nn.utils.rnn.pad_packed_sequence(
        module(packed)[0], batch_first=True, total_length=T
    )
    (y_t * torch.tensor(dy)).sum().backward()
    assert_close(y, y_t.detach())
    assert_close(dx.x, x_t.grad)
    for name, end in (("there", ""), ("back", "_reverse")):
        theirs = gradients_of(module, end)
        for entry, grad in grads[name].items():
            assert_close(grad, theirs[entry], err_msg=f"{name}/{entry}")


# --- Flax ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_outputs_and_last_states_are_those_of_flax(kind, reverse):
    layer, x = MAKE[kind](K, lengths=True, reverse=reverse), draw(N, T, M)
    given = With((states(kind), x), {"lengths": LENGTHS})
    params = parameters(layer, given)
    gates = {"rnn": [""], "lstm": list("ifgo"), "gru": list("rzn")}[kind]
    w_x, w_h, b = (np.split(params[name], len(gates), -1) for name in ("w_x", "w_h", "b"))
    if kind == "gru":  # Flax has a second bias for n alone
        b_h = np.split(params["b_h"], 3)
        b = [b[0] + b_h[0], b[1] + b_h[1], b[2]]
    cell = {"rnn": linen.SimpleCell, "lstm": linen.LSTMCell, "gru": linen.GRUCell}[kind]
    wide = dict(dtype=jnp.float64, param_dtype=jnp.float64)
    module = linen.RNN(cell(K, **wide), return_carry=True, reverse=reverse, keep_order=True)
    carry = states(kind)[::-1] if kind == "lstm" else states(kind)  # theirs is (c, h)
    theirs = module.init(jax.random.key(0), x)
    cells = dict(next(iter(theirs["params"].values())))
    for i, gate in enumerate(gates):
        of_input = "i" if kind == "rnn" else "i" + gate
        of_state = "h" if kind == "rnn" else "h" + gate
        cells[of_input] = {"kernel": w_x[i]}
        cells[of_state] = {"kernel": w_h[i]}
        bias = of_state if kind == "lstm" else of_input
        cells[bias] = cells[bias] | {"bias": b[i]}
    if kind == "gru":
        cells["hn"] = cells["hn"] | {"bias": b_h[2]}
    theirs = {"params": {next(iter(theirs["params"])): cells}}
    found: Any = module.apply(theirs, x, initial_carry=carry, seq_lengths=jnp.asarray(LENGTHS, int))
    last, y = jax.jit(layer.apply)(params, given)
    last_f, y_f = found
    real = np.arange(T) < LENGTHS[:, None]
    assert_close(y, np.where(real[..., None], y_f, 0))
    assert_close(last[0] if kind == "lstm" else last, last_f[1] if kind == "lstm" else last_f)


# --- against the definitions --------------------------------------------------------------------


def test_peepholes_are_those_of_the_equations():
    layer, x = jd.lstm(K, peepholes=True), draw(N, T, M)
    p = parameters(layer, x)

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    h, c, ys = np.zeros((N, K)), np.zeros((N, K)), []
    for t in range(T):
        i, f, g, o = np.split(x[:, t] @ p["w_x"] + h @ p["w_h"] + p["b"], 4, axis=1)
        new = sigmoid(f + p["p"][1] * c) * c + sigmoid(i + p["p"][0] * c) * np.tanh(g)
        h, c = sigmoid(o + p["p"][2] * new) * np.tanh(new), new
        ys.append(h)
    assert_close(jax.jit(layer.apply)(p, x), np.stack(ys, axis=1))


@every_kind
@pytest.mark.parametrize("reverse", [False, True])
def test_a_padded_batch_has_the_gradients_of_the_sequences(kind, reverse):
    layer, alone = (MAKE[kind](K, lengths=ragged, reverse=reverse) for ragged in (True, False))
    x, dy = draw(N, T, M), draw(N, T, K, seed=8)
    params = parameters(layer, With(x, LENGTHS))
    y, grads, dx = both_ways(layer, params, With(x, LENGTHS), dy)
    total = jax.tree.map(np.zeros_like, params)
    for i, n in enumerate(LENGTHS):
        y_i, grads_i, dx_i = both_ways(alone, params, x[i : i + 1, :n], dy[i : i + 1, :n])
        assert_close(y[i, :n], y_i[0])
        assert_close(dx.x[i, :n], dx_i[0])
        assert not np.any(y[i, n:]) and not np.any(dx.x[i, n:])
        total = jax.tree.map(np.add, total, grads_i)
    jax.tree.map(assert_close, grads, total)


def test_what_is_behind_the_end_does_not_matter():
    layer, x = jd.gru(K, lengths=True, reverse=True), draw(N, T, M)
    params = parameters(layer, With(x, LENGTHS))
    real = (np.arange(T) < LENGTHS[:, None])[..., None]
    ys = [layer.apply(params, With(np.where(real, x, other), LENGTHS)) for other in (0.0, 1e6)]
    assert_close(*ys)


@every_kind
def test_truncated_backpropagation_is_training_chunk_by_chunk(kind):
    layer, whole = MAKE[kind](K, truncate=2), MAKE[kind](K)
    x, dy, state = draw(N, T, M), draw(N, T, K, seed=8), states(kind)
    params = parameters(layer, x)
    none = jax.tree.map(np.zeros_like, state)
    (_, y), grads, (dstate, dx) = both_ways(layer, params, (state, x), (none, dy))
    total, at = jax.tree.map(np.zeros_like, params), state
    for t in range(0, T, 2):
        part = slice(t, t + 2)
        (at, y_t), grads_t, (dat, dx_t) = both_ways(
            whole, params, (at, x[:, part]), (none, dy[:, part])
        )
        assert_close(y[:, part], y_t)
        assert_close(dx[:, part], dx_t)
        if t == 0:
            jax.tree.map(assert_close, dstate, dat)
        total = jax.tree.map(np.add, total, grads_t)
    jax.tree.map(assert_close, grads, total)


def test_layers_are_stacked_by_serial_and_repeat():
    x = draw(N, T, K)
    stack = jd.serial(jd.lstm(K), jd.lstm(K))
    layers = [parameters(jd.lstm(K), x, seed) for seed in (0, 7)]
    y = jax.jit(stack.apply)(dict(zip(stack.names, layers, strict=True)), x)
    repeated = jax.tree.map(lambda *p: np.stack(p), *layers)
    assert_close(y, jax.jit(jd.repeat(jd.lstm(K), 2).apply)(repeated, x))


def test_first_weights():
    params = jax.jit(jd.lstm(K).init)(jax.random.key(0), jnp.zeros((N, T, M)))
    assert_close(params["b"], np.repeat([0.0, 1.0, 0.0, 0.0], K))
    for w in np.split(params["w_h"], 4, axis=1):
        assert_close(w.T @ w, np.eye(K), atol=1e-6)
    assert jd.lstm(K, forget_bias=0.0).init(jax.random.key(0), jnp.zeros((N, T, M)))["b"].max() == 0


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jd.lstm(0), "lstm: features must be at least 1, got 0"),
        (lambda: jd.gru(3, truncate=0), "gru: truncate must be at least 1 step, got 0"),
        (lambda: jd.rnn(3, activation="gelu"), "rnn: activation must be 'tanh' or 'relu', got"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def of_length(lengths, x=None):
    return With(draw(N, T, M) if x is None else x, lengths)


BAD = {
    "longer than the window": (of_length(np.array([7, 1, 1])), "lengths must be in 1 ... 6"),
    "zero": (of_length(np.array([0, 1, 1])), "got values from 0 to 1; leave empty sequences out"),
    "too few": (of_length(np.array([1, 1])), "there must be a length for each of the 3 examples"),
    "floats": (of_length(np.ones(3)), "lengths must be one integer for each example"),
    "another entry": (of_length({"mask": LENGTHS}), "must have the entry 'lengths', got ['mask']"),
    "no time": (of_length(LENGTHS, draw(N, M)), "x must have axes (examples, steps, features)"),
    "no steps": (of_length(LENGTHS, draw(N, 0, M)), "and at least one step, got shape (3, 0, 4)"),
    "another width": (of_length(LENGTHS, draw(N, T, 3)), "x.shape[-1] must equal params['w_x']"),
    "a wide state": (
        of_length(LENGTHS, ((draw(N, 4), draw(N, 4)), draw(N, T, M))),
        "the state must have shape (3, 5)",
    ),
    "half a state": (
        of_length(LENGTHS, (draw(N, K), draw(N, T, M))), "the state must be the pair (h, c)"
    ),
    "no lengths": (draw(N, T, M), "it reads a side input, so x must be a With"),
    "integers": (of_length(LENGTHS, np.ones((N, T, M), int)), "x must be floating point"),
}  # fmt: skip


@pytest.mark.parametrize(("x", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(x, message):
    layer = jd.lstm(K, lengths=True)
    params = parameters(layer, of_length(LENGTHS))
    with pytest.raises((ValueError, TypeError)) as error:
        layer.apply(params, x)
    assert message in str(error.value) and str(error.value).startswith("lstm: ")
