"""Every reducer on every line of `cases.py` that has parameters."""

import re
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import (
    dense,
    frozen,
    map_layers,
    repeat,
    serial,
    tanh,
)
from jaxdl.core.factors import ConvOuter, FactorError, Local, Outer, Scatter, Sum, contract
from jaxdl.core.reducers import example_sq_norms, grads, keep, none, reduce_kept
from jaxdl.layers.spectral import SpectralOuter
from tests.cases import (
    LAYERS,
    LEAVES,
    MODELS,
    SIDE,
    N,
    assert_same,
    case_id,
    cast,
    compiled_example_gradients,
    compiled_manual,
    draw,
    in_float64,
    is_factor,
    manual,
    normal,
    params_struct,
    planted,
    without_taps,
    wrong_dense,
)
from tests.long import sampled


def has_params(case):
    return bool(jax.tree.leaves(params_struct(case, case.x(np.random.default_rng(0)))))


def on(cases):
    return pytest.mark.parametrize("case", cases, ids=case_id)


WITH_PARAMS = [case for case in (*LAYERS, *MODELS, *SIDE) if has_params(case)]
WITH_EXAMPLES = [case for case in WITH_PARAMS if not case.formed]


def deaf(layer):
    """A container that forms the gradients whatever reducer it is given."""

    def bwd(params, residuals, dy, reduce=grads, slots=None):
        return layer.bwd(params, residuals, dy)

    return replace(layer, bwd=bwd)


# --- keep, then reduce --------------------------------------------------------------------------


def keeping(layer):
    """``(params, x, dy, key) -> (factors, dx)``; checks that they are factors, not arrays."""

    def run(*sample):
        kept, dx = manual(layer, keep)(*sample)
        leaves = jax.tree.leaves(kept, is_leaf=is_factor)
        assert all(map(is_factor, leaves)), f"{layer.name}: keep gave {leaves}"
        return kept, dx

    return run


def check_keep(case, scale=lambda factor, weights: factor.scale(weights)):
    """The gradient of the kept factors is the gradient; that of weighted ones, of weighted dy."""
    sample = draw(case)
    layer = without_tap_reports(case.layer) if case.tapped else case.layer
    weights = jnp.linspace(-1.0, 2.0, N)

    def weighted(params, factors, slots=None):
        return {name: contract(scale(factors[name], weights), params[name]) for name in params}

    @jax.jit
    def later(params, *rest):
        kept = keeping(layer)(params, *rest)[0]
        reducers = (grads,) if case.formed else (grads, weighted)
        return [reduce_kept(reduce, params, kept) for reduce in reducers]

    plain, *scaled = later(*sample)
    assert_same(plain, compiled_manual(layer)(*sample)[0], 1e-12)
    for got in scaled:
        dy = jax.tree.map(lambda d: jnp.einsum("n,n...->n...", weights, d), sample.dy)
        assert_same(got, compiled_manual(layer)(*sample._replace(dy=dy))[0], 1e-12)


def without_tap_reports(model):
    """The model with every tap reporting nothing."""

    def silence(path, layer):
        if layer.name != "tap":
            return layer
        return replace(layer, bwd=lambda params, residuals, dy, reduce, slots: ({}, dy))

    return map_layers(silence, model)


@on(WITH_PARAMS)
def test_keep(case):
    check_keep(case)


def test_keep_catches_a_factor_that_scales_its_positions():
    case = planted(dense(3), normal(N, N, 6))
    check_keep(case)
    with pytest.raises(AssertionError):
        check_keep(case, lambda factor, weights: replace(factor, d=factor.d * weights[:, None]))


def test_keep_catches_a_container_that_does_not_pass_reduce():
    with pytest.raises(AssertionError, match="keep gave"):
        check_keep(planted(serial(deaf(dense(5)), tanh())))


# --- slots --------------------------------------------------------------------------------------


def accumulate(params, factors, slots):
    """The simplest reducer with a state beside each parameter: slot + gradient."""
    return {name: slots[name] + contract(factors[name], params[name]) for name in params}


