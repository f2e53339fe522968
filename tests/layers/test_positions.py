"""Positions: added vectors against NumPy and PyTorch's table, rotations against complex numbers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl as jd
from jaxdl.layers.positions import rotate
from tests.layers.compiled import both_ways

assert_close = partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12)
N, T, M = 3, 5, 6


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_learned_positions_are_those_of_a_table(torch):
    layer, x, dy = jd.learned_positions(7), draw(N, T, M), draw(N, T, M, seed=1)
    table = draw(7, M, seed=2)
    y, grads, dx = both_ways(layer, {"table": table}, x, dy)
    module = torch.nn.Embedding(7, M).double()
    module.weight.data = torch.tensor(table)
    x_t = torch.tensor(x, requires_grad=True)
    y_t = x_t + module(torch.arange(T))
    (y_t * torch.tensor(dy)).sum().backward()
    assert_close(y, y_t.detach())
    assert_close(dx, x_t.grad)
    assert_close(grads["table"], module.weight.grad)


def test_sinusoidal_positions_are_those_of_the_equation():
    x = draw(N, T, M)
    expected = np.zeros((T, M))
    for t in range(T):
        for i in range(M // 2):
            angle = t / 10_000 ** (2 * i / M)
            expected[t, i], expected[t, M // 2 + i] = np.sin(angle), np.cos(angle)
    assert_close(jax.jit(jd.sinusoidal_positions().apply)({}, x), x + expected)


def test_rotary_positions_are_multiplications_by_unit_numbers():
    q, base = jnp.asarray(draw(N, T, 2, M)), 50.0
    halves = np.split(np.asarray(q), 2, axis=-1)
    numbers = halves[0] + 1j * halves[1]
    rates = base ** (-np.arange(0, M, 2) / M)
    turned = numbers * np.exp(1j * np.arange(T)[:, None, None] * rates)
    assert_close(rotate(q, base), np.concatenate([turned.real, turned.imag], axis=-1))


def test_rotary_scores_depend_on_distance_alone_and_can_be_undone():
    q, k = (jnp.tile(draw(1, 1, 1, M, seed=i), (1, T, 1, 1)) for i in (0, 1))
    scores = jnp.einsum("nthd,nshd->ts", rotate(q, 10.0), rotate(k, 10.0))
    for distance in range(1 - T, T):
        diagonal = np.diagonal(scores, distance)
        assert_close(diagonal, np.full_like(diagonal, diagonal[0]))
    assert_close(rotate(rotate(q, 10.0), 10.0, back=True), q)


def test_bad_input_is_named():
    learned = jd.learned_positions(4)
    with pytest.raises(
        ValueError, match=r"learned_positions: there are positions for 4 tokens, got"
    ):
        learned.apply({"table": draw(4, M)}, draw(N, T, M))
    with pytest.raises(ValueError, match=r"learned_positions: most must be at least 1, got 0"):
        jd.learned_positions(0)
    with pytest.raises(ValueError, match=r"sinusoidal_positions: x must have an even number of"):
        jd.sinusoidal_positions().apply({}, draw(N, T, 5))
    for layer in (learned, jd.sinusoidal_positions()):
        with pytest.raises(TypeError, match=f"{layer.name}: x must be floating point"):
            layer.init(jax.random.key(0), np.zeros((N, T, M), int))
            layer.apply({}, np.zeros((N, T, M), int))
        with pytest.raises(ValueError, match=f"{layer.name}: x must have axes"):
            layer.init(jax.random.key(0), np.zeros(M))
            layer.apply({}, np.zeros(M))
