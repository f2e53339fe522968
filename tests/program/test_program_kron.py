"""Kronecker sides of the matrices of programs, against explicit sums over examples and positions.

Inputs and cotangents are not read off the program: each loss takes an offset that is added to the
outputs of the matrix, whose gradient is the cotangent there, and returns its inputs.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxdl
from tests.program.record import N, normal

D = jnp.float64
X = normal(D, N, 4, 6)
IDS = jnp.arange(4 * N).reshape(N, 4) % 7


def total(y):
    return jnp.sum(jnp.tanh(y) ** 2)


def dense(w, x, offset=0.0):
    return total(x @ w + offset), x


def transposed(w, x, offset=0.0):
    return total(x @ w.T + offset), x


def behind_another(w, x, offset=0.0):
    h = jnp.sin(2 * x)
    return total(h @ w + offset), h


def heads(w, x, offset=0.0):
    y = jnp.einsum("tm,mhk->thk", x, w)
    return total(y.reshape(4, -1) + offset), x


def over_time(w, x, offset=None):
    offset = jnp.zeros((4, 6), D) if offset is None else offset

    def step(h, slices):
        x, o = slices
        return jnp.tanh(x + h @ w + o), (h, h)

    h, (before, _) = lax.scan(step, jnp.ones(6, D), (x, offset))
    return total(h), before


def layers(w, x, offset=None):
    offset = jnp.zeros((3, 4, 6), D) if offset is None else offset

    def step(x, layer):
        return jnp.tanh(x @ layer[0] + layer[1]), x

    h, inputs = lax.scan(jax.checkpoint(step), x, (w, offset))
    return total(h), inputs


def convolution(w, x, offset=0.0):
    image = x[None, ..., None]
    numbers = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(image, w, (1, 1), "SAME", dimension_numbers=numbers)
    patches = lax.conv_general_dilated_patches(
        image, (3, 3), (1, 1), "SAME", dimension_numbers=numbers
    )  # fmt: skip
    return total(y[0].reshape(-1, 2) + offset), patches[0].reshape(-1, 9)


def table(w, ids, offset=0.0):
    return total(w[ids] + offset), jax.nn.one_hot(ids, 7, dtype=D)


PROGRAMS = [
    (dense, (6, 3), X, (4, 3)),
    (behind_another, (6, 3), X, (4, 3)),
    (over_time, (6, 6), X, (4, 6)),
    (layers, (3, 6, 6), X, (3, 4, 6)),
    (convolution, (3, 3, 1, 2), X, (24, 2)),
    (heads, (6, 2, 3), X, (4, 6)),
    (table, (7, 3), IDS, (4, 3)),
    (transposed, (3, 6), X, (4, 3)),
]


def moment(rows):
    """Σ r⊗r over examples and positions; of a stack layer by layer."""
    return np.einsum("n...tp,n...tq->...pq", rows, rows)


def check(loss, shape, x, offsets, reduce=None):
    w = normal(D, *shape)
    run = jaxdl.value_and_reduce(loss, reduce or jaxdl.kron(), has_aux=True)
    made = jax.jit(run)(w, x)[1]
    at = jax.vmap(jax.grad(loss, argnums=2, has_aux=True), (None, 0, None))
    cotangents, inputs = jax.jit(at)(w, x, jnp.zeros(offsets, D))
    a, d = moment(inputs), moment(cotangents)
    if loss is table:
        a = np.diagonal(a)
    np.testing.assert_allclose(made.a, a, 1e-9, 1e-12)
    np.testing.assert_allclose(made.d, d, 1e-9, 1e-12)
    np.testing.assert_allclose(made.terms, np.full(made.terms.shape, N * offsets[-2]))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p[0].__name__)
def test_sides(program):
    loss, shape, x, offsets = program
    check(loss, shape, x, offsets)


@pytest.mark.parametrize("field", ["a", "d", "terms"])
def test_sides_that_are_wrong_are_caught(field):
    def reduce(params, factors, slots=None):
        made = jaxdl.kron()(params, factors, None)
        return {
            k: jaxdl.Kronecker(**{**vars(v), field: 2 * vars(v)[field]}) for k, v in made.items()
        }

    with pytest.raises(AssertionError):
        check(dense, (6, 3), X, (4, 3), reduce)


@pytest.mark.parametrize("name", ["dense", "behind_another", "over_time", "transposed"])
def test_traces_are_the_lengths_of_inputs_and_cotangents(name):
    loss, shape, x, offsets = next(p for p in PROGRAMS if p[0].__name__ == name)
    w = normal(D, *shape)
    made = jax.jit(jaxdl.value_and_reduce(loss, jaxdl.trace, has_aux=True))(w, x)[1]
    at = jax.vmap(jax.grad(loss, argnums=2, has_aux=True), (None, 0, None))
    cotangents, inputs = jax.jit(at)(w, x, jnp.zeros(offsets, D))
    assert made.keys() == {"a", "d"}
    np.testing.assert_allclose(made["a"], np.linalg.norm(inputs), 1e-9)
    np.testing.assert_allclose(made["d"], np.linalg.norm(cotangents), 1e-9)


@pytest.mark.parametrize("repeated", [(6,), (1, 6), (4, 1), (4, 6)], ids=str)
@pytest.mark.parametrize("operation", [jnp.add, jnp.subtract, jnp.multiply])
def test_what_is_repeated_over_positions_has_a_term_for_each(operation, repeated):
    """A bias, a gain: every entry it is repeated for is a use, as in a layer of this library."""
    w = normal(D, *repeated)

    def loss(w, x):
        return jnp.sum(jnp.sin(operation(x, w)))

    _, kept = jaxdl.value_and_reduce(loss, jaxdl.keep)(w, X)
    terms = kept.d if isinstance(kept, jaxdl.Sum) else kept.a * kept.d
    d = jax.vmap(jax.grad(lambda y: jnp.sum(jnp.sin(y))))(jax.vmap(operation, (0, None))(X, w))
    sign = {jnp.add: 1, jnp.subtract: -1}.get(operation, X)
    assert terms.size == d.size
    np.testing.assert_allclose(np.sort(terms, axis=None), np.sort(sign * d, axis=None), 1e-9)
    expected = jax.grad(lambda w: jax.vmap(loss, (None, 0))(w, X).mean())(w)
    np.testing.assert_allclose(jaxdl.contract(kept, w), expected, 1e-9)
