"""Group and batch norm: against PyTorch and jax.grad, and the statistics that are set from data."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl as jd

RNG = np.random.default_rng(0)
X, DY = RNG.normal(2.0, 3.0, (4, 3, 5, 6)), RNG.normal(size=(4, 3, 5, 6))
KEY = jax.random.key(0)
PARAMS = {"scale": RNG.normal(size=6), "shift": RNG.normal(size=6)}
STATISTICS = {"mean": RNG.normal(size=6), "var": RNG.uniform(0.5, 2, size=6)}
close = chex.assert_trees_all_close


def both_paths(layer, params, x, dy, key=None):
    """Output, gradient and dx by hand, checked against jax.vjp of the same forward."""

    @jax.jit
    def program(params, x, dy):
        y, residuals = layer.fwd(params, x, key)
        by_hand = layer.bwd(params, residuals, dy)
        return y, by_hand, jax.vjp(lambda p, x: layer.apply(p, x, key), params, x)[1](dy)

    y, (gradient, dx), (same, same_dx) = program(params, x, dy)
    close((gradient, dx), (same, same_dx), rtol=1e-10, atol=1e-11)
    return y, gradient, dx


def assert_in_torch(torch, norm, y, gradient, dx):
    """The same from PyTorch, whose channels come second."""
    x, scale, shift = (torch.tensor(a, requires_grad=True) for a in (X, *PARAMS.values()))
    there = norm(x.permute(0, 3, 1, 2), scale, shift).permute(0, 2, 3, 1)
    there.backward(torch.tensor(DY))
    close(np.asarray(y), there.detach().numpy(), rtol=1e-11, atol=1e-11)
    got = gradient["scale"], gradient["shift"], dx
    want = [a.grad.numpy() for a in (scale, shift, x)]
    close(jax.tree.map(np.asarray, got), tuple(want), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_group_norm_is_that_of_pytorch(torch, groups):
    got = both_paths(jd.group_norm(groups), PARAMS, X, DY)
    assert_in_torch(
        torch,
        lambda x, *params: torch.nn.functional.group_norm(x, groups, *params, 1e-5),
        *got,
    )


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_that_of_pytorch(torch, training):
    params = PARAMS | STATISTICS
    y, gradient, dx = both_paths(jd.batch_norm(), params, X, DY, KEY if training else None)
    assert not np.any(gradient["mean"]) and not np.any(gradient["var"])
    mean, var = (torch.tensor(a) for a in STATISTICS.values())
    assert_in_torch(
        torch,
        lambda x, *params: torch.nn.functional.batch_norm(
            x, mean, var, *params, training, eps=1e-5
        ),
        y,
        gradient,
        dx,
    )


def test_group_norm_gives_norms_of_single_examples():
    layer, loss = jd.group_norm(2), jd.half_squared_error()
    run = jax.jit(jd.value_and_grad(layer, loss, reduce=jd.example_sq_norms))
    norms = run(PARAMS, X, DY)[1]
    of_one = jax.jit(jax.grad(lambda p, x, dy: loss(layer.apply(p, x), dy)))
    for i in range(len(X)):
        gradient = of_one(PARAMS, X[i : i + 1], DY[i : i + 1])
        close(
            {k: np.asarray(n)[i] for k, n in norms.items()},
            {k: np.sum(np.asarray(g) ** 2) for k, g in gradient.items()},
        )


def test_batch_norm_in_training_refuses_to_tell_examples_apart():
    layer, loss = jd.batch_norm(), jd.half_squared_error()
    params = jax.tree.map(jnp.asarray, PARAMS | STATISTICS)
    run = jd.value_and_grad(layer, loss, reduce=jd.example_sq_norms)
    with pytest.raises(
        jd.FactorError, match="batch_norm: the reducer needs the examples apart, but this"
    ):
        run(params, X, DY, KEY)
    assert jd.total(run(params, X, DY)[1]).shape == (4,)  # evaluation: each on its own


@pytest.mark.parametrize("wrap", [lambda block: block, lambda block: jd.repeat(block, 3)])
def test_set_statistics_makes_evaluation_what_training_sees(wrap):
    model = wrap(jd.serial(jd.dense(6), jd.batch_norm(), jd.tanh(), jd.dropout(0.5), jd.tap()))
    x = jnp.asarray(X)
    params = jax.jit(model.init)(KEY, x)
    set_from = jax.jit(lambda params: jd.set_statistics(model, params, x))
    new = set_from(params)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, params)
    plain = wrap(jd.serial(jd.dense(6), jd.batch_norm(), jd.tanh(), jd.identity(), jd.tap()))
    # In evaluation by the set statistics = in training, where the batch's own are used.
    evaluated, trained = jax.jit(lambda a, b: (model.apply(a, x), plain.apply(b, x, KEY)))(
        new, params
    )
    close(evaluated, trained, rtol=1e-8, atol=1e-8)
    close(set_from(new), new, rtol=1e-10)


@pytest.mark.parametrize(
    ("make", "x", "text"),
    [
        (
            lambda: jd.group_norm(0),
            None,
            "group_norm: groups must be at least 1 .* got 0 and 1e-05",
        ),
        (lambda: jd.group_norm(2, epsilon=0.0), None, "epsilon above 0, got 2 and 0.0"),
        (
            lambda: jd.batch_norm(epsilon=-1.0),
            None,
            "batch_norm: epsilon must be above 0, got -1.0",
        ),
        (lambda: jd.group_norm(4), X, r"multiple of groups \(4\), got 6; change one"),
        (lambda: jd.group_norm(1), X[0, 0, 0], r"group_norm: x must have axes .* got shape \(6,\)"),
        (jd.batch_norm, X[0, 0, 0], r"batch_norm: x must have axes .* got shape \(6,\)"),
    ],
)
def test_bad_input(make, x, text):
    with pytest.raises(ValueError, match=text):
        make().init(KEY, x)


@pytest.mark.parametrize("layer", [jd.group_norm(2), jd.batch_norm()])
def test_other_channels_than_init_has_seen(layer):
    params = layer.init(KEY, X)
    with pytest.raises(ValueError, match=rf"{layer.name}: .*6 channels.*got shape \(4, 3, 5, 2\)"):
        layer.apply(params, X[..., :2])