def check_slots(case):
    """A tree of slots shaped like the parameters reaches each leaf, in scans as outside them."""
    sample = draw(case)
    rng = np.random.default_rng(0)
    slots = jax.tree.map(
        lambda p: jnp.asarray(rng.standard_normal(p.shape), p.dtype), sample.params
    )
    got, dx = compiled_manual(case.layer, accumulate)(*sample, slots)
    gradients, want_dx = compiled_manual(case.layer)(*sample)
    if case.tapped:
        got, gradients = (without_taps(tree, sample.params) for tree in (got, gradients))
    assert_same((got, dx), (jax.tree.map(jnp.add, slots, gradients), want_dx), 1e-12)


@on(WITH_PARAMS)
def test_slots(case):
    check_slots(case)


def test_slots_catch_a_container_that_mixes_them_up():
    right = serial(dense(6), dense(6))

    def bwd(params, residuals, dy, reduce=grads, slots=None):
        swapped = slots and dict(zip(slots, reversed(slots.values()), strict=True))
        return right.bwd(params, residuals, dy, reduce, swapped)

    check_slots(planted(right))
    with pytest.raises(AssertionError):
        check_slots(planted(replace(right, bwd=bwd)))


def test_slots_catch_a_stack_that_uses_the_first_for_all_layers():
    right = repeat(dense(6), 3)

    def bwd(params, residuals, dy, reduce=grads, slots=None):
        first = jax.tree.map(lambda s: jnp.broadcast_to(s[:1], s.shape), slots)
        return right.bwd(params, residuals, dy, reduce, first)

    with pytest.raises(AssertionError):
        check_slots(planted(replace(right, bwd=bwd)))


# --- none ---------------------------------------------------------------------------------------

PRODUCTS = {
    "dot_general": (Outer, Local, SpectralOuter, ConvOuter),
    "scatter-add": (Scatter,),
    "conv_general_dilated": (ConvOuter,),
}
"""The operations that form a gradient, and the factors it is formed of. A convolution's has two
ways, one for each kind of device; with groups only the second."""


def products(jaxpr, name):
    """The output shapes of an operation wherever it stands in a jaxpr, loop bodies included."""
    shapes = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == name:
            shapes.append(eqn.outvars[0].aval.shape)
        for value in jax.tree.leaves(tuple(eqn.params.values())):  # branches come in tuples
            body = getattr(value, "jaxpr", value)
            shapes += products(body, name) if hasattr(body, "eqns") else []
    return shapes


def is_product(node):
    """Whether a product forms its gradient; factors of factors are looked into."""
    return any(type(node) in factors for factors in PRODUCTS.values())


def formed_by(name, factor):
    """Whether the operation forms the gradient that a factor stands for."""
    with_groups = isinstance(factor, ConvOuter) and factor.window.groups > 1
    return type(factor) in PRODUCTS[name] and not (with_groups and name == "dot_general")


def check_none(case):
    """The traced program lacks the products that form gradients, one for each factor."""
    sample = draw(case)
    layer = without_tap_reports(case.layer) if case.tapped else case.layer
    kept = jax.eval_shape(keeping(layer), *sample)[0]
    with_, without = (jax.make_jaxpr(manual(layer, r))(*sample).jaxpr for r in (grads, none))
    shapes = [p.shape for p in jax.tree.leaves(sample.params)]
    shapes = {shape[i:] for shape in shapes for i in range(len(shape) - 1)}  # in a stack: a layer's
    for name in PRODUCTS:
        formed = shapes.intersection(products(without, name))
        assert not formed, f"{case.name}: {name} still makes parameter-sized {formed}"
        parts = jax.tree.leaves(kept, is_leaf=is_product)
        expected = sum(formed_by(name, part) for part in parts)
        saved = len(products(with_, name)) - len(products(without, name))
        assert saved == expected, f"{case.name}: {saved} of {expected} {name} saved"


@on(WITH_EXAMPLES)
def test_none_forms_no_gradient(case):
    check_none(case)


