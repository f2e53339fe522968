"""Kronecker factors: against sums written out in NumPy, term by term."""

# pyright: reportCallIssue=false
# Reducers are called without slots.

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl as jd
from jaxdl.core.factors import FactorError, Formed, Many, Outer, Scatter, Sum, Zero
from tests.core.example_factors import FACTORS, IDS, draw

assert_close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-11)
WHERE = np.array([[True, True, False], [True, False, False], [False] * 3, [True] * 3])


def outers(rows):
    """Σ r⊗r, one row at a time."""
    return sum(np.outer(r, r) for r in np.reshape(rows, (-1, np.shape(rows)[-1])))


def kron(factor, shape, **settings):
    run = jax.jit(lambda p, f: jd.kron(**settings)({"p": p}, {"p": f})["p"])
    return run(jnp.zeros(shape), factor)


TOKENS = Outer(draw(4, 3, 5), draw(4, 3, 6, seed=1))


def test_a_matrix():
    made = kron(TOKENS, (5, 6))
    assert_close(made.a, outers(TOKENS.a))
    assert_close(made.d, outers(TOKENS.d))
    assert made.terms == 12


def test_padded_positions_are_left_out():
    made = kron(TOKENS, (5, 6), where=WHERE)
    kept = np.asarray(WHERE)
    assert_close(made.a, outers(np.asarray(TOKENS.a)[kept]))
    assert_close(made.d, outers(np.asarray(TOKENS.d)[kept]))
    assert int(made.terms) == kept.sum()
    # one weight an example, and a layer that sees no positions
    by_example = kron(TOKENS, (5, 6), where=WHERE.any(axis=1))
    assert_close(by_example.a, outers(np.asarray(TOKENS.a)[kept.any(axis=1)]))
    pooled = kron(Outer(TOKENS.a[:, 0], TOKENS.d[:, 0]), (5, 6), where=WHERE)
    assert_close(pooled.a, outers(np.asarray(TOKENS.a)[kept.any(axis=1), 0]))
    assert by_example.terms == 9 and pooled.terms == 3


def test_one_side_alone():
    made = kron(TOKENS, (5, 6), d=False)
    assert made.d is None
    assert_close(made.a, outers(TOKENS.a))
    assert kron(TOKENS, (5, 6), a=False).a is None
    text = str(
        jax.jit(lambda f: jd.kron(d=False)({"p": jnp.zeros((5, 6))}, {"p": f}))
        .lower(TOKENS)
        .compile()
        .as_text()
    )
    assert "f64[6,6]" not in text


def test_vectors_have_the_side_of_cotangents():
    d = draw(4, 3, 5)
    made = kron(Sum(d), (5,))
    assert made.a is None and made.terms == 12
    assert_close(made.d, outers(d))
    factor, shape = FACTORS["diag"]
    assert_close(kron(factor, shape).d, outers(factor.a * factor.d))


def test_a_table_has_the_diagonal_of_its_counts():
    d = draw(4, 3, 5)
    made = kron(Scatter(IDS, d), (7, 5))
    inside = (np.asarray(IDS) >= 0) & (np.asarray(IDS) < 7)
    assert_close(made.a, np.bincount(np.asarray(IDS)[inside], minlength=7))
    assert_close(made.d, outers(np.asarray(d)[inside]))
    assert int(made.terms) == inside.sum()
    kept = inside & np.asarray(WHERE)
    masked = kron(Scatter(IDS, d), (7, 5), where=WHERE)
    assert_close(masked.a, np.bincount(np.asarray(IDS)[kept], minlength=7))
    assert_close(masked.d, outers(np.asarray(d)[kept]))


def test_places_have_matrices_of_their_own():
    factor, shape = FACTORS["local"]
    made = kron(factor, shape)
    for place in range(3):
        assert_close(made.a[place], outers(factor.a[:, place]))
        assert_close(made.d[place], outers(factor.d[:, place]))


def test_tied_weights_expand_every_use_is_a_term():
    second = Outer(draw(4, 2, 5, seed=2), draw(4, 2, 6, seed=3))
    made = kron(Many((TOKENS, second, Zero(4))), (5, 6))
    assert_close(made.a, outers(TOKENS.a) + outers(second.a))
    assert_close(made.d, outers(TOKENS.d) + outers(second.d))
    assert made.terms == 20
    table, head = Scatter(IDS, draw(4, 3, 5)), Outer(draw(4, 3, 7), draw(4, 3, 5, seed=1))
    both = kron(Many((table, head)), (7, 5))
    assert_close(both.a, np.diag(kron(table, (7, 5)).a) + outers(head.a))


