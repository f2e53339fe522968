"""Convolution and pooling by implementations that are not ours: SciPy, `jax.lax`, PyTorch.

A configuration holds the settings of one layer and the size of one input. It draws the numbers,
builds our layer, and knows how the others compute the same: `lax` is a forward for `jax.vjp`,
`scipy` and `torch` return (y, dparams, dx), channels last, for a given dy. Its repr is the
expression that makes it again. They are in `oracles_conv` and `oracles_pool`; here is what both
need, and the comparison, in steps: `sample` draws and holds the shapes together, `run` computes
ours and that of `jax.lax` in one program, `check` compares.
"""

import importlib
from collections import Counter
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

try:
    torch: Any = importlib.import_module("torch")
except ModuleNotFoundError:
    torch = None

TOLERANCE = 1e-10
KEY = jax.eval_shape(lambda: jax.random.key(0))
Pairs = list[tuple[int, int]]


def as_pairs(padding, space: Sequence[int], strides, extent) -> Pairs:
    """(before, after) of each axis; where 'same' puts them is for JAX to say."""
    if padding == "valid":
        return [(0, 0)] * len(space)
    if padding == "full":
        return [(e - 1, e - 1) for e in extent]
    if padding == "same":
        return [(lo, hi) for lo, hi in lax.padtype_to_pads(space, extent, strides, "SAME")]
    if isinstance(padding, int):
        return [(padding, padding)] * len(space)
    return [(p, p) if isinstance(p, int) else p for p in padding]


def apart(a: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """Zeros between the numbers, so that they lie `steps` apart."""
    out = np.zeros([(n - 1) * s + 1 for n, s in zip(a.shape, steps, strict=True)])
    out[tuple(slice(None, None, s) for s in steps)] = a
    return out


def tensor(a, requires_grad: bool = False):
    """A tensor with the channels behind the examples."""
    a = np.ascontiguousarray(np.moveaxis(np.asarray(a), -1, 1))
    return torch.tensor(a).requires_grad_(requires_grad)


def channels_last(t) -> np.ndarray:
    return np.moveaxis(t.detach().numpy(), 1, -1)


def pad_tensor(t, pairs: Pairs, value: float = 0.0):
    """Zeros around; less than none cuts off."""
    flat = [p for pair in reversed(pairs) for p in pair]
    return torch.nn.functional.pad(t, flat, value=value) if any(flat) else t


def symmetric(pairs: Pairs) -> list[int] | None:
    """One number an axis, where before and after are the same."""
    return [lo for lo, _ in pairs] if all(lo == hi for lo, hi in pairs) else None


def places(space, pairs: Pairs, extent, strides) -> list[int]:
    """How many places a window takes along each axis."""
    axes = zip(space, pairs, extent, strides, strict=True)
    return [(n + lo + hi - e) // s + 1 for n, (lo, hi), e, s in axes]


def aborts_xla(size, strides, dilation, pairs: Pairs, small: Sequence[int]) -> bool:
    """Whether XLA ends the process, on the CPU in float64 (JAX 0.10 and 0.12).

    In a convolution over spread-out input, as the gradient of the input is, it exchanges input
    and kernel where the kernel is larger, and takes an axis of kernel 2 and stride 2 with nothing
    around it for one of groups. More are refused here than must be.
    """
    axes = zip(size, strides, dilation, pairs, strict=True)
    taken = [k == s == 2 and d == lo == 1 for k, s, d, (lo, _) in axes]
    larger = [k > n for k, n in zip(size, small, strict=True)]
    return any(taken) and any(b and not a for a, b in zip(taken, larger, strict=True))


class Configuration:
    """What the dataclasses below have in common."""

    ties = False

    @property
    def rank(self) -> int:
        return len(self.space)  # type: ignore[attr-defined]

    def numbers(self, *shape: int, salt: str = "", whole: bool = False) -> np.ndarray:
        """Drawn from the configuration alone, so that one can be run again."""
        rng = np.random.default_rng(crc32((repr(self) + salt).encode()))
        return rng.integers(-2, 3, shape).astype(float) if whole else rng.normal(size=shape)

    def params(self) -> dict[str, np.ndarray]:
        return {}

    def x(self) -> np.ndarray:
        c: Any = self
        return self.numbers(c.examples, *c.space, c.channels, whole=self.ties)

    def is_beyond_xla(self) -> bool:
        return False

    def scipy(self, params, x, dy):
        return None

    def torch(self, params, x, dy):
        return None


# --- the comparison -----------------------------------------------------------------------------


def compare(configurations):
    """Raise AssertionError where a layer differs; else how often each of the others was asked."""
    layers = [c.layer() for c in configurations]
    asked = Counter()
    for c, computed in zip(configurations, run(configurations, layers), strict=True):
        asked.update(check(c, *computed))
    return asked


def sample(c, layer):
    """Parameters, input and dy, once the layer has the shapes that the configuration says."""
    params, x = c.params(), c.x()
    shapes = jax.tree.map(jnp.shape, (params, jax.eval_shape(c.lax, params, x)))
    got = jax.tree.map(
        jnp.shape, (jax.eval_shape(layer.init, KEY, x), jax.eval_shape(layer.apply, params, x))
    )
    assert got == shapes, f"shapes of parameters and output: got {got}, not {shapes}, in {c}"
    return params, x, c.numbers(*shapes[1], salt="dy")


def run(configurations, layers):
    """For each: its sample, and (y, dparams, dx) of the layer and of `jax.lax`."""
    samples = [sample(c, layer) for c, layer in zip(configurations, layers, strict=True)]

    def program(samples):
        results = []
        for c, layer, (params, x, dy) in zip(configurations, layers, samples, strict=True):
            y, residuals = layer.fwd(params, x)
            ours = (y, *layer.bwd(params, residuals, dy))
            y, pullback = jax.vjp(c.lax, params, x)
            results.append((ours, (y, *pullback(dy))))
        return results

    results = jax.device_get(jax.jit(program)(samples))
    return [(drawn, *both) for drawn, both in zip(samples, results, strict=True)]


def check(c, drawn, ours, by_lax):
    """Raise AssertionError where ours differs; else who was asked."""
    others = {"jax.lax": by_lax, "SciPy": c.scipy(*drawn)}
    if torch is not None:
        others["PyTorch"] = c.torch(*drawn)
    others = {name: theirs for name, theirs in others.items() if theirs is not None}
    for name, theirs in others.items():
        assert_same(ours, theirs, f"differs from {name} in {c}")
    return list(others)


def assert_same(ours, theirs, text):
    for what, got, want in zip(("y", "dparams", "dx"), ours, theirs, strict=True):
        got, want = (v if isinstance(v, dict) else {"": v} for v in (got, want))
        assert got.keys() == want.keys(), f"{what} {text}: it is {got}"
        for part in want:
            have, wanted = ((a.shape, a.dtype) for a in (got[part], want[part]))
            assert have == wanted, f"{what} {part} {text}: {have}, not {wanted}"
            np.testing.assert_allclose(
                got[part], want[part], rtol=TOLERANCE, atol=TOLERANCE,
                err_msg=f"{what} {part} {text}",
            )  # fmt: skip
