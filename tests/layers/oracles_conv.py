"""Convolution by SciPy, `jax.lax` and PyTorch: the configurations of `conv` and its transpose."""

import itertools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import signal

import jaxdl as jd
from tests.layers.oracles import (
    Configuration,
    Pairs,
    aborts_xla,
    apart,
    as_pairs,
    channels_last,
    pad_tensor,
    places,
    symmetric,
    tensor,
    torch,
)

# --- the three products of a convolution with SciPy ---------------------------------------------


@dataclass(frozen=True)
class ScipyProducts:
    """Per channel and example; strides, dilation and padding are slices and zeros around it."""

    strides: tuple[int, ...]
    pairs: Pairs
    dilation: tuple[int, ...]
    groups: int = 1
    flip: bool = False

    def _functions(self):
        if len(self.strides) == 2:
            return signal.correlate2d, signal.convolve2d
        return (
            lambda a, b, mode: signal.correlate(a, b, mode, method="direct"),
            lambda a, b, mode: signal.convolve(a, b, mode, method="direct"),
        )

    def _terms(self, c: int, k: int):
        """(channel of x, channel of the kernel, channel of y) that belong together."""
        for group, i, j in itertools.product(range(self.groups), range(c), range(k // self.groups)):
            yield group * c + i, i, group * (k // self.groups) + j

    def _padded(self, x):
        return np.pad(x, [(0, 0), *self.pairs, (0, 0)])

    def forward(self, x, w):
        correlate, convolve = self._functions()
        function, padded, total = convolve if self.flip else correlate, self._padded(x), {}
        steps = tuple(slice(None, None, s) for s in self.strides)
        for i, c, k in self._terms(*w.shape[-2:]):
            spread = apart(w[..., c, k], self.dilation)
            parts = np.stack([function(image[..., i], spread, "valid")[steps] for image in padded])
            total[k] = total.get(k, 0) + parts
        return np.stack([total[k] for k in range(w.shape[-1])], axis=-1)

    def to_input(self, dy, w, space):
        """The adjoint of `forward` in x."""
        correlate, convolve = self._functions()
        function = correlate if self.flip else convolve
        shape = [n + lo + hi for n, (lo, hi) in zip(space, self.pairs, strict=True)]
        padded = np.zeros((len(dy), *shape, w.shape[-2] * self.groups))
        for i, c, k in self._terms(*w.shape[-2:]):
            spread = apart(w[..., c, k], self.dilation)
            for n, image in enumerate(dy):
                part = function(apart(image[..., k], self.strides), spread, "full")
                padded[(n, *map(slice, part.shape), i)] += part
        inside = [slice(lo, lo + n) for n, (lo, _) in zip(space, self.pairs, strict=True)]
        return padded[(slice(None), *inside)]

    def to_kernel(self, x, dy, size):
        """The adjoint of `forward` in w."""
        correlate, _ = self._functions()
        padded, axes = self._padded(x), list(zip(size, self.dilation, strict=True))
        dw = np.zeros((*size, x.shape[-1] // self.groups, dy.shape[-1]))
        for i, c, k in self._terms(*dw.shape[-2:]):
            for image, d in zip(padded, dy, strict=True):
                spread = apart(d[..., k], self.strides)
                used = [
                    slice(n + (s - 1) * q) for n, (s, q) in zip(spread.shape, axes, strict=True)
                ]
                part = correlate(image[(*used, i)], spread, "valid")
                dw[..., c, k] += part[tuple(slice(None, None, q) for q in self.dilation)]
        return dw[(slice(None, None, -1),) * len(size)] if self.flip else dw


# --- convolution --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Convolution(Configuration):
    """Settings of `conv`, `conv_transpose` or `fft_conv`; channels and features are of a group."""

    space: tuple[int, ...]
    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Any
    groups: int = 1
    channels_a_group: int = 1
    features_a_group: int = 1
    examples: int = 1
    flip: bool = False
    use_bias: bool = True
    transposed: bool = False
    fourier: bool = False

    @property
    def channels(self) -> int:
        return self.channels_a_group * self.groups

    @property
    def features(self) -> int:
        return self.features_a_group * self.groups

    @property
    def extent(self) -> tuple[int, ...]:
        return tuple((k - 1) * d + 1 for k, d in zip(self.size, self.dilation, strict=True))

    def layer(self):
        settings: dict[str, Any] = {
            "rank": self.rank, "padding": self.padding, "use_bias": self.use_bias
        }  # fmt: skip
        if not self.transposed:
            settings["flip"] = self.flip
        if self.fourier:
            return jd.fft_conv(self.features, self.size, **settings)
        settings |= {"strides": self.strides, "dilation": self.dilation, "groups": self.groups}
        make = jd.conv_transpose if self.transposed else jd.conv
        return make(self.features, self.size, **settings)

    def params(self):
        if self.transposed:
            w = self.numbers(*self.size, self.features_a_group, self.channels, salt="w")
        else:
            w = self.numbers(*self.size, self.channels_a_group, self.features, salt="w")
        return {"w": w} | ({"b": self.numbers(self.features, salt="b")} if self.use_bias else {})

    @property
    def wide_space(self) -> tuple[int, ...]:
        """The size of the input of a convolution, of the output of a transposed one."""
        if not self.transposed:
            return self.space
        axes = zip(self.space, self.strides, self.extent, strict=True)
        if self.padding == "same":
            return tuple(n * s for n, s, _ in axes)
        pairs = as_pairs(self.padding, self.space, self.strides, self.extent)
        return tuple((n - 1) * s + e - sum(p) for (n, s, e), p in zip(axes, pairs, strict=True))

    @property
    def pairs(self) -> Pairs:
        return as_pairs(self.padding, self.wide_space, self.strides, self.extent)

    def is_beyond_xla(self):
        small = self.space
        if not self.transposed:
            small = places(self.space, self.pairs, self.extent, self.strides)
        return aborts_xla(self.size, self.strides, self.dilation, self.pairs, small)

    def lax(self, params, x):
        letters = "DHW"[-self.rank :]
        padding = self.padding.upper() if self.padding in ("same", "valid") else self.pairs
        w = jnp.flip(params["w"], range(self.rank)) if self.flip else params["w"]

        def convolution(x):
            return lax.conv_general_dilated(
                x,
                w,
                self.strides,
                padding,
                rhs_dilation=self.dilation,
                feature_group_count=self.groups,
                dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
            )

        if self.transposed:
            zero = jnp.zeros((self.examples, *self.wide_space, self.features))
            y = jax.vjp(convolution, zero)[1](x)[0]
        else:
            y = convolution(x)
        return y + params["b"] if self.use_bias else y

    def scipy(self, params, x, dy):
        products = ScipyProducts(self.strides, self.pairs, self.dilation, self.groups, self.flip)
        w = params["w"]
        if self.transposed:
            y, dx = products.to_input(x, w, self.wide_space), products.forward(dy, w)
            gradient = {"w": products.to_kernel(dy, x, self.size)}
        else:
            y, dx = products.forward(x, w), products.to_input(dy, w, self.space)
            gradient = {"w": products.to_kernel(x, dy, self.size)}
        if self.use_bias:
            y, gradient["b"] = y + params["b"], dy.sum(axis=tuple(range(dy.ndim - 1)))
        return y, gradient, dx

    def torch(self, params, x, dy):
        functional, rank = torch.nn.functional, self.rank
        tx = tensor(x, True)
        # kernels (K, C/groups, *size) in both, since ours is always that of the convolution
        turned = np.transpose(params["w"], (rank + 1, rank, *range(rank)))
        tw = torch.tensor(np.ascontiguousarray(turned))
        parts = [tw.requires_grad_()]
        if self.use_bias:
            parts.append(torch.tensor(params["b"]).requires_grad_())
        bias = parts[1] if self.use_bias else None
        used = torch.flip(tw, tuple(range(2, rank + 2))) if self.flip else tw
        settings = {"stride": self.strides, "dilation": self.dilation, "groups": self.groups}
        padding = symmetric(self.pairs)
        if self.transposed:
            there = getattr(functional, f"conv_transpose{rank}d")
            if padding is not None and self.padding != "same":
                y = there(tx, used, bias, padding=padding, **settings)
            else:
                y = there(tx, used, None, **settings)
                cut = []
                for n, have, (lo, _) in zip(self.wide_space, y.shape[2:], self.pairs, strict=True):
                    cut.append((-lo, n + lo - have))
                y = pad_tensor(y, cut)
                if bias is not None:
                    y = y + bias.reshape(-1, *[1] * rank)
        else:
            there = getattr(functional, f"conv{rank}d")
            if self.padding in ("same", "valid") and max(self.strides) == 1:
                settings["padding"], padded = self.padding, tx
            elif padding is not None:
                settings["padding"], padded = padding, tx
            else:
                padded = pad_tensor(tx, self.pairs)
            y = there(padded, used, bias, **settings)
        dx, *gradients = torch.autograd.grad(y, [tx, *parts], tensor(dy))
        gradient = {"w": np.transpose(gradients[0].numpy(), (*range(2, rank + 2), 1, 0))}
        if self.use_bias:
            gradient["b"] = gradients[1].numpy()
        return channels_last(y), gradient, channels_last(dx)
