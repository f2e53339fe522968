"""What `backprop_trace` reports is what the forward and autodiff see."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from jaxdl import backprop_trace, dense, half_squared_error, map_layers, repeat, serial, tanh
from tests.cases import MODELS, N, assert_same, case_id, draw, normal, planted

TRACED = [
    case
    for case in MODELS
    if case.name.split("-")[0] in ("serial", "skip", "branch", "repeat", "remat", "mlp")
    or case.name in ("transformer_block", "transformer_stack")
    if not case.held and "scan_time" not in case.name and "tied" not in case.name
    if case.name not in ("branch-tuple", "branch-dict")  # no one array to compare with a target
]


def nudged(model):
    """The model with each leaf's output y replaced by y·(1 + scale) + shift, two new parameters."""

    def nudge(path, layer):
        if layer.children:
            return layer

        def fwd(params, x, key=None):
            y, residuals = layer.fwd(params["own"], x, key)
            return y * (1 + params["scale"]) + params["shift"], residuals

        return replace(layer, fwd=fwd)

    return map_layers(nudge, model)


def check_trace(case, door=backprop_trace):
    """Deltas are gradients of a shift at each leaf; activations × deltas, of a scale."""
    sample = draw(case)
    params, x, target, key = sample  # dy serves as target
    loss = half_squared_error()
    trace = jax.jit(door(case.layer, loss))(params, x, target, key)

    def unmoved(params, activations):
        if isinstance(activations, dict):
            return {k: unmoved(params.get(k, {}), part) for k, part in activations.items()}
        zeros = jnp.zeros_like(activations)
        return {"own": params, "scale": zeros, "shift": zeros}

    def expected(reduced, activations, deltas):
        if isinstance(activations, dict):
            return {
                k: expected(reduced.get(k, {}), part, deltas[k]) for k, part in activations.items()
            }
        return {"own": reduced, "scale": activations * deltas, "shift": deltas}

    def objective(params, x):
        y = nudged(case.layer).apply(params, x, key)
        return loss(y, target), y

    wrt = (0, 1) if jnp.issubdtype(x.dtype, jnp.floating) else 0
    both = jax.jit(jax.value_and_grad(objective, wrt, has_aux=True))
    (value, y), gradients = both(unmoved(params, trace.activations), x)
    dmoved, dx = gradients if isinstance(wrt, tuple) else (gradients, None)
    got = expected(trace.reduced, trace.activations, trace.deltas)
    assert_same((trace.value, trace.output), (value, y), 1e-12)
    assert_same((got, trace.dx), (dmoved, dx), 1e-10)


@pytest.mark.parametrize("case", TRACED, ids=case_id)
def test_trace(case):
    check_trace(case)


def test_trace_catches_deltas_of_the_wrong_place():
    def wrong_trace(model, loss):
        right = backprop_trace(model, loss)

        def trace(*args):
            seen = right(*args)
            return seen._replace(deltas=seen.deltas | {"tanh": seen.dx})  # of the input, not output

        return trace

    case = planted(serial(tanh(), dense(6)))
    check_trace(case)
    with pytest.raises(AssertionError):
        check_trace(case, wrong_trace)


def test_a_trace_keeps_the_scans_inside():
    """Values in a stack are stacked over layers: (layers, N, features)."""
    case = planted(repeat(serial(dense(6), tanh()), 3), normal(N, 6))
    params, x, target, _ = draw(case, jnp.float32)
    trace = backprop_trace(case.layer, half_squared_error())(params, x, target)
    shapes = jax.tree.map(lambda a: (a.shape, a.dtype), (trace.activations, trace.deltas))
    assert shapes == (dict.fromkeys(("dense", "tanh"), ((3, N, 6), jnp.float32)),) * 2
