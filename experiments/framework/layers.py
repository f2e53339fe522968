"""Parts of a model, and what of its parameters is theirs."""

from __future__ import annotations

from typing import Any

import jaxdl


def first_layers(model: jaxdl.Layer, stop: int) -> jaxdl.Layer:
    """The layers of a serial model up to `stop`, called as they are there; −1 is all but one."""
    pairs = zip(model.names[:stop], model.children[:stop], strict=True)
    return jaxdl.serial(**dict(pairs))


def params_of(part: jaxdl.Layer, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of some layers of a model, out of those of all."""
    return {name: params[name] for name in part.names if name in params}
