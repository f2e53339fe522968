"""Losses with derivatives by the data inside, as those of physics-informed networks are."""

import jax
import jax.numpy as jnp
import pytest

import jaxdl
from jaxdl.core.viewed_factors import Moved

WIDTHS = (2, 5, 6, 5, 1)


def value(params, x):
    for w, b in params[:-1]:
        x = jnp.tanh(x @ w + b)
    return (x @ params[-1][0])[0]


def by_hessian(params, x):
    return jnp.trace(jax.hessian(value, argnums=1)(params, x))


def by_jvp(params, x):
    def second(d):
        def first(x):
            return jax.jvp(lambda x: value(params, x), (x,), (d,))[1]

        return jax.jvp(first, (x,), (d,))[1]

    return jax.vmap(second)(jnp.eye(2)).sum()


def by_reverse(params, x):
    def slope(x):
        return jax.grad(value, argnums=1)(params, x).sum()

    return jax.grad(slope)(x) @ jnp.asarray([0.5, -2.0])


@pytest.fixture(scope="module")
def given():
    keys = jax.random.split(jax.random.key(0), len(WIDTHS))
    params = [
        (jax.random.normal(key, (m, n)), jnp.full(n, 0.1))
        for key, m, n in zip(keys, WIDTHS, WIDTHS[1:], strict=False)
    ]
    return params, jax.random.normal(keys[-1], (4, 2))


@pytest.mark.parametrize("loss", [by_hessian, by_jvp, by_reverse])
def test_inner_products_are_those_of_the_dense_jacobian(loss, given):
    params, x = given
    losses, found = jax.jit(jaxdl.value_and_reduce(loss, jaxdl.gram))(params, x)
    rows = jax.vmap(jax.grad(loss), (None, 0))(params, x)
    dense = jnp.concatenate([a.reshape(4, -1) for a in jax.tree.leaves(rows)], axis=1)
    k = dense @ dense.T
    assert jnp.allclose(jaxdl.total(found, axes=2), k, rtol=1e-12, atol=1e-12 * k.max())
    assert jnp.allclose(losses, jax.vmap(loss, (None, 0))(params, x), rtol=1e-12)


def test_uses_of_a_transposed_matrix_are_seen_one_by_one(given):
    """Two that lay under one view had their gradients formed for every pair of examples."""
    params, x = given
    _, kept = jaxdl.value_and_reduce(by_hessian, jaxdl.keep)(params, x)
    uses = kept[1][0].factors
    turned = [use for use in uses if isinstance(use, Moved)]
    assert len(uses) == 4 and len(turned) == 2
    assert all(isinstance(use.factor, jaxdl.Outer) for use in turned)
