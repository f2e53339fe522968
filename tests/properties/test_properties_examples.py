"""Reducers of single examples on every line of `cases.py`: against the gradient of each example."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import (
    clipped_sum,
    combine,
    dense,
    flow,
    gradient_noise,
    gram,
    keep,
    kron,
    moments,
    project,
    reduce_kept,
)
from jaxdl.core.factors import Outer
from jaxdl.core.projection import random_sides
from jaxdl.core.reducers import select
from tests.cases import (
    N,
    case_id,
    compiled_example_gradients,
    compiled_manual,
    draw,
    normal,
    planted,
    without_taps,
    wrong_dense,
)
from tests.long import sampled
from tests.properties.test_properties_reducers import WITH_EXAMPLES

assert_close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)
LEAF_CASES = {
    "dense-positions", "layer_norm-positions", "embedding-positions", "self_attention", "conv-flip",
    "locally_connected", "rnn_cell",
}  # fmt: skip
MODEL_CASES = {
    "repeat-repeat", "repeat-tied", "repeat-frozen", "scan_time-repeat", "remat-dropout", "tap",
    "transformer-tied", "scan_time-side",
}  # fmt: skip
"""Enough for every day: a reducer is written for kinds of factors, and test_example_reducers.py has
each of them."""
K, KEY, BOUND = 4, jax.random.key(3), 1.0


def kron_of_vectors(params, factors, slots=None):
    """Of a vector, an example's term is its gradient: Σ ∇ᵢ⊗∇ᵢ."""
    vectors = {name: param for name, param in params.items() if param.ndim == 1}
    made = kron(convention="reduce")(vectors, factors, None)
    return {name: made[name].d if name in made else None for name in params}


in_one_pass = combine(
    moments=moments,
    noise=gradient_noise,
    gram=gram,
    kron=kron_of_vectors,
    project=project(K, KEY),
    clipped=clipped_sum(BOUND, per="parameter"),
    flow=flow,
)


def clip_kept(params, factors):
    return reduce_kept(clipped_sum(BOUND), params, factors)


def clip(gradients, sq_norms):
    """Σᵢ min(1, C/‖∇ᵢ‖)∇ᵢ; sq_norms (N, ...), with axes for the layers of a stack."""
    weights = np.minimum(1, BOUND / np.sqrt(np.maximum(sq_norms, 1e-30)))
    weights = weights.reshape(weights.shape + (1,) * (gradients.ndim - weights.ndim))
    return (weights * gradients).sum(axis=0)


def project_by_hand(gradients, name):
    """P ∇ᵢ Qᵀ of each layer of a stack: (..., N, K)."""
    inner = gradients.shape[1:]
    sides = random_sides(KEY, name, inner, K, gradients.dtype)
    if sides.p is None:
        return gradients.reshape(N, -1) @ np.asarray(sides.q).T
    matrices = gradients.reshape(N, -1, inner[-1])
    return (sides.p @ matrices @ sides.q.T).reshape(N, K)


def check_parameter(name, made, g, param):
    """What the reducers made of one parameter against the gradients (N, layers..., *shape)."""
    layers = made["gram"].shape[:-2]
    apart = g.reshape(N, *layers, -1)
    assert_close(made["moments"].mean, g.mean(axis=0))
    assert_close(made["moments"].second, np.square(g).mean(axis=0))
    assert_close(made["noise"].trace, apart.var(axis=0, ddof=1).sum(axis=-1))
    assert_close(made["gram"], np.einsum("n...p,m...p->...nm", apart, apart))
    if made["kron"] is not None:
        assert_close(made["kron"], np.einsum("n...p,n...q->...pq", apart, apart))
    assert_close(made["clipped"], clip(g, np.square(apart).sum(axis=-1)))
    for field, x in {"gradient": g.sum(axis=0), "weight": np.asarray(param)}.items():
        norms = np.sqrt(np.square(x).reshape(*layers, -1).sum(axis=-1))
        assert_close(getattr(made["flow"], field), norms)
    assert_close(made["flow"].noise.trace, made["noise"].trace)
    stacked = g.reshape(N, -1, *g.shape[1 + len(layers) :])
    by_hand = [project_by_hand(stacked[:, i], name) for i in range(stacked.shape[1])]
    assert_close(made["project"], np.reshape(by_hand, (*layers, N, K)))


def check_parameters(tree, gradients, params, name=""):
    if not isinstance(gradients, dict):
        check_parameter(name, tree, np.asarray(gradients), params)
        return
    for key, part in gradients.items():
        check_parameters({k: made[key] for k, made in tree.items()}, part, params[key], key)


def check_examples(case, reduce=in_one_pass):
    sample = draw(case)
    reduced, _ = compiled_manual(case.layer, reduce)(*sample)
    names = ("moments", "noise", "gram", "kron", "project", "clipped", "flow")
    made = {name: select(reduced, name) for name in names}
    if case.tapped:
        made = {name: without_taps(tree, sample.params) for name, tree in made.items()}
    gradients = compiled_example_gradients(case.layer)(*sample)
    check_parameters(made, gradients, sample.params)


def check_clipped_by_model(case):
    sample = draw(case)
    kept, _ = compiled_manual(case.layer, keep)(*sample)
    got = jax.jit(clip_kept)(sample.params, kept)
    if case.tapped:
        got = without_taps(got, sample.params)
    gradients = jax.tree.map(np.asarray, compiled_example_gradients(case.layer)(*sample))
    leaves = jax.tree.leaves(gradients)
    sq_norms = sum(np.square(g).reshape(N, -1).sum(axis=1) for g in leaves)
    jax.tree.map(assert_close, got, jax.tree.map(lambda g: clip(g, sq_norms), gradients))


@pytest.mark.parametrize("case", sampled(WITH_EXAMPLES, LEAF_CASES | MODEL_CASES, case_id))
def test_examples(case):
    check_examples(case)


@pytest.mark.parametrize("case", sampled(WITH_EXAMPLES, MODEL_CASES, case_id))
def test_clipped_by_model(case):
    check_clipped_by_model(case)


# --- planted bugs -------------------------------------------------------------------------------

ROLLED = planted(
    wrong_dense(
        lambda params, x, dy, factors, dx: (
            factors | {"w": Outer(jnp.roll(x, 1, axis=0), jnp.roll(dy, 1, axis=0))},
            dx,
        )
    )
)
"""The gradient is right, and belongs to other examples."""


def test_examples_out_of_step_are_caught():
    with pytest.raises(AssertionError):
        check_clipped_by_model(ROLLED)
    with pytest.raises(AssertionError):
        check_examples(ROLLED)


WRONG = {
    "moments": lambda made: made | {
        "w": type(made["w"])(made["w"].mean, made["w"].mean ** 2, made["w"].examples)
    },
    "noise": lambda made: made | {"w": made["b"]},
    "kron": lambda made: made | {"b": 2 * made["b"]},
    "gram": lambda made: made | {"w": made["w"] * jnp.eye(N)},
    "project": lambda made: made | {"w": -made["w"]},
    "clipped": lambda made: made | {"w": 0.5 * made["w"]},
    "flow": lambda made: made | {"w": made["b"]},
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_reducer_that_makes_something_else_is_caught(name):
    def reduce(params, factors, slots=None):
        made = in_one_pass(params, factors, slots)
        return type(made)({k: WRONG[k](v) if k == name else v for k, v in made.items()})

    case = planted(dense(3), normal(N, 5, 6))
    check_examples(case)
    with pytest.raises(AssertionError):
        check_examples(case, reduce)
