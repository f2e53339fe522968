"""Reducers of single examples, on every kind of factor: against gradients formed one by one."""

# pyright: reportCallIssue=false
# Reducers are called without slots.

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl as jd
from jaxdl.core.factors import FactorError, Formed, Many, Outer, Stacked
from jaxdl.core.projection import random_sides
from tests.core.example_factors import FACTORS, Reversed, assert_close, backwards, draw, gradients

KEY = jax.random.key(7)
REDUCERS = {
    "sq_norms": jd.example_sq_norms,
    "moments": jd.moments,
    "noise": jd.gradient_noise,
    "gram": jd.gram,
    "project": jd.project(6, KEY),
    "clipped": jd.clipped_sum(2.0, per="parameter"),
}


@cache
def reduced(name):
    """What every reducer makes of the factor called `name`, and `gram_between` another batch."""
    factor, shape = FACTORS[name]

    @jax.jit
    def run(factor, other, param):
        params, kept = {"p": param}, {"p": factor}
        made = {k: reduce(params, kept)["p"] for k, reduce in REDUCERS.items()}
        made["model"] = jd.reduce_kept(jd.clipped_sum(2.0), params, kept)["p"]
        return made | {"between": jd.gram_between(params, kept, {"p": other})["p"]}

    made = run(factor, backwards(factor), jnp.zeros(shape))
    return made, gradients(factor, shape)


every_factor = pytest.mark.parametrize("name", FACTORS)


@every_factor
def test_moments_are_those_of_the_gradients(name):
    made, g = reduced(name)
    assert_close(made["moments"].mean, g.mean(axis=0))
    assert_close(made["moments"].second, np.square(g).mean(axis=0))
    assert_close(made["moments"].variance, g.var(axis=0, ddof=1))


@every_factor
def test_noise_is_the_trace_of_the_covariance_and_what_it_takes_from_the_mean(name):
    made, g = reduced(name)
    trace = g.reshape(len(g), -1).var(axis=0, ddof=1).sum()
    assert_close(made["noise"].trace, trace)
    assert_close(made["noise"].sq_norm, np.square(g.mean(axis=0)).sum() - trace / len(g))


@every_factor
def test_gram_holds_the_inner_products_of_all_pairs(name):
    made, g = reduced(name)
    rows = g.reshape(len(g), -1)
    assert_close(made["gram"], rows @ rows.T)
    assert_close(np.diag(made["gram"]), made["sq_norms"])
    assert_close(made["between"], rows @ rows[:0:-1].T)


@every_factor
def test_projections_are_those_of_the_gradients(name):
    made, g = reduced(name)
    sides = random_sides(KEY, "p", g.shape[1:], 6, g.dtype)
    if sides.p is None:
        expected = g.reshape(len(g), -1) @ np.asarray(sides.q).T
    else:
        matrices = g.reshape(len(g), -1, g.shape[-1])
        expected = (sides.p @ matrices @ sides.q.T).reshape(len(g), -1)
    assert_close(made["project"], expected)


@every_factor
def test_clipped_sums_are_those_of_the_gradients(name):
    made, g = reduced(name)
    norms = np.linalg.norm(g.reshape(len(g), -1), axis=1)
    weights = np.minimum(1, 2 / np.maximum(norms, 1e-9))
    expected = np.einsum("n,n...->...", weights, g)
    assert_close(made["clipped"], expected)
    assert_close(made["model"], expected)


def test_some_examples_are_clipped_and_some_are_not():
    norms = np.concatenate([np.sqrt(reduced(name)[0]["sq_norms"]) for name in FACTORS])
    assert (norms > 2).any() and (norms < 2).any()


# --- what a wrong reducer would give ------------------------------------------------------------


def test_several_positions_cannot_be_taken_for_one():
    """The product of squares, which holds at one position only, is told apart."""
    factor, shape = FACTORS["outer_formed"]
    wrong = Outer(factor.a**2, factor.d**2).form(jnp.zeros(shape)) / 4
    assert np.abs(wrong - reduced("outer_formed")[0]["moments"].second).max() > 0.1


