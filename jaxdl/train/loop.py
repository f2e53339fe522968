"""Whole epochs in one dispatch, for data that fits on the device."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jaxdl.core.identity import made_once
from jaxdl.train.step import Step, TrainState

# Keep shuffles and augmentation apart from the keys of steps, which fold small numbers into the
# same key.
_EPOCH_STREAM = 0x65706F63
_AUGMENT_STREAM = 0x6175676D


class NonFiniteLossError(FloatingPointError):
    """The loss became NaN or infinite; training stopped there.

    Attributes:
      epoch: the epoch in which it happened, from 0.
      losses: the loss of every step of that epoch.
    """

    def __init__(self, message: str, epoch: int, losses: np.ndarray):
        super().__init__(message)
        self.epoch = epoch
        self.losses = losses


def epoch_indices(key: Array, epoch: Any, n: int, batch: int) -> Array:
    """The order of an epoch as a pure function: int32 (n // batch, batch), a fresh shuffle.

    Each example comes at most once; the n % batch examples left over differ from epoch to epoch.

    Raises:
      ValueError: `batch` is not in 1 ... n.
    """
    if not 1 <= batch <= n:
        raise ValueError(
            f"epoch_indices: batch must be in 1 ... {n} (the number of examples), got {batch}; "
            "take a smaller batch"
        )
    stream = jax.random.fold_in(jax.random.fold_in(key, _EPOCH_STREAM), epoch)
    steps = n // batch
    return jax.random.permutation(stream, n)[: steps * batch].reshape(steps, batch)


@made_once
def make_epoch(
    step: Step,
    *,
    batch: int,
    prepare: Callable[[Array], Array] = lambda x: x,
    augment: Callable[[Array, Array], Array] | None = None,
) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
    """``(state, x, target, epoch) -> (state, metrics)``, one compiled call an epoch.

    Args:
      step: from `make_step`.
      batch: examples a step.
      prepare: applied to the inputs of a batch inside the step; keep pixels as uint8 on the
        device and scale them here.
      augment: ``(key, x) -> x`` on the prepared inputs of a batch, with a key of its own for
        every step; e.g. ``batched(partial(random_shift, most=1))`` of `jaxdl.data.augment`.

    The returned function is jitted and donates the state. `x` and `target` hold all examples
    on their first axis. The metrics of all steps come back stacked.
    """

    def run(state: TrainState, x: Array, target: Array, epoch: Any):
        if len(x) != len(target):
            raise ValueError(
                f"make_epoch: x and target must have equally many examples, got {len(x)} and "
                f"{len(target)}; check how they were split"
            )
        stream = jax.random.fold_in(state.key, _AUGMENT_STREAM)

        def one(state: TrainState, rows: Array):
            inputs = prepare(x[rows])
            if augment is not None:
                inputs = augment(jax.random.fold_in(stream, state.step), inputs)
            return step(state, inputs, target[rows])

        return lax.scan(one, state, epoch_indices(state.key, epoch, len(x), batch))

    return jax.jit(run, donate_argnums=0)


def train(
    epoch_fn: Callable[..., tuple[TrainState, dict[str, Any]]],
    state: TrainState,
    x: ArrayLike,
    target: ArrayLike,
    epochs: int,
) -> Iterator[tuple[TrainState, dict[str, np.ndarray]]]:
    """Run epochs one after the other; yield the state and the metrics (NumPy) after each.

    A state is valid until the next is asked for: its buffers are donated to the next epoch, also
    to one that fails. `jax.device_get(state.params)` keeps the last good parameters.

    Raises:
      NonFiniteLossError: a loss was NaN or infinite; the error carries that epoch's losses.
    """
    x, target = jnp.asarray(x), jnp.asarray(target)
    for epoch in range(epochs):
        state, metrics = epoch_fn(state, x, target, epoch)
        metrics = jax.device_get(metrics)
        check_finite(metrics["loss"], epoch)
        yield state, metrics


def check_finite(losses: np.ndarray, epoch: int) -> None:
    """Raise NonFiniteLossError naming the first step of the epoch whose loss is not finite."""
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        raise NonFiniteLossError(
            f"train: the loss must be finite, got {losses[bad[0]]} at step {bad[0]} of epoch "
            f"{epoch}; lower the learning rate or clip gradients (optax.clip_by_global_norm), "
            "check the labels, or run with jax.debug_nans(True) to find the line",
            epoch,
            losses,
        )
