"""Pooling by SciPy, `jax.lax` and PyTorch: the configurations of all pools."""

import itertools
from dataclasses import dataclass
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.signal import windows

import jaxdl as jd
from tests.layers import oracles
from tests.layers.oracles_conv import ScipyProducts


@dataclass(frozen=True)
class Pool(oracles.Configuration):
    """Settings of a pool with sliding windows; `extra` is p of the norm, or the spread."""

    kind: str
    space: tuple[int, ...]
    size: tuple[int, ...]
    strides: tuple[int, ...] | None
    padding: Any
    ceil: bool = False
    channels: int = 1
    examples: int = 1
    ties: bool = False
    extra: float = 2.0

    def layer(self):
        place = {
            "rank": self.rank,
            "strides": self.strides,
            "padding": self.padding,
            "ceil": self.ceil,
        }
        if self.kind == "max":
            return jd.max_pool(self.size, **place)
        if self.kind == "lp":
            return jd.lp_pool(self.size, p=self.extra, **place)
        if self.kind == "weighted":
            return jd.weighted_pool(self.size, spread=self.extra, **place)
        counted = self.kind == "average, counted"
        return jd.average_pool(self.size, count_padding=counted, **place)

    @property
    def steps(self) -> tuple[int, ...]:
        return self.size if self.strides is None else self.strides

    @property
    def asked(self) -> oracles.Pairs:
        return oracles.as_pairs(self.padding, self.space, self.steps, self.size)

    @property
    def pairs(self) -> oracles.Pairs:
        """With what `ceil` needs behind: a window may stand out if it begins inside the input."""
        if not self.ceil:
            return self.asked
        pairs = []
        for n, k, s, (lo, hi) in zip(self.space, self.size, self.steps, self.asked, strict=True):
            last = 0
            while last + k < n + lo + hi and last + s < n + lo:
                last += s
            pairs.append((lo, max(hi, last + k - n - lo)))
        return pairs

    def is_beyond_xla(self):
        if self.kind != "weighted":
            return False
        small = oracles.places(self.space, self.pairs, self.size, self.steps)
        return oracles.aborts_xla(self.size, self.steps, (1,) * self.rank, self.pairs, small)

    def weights(self):
        """Of a Gaussian, as the kernel of a convolution that keeps channels apart."""
        w = np.ones(())
        for k in self.size:
            w = w[..., None] * windows.gaussian(k, self.extra)
        return np.repeat((w / w.sum())[..., None, None], self.channels, axis=-1)

    def counting(self) -> np.ndarray:
        """1 for places that count in a mean, with the padding around them; one channel."""
        ones = np.ones(self.space)
        ones = np.pad(ones, self.asked, constant_values=float(self.kind == "average, counted"))
        more = [(0, hi - h) for (_, hi), (_, h) in zip(self.pairs, self.asked, strict=True)]
        return np.pad(ones, more)[None, ..., None]

    def lax(self, params, x):
        def window(x, start, function, padding):
            size, steps = (1, *self.size, 1), (1, *self.steps, 1)
            return lax.reduce_window(x, start, function, size, steps, padding)

        padding = [(0, 0), *self.pairs, (0, 0)]
        if self.kind == "max":
            return window(x, -jnp.inf, lax.max, padding)
        if self.kind == "lp":
            return window(jnp.abs(x) ** self.extra, 0.0, lax.add, padding) ** (1 / self.extra)
        if self.kind == "weighted":
            letters = "DHW"[-self.rank :]
            return lax.conv_general_dilated(
                x,
                jnp.asarray(self.weights()),
                self.steps,
                self.pairs,
                feature_group_count=self.channels,
                dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
            )
        count = window(jnp.asarray(self.counting()), 0.0, lax.add, "VALID")
        return window(x, 0.0, lax.add, padding) / count

    def scipy(self, params, x, dy):
        if self.kind != "weighted":
            return None
        ones = (1,) * self.rank
        products = ScipyProducts(self.steps, self.pairs, ones, self.channels)
        w = self.weights()
        return products.forward(x, w), {}, products.to_input(dy, w, self.space)

    def torch(self, params, x, dy):
        functional, rank = oracles.torch.nn.functional, self.rank
        tx = oracles.tensor(x, True)
        native = oracles.symmetric(self.asked)
        fits = all(
            2 * p <= k <= n for p, k, n in zip(native or (), self.size, self.space, strict=False)
        )
        if not fits:
            native = None
        if self.kind == "max":
            pool = getattr(functional, f"max_pool{rank}d")
            if native is not None:
                y = pool(tx, self.size, self.steps, native, ceil_mode=self.ceil)
            else:
                y = pool(oracles.pad_tensor(tx, self.pairs, -np.inf), self.size, self.steps)
        elif self.kind == "lp":
            size, steps = (self.size[0], self.steps[0]) if rank == 1 else (self.size, self.steps)
            pool = getattr(functional, f"lp_pool{rank}d")
            # theirs has no absolute value inside
            y = pool(oracles.pad_tensor(tx.abs(), self.pairs), self.extra, size, steps)
        elif self.kind == "weighted":
            kernel = oracles.torch.tensor(np.moveaxis(self.weights(), (-1, -2), (0, 1)))
            padded = oracles.pad_tensor(tx, self.pairs)
            there = getattr(functional, f"conv{rank}d")
            y = there(padded, kernel, stride=self.steps, groups=self.channels)
        else:
            pool = getattr(functional, f"avg_pool{rank}d")
            if native is not None:
                y = pool(
                    tx, self.size, self.steps, native, ceil_mode=self.ceil,
                    count_include_pad=self.kind == "average, counted",
                )  # fmt: skip
            else:
                share = pool(oracles.tensor(self.counting()), self.size, self.steps)
                y = pool(oracles.pad_tensor(tx, self.pairs), self.size, self.steps) / share
        (dx,) = oracles.torch.autograd.grad(y, [tx], oracles.tensor(dy))
        return oracles.channels_last(y), {}, oracles.channels_last(dx)


@dataclass(frozen=True)
class Adaptive(oracles.Configuration):
    """Settings of `adaptive_pool`."""

    kind: str
    space: tuple[int, ...]
    out: tuple[int, ...]
    channels: int = 1
    examples: int = 1
    ties: bool = False

    def layer(self):
        return jd.adaptive_pool(self.out, rank=self.rank, kind=self.kind)  # type: ignore[arg-type]

    def lax(self, params, x):
        bounds = [
            [(int(np.floor(i * n / m)), int(np.ceil((i + 1) * n / m))) for i in range(m)]
            for n, m in zip(self.space, self.out, strict=True)
        ]
        start, function = (-jnp.inf, lax.max) if self.kind == "max" else (0.0, lax.add)
        parts = []
        for region in itertools.product(*bounds):
            part = x[(slice(None), *(slice(*b) for b in region))]
            size = part.shape[1:-1]
            y = lax.reduce_window(part, start, function, (1, *size, 1), (1,) * x.ndim, "VALID")
            parts.append(y if self.kind == "max" else y / prod(size))
        return jnp.stack(parts, axis=1).reshape(len(x), *self.out, x.shape[-1])

    def torch(self, params, x, dy):
        name = "max" if self.kind == "max" else "avg"
        tx = oracles.tensor(x, True)
        y = getattr(oracles.torch.nn.functional, f"adaptive_{name}_pool{self.rank}d")(tx, self.out)
        (dx,) = oracles.torch.autograd.grad(y, [tx], oracles.tensor(dy))
        return oracles.channels_last(y), {}, oracles.channels_last(dx)
