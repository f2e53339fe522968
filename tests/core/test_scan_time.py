"""A cell over time: one parameter, used at every step."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl as jd
from jaxdl import With
from jaxdl.core.factors import FactorError, Outer, Sum

assert_close = partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12)
KEY = jax.random.key(0)
N, T, M, WIDTH = 2, 5, 3, 4


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def assert_trees_close(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: assert_close(a, b), got, expected)


def rnn_cell(width):
    """h = tanh([x, h₋₁]·w + b), which is the output too."""

    def init(key, pair):
        _, x = pair
        w = jax.random.normal(key, (x.shape[-1] + width, width), x.dtype) / 2
        return {"w": w, "b": jnp.full(width, 0.1, x.dtype)}

    def fwd(params, pair):
        h, x = pair
        joined = jnp.concatenate([x, h], axis=-1)
        h = jnp.tanh(joined @ params["w"] + params["b"])
        return (h, h), {"joined": joined, "h": h}

    def bwd(params, residuals, pair):
        dh, dy = pair
        d = (dh + dy) * (1 - residuals["h"] ** 2)
        djoined = d @ params["w"].T
        m = djoined.shape[-1] - width
        return {"w": Outer(residuals["joined"], d), "b": Sum(d)}, (djoined[:, m:], djoined[:, :m])

    return jd.leaf("rnn_cell", init, fwd, bwd, params=("w", "b"))


def carry(x):
    return jax.ShapeDtypeStruct((x.shape[0], WIDTH), x.dtype)


RNN = jd.scan_time(rnn_cell(WIDTH), carry)


def test_scan_time_is_a_loop_over_the_steps():
    x, cell = draw(N, T, M), rnn_cell(WIDTH)
    params = RNN.init(KEY, x)
    assert params["w"].shape == (M + WIDTH, WIDTH)
    h, ys = jnp.zeros((N, WIDTH)), []
    for t in range(T):
        h, y = cell.apply(params, (h, x[:, t]))
        ys.append(y)
    assert_close(RNN.apply(params, x), np.stack(ys, axis=1))


def test_scan_time_of_an_rnn_cell_is_the_rnn_of_torch(torch):
    x, dy = draw(N, T, M), draw(N, T, WIDTH, seed=1)
    params = RNN.init(KEY, x)
    rnn = torch.nn.RNN(M, WIDTH, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        w = torch.tensor(np.array(params["w"]))
        rnn.weight_ih_l0.copy_(w[:M].T)
        rnn.weight_hh_l0.copy_(w[M:].T)
        rnn.bias_ih_l0.copy_(torch.tensor(np.array(params["b"])))
        rnn.bias_hh_l0.zero_()
    inputs = torch.tensor(np.array(x), requires_grad=True)
    y = rnn(inputs)[0]
    y.backward(torch.tensor(np.array(dy)))
    got_y, residuals = RNN.fwd(params, x)
    gradient, dx = RNN.bwd(params, residuals, dy)
    assert_close(got_y, y.detach().numpy())
    assert_close(dx, inputs.grad.numpy())
    weights = np.concatenate([rnn.weight_ih_l0.grad.T, rnn.weight_hh_l0.grad.T])
    assert_close(gradient["w"], weights)
    assert_close(gradient["b"], rnn.bias_ih_l0.grad.numpy())


def test_per_example_norms_through_time_are_those_of_vmap_of_grad():
    x, dy = draw(N, T, M), draw(N, T, WIDTH, seed=1)
    params = RNN.init(KEY, x)
    norms, _ = RNN.bwd(params, RNN.fwd(params, x)[1], dy, jd.example_sq_norms)

    def objective(params, x, dy):
        return jnp.sum(RNN.apply(params, x[None])[0] * dy)

    each = jax.vmap(jax.grad(objective), in_axes=(None, 0, 0))(params, x, dy)
    expected = jax.tree.map(lambda g: jnp.sum(g**2, axis=tuple(range(1, g.ndim))), each)
    assert_trees_close(norms, expected)


def test_the_weight_gradient_is_one_product_behind_the_time_loop():
    x, dy = draw(N, T, M), draw(N, T, WIDTH, seed=1)
    params = RNN.init(KEY, x)
    jaxpr = jax.make_jaxpr(lambda r: RNN.bwd(params, r, dy))(RNN.fwd(params, x)[1])
    (loop,) = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
    inside, everywhere = str(loop).count("dot_general"), str(jaxpr).count("dot_general")
    assert (inside, everywhere) == (1, 2)  # dx of a step inside, dw behind


def test_scan_time_in_training_gives_every_step_a_key_of_its_own():
    noisy = jd.from_function(
        lambda key, pair: {},
        lambda params, pair, key: (pair[0], pair[1] * jax.random.normal(key, pair[1].shape)),
        keyed=True,
    )
    x = jnp.ones((N, T, WIDTH))
    y, residuals = (model := jd.scan_time(noisy, carry)).fwd({}, x, KEY)
    assert len(np.unique(y)) == y.size
    np.testing.assert_array_equal(model.bwd({}, residuals, x)[1], y)


def test_a_tap_in_a_cell_reports_every_step():
    def on_output(layer):  # (h, x) -> (h, layer(x))
        def fwd(params, pair, key=None):
            y, residuals = layer.fwd(params, pair[1])
            return (pair[0], y), residuals

        def bwd(params, residuals, pair, reduce=jd.grads, slots=None):
            reduced, dx = layer.bwd(params, residuals, pair[1], reduce, slots)
            return reduced, (pair[0], dx)

        return jd.Layer("on_output", lambda key, pair: layer.init(key, pair[1]), fwd, bwd)

    x, dy = draw(N, T, WIDTH), draw(N, T, WIDTH, seed=1)
    model = jd.scan_time(on_output(jd.tap()), carry)
    reported, dx = model.bwd({}, model.fwd({}, x)[1], dy)
    np.testing.assert_array_equal(reported, jnp.moveaxis(dy, 1, 0))
    np.testing.assert_array_equal(dx, dy)


def test_a_stack_of_frozen_layers_in_a_cell_has_no_gradient():
    inner = jd.repeat(jd.frozen(jd.dense(WIDTH)), 2)

    def fwd(params, pair, key=None):
        y, residuals = inner.fwd(params, pair[0] + pair[1])
        return (y, y), residuals

    def bwd(params, residuals, pair, reduce=jd.grads, slots=None):
        reduced, d = inner.bwd(params, residuals, pair[0] + pair[1], reduce, slots)
        return reduced, (d, d)

    cell = jd.Layer("cell", lambda key, pair: inner.init(key, pair[1]), fwd, bwd)
    model, x = jd.scan_time(cell, carry), draw(N, T, WIDTH)
    params = model.init(KEY, x)
    y, residuals = model.fwd(params, x)
    gradient, dx = model.bwd(params, residuals, y)
    assert gradient["w"].shape == params["w"].shape and not np.any(gradient["w"])
    expected = jax.grad(lambda x: jnp.sum(model.apply(params, x) ** 2) / 2)(x)
    assert_close(dx, expected)


def test_numpy_float64_through_time_where_only_32_bits_exist(x64_off):
    x = np.random.default_rng(0).normal(size=(N, T, M))
    params = RNN.init(KEY, x)
    assert RNN.apply(params, x).dtype == jnp.float32


def test_errors_of_scan_time():
    with pytest.raises(
        ValueError,
        match=r"scan_time: x must have axes \(examples, time, ...\), got shape \(3,\); add the mis",
    ):
        RNN.init(KEY, jnp.zeros(3))
    with pytest.raises(TypeError, match="scan_time: x must be an array, got a list; use"):
        RNN.apply({}, [[1.0]])
    formed = jd.leaf(
        "formed",
        lambda key, pair: {"w": jnp.ones(WIDTH)},
        lambda params, pair: ((pair[0], pair[1] * params["w"]), pair[1]),
        lambda params, x, dy: ({"w": jd.Formed((x * dy[1]).sum(0))}, (dy[0], dy[1] * params["w"])),
        params=("w",),
    )
    model, x = jd.scan_time(formed, carry), draw(N, T, WIDTH)
    params = model.init(KEY, x)
    with pytest.raises(FactorError, match=r"^formed: example_sq_norms needs the examples apart"):
        model.bwd(params, model.fwd(params, x)[1], x, jd.example_sq_norms)


# --- sequences of many lengths, both ways, cut into chunks --------------------------------------

LENGTHS = np.array([T, 2], np.int32)


def of_cell(**settings):
    return jd.scan_time(rnn_cell(WIDTH), carry, **settings)


def as_layer(params):
    """The parameters of `rnn_cell` as those of the recurrent layer."""
    return {"w_x": params["w"][:M], "w_h": params["w"][M:], "b": params["b"]}


@pytest.mark.parametrize(
    "settings",
    [
        {"lengths": True},
        {"reverse": True},
        {"truncate": 2},
        {"lengths": True, "reverse": True, "truncate": 2},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_settings_do_to_a_cell_what_they_do_to_a_recurrent_layer(settings):
    x, dy = draw(N, T, M), draw(N, T, WIDTH, seed=1)
    given = With(x, LENGTHS) if "lengths" in settings else x
    model, layer = of_cell(**settings), jd.rnn(WIDTH, **settings)
    params = model.init(KEY, given)
    y, residuals = model.fwd(params, given)
    gradient, dx = model.bwd(params, residuals, dy)
    y_layer, residuals = layer.fwd(as_layer(params), given)
    expected, dx_layer = layer.bwd(as_layer(params), residuals, dy)
    assert_close(y, y_layer)
    assert_trees_close(as_layer(gradient), expected)
    assert_trees_close(dx, dx_layer)


def test_padded_sequences_with_states_are_the_sequences_alone():
    cell = jd.repeat(rnn_cell(WIDTH), 2)
    padded, alone = (jd.scan_time(cell, lengths=ragged) for ragged in (True, False))
    x, h = draw(N, T, WIDTH), draw(N, WIDTH, seed=2)
    dy, dh = draw(N, T, WIDTH, seed=1), draw(N, WIDTH, seed=3)
    params = padded.init(KEY, With((h, x), LENGTHS))
    (last, y), residuals = padded.fwd(params, With((h, x), LENGTHS))
    gradient, dx = padded.bwd(params, residuals, (dh, dy))
    total = jax.tree.map(jnp.zeros_like, params)
    for i, n in enumerate(LENGTHS):
        one = slice(i, i + 1)
        (last_i, y_i), residuals = alone.fwd(params, (h[one], x[one, :n]))
        gradient_i, (dh_i, dx_i) = alone.bwd(params, residuals, (dh[one], dy[one, :n]))
        assert_close(last[one], last_i)
        assert_close(y[one, :n], y_i)
        assert_close(dx.x[0][one], dh_i)
        assert_close(dx.x[1][one, :n], dx_i)
        assert not np.any(y[i, n:]) and not np.any(dx.x[1][i, n:])
        total = jax.tree.map(jnp.add, total, gradient_i)
    assert_trees_close(gradient, total)


def test_errors_of_lengths():
    model, x = of_cell(lengths=True), draw(N, T, M)
    params = model.init(KEY, With(x, LENGTHS))
    assert str(model).startswith("scan_time(lengths)")
    with pytest.raises(
        ValueError, match=r"scan_time: lengths must be in 1 \.\.\. 5, the steps of x"
    ):
        model.apply(params, With(x, LENGTHS + 1))
    with pytest.raises(TypeError, match="scan_time: it reads a side input, so x must be a With"):
        model.apply(params, x)
    with pytest.raises(ValueError, match="scan_time: truncate must be at least 1 step, got 0"):
        of_cell(truncate=0)