@pytest.mark.parametrize("flip", [False, True])
def test_reduce_takes_an_example_for_a_term(flip):
    second = Outer(draw(4, 2, 5, seed=2), draw(4, 2, 6, seed=3))
    made = kron(Many((TOKENS, second)), (5, 6), convention="reduce")
    a = (TOKENS.a.sum(1) + second.a.sum(1)) / 5
    assert_close(made.a, outers(a))
    assert_close(made.d, outers(TOKENS.d.sum(1) + second.d.sum(1)))
    assert made.terms == 4
    masked = kron(TOKENS, (5, 6), convention="reduce", where=WHERE)
    mean = (np.asarray(TOKENS.a) * WHERE[..., None]).sum(1) / np.maximum(WHERE.sum(1), 1)[:, None]
    assert_close(masked.a, outers(mean))
    assert masked.terms == 3
    conv, shape = FACTORS["conv_flip" if flip else "conv"]
    of_conv = kron(conv, shape, convention="reduce")
    # with all cotangents 1 the gradient of an example is the sum of its patches
    ones = jax.tree.map(jnp.ones_like, conv.d)
    patches = [
        type(conv)(conv.x[i : i + 1], ones[:1], conv.window, conv.flip).form(jnp.zeros(shape))
        for i in range(4)
    ]
    sums = np.stack([np.asarray(p)[..., 0].ravel() for p in patches])
    assert_close(of_conv.a, outers(sums / ones[0, ..., 0].size))
    assert_close(of_conv.d, outers(conv.d.sum((1, 2))))
    vector = kron(Sum(TOKENS.d), (6,), convention="reduce")
    assert vector.a is None
    assert_close(vector.d, outers(TOKENS.d.sum(1)))


def test_one_example_of_one_position_is_exact():
    """There Σ ∇⊗∇ is the Kronecker product itself."""
    factor = Outer(draw(1, 5), draw(1, 6, seed=1))
    for convention in ("expand", "reduce"):
        made = kron(factor, (5, 6), convention=convention)
        gradient = factor.form(jnp.zeros((5, 6))).ravel()
        assert_close(np.kron(made.a, made.d), np.outer(gradient, gradient))


def test_stacks_and_recurrent_weights():
    model = jd.serial(jd.dense(4), jd.repeat(jd.serial(jd.dense(4), jd.tanh()), 3))
    x = draw(5, 2, 6)
    params = model.init(jax.random.key(0), x)
    y, residuals = model.fwd(params, x)
    made, _ = model.bwd(params, residuals, y, jd.kron())
    kept, _ = model.bwd(params, residuals, y, jd.keep)
    inside = kept["repeat"]["dense"]["w"].factor
    for layer in range(3):
        assert_close(made["repeat"]["dense"]["w"].a[layer], outers(inside.a[layer]))
        assert_close(made["repeat"]["dense"]["w"].d[layer], outers(inside.d[layer]))
    assert made["repeat"]["dense"]["w"].terms.shape == (3,)
    later = jd.reduce_kept(jd.kron(), params, kept)
    jax.tree.map(assert_close, later, made)


def test_errors():
    w = {"w": jnp.zeros((5, 6))}
    with pytest.raises(ValueError, match="kron: at least one side must be asked for"):
        jd.kron(a=False, d=False)
    with pytest.raises(ValueError, match=r"kron: convention must be one of \('expand', 'reduce'\)"):
        jd.kron(convention="average")  # pyright: ignore[reportArgumentType]
    with pytest.raises(FactorError, match=r"kron needs the examples apart, but .* \(Formed\)"):
        jd.kron()(w, {"w": Formed(w["w"])})
    for name in ("sum_of_matrices", "unknown"):
        factor, shape = FACTORS[name]
        kind = type(factor).__name__
        with pytest.raises(
            FactorError, match=rf"kron: a parameter of shape .* with a {kind} factor"
        ):
            kron(factor, shape)
    groups, shape = FACTORS["conv_groups"]
    for convention in ("expand", "reduce"):
        with pytest.raises(FactorError, match="kronecker: a convolution of 2 groups"):
            kron(groups, shape, convention=convention)
    conv, shape = FACTORS["conv"]
    with pytest.raises(
        FactorError, match="kron: the places of a convolution are not the positions"
    ):
        kron(conv, shape, where=WHERE)
    with pytest.raises(FactorError, match=r"kron: `where` must have the first axes of the layer's"):
        kron(TOKENS, (5, 6), where=jnp.ones((4, 2), bool))
    for name in ("scatter", "local"):
        factor, shape = FACTORS[name]
        with pytest.raises(FactorError, match="kron: convention='reduce' would make the diagonal"):
            kron(factor, shape, convention="reduce")
    assert kron(Zero(4), (5, 6)) == jd.Kronecker(None, None, None)
