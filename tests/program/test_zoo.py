"""Factors read off any program, against the gradient of every example formed by JAX.

The zoo (`zoo/`) is written without looking at how the library reads programs. Here each of its
programs is first held against finite differences, then the library against the reference.
"""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl
from tests.long import sampled
from tests.program.programs import PROGRAMS
from tests.program.record import N
from tests.program.reference import as_usual, mean_loss, reference

BY_NAME = {program.name: program for program in PROGRAMS}
DAILY = {
    "linen-transformer_scanned_remat_tied",
    "nnx-lstm_optimized",
    "equinox-conv_three_axes",
    "haiku-conv_channels_first",
    "plain-equilibrium_implicit",
    "weights-orthogonal_by_cayley",
    "scans-scan_in_scan",
    "transforms-gradient_by_parameters_inside",
    "products-conv_batch_groups",
    "trees-examples_on_other_axes",
}
"""A few of each kind of program, whose reference is looked at every day."""
READ_DAILY = DAILY | {
    "linen-experts_dense",
    "linen-conv_depthwise",
    "nnx-weight_norm",
    "haiku-cond_between_layers",
    "haiku-scan_of_modules",
    "plain-heads_per_position",
    "plain-embedding_bag",
    "weights-transposed",
    "weights-reshaped",
    "weights-concatenated",
    "weights-product_of_two",
    "weights-made_by_a_scan",
    "weights-of_another_dtype",
    "scans-scan_over_layers",
    "scans-scan_of_recurrence",
    "scans-scan_constant_and_stack_at_once",
    "scans-scan_carry_turns_into_data",
    "calls-checkpoint_in_scan",
    "calls-scan_in_checkpoint",
    "calls-custom_vjp_of_data_and_parameter",
    "transforms-vmap_over_an_ensemble",
    "products-conv_odd_layout",
    "products-complex_numbers",
    "products-bilinear_form",
    "products-weight_of_each_head_and_position",
    "branches-cond_by_example",
    "branches-cond_in_scan",
    "selections-take_fill",
    "selections-update_slice_and_pad",
    "rare-root_of_an_equation",
    "trees-nested_containers",
    "trees-loss_of_a_batch_of_one",
    "trees-regulariser",
    "trees-unused_parameter",
}
"""One or two for each way in which a parameter meets data."""
SINGLE = [
    "linen-cnn",
    "linen-lstm_optimized",
    "linen-transformer_tied",
    "linen-transformer_scanned_remat_tied",
    "nnx-resnet",
    "equinox-cnn",
    "haiku-lstm",
    "plain-selective_state_space",
    "plain-heads_per_position",
    "weights-standardised",
    "scans-scan_in_scan",
    "calls-checkpoint_in_scan",
    "products-conv_odd_layout",
    "trees-regulariser",
]
"""Those that are asked for in float32 too."""
SINGLE_DAILY = {
    "plain-heads_per_position",
    "weights-standardised",
    "calls-checkpoint_in_scan",
    "products-conv_odd_layout",
}

truth_of = lru_cache(maxsize=None)(reference)


def name_of(program):
    return program.name


def test_names_are_unique():
    assert len(BY_NAME) == len(PROGRAMS)
    assert BY_NAME.keys() >= READ_DAILY | set(SINGLE)
    assert set(SINGLE) >= SINGLE_DAILY


def largest(arrays):
    return max((float(np.max(np.abs(a), initial=0)) for a in arrays), default=0.0)


def near(got, want, rtol, where="", zero=None):
    """Close; a zero may be off by `zero` (or `rtol`) of the largest number of all arrays."""
    got, want = [np.asarray(a, np.float64) for a in got], [np.asarray(a) for a in want]
    assert [a.shape for a in got] == [a.shape for a in want], where
    atol = (rtol if zero is None else zero) * largest(want)
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        np.testing.assert_allclose(g, w, rtol, atol, err_msg=f"{where}, leaf {i}")


# --- the reference ------------------------------------------------------------------------------


@pytest.mark.parametrize("program", sampled(PROGRAMS, DAILY, name_of))
def test_a_program_is_what_it_says(program):
    """Finite, of the right shapes and dtypes, with a gradient at every parameter that is used."""
    with as_usual():
        _, params, _ = program.make(jnp.float64)
    truth = truth_of(program, jnp.float64)
    assert truth.values.shape == (N,) and np.isfinite(truth.values).all()
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} <= {
        jnp.float64.dtype,
        jnp.float32.dtype,
    }
    assert jax.tree.structure(truth.gradients) == jax.tree.structure(params)
    most = largest(truth.leaves())
    assert np.isfinite(most) and most > 1e-3
    for path, leaf in jax.tree_util.tree_leaves_with_path(truth.gradients):
        name = jax.tree_util.keystr(path)
        if any(part in name for part in program.zeros):
            assert largest([leaf]) <= (program.rtol or 1e-12) * most, name
        else:
            assert largest([leaf]) > 1e-12 * most, name


