"""The same gradient under every transformation of JAX, without tracing more than once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer

from jaxdl import as_function, dense, repeat, scan_time
from jaxdl.core.factors import Sum
from jaxdl.core.layer import leaf
from jaxdl.core.reducers import keep
from jaxdl.numerics.pytree import Static
from tests.cases import (
    CASES,
    LEAVES,
    N,
    assert_same,
    autodiff,
    case_id,
    compiled_manual,
    draw,
    hidden,
    manual,
    normal,
    planted,
    rnn_cell,
    wrong_dense,
)
from tests.long import sampled

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)
most_cases = pytest.mark.parametrize("case", sampled(CASES, LEAVES, case_id))


def stack(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


# --- jit = eager --------------------------------------------------------------------------------


def check_jit_is_eager(case):
    sample = draw(case)
    assert_same(compiled_manual(case.layer)(*sample), manual(case.layer)(*sample), 1e-12)


@every_case
def test_jit_is_eager(case):
    check_jit_is_eager(case)


def test_jit_is_eager_catches_a_look_at_the_tracer():
    def change(params, x, dy, factors, dx):
        return factors, dx if isinstance(dx, Tracer) else 2 * dx

    with pytest.raises(AssertionError):
        check_jit_is_eager(planted(wrong_dense(change)))


# --- vmap = loop --------------------------------------------------------------------------------


def check_vmap_is_loop(case):
    """Over inputs with the parameters shared; over models with the input shared."""
    one, two = draw(case), draw(case, seed=1)
    params, x, dy, key = one
    loop = compiled_manual(case.layer)

    over_inputs = jax.jit(jax.vmap(manual(case.layer), in_axes=(None, 0, 0, None)))
    got = over_inputs(params, stack(x, two.x), stack(dy, two.dy), key)
    assert_same(got, stack(loop(*one), loop(params, two.x, two.dy, key)), 1e-12)

    if jax.tree.leaves(params):
        over_models = jax.jit(jax.vmap(manual(case.layer), in_axes=(0, None, None, None)))
        got = over_models(stack(params, two.params), x, dy, key)
        assert_same(got, stack(loop(*one), loop(two.params, x, dy, key)), 1e-12)


@every_case
def test_vmap_is_loop(case):
    check_vmap_is_loop(case)


@jax.custom_batching.custom_vmap
def mixed_by_vmap(array):
    return 1.0 * array


@mixed_by_vmap.def_vmap
def _mixed_by_vmap_rule(size, batched, array):
    return jnp.broadcast_to(jnp.mean(array, axis=0), array.shape), batched[0]


@pytest.mark.parametrize("what", ["inputs", "models"])
def test_vmap_is_loop_catches_a_wrong_batching_rule(what):
    def change(params, x, dy, factors, dx):
        if what == "inputs":
            return factors | {"b": Sum(mixed_by_vmap(dy))}, dx
        return factors, dy @ mixed_by_vmap(params["w"]).T

    with pytest.raises(AssertionError):
        check_vmap_is_loop(planted(wrong_dense(change)))


# --- inside lax.scan, under jax.checkpoint, through as_function ----------------------------------


def check_inside_scan(case, door=as_function):
    """In the body of a scan: `bwd` itself, and `bwd` as `jax.vjp` finds it behind `as_function`."""
    one, two = draw(case), draw(case, seed=1)
    params, x, dy, key = one
    runs = {"manual": manual(case.layer)}
    if not case.tapped:
        function = door(case.layer)
        runs |= {"vjp": autodiff(function), "checkpoint": autodiff(jax.checkpoint(function))}

    def body(carry, xs):
        return carry, {name: run(params, *xs, key) for name, run in runs.items()}

    xs = stack(x, two.x), stack(dy, two.dy)
    _, got = jax.jit(lambda xs: jax.lax.scan(body, 0, xs))(xs)
    loop = compiled_manual(case.layer)
    want = stack(loop(*one), loop(params, two.x, two.dy, key))
    assert_same(got, dict.fromkeys(runs, want), 1e-12)


@most_cases
def test_inside_scan(case):
    check_inside_scan(case)


def door_without_dy(layer):
    """An `as_function` that takes every cotangent for ones."""

    @jax.custom_vjp
    def function(params, x, key):
        return layer.apply(params, x, key)

    def fwd(params, x, key):
        y, residuals = layer.fwd(params, x, key)
        return y, (params, residuals)

    def bwd(saved, dy):
        return *layer.bwd(*saved, jnp.ones_like(dy)), None

    function.defvjp(fwd, bwd)
    return function


def test_inside_scan_catches_a_door_that_loses_dy():
    case = planted(dense(3))
    check_inside_scan(case)
    with pytest.raises(AssertionError):
        check_inside_scan(case, door_without_dy)


def test_inside_scan_catches_a_mask_drawn_at_trace_time():
    rng = np.random.default_rng(0)  # NumPy: another mask for every trace

    def fwd(params, x):
        mask = rng.random(x.shape[1:]) < 0.5
        return jnp.where(mask, x, 0), jnp.asarray(mask)

    def bwd(params, mask, dy):
        return {}, jnp.where(mask, dy, 0)

    dropout = leaf("dropout", lambda key, x: {}, fwd, bwd)
    with pytest.raises(AssertionError):
        check_inside_scan(planted(dropout, normal(N, 64)))


# --- number of traces ---------------------------------------------------------------------------


def check_traces(case):
    """A compiled `bwd` takes the residuals of another forward pass without a new trace."""
    chex.clear_trace_counter()
    one, two = draw(case), draw(case, seed=1)

    @jax.jit
    @chex.assert_max_traces(1)
    def backward(params, residuals, dy):
        return case.layer.bwd(params, residuals, dy)

    for params, x, dy, key in (one, two):
        # a new function each time: of a known one JAX would return the first trace
        _, residuals = jax.eval_shape(lambda *args: case.layer.fwd(*args), params, x, key)
        jax.eval_shape(backward, params, residuals, dy)


@every_case
def test_traces(case):
    check_traces(case)


def test_traces_catch_a_residual_that_equals_only_itself():
    def fwd(params, x):
        return x, Static(object())

    with pytest.raises(AssertionError, match="traced"):
        check_traces(planted(leaf("new", lambda key, x: {}, fwd, lambda params, r, dy: ({}, dy))))


@pytest.mark.parametrize("times", [2, 9])
@pytest.mark.parametrize("loop", ["repeat", "scan_time"])
def test_a_loop_traces_its_body_a_fixed_number_of_times(loop, times):
    counts = {"fwd": 0, "bwd": 0}
    right = dense(6) if loop == "repeat" else rnn_cell(6)

    def fwd(params, x):
        counts["fwd"] += 1
        return right.fwd(params, x)

    def bwd(params, residuals, dy):
        counts["bwd"] += 1
        return right.bwd(params, residuals, dy, keep)

    counted = leaf("counted", right.init, fwd, bwd, params=("w", "b"))
    if loop == "repeat":
        case = planted(repeat(counted, times))
    else:
        case = planted(scan_time(counted, hidden(6)), normal(N, times, 6))
    sample = draw(case)
    counts.update(fwd=0, bwd=0)
    jax.eval_shape(manual(case.layer), *sample)
    assert counts == {"fwd": 1, "bwd": 1}
