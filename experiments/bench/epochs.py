"""Whole epochs in one dispatch against the usual training loops of Flax NNX and PyTorch.

The same MLP, optimiser (Adam), batch size and digits. On our side an epoch is one compiled call:
shuffle, gather, forward, backward, update. The other two are the loops of their tutorials: a jitted
`nnx` step a batch with the batch sliced from a shuffled NumPy array; a `DataLoader` with
`optimizer.zero_grad / backward / step`. A fourth side takes our step one dispatch at a time, and
shows how much of the gain is the dispatch. PyTorch is left out where it is not installed.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

import jaxdl
from experiments.framework.run import Run
from experiments.framework.timing import interleave, ratio, show
from jaxdl.data import Dataset, digits8
from jaxdl.models import mlp
from jaxdl.train import init_state, jit_step, make_epoch, make_step

OURS = "jaxdl, an epoch a dispatch"


@dataclass(frozen=True)
class Settings:
    """The network and the number of rounds."""

    width: int = 64
    """Units of the one hidden layer."""
    batch: int = 32
    """Examples a step."""
    learning_rate: float = 1e-3
    """Of Adam."""
    repetitions: int = 20
    """Counted rounds; an epoch of every side each."""


def ours(settings: Settings, data: Dataset) -> dict[str, Callable[[], Any]]:
    """An epoch by one dispatch, and an epoch by a dispatch a step."""
    model, tx = mlp([settings.width, data.classes]), optax.adam(settings.learning_rate)
    step = make_step(model, jaxdl.softmax_cross_entropy(), tx)
    epoch_fn, single = make_epoch(step, batch=settings.batch), jit_step(step)
    x, y = jnp.asarray(data.x_train), jnp.asarray(data.y_train)
    states = [init_state(model, tx, x[:1]) for _ in range(2)]
    random = np.random.default_rng(0)

    def whole():
        states[0], metrics = epoch_fn(states[0], x, y, jnp.asarray(0))
        return metrics

    def stepwise():
        for rows in _batches(random, len(data.x_train), settings.batch):
            states[1], metrics = single(states[1], data.x_train[rows], data.y_train[rows])
        return metrics

    return {OURS: whole, "jaxdl, a step a dispatch": stepwise}


def flax_nnx(settings: Settings, data: Dataset) -> dict[str, Callable[[], Any]]:
    """The loop of the Flax NNX tutorials."""
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(data.x_train.shape[1], settings.width, rngs=rngs)
            self.out = nnx.Linear(settings.width, data.classes, rngs=rngs)

        def __call__(self, x):
            return self.out(nnx.relu(self.hidden(x)))

    model = Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(settings.learning_rate), wrt=nnx.Param)
    random = np.random.default_rng(0)

    @nnx.jit
    def train_step(model, optimizer, x, y):
        def loss_fn(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

        loss, gradient = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, gradient)
        return loss

    def epoch():
        for rows in _batches(random, len(data.x_train), settings.batch):
            loss = train_step(model, optimizer, data.x_train[rows], data.y_train[rows])
        return loss

    return {"Flax NNX": epoch}


def pytorch(settings: Settings, data: Dataset) -> dict[str, Callable[[], Any]]:
    """The loop of the PyTorch tutorials; nothing where PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    torch = importlib.import_module("torch")  # optional: a type checker need not find it
    utils = importlib.import_module("torch.utils.data")

    model = torch.nn.Sequential(
        torch.nn.Linear(data.x_train.shape[1], settings.width),
        torch.nn.ReLU(),
        torch.nn.Linear(settings.width, data.classes),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    loss_fn = torch.nn.CrossEntropyLoss()
    tensors = utils.TensorDataset(
        torch.from_numpy(data.x_train), torch.from_numpy(data.y_train.astype(np.int64))
    )
    loader = utils.DataLoader(tensors, batch_size=settings.batch, shuffle=True, drop_last=True)

    def with_batches(batches):
        for x, y in batches:
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
        return loss.item()

    def sliced():
        order = torch.randperm(len(tensors))
        ends = range(0, len(tensors) - settings.batch + 1, settings.batch)
        x, y = tensors.tensors
        rows = (order[i : i + settings.batch] for i in ends)
        return with_batches((x[r], y[r]) for r in rows)

    return {
        "PyTorch, DataLoader": lambda: with_batches(loader),
        "PyTorch, sliced tensors": sliced,
    }


def _batches(random: np.random.Generator, n: int, batch: int):
    order = random.permutation(n)
    return order[: n // batch * batch].reshape(-1, batch)


def run(settings: Settings, out: Run) -> None:
    """Time an epoch of each side in turn."""
    data = digits8()
    sides = ours(settings, data) | flax_nnx(settings, data) | pytorch(settings, data)
    times = interleave(sides, settings.repetitions, out)
    steps = len(data.x_train) // settings.batch
    ratios = {name: ratio(times, name, OURS) for name in sides}
    out.table(
        f"{steps} steps of {settings.batch} digits, 64-{settings.width}-10, Adam",
        ["side", "steps a second", "time against one dispatch an epoch: median (quartiles)"],
        [[name, f"{steps / np.median(times[name]):,.0f}", show(ratios[name])] for name in sides],
    )
    out.result("steps_per_second", {n: float(steps / np.median(t)) for n, t in times.items()})
    out.result("time_ratios", ratios)
    out.result("seconds_per_epoch", times)
