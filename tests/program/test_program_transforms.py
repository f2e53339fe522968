"""`value_and_reduce` under jit, jvp, vmap and scan, and inside each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxdl
from tests.program.record import N, normal

D = jnp.float64
X, Y = normal(D, N, 3), normal(D, N, 2, seed=6)
REDUCE = jaxdl.combine(grads=jaxdl.grads, norms=jaxdl.example_sq_norms)


def close(got, want, rtol=1e-9):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.shape(g) == np.shape(w)
        np.testing.assert_allclose(g, w, rtol, 1e-12)


def plain(params, x, y):
    return 0.5 * jnp.sum((jnp.tanh(x @ params["w"] + params["b"]) - y) ** 2)


def scanned(params, x, y):
    """A checkpointed scan over layers, in front of it."""

    @jax.checkpoint
    def step(x, layer):
        return jnp.tanh(x @ layer["w"] + layer["b"]), None

    return plain(params["head"], lax.scan(step, x, params["layers"])[0], y)


HEAD = {"w": normal(D, 3, 2), "b": normal(D, 2, seed=5)}
STACK = {"head": HEAD, "layers": {"w": normal(D, 2, 3, 3), "b": normal(D, 2, 3)}}
PROGRAMS = {"plain": (plain, HEAD), "scanned": (scanned, STACK)}
programs = pytest.mark.parametrize(("loss", "params"), PROGRAMS.values(), ids=PROGRAMS)


def mean_of(loss):
    return lambda params: jnp.mean(jax.vmap(loss, (None, 0, 0))(params, X, Y))


@programs
def test_under_jit_and_without(loss, params):
    run = jaxdl.value_and_reduce(loss, REDUCE)
    close(jax.jit(run)(params, X, Y), run(params, X, Y))


@programs
def test_hessian_vector_product(loss, params):
    """The derivative of the gradient along a direction, as jax.jvp of jax.grad has it."""

    def gradient(params):
        return jaxdl.value_and_reduce(loss)(params, X, Y)[1]

    way = jax.tree.map(lambda p: normal(D, *p.shape, seed=9), params)
    got = jax.jit(lambda p, v: jax.jvp(gradient, (p,), (v,)))(params, way)
    want = jax.jit(lambda p, v: jax.jvp(jax.grad(mean_of(loss)), (p,), (v,)))(params, way)
    close(got, want)


@programs
def test_derivative_of_norms(loss, params):
    def norms(params):
        reduced = jaxdl.value_and_reduce(loss, jaxdl.example_sq_norms)(params, X, Y)[1]
        return jaxdl.total(reduced)

    def by_jax(params):
        gradients = jax.vmap(jax.grad(loss), (None, 0, 0))(params, X, Y)
        return sum(jnp.square(g).reshape(N, -1).sum(1) for g in jax.tree.leaves(gradients))

    way = jax.tree.map(lambda p: normal(D, *p.shape, seed=9), params)
    got, want = (jax.jit(lambda p, v, f=f: jax.jvp(f, (p,), (v,))) for f in (norms, by_jax))
    close(got(params, way), want(params, way))


@pytest.mark.parametrize("name", ["plain"])
def test_reverse_mode_of_the_result(name):
    """A loss of the norms themselves, as in training with a penalty on them."""
    loss, params = PROGRAMS[name]

    def penalty(params):
        return jaxdl.total(
            jaxdl.value_and_reduce(loss, jaxdl.example_sq_norms)(params, X, Y)[1]
        ).sum()

    def by_jax(params):
        gradients = jax.vmap(jax.grad(loss), (None, 0, 0))(params, X, Y)
        return sum(jnp.square(g).sum() for g in jax.tree.leaves(gradients))

    close(jax.jit(jax.grad(penalty))(params), jax.jit(jax.grad(by_jax))(params))


@programs
def test_inside_vmap(loss, params):
    """An ensemble: several sets of parameters on one batch, each as if it were alone."""
    several = jax.tree.map(lambda p: jnp.stack([p, 2 * p, -p]), params)
    run = jaxdl.value_and_reduce(loss, REDUCE)
    got = jax.jit(jax.vmap(run, (0, None, None)))(several, X, Y)
    alone = jax.jit(run)
    for i in range(3):
        one = jax.tree.map(lambda p, i=i: p[i], several)
        close(jax.tree.map(lambda x, i=i: x[i], got), alone(one, X, Y))


@programs
def test_inside_scan(loss, params):
    """Steps of training, and microbatches of one batch."""
    run = jaxdl.value_and_reduce(loss)

    def train(params, _):
        values, gradient = run(params, X, Y)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), values.mean()

    trained, values = jax.jit(lambda p: lax.scan(train, p, None, 3))(params)
    by_jax, expected, step = params, [], jax.jit(jax.value_and_grad(mean_of(loss)))
    for _ in range(3):
        value, gradient = step(by_jax)
        expected.append(value)
        by_jax = jax.tree.map(lambda p, g: p - 0.1 * g, by_jax, gradient)
    close((trained, values), (by_jax, jnp.stack(expected)))

    parts = X[:, None], Y[:, None]
    norms = jaxdl.value_and_reduce(loss, jaxdl.example_sq_norms)
    one_by_one = jax.jit(lambda p: lax.map(lambda xy: norms(p, *xy)[1], parts))(params)
    whole = jax.jit(norms)(params, X, Y)[1]
    close(jaxdl.total(jax.tree.map(lambda x: jnp.moveaxis(x, 0, -2)[..., 0], one_by_one)),
          jaxdl.total(whole))  # fmt: skip


def test_compiled_once_for_a_shape():
    traced = []

    def counted(params, x, y):
        traced.append(x.shape)
        return plain(params, x, y)

    run = jax.jit(jaxdl.value_and_reduce(counted))
    for scale in (1, 2):
        run(jax.tree.map(lambda p, s=scale: s * p, HEAD), X, Y)
    assert len(traced) == 1


def test_one_inside_another():
    """A loss that looks at the norm of its own example's gradient."""

    def inner(params, x, y):
        run = jaxdl.value_and_reduce(plain, jaxdl.example_sq_norms)
        values, norms = run(params, x[None], y[None])
        return values.sum() + 0.1 * jaxdl.total(norms).sum()

    def by_jax(params, x, y):
        value, gradient = jax.value_and_grad(plain)(params, x, y)
        return value + 0.1 * sum(jnp.square(g).sum() for g in jax.tree.leaves(gradient))

    values, tree = jax.jit(jaxdl.value_and_reduce(inner, REDUCE))(HEAD, X, Y)
    want, gradients = jax.jit(jax.vmap(jax.value_and_grad(by_jax), (None, 0, 0)))(HEAD, X, Y)
    close(values, want)
    close(jaxdl.select(tree, "grads"), jax.tree.map(lambda g: g.mean(0), gradients))
    close(jaxdl.select(tree, "norms"),
          jax.tree.map(lambda g: jnp.square(g).reshape(N, -1).sum(1), gradients))  # fmt: skip