def test_where_the_gradient_is_a_mean_single_examples_are_what_they_were():
    """A factor of losses that each example has for itself: `contract` divides, reducers do not."""
    made, _ = reduced("outer")
    factor, shape = FACTORS["outer"]
    params, mean = {"p": jnp.zeros(shape)}, {"p": replace(factor, divisor=4)}
    got = {k: reduce(params, mean)["p"] for k, reduce in REDUCERS.items()}
    got["model"] = jd.reduce_kept(jd.clipped_sum(2.0), params, mean)["p"]
    jax.tree.map(assert_close, got, {k: made[k] for k in got})
    assert_close(4 * jd.grads(params, mean)["p"], factor.form(params["p"]))


def test_bounded_memory():
    """Examples × a matrix's entries are in no program that does not need them."""
    factor, shape = FACTORS["outer_by_pairs"]
    params = {"p": jnp.zeros(shape)}
    for reduce in (jd.gram, jd.project(4, KEY), jd.gradient_noise, jd.example_sq_norms):
        traced = str(jax.make_jaxpr(reduce)(params, {"p": factor}))
        assert "f64[4,20,30]" not in traced
    one = Outer(factor.a[:, 0], factor.d[:, 0])
    assert "f64[4,20,30]" not in str(jax.make_jaxpr(jd.moments)(params, {"p": one}))


@pytest.mark.parametrize(
    "reduce",
    [jd.moments, jd.gram, jd.project(4, KEY), jd.gradient_noise, jd.clipped_sum(1.0, per="layer")],
    ids=["moments", "gram", "project", "gradient_noise", "clipped_sum"],
)
def test_formed_gradients_are_refused_by_name(reduce):
    w = jnp.zeros((3, 4))
    for factor in (Formed(w), Many((Outer(draw(2, 3), draw(2, 4)), Formed(w)))):
        with pytest.raises(FactorError, match=r"needs the examples apart.*\(Formed\), summed over"):
            reduce({"w": w}, {"w": factor})
    with pytest.raises(FactorError, match=r"value_and_grad: .* needs the examples apart"):
        jd.value_and_grad(jd.dense(4), jd.half_squared_error(), path="autodiff", reduce=reduce)(
            {"w": w, "b": w[0]}, draw(2, 3), draw(2, 4)
        )


def test_low_precision_is_summed_wide():
    ones = jnp.ones((512, 4), jnp.bfloat16)
    params, factors = {"w": jnp.zeros((4, 4), jnp.bfloat16)}, {"w": Outer(ones, ones)}
    moments = jd.moments(params, factors)["w"]
    assert moments.mean.dtype == moments.second.dtype == jnp.float32
    assert (moments.second == 1).all() and (moments.variance == 0).all()
    assert jd.gram(params, factors)["w"].dtype == jnp.float32
    assert jd.project(4, KEY)(params, factors)["w"].dtype == jnp.float32
    clipped = jd.clipped_sum(4.0, per="parameter")(params, factors)["w"]
    assert clipped.dtype == jnp.bfloat16 and (clipped == 512).all()


# --- moments and noise --------------------------------------------------------------------------


def test_noise_scale_is_unbiased_and_the_same_from_moments():
    rng = np.random.default_rng(0)
    truth, deviation = rng.normal(size=5), 2.0
    trees = []
    for _ in range(200):
        d = jnp.asarray(truth + deviation * rng.normal(size=(8, 5)))
        trees.append({"b": d})
    params = {"b": jnp.zeros(5)}
    noise = [jax.jit(jd.gradient_noise)(params, {"b": jd.Sum(tree["b"])}) for tree in trees]
    trace = np.mean([n["b"].trace for n in noise])
    sq_norm = np.mean([n["b"].sq_norm for n in noise])
    assert trace == pytest.approx(5 * deviation**2, rel=0.05)
    assert sq_norm == pytest.approx(np.square(truth).sum(), rel=0.1)
    assert_close(jd.critical_batch_size(noise), trace / sq_norm)
    by_moments = jd.noise_scale(jd.moments(params, {"b": jd.Sum(trees[0]["b"])}))
    assert_close(jd.noise_scale(noise[0]), by_moments)
    scaled = jd.gradient_noise(params, {"b": jd.Sum(trees[0]["b"] / 8)})
    assert_close(jd.noise_scale(scaled), by_moments)  # a mean for a sum


