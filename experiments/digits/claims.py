"""What the digits experiment says about the rows of the sources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression

import jaxdl
from experiments.digits.settings import Settings, given
from experiments.digits.training import Trained
from experiments.framework.layers import first_layers, params_of
from experiments.framework.run import Run
from jaxdl.data import Dataset
from jaxdl.train import predict


def unit_against_regression(data: Dataset) -> float:
    """Largest difference between a sigmoid unit and scikit-learn's logistic regression.

    The regression tells 0 from the other digits; its weights are put into the unit.
    """
    x_train, x_test = (x.reshape(len(x), -1) for x in (data.x_train, data.x_test))
    fitted = LogisticRegression(max_iter=1000).fit(x_train, data.y_train == 0)
    unit = jaxdl.serial(jaxdl.dense(1), jaxdl.sigmoid())
    params = {
        "w": jnp.asarray(fitted.coef_.T, jnp.float32),
        "b": jnp.asarray(fitted.intercept_, jnp.float32),
    }
    probability = unit.apply({"dense": params}, jnp.asarray(x_test))[:, 0]
    expected = fitted.predict_proba(x_test)[:, 1]
    return float(np.max(np.abs(np.asarray(probability) - expected)))


def hidden_features(model: jaxdl.Layer, params: Any, data: Dataset) -> Dataset:
    """The data as the last dense layer of a trained network sees it."""
    front, head = model.children
    hidden = first_layers(head, -1)
    before = jaxdl.serial(**{model.names[0]: front, "head": hidden})
    params = params | {"head": params_of(hidden, params["head"])}
    x_train, x_test = (
        np.asarray(predict(before, params, jnp.asarray(x))) for x in (data.x_train, data.x_test)
    )
    return data._replace(name=f"features of {data.name}", x_train=x_train, x_test=x_test)


def report(
    out: Run,
    data: Dataset,
    model: jaxdl.Layer,
    runs: list[Trained],
    dense: list[float] | None,
    bars: dict[str, float],
    settings: Settings,
    regression_accuracy: Callable[[Dataset], float],
) -> None:
    """What this run says about the rows of the sources.

    Args:
      dense: test accuracies of the dense network that a convolutional one is compared with.
      bars: the test accuracy to reach, of either model.
    """
    own = [done.test[-1].accuracy for done in runs]
    params, x = runs[0].last, jnp.asarray(data.x_test)

    unit = unit_against_regression(data)
    out.claim(
        "C1",
        "a unit is a logistic regression: same weights, same probability",
        "difference below 1e-5",
        f"{unit:.1e}",
        unit < 1e-5,
    )
    apply = jax.jit(model.apply)
    together = apply(params, x[:8])
    alone = jnp.concatenate([apply(params, x[i : i + 1]) for i in range(8)])
    difference = float(jnp.max(jnp.abs(together - alone)) / jnp.max(jnp.abs(alone)))
    out.claim(
        "C2",
        f"a whole batch is matrix products, run here on: {jax.devices()[0].device_kind}",
        "equal to one input at a time, to 1e-5",
        f"{difference:.1e}",
        difference < 1e-5,
    )
    side = x.shape[1]
    for row, network, bar, accuracies in (
        ("C3", "dense softmax network", bars["mlp"], own if dense is None else dense),
        ("C5", "convolutional network", bars["convnet"], None if dense is None else own),
    ):
        if accuracies is not None:
            out.claim(
                row,
                f"a {network} reads {side}×{side} digits, mean of {len(accuracies)} seeds",
                f"test accuracy at least {percent(bar)}",
                f"{percent(np.mean(accuracies))} ± {percent(np.std(accuracies))}",
                bool(np.mean(accuracies) >= bar),
            )
    if settings.loss == "cross_entropy":
        batch = given(settings, "batch")
        n = len(data.x_train) // batch * batch
        start, end = n * runs[0].losses[0], n * runs[0].losses[-1]
        out.claim(
            "C6",
            f"cross-entropy summed over the training data falls, with {settings.optimiser} on "
            "gradients from backpropagation",
            "falls",
            f"{start:.1f} over the first epoch, {end:.1f} over the last",
            end < start,
        )
    front, head = model.children
    if len(front.children) or len(head.children) > 1:
        pixels = regression_accuracy(data)
        features = regression_accuracy(hidden_features(model, params, data))
        out.claim(
            "D1",
            "multinomial regression works on pixels, and better on learned features",
            "features above pixels",
            f"{percent(pixels)} on pixels, {percent(features)} on features",
            features > pixels,
        )


def percent(share: Any) -> str:
    """A share for a table."""
    return f"{100 * float(share):.2f} %"