def test_none_catches_gradients_formed_and_thrown_away():
    right = dense(5)

    def bwd(params, residuals, dy, reduce=grads, slots=None):
        _, dx = right.bwd(params, residuals, dy)
        factors, _ = right.bwd(params, residuals, dy, keep)
        return ({} if reduce is none else reduce(params, factors, slots)), dx

    check_none(planted(right))
    with pytest.raises(AssertionError, match="parameter-sized"):
        check_none(planted(replace(right, bwd=bwd)))


def compiled_products(layer, reduce, sample):
    text = compiled_manual(layer, reduce).lower(*sample).compile().as_text()
    return len(re.findall(r" dot\(", text))


@pytest.mark.parametrize(
    ("layer", "saved"),
    [
        pytest.param(serial(dense(5), tanh(), dense(3)), 2, id="serial"),
        pytest.param(repeat(serial(dense(6), tanh(), dense(6)), 3), 2, id="repeat"),
    ],
)
def test_none_is_seen_in_the_compiled_program(layer, saved):
    sample = draw(planted(layer))
    assert compiled_products(layer, grads, sample) - compiled_products(layer, none, sample) == saved
    # A frozen layer is the same program, with zeros for gradients.
    assert compiled_products(frozen(layer), grads, sample) == compiled_products(layer, none, sample)
    gradients, _ = compiled_manual(frozen(layer))(*sample)
    chex.assert_trees_all_equal(gradients, jax.tree.map(jnp.zeros_like, sample.params))


# --- per-example norms --------------------------------------------------------------------------


def check_example_norms(case, dtype, tolerance):
    """Against autodiff in float64 at the same numbers."""
    sample = draw(case, dtype)
    norms, dx = compiled_manual(case.layer, example_sq_norms)(*sample)
    if case.tapped:
        norms = without_taps(norms, sample.params)
    # a stack of layers gives (layers, N)
    norms = jax.tree.map(lambda v: v.reshape(-1, N).sum(axis=0), norms)
    gradients = compiled_example_gradients(case.layer)(*in_float64(sample))
    want = jax.tree.map(lambda g: np.square(g).reshape(N, -1).sum(axis=1), gradients)
    want = cast(want, dtype)
    chex.assert_trees_all_equal_shapes_and_dtypes(norms, want)
    chex.assert_trees_all_close(norms, want, rtol=tolerance)
    assert_same(dx, compiled_manual(case.layer)(*sample)[1], tolerance)


@on(WITH_EXAMPLES)
def test_example_norms_float64(case):
    check_example_norms(case, jnp.float64, 1e-10)


@pytest.mark.parametrize("case", sampled(WITH_EXAMPLES, LEAVES, case_id))
def test_example_norms_float32(case):
    check_example_norms(case, jnp.float32, 1e-5)


WRONG_FACTORS = {
    "averaged": lambda params, x, dy, factors, dx: (
        factors | {"b": Sum(jnp.broadcast_to(dy.mean(axis=0), dy.shape))},
        dx,
    ),
    "examples_out_of_step": lambda params, x, dy, factors, dx: (
        factors | {"b": Sum(jnp.roll(dy, 1, axis=0))},
        dx,
    ),
}


@pytest.mark.parametrize("bug", WRONG_FACTORS)
def test_example_norms_catch_factors_that_only_sum_to_the_gradient(bug):
    case = planted(wrong_dense(WRONG_FACTORS[bug]))
    sample = draw(case)
    assert_same(compiled_manual(case.layer)(*sample), compiled_manual(dense(3))(*sample), 1e-12)
    with pytest.raises(AssertionError):
        check_example_norms(case, jnp.float64, 1e-10)


@on([case for case in WITH_PARAMS if case.formed])
def test_example_norms_are_refused_by_name(case):
    with pytest.raises(FactorError, match="formed: example_sq_norms needs the examples apart"):
        jax.eval_shape(manual(case.layer, example_sq_norms), *draw(case))
