"""What `jaxdl.layers.recurrent` is given: sequences, their lengths, states; checked by name."""

from typing import Any

import jax
from jax import Array

from jaxdl.core.padding import zeros_beside
from jaxdl.layers.recurrent_cells import Cell, State
from jaxdl.numerics.checks import check_floating, check_params
from jaxdl.numerics.pytree import describe


def given_state(cell: Cell, state: Any) -> State:
    """The state as a tuple: of an lstm it is the pair (h, c), of others h alone."""
    parts = state if isinstance(state, tuple) else (state,)
    if len(parts) != cell.state or not all(hasattr(part, "shape") for part in parts):
        kind = "the pair (h, c)" if cell.state == 2 else "the array h"
        raise TypeError(f"{cell.name}: the state must be {kind}, got {describe(state)}")
    return parts


def as_given(state: State) -> Any:
    """The state as `given_state` takes it."""
    h, *rest = state
    return state if rest else h


def check_axes(cell: Cell, x: Any) -> None:
    check_floating(cell.name, x)
    if len(x.shape) != 3 or not x.shape[1]:
        raise ValueError(
            f"{cell.name}: x must have axes (examples, steps, features) and at least one step, got "
            f"shape {x.shape}; a single example is x[None]"
        )


def check_input(cell: Cell, params: Any, x: Any, features: int) -> None:
    check_axes(cell, x)
    width = cell.blocks * features
    shapes = {"w_h": (features, width), "b": (width,), "b_h": (width,), "p": (3, features)}
    check_params(cell.name, params, w_x=(None, width), **shapes)
    if x.shape[-1] != params["w_x"].shape[0]:
        raise ValueError(
            f"{cell.name}: x.shape[-1] must equal params['w_x'].shape[0] "
            f"({params['w_x'].shape[0]}), got x.shape == {x.shape}; check the layer before"
        )


def check_state(cell: Cell, state: State | None, x: Array, features: int) -> State:
    shape = (x.shape[0], features)
    if state is None:
        zeros = zeros_beside(jax.ShapeDtypeStruct(shape, x.dtype), x)
        return (zeros,) * cell.state
    for part in state:
        if part.shape != shape or part.dtype != x.dtype:
            raise ValueError(
                f"{cell.name}: the state must have shape {shape} and dtype {x.dtype}, got "
                f"{describe(part)}; give one for each example, of the width of the layer"
            )
    return state
