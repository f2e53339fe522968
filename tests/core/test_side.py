"""Side inputs: what containers hand on, what is kept of them, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl as jd
from tests.cases import N, gated, hidden, rnn_cell, side_cell

KEY = jax.random.key(0)
SIDE = {"memory": jnp.ones((N, 6)), "mask": jnp.ones((N, 6), bool), "lengths": jnp.arange(N)}
X = jd.With(jnp.ones((N, 6)), SIDE)
STACK = jd.serial(jd.dense(6), jd.repeat(jd.remat(jd.serial(gated(6), jd.tanh())), 5), gated(6))


def test_a_side_input_is_kept_once_by_the_outermost_container():
    residuals = STACK.fwd(STACK.init(KEY, X), X)[1]
    assert isinstance(residuals, jd.With) and residuals.side["memory"] is SIDE["memory"]
    kept = jax.tree.leaves(residuals.x)
    assert not any(a is memory for a in kept for memory in jax.tree.leaves(SIDE))
    # the input of the first layer, of each of the 5 blocks, and of the last, with its x·w
    assert [a.shape for a in kept] == [(N, 6), (5, N, 6), (N, 6), (N, 6)]


def test_the_cotangent_is_the_sum_over_all_readers_and_none_for_integers_and_masks():
    params = STACK.init(KEY, X)
    y, residuals = STACK.fwd(params, X)
    dside = STACK.bwd(params, residuals, jnp.ones_like(y))[1].side
    assert dside["mask"] is None and dside["lengths"] is None

    def total(memory):
        return STACK.apply(params, jd.With(X.x, SIDE | {"memory": memory})).sum()

    np.testing.assert_allclose(dside["memory"], jax.grad(total)(SIDE["memory"]), rtol=1e-12)


def test_layers_that_read_nothing_leave_zeros():
    model = jd.serial(jd.dense(6), jd.tanh())
    params = model.init(KEY, X)
    y, residuals = model.fwd(params, X)
    dx = model.bwd(params, residuals, y)[1]
    assert not np.any(dx.side["memory"]) and dx.side["mask"] is None
    np.testing.assert_array_equal(y, model.apply(params, X.x))


def test_a_stack_does_not_stack_its_side_input():
    big = {"memory": jnp.ones((N, 6, 1000)), "mask": SIDE["mask"], "lengths": SIDE["lengths"]}

    def fwd(params, x):
        return x.x * x.side["memory"].mean(-1), None

    def bwd(params, residuals, dy):
        dside = jax.tree.map(lambda a: jnp.zeros_like(a) if a.ndim == 3 else None, residuals.side)
        return {}, jd.With(dy * residuals.side["memory"].mean(-1), dside)

    reader = jd.leaf("reader", lambda key, x: {}, fwd, bwd, side=True)
    model = jd.repeat(reader, 50)
    text = jax.jit(lambda x: model.fwd({}, x)[1]).lower(jd.With(X.x, big)).as_text()
    assert "4x6x1000" in text and "50x4x6x1000" not in text


def test_side_reads_through_as_function_and_value_and_grad():
    params, function = STACK.init(KEY, X), jd.as_function(STACK)

    def total(f, params, memory):
        return f(params, jd.With(X.x, SIDE | {"memory": memory})).sum()

    got, want = (
        jax.grad(lambda p, m: total(f, p, m), argnums=(0, 1))(params, SIDE["memory"])  # noqa: B023
        for f in (function, STACK.apply)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), got, want)
    loss = jd.half_squared_error()
    manual, autodiff = (
        jd.value_and_grad(STACK, loss, path=path)(params, X, X.x) for path in ("manual", "autodiff")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), manual, autodiff)
    trace = jd.backprop_trace(STACK, loss)(params, X, X.x)
    assert trace.activations["repeat"]["gated"].shape == (5, N, 6)


def test_missing_and_unexpected_side_inputs_are_named():
    model = jd.serial(blocks=jd.serial(jd.dense(6), gated(6)))
    params = model.init(KEY, X)
    text = "blocks/gated: it reads a side input, so x must be a With, got float64"
    with pytest.raises(TypeError, match=text):
        model.apply(params, X.x)
    with pytest.raises(TypeError, match=r"dense: it reads no side input, got x = With\(x, side\)"):
        jd.dense(6).init(KEY, X)


def test_states_go_in_and_out_of_scan_time():
    cell, x, h = rnn_cell(3), jnp.ones((N, 5, 6)), jnp.ones((N, 3))
    whole, stepped = jd.scan_time(cell, hidden(3)), jd.scan_time(cell)
    params = whole.init(KEY, x)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, stepped.init(KEY, (h, x)))
    last, first_half = stepped.apply(params, (jnp.zeros_like(h), x[:, :2]))
    last, second_half = stepped.apply(params, (last, x[:, 2:]))
    y = whole.apply(params, x)
    np.testing.assert_allclose(jnp.concatenate([first_half, second_half], axis=1), y, rtol=1e-12)
    np.testing.assert_array_equal(last, y[:, -1])
    with pytest.raises(TypeError, match="scan_time: without `carry`, x must be the pair"):
        stepped.apply(params, x)
    text = r"scan_time: rnn_cell\(3\) must return a carry of the shape .* float64\[4, 4\], got"
    with pytest.raises(ValueError, match=text):
        stepped.apply({"w": jnp.ones((10, 3)), "b": jnp.ones(3)}, (jnp.ones((N, 4)), x))
    with pytest.raises(ValueError, match=r"scan_time: x must have axes \(examples, time, ...\)"):
        jd.scan_time(side_cell(3), hidden(3)).apply(params, jd.With(jnp.ones(3), SIDE))


def test_the_cotangent_of_a_half_precision_side_is_summed_wider():
    def bwd(params, residuals, dy):
        return {}, jd.With(dy, jnp.ones_like(residuals.side))

    reader = jd.leaf("reader", lambda key, x: {}, lambda params, x: (x.x, None), bwd, side=True)
    x = jd.With(jnp.ones((N, 2)), jnp.ones(2, jnp.bfloat16))
    for model in (jd.repeat(reader, 512), jd.serial(*[reader] * 512)):
        y, residuals = model.fwd({}, x)
        dside = model.bwd({}, residuals, y)[1].side
        assert dside.dtype == jnp.bfloat16 and dside.tolist() == [512, 512]


def test_states_of_integers_have_no_cotangent():
    cell = rnn_cell(3)

    def fwd(params, x):
        (h, count), x_t = x
        (h, y), residuals = cell.fwd(params, (h, x_t))
        return ((h, count + 1), y), residuals

    def bwd(params, residuals, dy):
        factors, (dh, dx) = cell.bwd(params, residuals, (dy[0][0], dy[1]), jd.keep)
        return factors, ((dh, None), dx)

    def init(key, x):
        return cell.init(key, (x[0][0], x[1]))

    counting = jd.leaf("counting", init, fwd, bwd, params=("w", "b"))
    x, h = jnp.ones((N, 5, 6)), jnp.ones((N, 3))
    start = (h, jnp.zeros(N, jnp.int32))

    def carry(x_t):
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), start)

    whole, stepped = jd.scan_time(counting, carry), jd.scan_time(counting)
    params = whole.init(KEY, x)
    for model, inputs in ((whole, x), (stepped, (start, x))):

        def total(f, params):
            return sum(a.sum() for a in jax.tree.leaves(f(params, inputs)) if a.dtype == x.dtype)  # noqa: B023

        got, want = (
            jax.grad(total, argnums=1)(f, params) for f in (jd.as_function(model), model.apply)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), got, want)


def test_a_side_input_must_be_something():
    with pytest.raises(TypeError, match=r"gated: it reads a side input, .* got one without a side"):
        gated(6).init(KEY, jd.With(X.x, None))


def test_any_function_may_read_a_side_input():
    layer = jd.from_function(
        lambda key, x: {"w": jnp.ones(6)},
        lambda params, x: jnp.where(x.side["mask"], x.x * params["w"] * x.side["memory"], x.x),
        params=("w",), side=True,
    )  # fmt: skip
    params = layer.init(KEY, X)
    y, residuals = layer.fwd(params, X)
    gradient, dx = layer.bwd(params, residuals, jnp.ones_like(y))
    np.testing.assert_array_equal(gradient["w"], jnp.full(6, N))
    assert dx.side["mask"] is None and dx.side["memory"].shape == (N, 6)
