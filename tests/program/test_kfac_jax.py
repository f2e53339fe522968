"""Kronecker sums of programs against the factors that kfac_jax estimates, where it is installed.

    pip install kfac-jax

Its factors are means and its cotangents those of the mean loss, ours are sums over the examples'
own. With a bias it takes a one for an input more, whose row of A is what the biases make of it.
"""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxdl
from tests.program.record import N, integers, normal, weights
from tests.program.reference import as_usual

DTYPE, PLACES = jnp.float32, 4 * 4
LABELS = integers(3, N)
# kfac_jax reads names of JAX that JAX calls deprecated
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")


def affine(params, layer, x):
    y = x @ params[f"{layer}_w"]
    return y + params[f"{layer}_b"] if f"{layer}_b" in params else y


def network(params, images):
    """A convolution with stride 2 and two dense layers, on a batch."""
    numbers = ("NHWC", "HWIO", "NHWC")
    h = lax.conv_general_dilated(
        images, params["conv_w"], (2, 2), "SAME", dimension_numbers=numbers
    )
    h = jnp.tanh(h + params["conv_b"] if "conv_b" in params else h)
    h = jnp.tanh(affine(params, "hidden", h.reshape(len(h), -1)))
    return affine(params, "out", h)


def over_positions(params, x):
    """A dense layer at every position, and one on their mean."""
    return affine(params, "out", jnp.tanh(affine(params, "hidden", x)).mean(1))


def made(network_of, biases):
    """The model, its parameters and a batch."""
    if network_of is network:
        shapes: dict[str, Any] = {
            "conv_w": (3, 3, 2, 3),
            "hidden_w": (PLACES * 3, 6),
            "out_w": (6, 3),
        }
        x = normal(DTYPE, N, 8, 8, 2)
    else:
        shapes, x = {"hidden_w": (6, 4), "out_w": (4, 3)}, normal(DTYPE, N, 7, 6)
    if biases:
        shapes |= {name.replace("_w", "_b"): shape[-1] for name, shape in shapes.items()}
    return weights(DTYPE, **shapes), x


@pytest.fixture
def kfac_jax(monkeypatch):
    """The library, with what its release 0.0.8 does not know of JAX 0.10 put right."""
    module = pytest.importorskip("kfac_jax")
    matcher = importlib.import_module("kfac_jax._src.tag_graph_matcher")
    evaluate = matcher.eval_jaxpr_eqn

    def evaluate_equation(eqn, values):
        bound = eqn.primitive.get_bind_params(eqn.params)
        if not isinstance(bound, dict):  # a pair, before JAX 0.10, as kfac_jax unpacks it
            return evaluate(eqn, values)
        made = eqn.primitive.bind(*values, **bound)
        return made if isinstance(made, list) else [made]

    monkeypatch.setattr(matcher, "eval_jaxpr_eqn", evaluate_equation)
    return module


def by_kfac_jax(kfac_jax, network_of, params, x):
    """{name of a weight: (A, D)}, of the empirical Fisher information."""

    def mean_loss(params, batch):
        images, labels = batch
        logits = network_of(params, images)
        kfac_jax.register_softmax_cross_entropy_loss(logits, labels)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
        return -jnp.mean(picked)

    estimator = kfac_jax.BlockDiagonalCurvature(
        mean_loss, default_estimation_mode="fisher_empirical", params_index=0
    )
    arguments = params, (x, LABELS)
    state = estimator.init(jax.random.key(0), arguments, None, None)
    state = estimator.update_curvature_matrix_estimate(
        state, 0.0, 1.0, 0.0, N, jax.random.key(1), arguments
    )
    blocks = [[np.asarray(f.value) for f in block.factors] for block in state.blocks_states]
    used = [name for name in ("conv_w", "hidden_w", "out_w") if name in params]
    return dict(zip(used, blocks, strict=True))  # blocks are in the order of use


@pytest.mark.parametrize("biases", [True, False], ids=["biases", "no biases"])
@pytest.mark.parametrize("network_of", [network, over_positions], ids=lambda f: f.__name__)
def test_sums_are_the_factors_of_kfac_jax(network_of, biases, kfac_jax, x64_off):
    params, x = made(network_of, biases)

    def loss(params, x, label):
        return -jax.nn.log_softmax(network_of(params, x[None])[0])[label]

    with as_usual():
        theirs = by_kfac_jax(kfac_jax, network_of, params, x)
        _, ours = jax.jit(jaxdl.value_and_reduce(loss, jaxdl.kron()))(params, x, LABELS)
    for name, (a, d) in theirs.items():
        places = PLACES if name == "conv_w" else 1
        sums = ours[name]
        m = len(sums.a)
        assert a.shape == (m + biases, m + biases)
        near(sums.a / (N * places), a[:m, :m])
        near(sums.d / (N * N * places), d)
        if biases:
            near(sums.terms / (N * places), a[-1, -1])
            bias = ours[name.replace("_w", "_b")]
            if bias.terms == sums.terms:  # a program's bias of many positions is one term of each
                near(bias.d, sums.d)  # example: the cotangent of the vector before it spreads


def near(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.max(np.abs(want)))
