"""LeNet's training step in four libraries, each in its own usual form."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdl
from jaxdl.models import lenet
from jaxdl.train import init_state, jit_step, make_step

RATE = 1e-3
Sides = dict[str, Callable[[], Any]]


def ours(x: np.ndarray, labels: np.ndarray) -> Sides:
    """The hand-written step, jitted, its state donated."""
    model, tx = lenet(), optax.adam(RATE)
    step = jit_step(make_step(model, jaxdl.softmax_cross_entropy(), tx))
    states, images, target = [init_state(model, tx, x[:1])], jnp.asarray(x), jnp.asarray(labels)

    def call():
        states[0], metrics = step(states[0], images, target)
        return states[0].params, metrics

    return {"jaxdl": call}


def _cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def flax_nnx(x: np.ndarray, labels: np.ndarray) -> Sides:
    """The jitted step of the Flax NNX tutorials."""
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.conv1 = nnx.Conv(1, 6, (5, 5), rngs=rngs)
            self.conv2 = nnx.Conv(6, 16, (5, 5), padding="VALID", rngs=rngs)
            self.dense1 = nnx.Linear(400, 120, rngs=rngs)
            self.dense2 = nnx.Linear(120, 84, rngs=rngs)
            self.dense3 = nnx.Linear(84, 10, rngs=rngs)

        def __call__(self, x):
            x = nnx.max_pool(nnx.relu(self.conv1(x)), (2, 2), (2, 2))
            x = nnx.max_pool(nnx.relu(self.conv2(x)), (2, 2), (2, 2))
            x = nnx.relu(self.dense1(x.reshape(len(x), -1)))
            return self.dense3(nnx.relu(self.dense2(x)))

    model = Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(RATE), wrt=nnx.Param)
    images, target = jnp.asarray(x), jnp.asarray(labels)

    @nnx.jit
    def step(model, optimizer, x, labels):
        value, gradient = nnx.value_and_grad(lambda m: _cross_entropy(m(x), labels))(model)
        optimizer.update(model, gradient)
        return value

    return {"Flax NNX": lambda: step(model, optimizer, images, target)}


def equinox(x: np.ndarray, labels: np.ndarray) -> Sides:
    """The filtered step of the Equinox tutorials, channels first as its layers want them."""
    if importlib.util.find_spec("equinox") is None:
        return {}
    eqx = importlib.import_module("equinox")  # optional: a type checker need not find it
    keys = jax.random.split(jax.random.key(0), 5)
    relu, pool, nn = eqx.nn.Lambda(jax.nn.relu), eqx.nn.MaxPool2d(2, 2), eqx.nn
    model = nn.Sequential(
        [
            nn.Conv2d(1, 6, 5, padding=2, key=keys[0]), relu, pool,
            nn.Conv2d(6, 16, 5, key=keys[1]), relu, pool,
            nn.Lambda(jnp.ravel),
            nn.Linear(400, 120, key=keys[2]), relu,
            nn.Linear(120, 84, key=keys[3]), relu,
            nn.Linear(84, 10, key=keys[4]),
        ]
    )  # fmt: skip
    tx = optax.adam(RATE)
    states = [model, tx.init(eqx.filter(model, eqx.is_array))]
    images, target = jnp.asarray(x.transpose(0, 3, 1, 2)), jnp.asarray(labels)

    @eqx.filter_jit
    def step(model, opt_state, x, labels):
        def objective(model):
            return _cross_entropy(jax.vmap(model)(x), labels)

        value, gradient = eqx.filter_value_and_grad(objective)(model)
        updates, opt_state = tx.update(gradient, opt_state)
        return eqx.apply_updates(model, updates), opt_state, value

    def call():
        states[0], states[1], value = step(*states, images, target)
        return eqx.filter(states[0], eqx.is_array), value

    return {"Equinox": call}


def pytorch(x: np.ndarray, labels: np.ndarray) -> Sides:
    """The step of the PyTorch tutorials."""
    if importlib.util.find_spec("torch") is None:
        return {}
    torch = importlib.import_module("torch")
    nn = torch.nn
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
    optimizer, loss_fn = torch.optim.Adam(model.parameters(), lr=RATE), nn.CrossEntropyLoss()
    images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    target = torch.from_numpy(labels.astype(np.int64))

    def call():
        optimizer.zero_grad()
        loss = loss_fn(model(images), target)
        loss.backward()
        optimizer.step()
        return loss.item()

    return {"PyTorch": call}


def pytorch_pool(x: np.ndarray, dy: np.ndarray) -> Sides:
    """2×2 max pooling forward and backward, in both orders of the axes that PyTorch has."""
    if importlib.util.find_spec("torch") is None:
        return {}
    torch = importlib.import_module("torch")

    def side(form):
        images, cotangent = (
            torch.from_numpy(array.transpose(0, 3, 1, 2).copy()).contiguous(memory_format=form)
            for array in (x, dy)
        )
        images.requires_grad_()

        def call():
            (gradient,) = torch.autograd.grad(
                torch.nn.functional.max_pool2d(images, 2), images, cotangent
            )
            return gradient[0, 0, 0, 0].item()

        return call

    return {
        "PyTorch, channels first": side(torch.contiguous_format),
        "PyTorch, channels last": side(torch.channels_last),
    }
