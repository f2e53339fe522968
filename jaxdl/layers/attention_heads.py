"""What self-attention and cross-attention have in common: heads, settings, side inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxdl.core.identity import SameByParts
from jaxdl.core.side import like_side
from jaxdl.layers.attention_core import Settings
from jaxdl.layers.attention_side import check_reads
from jaxdl.numerics.checks import check_floating


@dataclass(frozen=True, eq=False)
class Heads(SameByParts):
    """The sizes of the heads, and what is done to them.

    Attributes:
      name: of the layer.
      heads, kv_heads: how many of queries, and of keys and values.
      features: of one head; None: as many as x has, divided among the heads.
      rotary: the base of rotary positions; None: there are none.
      core: of the attention itself.
      reads: which entries of the side input are read.
    """

    name: str
    heads: int
    kv_heads: int
    features: int | None
    rotary: float | None
    core: Settings
    reads: tuple[str, ...]

    def width(self, x: Any) -> int:
        """The features of one head.

        Raises:
          ValueError: the heads do not divide those of x; an odd number, with rotary positions.
        """
        h = self._width(x)
        if self.rotary is not None and h % 2:
            raise ValueError(
                f"{self.name}: rotary positions turn pairs of features: a head must have an even "
                f"number of them, got {h}; change heads or head_features"
            )
        return h

    def _width(self, x: Any) -> int:
        if self.features is not None:
            return self.features
        if x.shape[-1] % self.heads:
            raise ValueError(
                f"{self.name}: x.shape[-1] must be a multiple of heads ({self.heads}), got x.shape "
                f"== {x.shape}; change heads, or give head_features"
            )
        return x.shape[-1] // self.heads


def check_sequence(name: str, what: str, x: Any) -> None:
    check_floating(name, x)
    if len(x.shape) < 2:
        raise ValueError(
            f"{name}: {what} must have axes (..., positions, features), got shape {x.shape}; add "
            "the axis of positions"
        )


def split_heads(x: Array, widths: Sequence[int], h: int) -> list[Array]:
    """The last axis in parts of so many heads, and all axes before the positions as one."""
    at = [h * sum(widths[: i + 1]) for i in range(len(widths) - 1)]
    x = x.reshape(-1, *x.shape[-2:])
    parts = jnp.split(x, at, axis=-1)
    return [part.reshape(*part.shape[:-1], n, h) for part, n in zip(parts, widths, strict=True)]


def affine(x: Array, params: Any, w: str, b: str) -> Array:
    return x @ params[w].astype(x.dtype) + params[b].astype(x.dtype)


def side_cotangent(side: Any, dbias: Array | None, **others: Array) -> Any:
    dside = like_side(None, side)
    read = others if dbias is None else others | {"bias": dbias}
    return dside | read if read else dside


def checked(s: Heads) -> Heads:
    if s.heads < 1 or (s.features is not None and s.features < 1):
        raise ValueError(
            f"{s.name}: heads and head_features must be at least 1, got {s.heads} and "
            f"{s.features}; a usual head has 64 features"
        )
    if s.kv_heads < 1 or s.heads % s.kv_heads:
        raise ValueError(
            f"{s.name}: kv_heads must divide heads ({s.heads}), got {s.kv_heads}; each of them is "
            "shared by as many heads of queries"
        )
    if s.rotary is not None and not s.rotary > 0:
        raise ValueError(f"{s.name}: rotary is a base and must be above 0, got {s.rotary}")
    core = s.core
    if core.window is not None and core.window < 1:
        raise ValueError(f"{s.name}: window must be at least 1 position, got {core.window}")
    if core.soft_cap is not None and not core.soft_cap > 0:
        raise ValueError(f"{s.name}: soft_cap must be above 0, got {core.soft_cap}; None is none")
    if not 0 <= core.dropout < 1:
        raise ValueError(
            f"{s.name}: dropout is the fraction dropped and must be in [0, 1), got {core.dropout}"
        )
    check_reads(s.name, s.reads)
    return s


def said_of(s: Heads) -> str:
    said = [str(s.heads)]
    said += [f"kv_heads={s.kv_heads}"] if s.kv_heads != s.heads else []
    said += ["causal"] if s.core.causal else []
    for name in ("window", "soft_cap"):
        value = getattr(s.core, name)
        said += [f"{name}={value}"] if value is not None else []
    said += ["rotary"] if s.rotary is not None else []
    return ", ".join([*said, *s.reads])