@pytest.mark.parametrize("program", sampled(PROGRAMS, DAILY, name_of))
def test_the_reference_is_the_gradient(program):
    """Against `jax.grad` of the mean loss, and that against finite differences."""
    truth = truth_of(program, jnp.float64)
    with as_usual():
        loss, params, batch = program.make(jnp.float64)
        mean = jax.jit(jax.value_and_grad(mean_loss(program, loss, batch)))
        value, gradient = mean(params)
        near([value], [truth.values.mean()], program.rtol or 1e-12, "mean loss")
        if not program.linear:
            return
        near(
            jax.tree.leaves(gradient),
            jax.tree.leaves(truth.mean()),
            program.rtol or 1e-10,
            "gradient",
        )
        if program.surrogate:
            return
        rng, step = np.random.default_rng(5), 1e-6
        way = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params)
        ahead, behind = (
            mean(jax.tree.map(lambda p, v, s=s: (p + s * v).astype(p.dtype), params, way))[0]
            for s in (step, -step)
        )
    slope = sum(
        float(jnp.vdot(g, v))
        for g, v in zip(jax.tree.leaves(gradient), jax.tree.leaves(way), strict=True)
    )
    size = np.sqrt(sum(float(jnp.vdot(g, g)) for g in jax.tree.leaves(gradient)))
    np.testing.assert_allclose(
        (ahead - behind) / (2 * step), slope, 1e-5, (program.rtol or 1e-6) * size
    )


def test_what_follows_from_the_gradients_of_examples():
    truth = truth_of(BY_NAME["trees-nested_containers"], jnp.float64)
    norms = np.sqrt(sum(truth.sq_norms()))
    np.testing.assert_allclose(norms**2, np.diagonal(truth.gram()), 1e-12)
    whole = jax.tree.map(lambda leaf: N * leaf, truth.mean())
    near(jax.tree.leaves(truth.clipped_sum(1e9)), jax.tree.leaves(whole), 1e-12)
    clip = float(np.median(norms))
    near(
        jax.tree.leaves(truth.clipped_sum(clip)),
        [
            sum(min(1, clip / n) * g for n, g in zip(norms, leaf, strict=True))
            for leaf in jax.tree.leaves(truth.gradients)
        ],
        1e-12,
    )


# --- the library --------------------------------------------------------------------------------


def reduced(program, dtype):
    """(values, gradient, squared norms of examples at each parameter), in one compilation."""
    with as_usual():
        loss, params, batch = program.make(dtype)
        run = jaxdl.value_and_reduce(
            loss,
            reduce=jaxdl.combine(grads=jaxdl.grads, norms=jaxdl.example_sq_norms),
            in_axes=program.in_axes,
            keep_batch_dim=program.keep_batch_dim,
        )
        values, tree = jax.jit(run)(params, *batch)
    gradient, norms = (jaxdl.select(tree, name) for name in ("grads", "norms"))
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    for g, p in zip(jax.tree.leaves(gradient), jax.tree.leaves(params), strict=True):
        assert g.dtype == p.dtype
    return values, gradient, norms


def agrees(program, dtype, rtol, got=None):
    """What the library says, or `got`, is what the reference says."""
    zero = 1e-12 if dtype == jnp.float64 and program.rtol is None else None
    truth, rtol = truth_of(program, dtype), program.rtol or rtol
    values, gradient, norms = got or reduced(program, dtype)
    assert values.shape == (N,) and values.dtype == truth.values.dtype
    near([values], [truth.values], rtol, "values", zero)
    near(jax.tree.leaves(gradient), jax.tree.leaves(truth.mean()), rtol, "gradient", zero)
    # the layers of a scanned stack may stand in front of the examples
    norms = [leaf.reshape(-1, N).sum(0) for leaf in jax.tree.leaves(norms)]
    near(norms, truth.sq_norms(), 2 * rtol, "squared norms", zero)


def test_a_wrong_answer_is_caught():
    """One example whose norm is off, two that are exchanged, and a gradient of the sum."""
    program = BY_NAME["trees-nested_containers"]
    truth = truth_of(program, jnp.float64)
    right = truth.values, truth.mean(), truth.sq_norms()
    agrees(program, jnp.float64, 1e-9, right)
    first, *rest = truth.sq_norms()
    for wrong in (
        (truth.values, truth.mean(), [first * (1 + 1e-8 * (np.arange(N) == 2)), *rest]),
        (truth.values[::-1], truth.mean(), truth.sq_norms()),
        (truth.values, jax.tree.map(lambda leaf: N * leaf, truth.mean()), truth.sq_norms()),
    ):
        with pytest.raises(AssertionError):
            agrees(program, jnp.float64, 1e-9, wrong)


@pytest.mark.parametrize("program", sampled(PROGRAMS, READ_DAILY, name_of))
def test_gradients_and_norms_in_double_precision(program):
    agrees(program, jnp.float64, 1e-9)


@pytest.mark.parametrize("name", sampled(SINGLE, SINGLE_DAILY))
def test_gradients_and_norms_in_single_precision(name):
    agrees(BY_NAME[name], jnp.float32, 1e-5)
