"""The parts of the digits experiment that its settings choose: data, network, loss, optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

import jaxdl
from experiments.digits.settings import Settings, given
from jaxdl.data import Dataset, augment, digits8, mnist5k
from jaxdl.models import ACTIVATIONS, convnet, mlp

BARS = {  # test accuracy to reach
    ("convnet", "digits8"): 0.985,
    ("convnet", "mnist5k"): 0.975,
    ("mlp", "digits8"): 0.97,
    ("mlp", "mnist5k"): 0.94,
}
INITIALISERS = {
    "he_normal": jax.nn.initializers.he_normal(),
    "glorot_uniform": jax.nn.initializers.glorot_uniform(),
    "lecun_normal": jax.nn.initializers.lecun_normal(),
    "orthogonal": jax.nn.initializers.orthogonal(),
    "small_normal": jax.nn.initializers.normal(0.01),
}
OPTIMISERS = {
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "rmsprop": optax.rmsprop,
    "adam": optax.adam,
    "adamw": optax.adamw,
}


def load(settings: Settings) -> Dataset:
    """Images (N, side, side, 1) in [0, 1]."""
    if settings.data == "digits8":
        return digits8(images=True)
    return mnist5k(given(settings, "size"), images=True)


def build(settings: Settings, classes: int = 10) -> jaxdl.Layer:
    """The network the settings describe: a pair, what comes first, and the `head` behind it."""
    hidden = [settings.width] * given(settings, "depth")
    dropout = given(settings, "dropout")
    activation, w_init = ACTIVATIONS[settings.activation], INITIALISERS[settings.init]
    if settings.model == "mlp":
        widths = [*hidden, classes]
        head = mlp(widths, activation=activation, dropout_rate=dropout, w_init=w_init)
        return jaxdl.serial(jaxdl.flatten(), head=head)
    return convnet(
        given(settings, "channels"),
        classes=classes,
        size=given(settings, "kernel"),
        hidden=hidden,
        activation=activation,
        dropout_rate=dropout,
        w_init=w_init,
    )


def build_loss(settings: Settings) -> jaxdl.Loss:
    """The loss the settings name."""
    if settings.loss == "squared_error":
        return jaxdl.mean_squared_error()
    return jaxdl.softmax_cross_entropy(label_smoothing=settings.label_smoothing)


def build_optimiser(settings: Settings, steps: int) -> optax.GradientTransformation:
    """The optimiser with its schedule over `steps` steps."""
    rate, warmup = given(settings, "learning_rate"), steps // 20
    schedule = {
        "constant": lambda: optax.constant_schedule(rate),
        "cosine": lambda: optax.cosine_decay_schedule(rate, steps),
        "warmup_cosine": lambda: optax.warmup_cosine_decay_schedule(0.0, rate, warmup, steps),
    }[settings.schedule]()
    return OPTIMISERS[settings.optimiser](schedule)


def targets_for(settings: Settings, labels: np.ndarray, classes: int) -> np.ndarray:
    """Labels as the loss wants them: integers, or one-hot rows for the squared error."""
    one_hot = settings.loss == "squared_error"
    return np.eye(classes, dtype=np.float32)[labels] if one_hot else labels


def scaler(settings: Settings, data: Dataset) -> Callable[[Any], Any]:
    """What is done to every image: nothing, or each pixel to mean 0 and variance 1.

    By the statistics of the training data alone.
    """
    if not settings.standardise:
        return lambda x: x
    mean, spread = data.x_train.mean(axis=0), data.x_train.std(axis=0)
    spread = np.where(spread > 0, spread, 1).astype(np.float32)  # some pixels are always white
    return lambda x: (x - mean) / spread


def augmenter(settings: Settings, scale: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """``(key, x) -> x``: a batch turned and moved at random, then scaled."""
    rotation, shift = given(settings, "rotation"), settings.shift

    def one(key, image):
        turn, move = jax.random.split(key)
        if rotation:
            image = augment.random_rotation(turn, image, rotation)
        return augment.random_shift(move, image, shift) if shift else image

    if not (rotation or shift):
        return lambda key, x: scale(x)
    return lambda key, x: scale(augment.batched(one)(key, x))
