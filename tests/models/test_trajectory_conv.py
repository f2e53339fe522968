"""Ten training steps of convolutional models: the losses of Flax + optax from the same weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl as jd
from jaxdl import models
from tests.long import sampled
from tests.models.test_models_conv import FlaxLeNet, FlaxResNet, as_flax
from tests.models.test_trajectory import OPTIMIZERS, STEPS, losses

WIDTHS, BLOCKS, CLASSES = (4, 6), 2, 5


def build(name):
    """(our model, the Flax module, the shape of a batch)."""
    if name == "lenet":
        return models.lenet(), FlaxLeNet(), (16, 14, 14, 1)
    form = name == "resnet_pre"
    norm = partial(jd.group_norm, 2)
    model = models.resnet(BLOCKS, WIDTHS, classes=CLASSES, norm=norm, preactivation=form)
    return model, FlaxResNet(form, WIDTHS, BLOCKS, CLASSES), (16, 9, 8, 2)


@pytest.mark.parametrize(
    "name", sampled(["lenet", "resnet_pre", "resnet_post"], ["lenet", "resnet_pre"])
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_ten_losses_are_those_of_flax_and_optax(name, optimizer):
    model, module, shape = build(name)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS, *shape))  # float64: ten steps with momentum amplify rounding
    batches = list(zip(x, rng.integers(0, CLASSES, (STEPS, shape[0])), strict=True))
    params = jax.jit(model.init)(jax.random.key(0), x[0])
    flax_params = as_flax(model, params)
    assert {p.dtype for p in jax.tree.leaves((params, flax_params))} == {np.dtype("float64")}

    def objective(params, x, labels):
        logits = jnp.asarray(module.apply({"params": params}, x))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    manual = jd.value_and_grad(model, jd.softmax_cross_entropy())
    with jax.numpy_dtype_promotion("standard"):
        shapes = jax.eval_shape(module.init, jax.random.key(0), batches[0][0])["params"]
        assert jax.tree.map(jnp.shape, flax_params) == jax.tree.map(lambda s: s.shape, shapes)
        make = OPTIMIZERS[optimizer]
        expected = losses(jax.value_and_grad(objective), flax_params, batches, make())
        got = losses(manual, params, batches, make())
    assert np.ptp(got) > 0.01  # it moves
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=0)