def test_noise_errors():
    one = {"b": jd.Sum(draw(1, 5))}
    with pytest.raises(ValueError, match="gradient_noise: a variance needs at least two examples"):
        jd.gradient_noise({"b": jnp.zeros(5)}, one)
    with pytest.raises(ValueError, match="moments: a variance needs at least two examples, got 1"):
        jd.moments({"b": jnp.zeros(5)}, one)["b"].variance  # noqa: B018
    with pytest.raises(ValueError, match="noise_scale: the tree must be one that gradient_noise"):
        jd.noise_scale({"b": jnp.zeros(5)})
    with pytest.raises(ValueError, match="critical_batch_size: there must be at least one tree"):
        jd.critical_batch_size([])


# --- projections --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["outer_formed", "sum"])
def test_inner_products_of_projections_are_right_on_average(name):
    factor, shape = FACTORS[name]
    params, factors = {"p": jnp.zeros(shape)}, {"p": factor}

    @jax.jit
    @jax.vmap
    def products(key):
        p = jd.project(16, key)(params, factors)["p"]
        return p @ p.T

    trials = np.asarray(products(jax.random.split(KEY, 2000)))
    error = trials.std(axis=0) / len(trials) ** 0.5
    g = gradients(factor, shape).reshape(4, -1)
    assert (np.abs(trials.mean(axis=0) - g @ g.T) < 4 * error).all()
    # and P would be seen if it were not of the right size
    assert (np.abs(1.2 * trials.mean(axis=0) - g @ g.T) > 4 * error).any()


def test_projections_depend_on_key_name_and_shape():
    factor = {"p": FACTORS["outer"][0], "q": FACTORS["outer"][0]}
    params = dict.fromkeys(factor, jnp.zeros((5, 6)))
    made, again = (jd.project(4, KEY)(params, factor) for _ in range(2))
    np.testing.assert_array_equal(made["p"], again["p"])
    assert not np.allclose(made["p"], made["q"])
    other = jd.project(4, jax.random.key(1))(params, factor)
    assert not np.allclose(made["p"], other["p"])
    assert made["p"].shape == (4, 4)
    with pytest.raises(ValueError, match="project: k must be at least 1, got 0"):
        jd.project(0, KEY)


def test_example_vectors_put_parameters_and_layers_side_by_side():
    tree = {"a": jnp.ones((4, 2)), "b": jnp.arange(24.0).reshape(3, 4, 2)}
    vectors = jd.example_vectors(tree)
    assert vectors.shape == (4, 8)
    assert_close(vectors @ vectors.T, jd.total(jax.tree.map(_inner, tree), axes=2))
    with pytest.raises(ValueError, match="example_vectors: the tree has no projections"):
        jd.example_vectors({})


def _inner(vectors):
    return jnp.einsum("...nk,...mk->...nm", vectors, vectors)


# --- two batches --------------------------------------------------------------------------------


def test_gram_between_goes_through_stacks_at_any_depth():
    def stack(factor, seed):
        scales = draw(2, 3, seed=seed)
        return jax.tree.map(lambda a: jnp.einsum("lk,...->lk...", scales, a), factor), scales

    factor, shape = FACTORS["outer"]
    (first, x), (second, y) = stack(factor, 1), stack(factor, 2)
    params = {"w": jnp.zeros((2, 3, *shape))}
    kept, others = ({"w": Stacked(Stacked(f))} for f in (first, second))
    got = jd.gram_between(params, kept, others)["w"]
    g = gradients(factor, shape).reshape(4, -1)
    expected = np.einsum("lk,ij->lkij", x**2 * y**2, g @ g.T)
    assert_close(got, expected)


def test_kinds_that_reducers_do_not_know_are_scaled_through_their_examples():
    factor, shape = FACTORS["unknown"]
    assert type(factor) is Reversed and not hasattr(factor, "d")
    sums = jd.clipped_sum(0.5, per="layer")({"p": jnp.zeros(shape)}, {"p": factor})["p"]
    g = gradients(factor, shape)
    weights = np.minimum(1, 0.5 / np.linalg.norm(g.reshape(4, -1), axis=1))
    assert_close(sums, np.einsum("n,n...->...", weights, g))
