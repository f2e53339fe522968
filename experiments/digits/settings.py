"""The settings of the digits experiment, and what those are that are not given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from experiments.framework.settings import (
    Above0,
    Checked,
    Count,
    CountOr0,
    Counts,
    NotNegative,
    Share,
)

# Settings that not every choice has: what they are if not given, and with which choice they go.
OPTIONAL: dict[str, tuple[Any, str, str]] = {
    "size": (16, "data", "mnist5k"),
    "channels": ((32, 64), "model", "convnet"),
    "kernel": (3, "model", "convnet"),
}
# Settings that are another for each model, if not given.
BY_MODEL: dict[str, dict[str, Any]] = {
    "convnet": {
        "depth": 1, "dropout": 0.15, "learning_rate": 4e-3, "epochs": 30, "batch": 64,
        "rotation": 10.0,
    },
    "mlp": {
        "depth": 2, "dropout": 0.2, "learning_rate": 2e-3, "epochs": 60, "batch": 32,
        "rotation": 0.0,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Settings(Checked):
    """The parts of the system, each of them a choice."""

    model: Literal["convnet", "mlp"] = "convnet"
    """Stages of convolution and pooling with dense layers behind them, or dense layers alone."""
    data: Literal["digits8", "mnist5k"] = "digits8"
    """scikit-learn's 8×8 digits, or 5,000 MNIST digits cropped and resized."""
    size: Count | None = None
    """Side of the images in pixels, for mnist5k: 16 as in the source, if not given."""
    channels: Counts | None = None
    """Maps in each convolutional stage, for the convnet: 32 and 64, if not given."""
    kernel: Count | None = None
    """Side of the kernels in pixels, for the convnet: 3, if not given."""
    depth: CountOr0 | None = None
    """Hidden dense layers: 1 in the convnet and 2 in the mlp, if not given. With 0 the mlp is
    multinomial regression."""
    width: Count = 128
    """Units in each hidden dense layer."""
    activation: Literal[
        "relu", "leaky_relu", "elu", "sigmoid", "tanh", "softplus", "silu", "gelu", "identity"
    ] = "relu"
    """Behind every convolution and every hidden dense layer."""
    dropout: Share | None = None
    """Share dropped in training, behind every pooling and every hidden dense layer: 0.15 in the
    convnet and 0.2 in the mlp, if not given."""
    init: Literal["he_normal", "glorot_uniform", "lecun_normal", "orthogonal", "small_normal"] = (
        "he_normal"
    )
    """Initial weights."""
    loss: Literal["cross_entropy", "squared_error"] = "cross_entropy"
    """Softmax cross-entropy, or the squared error against one-hot targets."""
    label_smoothing: Share = 0.0
    """Share of each target spread over all classes; for cross-entropy."""
    optimiser: Literal["sgd", "momentum", "rmsprop", "adam", "adamw"] = "adamw"
    """From optax."""
    learning_rate: Above0 | None = None
    """At the top of the schedule: 0.004 for the convnet and 0.002 for the mlp, if not given."""
    schedule: Literal["constant", "cosine", "warmup_cosine"] = "warmup_cosine"
    """Of the learning rate; the warm-up takes a twentieth of the steps."""
    epochs: Count | None = None
    """Passes over the training data: 30 for the convnet and 60 for the mlp, if not given."""
    batch: Count | None = None
    """Examples a step: 64 for the convnet and 32 for the mlp, if not given."""
    standardise: bool = False
    """Scale every pixel to mean 0 and variance 1 over the training data."""
    shift: CountOr0 = 0
    """Most pixels by which a training image is moved at random, down and right."""
    rotation: NotNegative | None = None
    """Most degrees by which a training image is turned at random, to either side: 10 for the
    convnet and 0 for the mlp, if not given."""
    seeds: Count = 5
    """Runs, each with its own initial weights and order of examples."""
    path: Literal["manual", "autodiff"] = "manual"
    """Whose backward pass: written by hand, or jax.grad of the same forward."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, (_, choice, needed) in OPTIONAL.items():
            value, taken = getattr(self, name), getattr(self, choice)
            if value is not None and taken != needed:
                self.refuse(
                    f"{name} goes with {choice} {needed}, got {name} {value} with {choice} "
                    f"{taken}; leave {name} out, or take {choice} {needed}"
                )
        if self.label_smoothing and self.loss != "cross_entropy":
            self.refuse(
                f"label_smoothing goes with loss cross_entropy, got {self.loss}; leave one "
                "of the two out"
            )

    def default_of(self, name: str) -> Any:
        """The default, which is another one for each model."""
        default = super().default_of(name)
        return default_for(self.model, name) if default is None else default


def default_for(model: str, name: str) -> Any:
    """What a setting is for this model if it is not given."""
    return BY_MODEL[model][name] if name in BY_MODEL[model] else OPTIONAL[name][0]


def given(settings: Settings, name: str) -> Any:
    """An optional setting, or its default."""
    value = getattr(settings, name)
    return default_for(settings.model, name) if value is None else value
