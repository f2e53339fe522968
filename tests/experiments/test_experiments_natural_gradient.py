"""The experiment on natural gradients, with settings that take seconds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import natural_gradient
from experiments.natural_gradient import problem, solvers
from tests.experiments.running import drawn, run


@pytest.fixture(scope="module")
def small():
    """Network, points, and whether these lie inside, in float64."""
    with jax.enable_x64(True):
        params = problem.network(5, 2, jax.random.key(0))
        yield params, *problem.points(8, 4, seed=0)


@pytest.mark.parametrize("way", problem.WAYS)
def test_every_laplacian_is_that_of_differences(way, small):
    params, x, _ = small
    at, h = x[0], 1e-3
    shifts = h * jnp.concatenate([jnp.eye(2), -jnp.eye(2)])
    around = sum(problem.value(params, at + shift) for shift in shifts)
    value = problem.value(params, at)
    found = problem.WAYS[way](params, at)
    assert float(found[0]) == pytest.approx(float(value), rel=1e-12)
    assert float(found[1]) == pytest.approx(float((around - 4 * value) / h**2), rel=1e-3)


def test_points_lie_inside_and_on_all_sides(small):
    _, x, inside = small
    x, inside = np.asarray(x), np.asarray(inside)
    assert inside.sum() == 8 and np.all((x[inside] > 0) & (x[inside] < 1))
    edge = x[~inside]
    assert {(float(a == 0), float(a == 1), float(b == 0), float(b == 1)) for a, b in edge} == {
        (0, 0, 1, 0), (0, 0, 0, 1), (1, 0, 0, 0), (0, 1, 0, 0),
    }  # fmt: skip
    residual = problem.residual_of(natural_gradient.FORWARD, 8, 4)
    on_edge = residual(small[0], x[-1], False)
    assert float(on_edge) == pytest.approx(float(problem.value(small[0], x[-1])) / 2)


def test_the_direction_is_that_of_the_dense_jacobian(small):
    params, x, inside = small
    residual = problem.residual_of(natural_gradient.FORWARD, 8, 4)
    found = jax.jit(lambda p: solvers.direction(residual, p, x, inside, 1e-3))(params)
    rows = jax.vmap(jax.grad(residual), (None, 0, 0))(params, x, inside)
    j = jnp.concatenate([a.reshape(12, -1) for a in jax.tree.leaves(rows)], axis=1)
    r = jax.vmap(residual, (None, 0, 0))(params, x, inside)
    # the same by the other, larger system: (JᵀJ + λI)⁻¹ Jᵀ r
    want = jnp.linalg.solve(j.T @ j + 1e-3 * jnp.eye(j.shape[1]), j.T @ r)
    got = jnp.concatenate([a.ravel() for a in jax.tree.leaves(found[1])])
    np.testing.assert_allclose(found[0], r, rtol=1e-12)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8 * float(jnp.abs(want).max()))


def test_a_step_goes_down_and_its_damping_follows(small):
    params, x, inside = small
    residual = problem.residual_of(natural_gradient.FORWARD, 8, 4)
    solver = solvers.natural_gradient(residual, params, x, inside, 10)
    before = float(solvers.half_square(residual, params, x, inside))
    after, damping, loss = solver.advance(params, solver.state, 0.0)
    assert float(loss) < before
    assert float(solvers.half_square(residual, after, x, inside)) == pytest.approx(float(loss))
    assert float(damping) in (pytest.approx(1 / 3), pytest.approx(0.7), pytest.approx(2))


def test_those_who_race_have_the_same_time():
    def advance(slow):
        def one(params, state, gone):
            sum(range(slow))
            return params + 1, state, jnp.asarray(1 / (1 + params))

        return one

    racers = [solvers.Solver(0, None, advance(n), steps=2) for n in (10_000, 100_000)]
    solvers.race(racers, 0.05, lambda params: 1.0)
    assert all(0.05 <= racer.seconds < 0.5 for racer in racers)
    assert racers[0].params > racers[1].params
    assert all(r.seen["steps"] == list(range(2, 2 * r.params + 1, 2)) for r in racers)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"inside": 100}, "natural_gradient: inside must be a power of two, .* got 100; e.g. 128"),
        ({"rates": ()}, "rates must be above 0"),
        ({"seconds": 0}, "seconds must be above 0"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(ValueError, match=words):
        natural_gradient.Settings(**settings)


@pytest.mark.long
def test_a_whole_run(tmp_path):
    settings = natural_gradient.Settings(
        width=8, layers=2, inside=32, edge=8, seconds=3, rates=(0.01,), widths=(8,), repetitions=1
    )
    found = run(natural_gradient, settings, tmp_path / "run")["results"]
    assert all(way["difference"] < 1e-12 for way in found["ways"])
    assert found["parameters"] == 8 * 2 + 8 + 64 + 8 + 8 + 1
    courses = found["courses"]
    assert courses["natural gradient"]["loss"][-1] < 1e-2 * courses["natural gradient"]["loss"][0]
    assert drawn(tmp_path / "run", "errors", "maps")
