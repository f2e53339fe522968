"""Small programs that were once read wrongly, each held against the gradients of its examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxdl
from jaxdl.core.factors import Factor, contract
from tests.program.record import N, normal
from tests.program.reference import as_usual

DTYPE = jnp.float64
HARD = []


def hard(**params):
    """A decorator: a loss of one example x (3,), and maybe of more, with parameters drawn so."""

    def add(loss):
        HARD.append((loss, params))
        return loss

    return add


def check(loss, params, *batch, has_aux=False, rtol=1e-9):
    """Values, gradient, norms, and what is made of factors that were kept."""
    reducer = jaxdl.combine(grads=jaxdl.grads, norms=jaxdl.example_sq_norms, kept=jaxdl.keep)

    def both(params, *batch):
        one = jax.vmap(jax.value_and_grad(loss, has_aux=has_aux), (None,) + (0,) * len(batch))
        run = jaxdl.value_and_reduce(loss, reducer, has_aux=has_aux)
        return one(params, *batch), run(params, *batch)

    with as_usual():
        (values, each), (got, tree) = jax.jit(both)(params, *batch)
        norms, kept = jaxdl.select(tree, "norms"), jaxdl.select(tree, "kept")
        weights = jnp.arange(1.0, N + 1)
        factors = jax.tree.leaves(kept, is_leaf=lambda node: isinstance(node, Factor))
        pairs = zip(factors, jax.tree.leaves(params), strict=True)
        weighted = [contract(factor.scale(weights), param) for factor, param in pairs]
        later = jaxdl.reduce_kept(jaxdl.grads, params, kept)
    every = [np.asarray(g) for g in jax.tree.leaves(each)]
    scale = max(np.abs(g).max() for g in every)

    def near(got, want, rtol=rtol):
        for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            assert g.shape == w.shape
            np.testing.assert_allclose(g, w, rtol, rtol * scale)

    near(got, values)
    near(jaxdl.select(tree, "grads"), [g.mean(0) for g in every])
    near(later, [g.mean(0) for g in every])
    near(weighted, [np.tensordot(weights, g, 1) / N for g in every])
    norms = [n.reshape(-1, N).sum(0) for n in jax.tree.leaves(norms)]
    near(norms, [np.square(np.abs(g)).reshape(N, -1).sum(1) for g in every])


# --- loops --------------------------------------------------------------------------------------


@hard(w=(3, 3))
def carried_by_steps_of_the_outer_loop(p, x):
    """What the inner loop carries is fixed, but another at each step of the outer one."""

    def outer(total, i):
        def inner(count, _):
            return count + i, jnp.tanh(x @ p["w"][count % 3])

        return total + lax.scan(inner, 0, None, 2)[1].sum(), None

    return lax.scan(outer, 0.0, jnp.arange(3))[0]


@hard(w=(3, 3))
def count_of_a_loop_that_is_stopped(p, x):
    def step(carry, _):
        return (carry[0] + 2, jnp.tanh(p["w"] @ carry[1])), None

    count, state = lax.scan(step, (0, x), None, 3)[0]
    return jnp.sum((p["w"][count % 3] * x) ** 2) + lax.stop_gradient(state).sum()


@hard(w=(3, 3))
def derived_of_what_a_loop_counts(p, x):
    def step(carry, _):
        return (0.5 * carry[0], jnp.tanh(p["w"] @ carry[1])), None

    rate, state = lax.scan(step, (1.0, x), None, 3)[0]
    inverse = jnp.linalg.inv(rate * p["w"] + 5 * jnp.eye(3))
    return jnp.sum((inverse @ x) ** 2) + state.sum()


# --- branches that some examples take ------------------------------------------------------------


@hard(w=(3, 3))
def nan_in_the_branch_not_taken(p, x):
    h = p["w"] @ x

    def root(h):
        start = jnp.full(3, x[0]) + 0 * h
        y = lax.scan(lambda c, _: (jnp.exp(p["w"]) @ jnp.sqrt(c), None), start, None, 2)[0]
        return jnp.sum(y + jnp.log(h[0] / x[0] * jnp.sign(h[0])))

    return lax.cond(x[0] > 0, root, lambda h: jnp.sum(h / p["w"][0]), h)


# --- kept factors -------------------------------------------------------------------------------


@hard(w=(3, 3), rest={"v": (3, 4)})
def used_twice_beside_a_tree(p, x):
    return jnp.sum(jnp.tanh(jnp.tanh(x @ p["w"]) @ p["w"]) @ p["rest"]["v"])


@hard(layers=(5, 3, 3), m=(2, 6))
def stack_beside_a_reshaped_matrix(p, x):
    h = lax.scan(lambda h, w: (jnp.tanh(w @ h), None), x, p["layers"])[0]
    return jnp.sum((h @ p["m"].reshape(3, 4)) ** 2)


# --- views --------------------------------------------------------------------------------------


@hard(w=(2, 6))
def reshaped_in_another_order(p, x):
    return jnp.sum((x @ lax.reshape(p["w"], (3, 4), dimensions=(1, 0))) ** 2)


@pytest.mark.parametrize(("loss", "shapes"), HARD, ids=lambda value: getattr(value, "__name__", ""))
def test_hard_programs(loss, shapes):
    is_shape = dict(is_leaf=lambda node: isinstance(node, tuple))
    leaves, tree = jax.tree.flatten(shapes, **is_shape)
    params = tree.unflatten([normal(DTYPE, *s, seed=i + 2) for i, s in enumerate(leaves)])
    check(loss, params, normal(DTYPE, N, 3))


def test_fixed_value_of_a_loop_that_is_auxiliary():
    def loss(p, x):
        def step(carry, _):
            return (carry[0] + 2, jnp.tanh(p @ carry[1])), None

        count, state = lax.scan(step, (0, x), None, 3)[0]
        return jnp.sum((p @ x) ** 2) * count, state

    check(loss, normal(DTYPE, 3, 3), normal(DTYPE, N, 3), has_aux=True)


def test_long_chain_of_derived_values():
    def norms(params, x):
        def loss(w, x):
            for _ in range(600):
                w = w * 1.001
            return jnp.sum(x @ w)

        return jaxdl.value_and_reduce(loss, jaxdl.example_sq_norms)(params, x)

    jax.eval_shape(norms, normal(DTYPE, 3, 2), normal(DTYPE, N, 3))


def test_scalars_reduced_in_a_scan_that_holds_another_parameter():
    """What is one number for a step has no axis of examples to move."""

    def over_time(params, x):
        def step(h, slices):
            return jnp.tanh(h @ params["w"] + slices[0] * slices[1]), None

        return jnp.sum(lax.scan(step, jnp.ones(3, DTYPE), (x, params["b"]))[0])

    params, x = {"w": normal(DTYPE, 3, 3), "b": normal(DTYPE, 4, 3)}, normal(DTYPE, N, 4, 3)
    noise = jaxdl.value_and_reduce(over_time, jaxdl.gradient_noise)(params, x)[1]
    kept = jaxdl.value_and_reduce(over_time, jaxdl.keep)(params, x)[1]
    later = jaxdl.reduce_kept(jaxdl.gradient_noise, params, kept)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-9), noise, later)


def test_scan_over_no_layers():
    def no_layers(params, x):
        h = lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params[:0])[0]
        return jnp.sum((h @ params[0]) ** 2)

    params, x = normal(DTYPE, 3, 3, 3), normal(DTYPE, N, 3)
    made = jaxdl.value_and_reduce(no_layers, jaxdl.moments)(params, x)[1]
    each = jax.vmap(jax.grad(no_layers), (None, 0))(params, x)
    np.testing.assert_allclose(made.second, jnp.square(each).mean(0), 1e-9)
