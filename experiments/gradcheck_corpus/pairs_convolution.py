"""Rules of convolution and its kin: kernels, strides, dilation, padding, resizing."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.gradcheck_corpus.kinds import Mistake, Pair, Rule
from experiments.gradcheck_corpus.pairs_tools import kept, normals, of


def _places(length, size, stride=1, dilation=1):
    """(output, tap): which entry of the input each tap of the window reads."""
    count = (length - dilation * (size - 1) - 1) // stride + 1
    return stride * np.arange(count)[:, None] + dilation * np.arange(size)


def _conv_with(stride=1, dilation=1, groups=1, dx_places=None, dw_places=None, how="add",
               dx_kernel=lambda w: w, dw_slice=lambda x: x, in_groups=None) -> Rule:  # fmt: skip
    """x (n, length, channels) and w (size, channels / groups, features), without padding."""

    def split(x, g=groups):
        return x.reshape(*x.shape[:-1], g, -1)

    def conv(x, w):
        rows = split(x)[:, _places(x.shape[1], len(w), stride, dilation)]
        return jnp.einsum("notgc,tcgk->nogk", rows, split(w)).reshape(
            len(x), -1, w.shape[-1]
        )  # fmt: skip

    def bwd(x, w, g):
        right = _places(x.shape[1], len(w), stride, dilation)
        to = right if dx_places is None else dx_places(x.shape[1], len(w), len(right))
        read = right if dw_places is None else dw_places(x.shape[1], len(w), len(right))
        g = split(g)
        rows = jnp.einsum("nogk,tcgk->notgc", g, split(dx_kernel(w)))
        at = split(jnp.zeros_like(x)).at[:, to]
        dx = (at.add(rows) if how == "add" else at.set(rows)).reshape(x.shape)
        dw = jnp.einsum("notgc,nogk->tcgk", split(dw_slice(x))[:, read], g)
        if in_groups:  # features in the other order of groups
            dw = dw.swapaxes(2, 3)
        return dx, dw.reshape(w.shape)

    return kept(conv, bwd)


CONV = Pair(
    "convolution", _conv_with(), normals((2, 9, 3), (3, 3, 4)),
    {
        "kernel not turned round": Mistake(_conv_with(dx_kernel=lambda w: w[::-1]), "args[0]"),
        "overlaps overwritten": Mistake(_conv_with(how="set"), "args[0]"),
        "channels swapped": Mistake(
            _conv_with(dx_kernel=lambda w: jnp.roll(w, 1, 1)), "args[0]",
            "shifted by 1 along axis 2",
        ),
        "first image alone": Mistake(
            _conv_with(dw_slice=lambda x: x.at[1:].set(0)), "args[1]"
        ),
        "taps turned round": Mistake(
            _conv_with(dw_places=lambda n, k, o: _places(n, k)[:, ::-1]), "args[1]",
            "turned round along axis 0",
        ),
    },
)  # fmt: skip
STRIDED = Pair(
    "strided convolution", _conv_with(stride=2), normals((2, 10, 2), (3, 2, 3)),
    {
        "stride forgotten": Mistake(
            _conv_with(stride=2, dx_places=lambda n, k, o: _places(n, k)[:o]), "args[0]"
        ),
        "off by one": Mistake(
            _conv_with(stride=2, dx_places=lambda n, k, o: _places(n, k, 2) + 1), "args[0]",
            "shifted by 1 along axis 1",
        ),
        "off by one for the kernel": Mistake(
            _conv_with(stride=2, dw_places=lambda n, k, o: _places(n, k, 2) + 1), "args[1]"
        ),
    },
)  # fmt: skip
DILATED = Pair(
    "dilated convolution", _conv_with(dilation=2), normals((2, 9, 2), (3, 2, 3)),
    {
        "dilation forgotten": Mistake(
            _conv_with(dilation=2, dx_places=lambda n, k, o: _places(n, k)[:o]), "args[0]"
        ),
        "padding off by one": Mistake(
            _conv_with(
                dilation=2, dx_places=lambda n, k, o: np.maximum(_places(n, k, 1, 2) - 1, 0)
            ),
            "args[0]", source="jax#563",
        ),
        "dilation forgotten for the kernel": Mistake(
            _conv_with(dilation=2, dw_places=lambda n, k, o: _places(n, k)[:o]), "args[1]"
        ),
    },
)  # fmt: skip
GROUPED = Pair(
    "grouped, strided convolution", _conv_with(stride=2, groups=2), normals((2, 9, 4), (3, 2, 4)),
    {
        "groups and features swapped": Mistake(
            _conv_with(stride=2, groups=2, in_groups=True), "args[1]", source="mlx#3800"
        ),
        "stride forgotten for the kernel": Mistake(
            _conv_with(stride=2, groups=2, dw_places=lambda n, k, o: _places(n, k)[:o]), "args[1]",
            source="mlx#3800",
        ),
    },
)  # fmt: skip


# --- two dimensions -----------------------------------------------------------------------------


def _patches(x, size=3):
    """(height, width) padded by 1 to (height, width, size, size)."""
    rows = np.arange(x.shape[0])[:, None, None, None] + np.arange(size)[:, None]
    columns = np.arange(x.shape[1])[:, None, None] + np.arange(size)
    return jnp.pad(x, 1)[rows, columns]


def _image(x, w, b):
    return jnp.einsum("ijuv,uv->ij", _patches(x), w) + b


def _image_with(flip=(0, 1), turn=False, db=lambda g: g.sum(), inside=False):
    def bwd(x, w, b, g):
        dx = jnp.einsum("ijuv,uv->ij", _patches(g), jnp.flip(w, flip))
        inner = g.at[0].set(0).at[-1].set(0) if inside else g
        dw = jnp.einsum("ijuv,ij->vu" if turn else "ijuv,ij->uv", _patches(x), inner)
        return dx, dw, db(g)

    return kept(_image, bwd)


IMAGE = Pair(
    "filter of an image", _image_with(), normals((6, 7), (3, 3), ()),
    {
        "filter not turned round": Mistake(_image_with(flip=()), "args[0]"),
        "filter turned along one axis": Mistake(_image_with(flip=(1,)), "args[0]"),
        "filter transposed": Mistake(
            _image_with(turn=True), "args[1]", r"the right gradient transposed, axes \(1, 0\)"
        ),
        "mean over places": Mistake(_image_with(db=lambda g: g.mean()), "args[2]"),
        "border left out": Mistake(_image_with(inside=True), "args[1]"),
    },
)  # fmt: skip

# --- resizing -----------------------------------------------------------------------------------


def _nearest(x):
    return jnp.repeat(x, 3, -1)


NEAREST = Pair(
    "repeated entries", of(_nearest, lambda x, g: g.reshape(*x.shape, 3).sum(-1)), normals((4, 5)),
    {
        "mean for sum": Mistake(
            of(_nearest, lambda x, g: g.reshape(*x.shape, 3).mean(-1)),
            diagnosis=r"0\.333333333 times the right gradient",
        ),
        "every third": Mistake(of(_nearest, lambda x, g: g[..., ::3])),
        "tiled for repeated": Mistake(
            of(_nearest, lambda x, g: g.reshape(len(x), 3, -1).sum(1)),
        ),
    },
)  # fmt: skip


def _linear(x):
    """Twice as long, new entries half-way between the old; the last one repeated."""
    later = jnp.concatenate([x[1:], x[-1:]])
    return jnp.stack([x, (x + later) / 2], 1).reshape(-1)


def _linear_with(edge=True, half=0.5):
    def bwd(x, g):
        own, between = g[::2], g[1::2]
        dx = own + half * between
        dx = dx.at[1:].add(half * between[:-1])
        return (dx.at[-1].add(half * between[-1]) if edge else dx,)

    return kept(_linear, bwd)


LINEAR = Pair(
    "linear interpolation", _linear_with(), normals((7,)),
    {
        "last entry's edge": Mistake(
            _linear_with(edge=False), diagnosis=r"6 of 7 entries agree; wrong: \[6:7\] of axis 0"
        ),
        "weights of 1": Mistake(_linear_with(half=1.0)),
    },
)  # fmt: skip


def _outside(length, mode: Any = "reflect"):
    """Which entry each place of the padded array has, two more on both sides."""
    return np.pad(np.arange(length), 2, mode=mode)


def _reflected(x):
    return x[:, _outside(x.shape[1])]


def _reflected_with(mode="reflect"):
    return of(_reflected, lambda x, g: jnp.zeros_like(x).at[:, _outside(x.shape[1], mode)].add(g))


REFLECTED = Pair(
    "reflected padding", _reflected_with(), normals((3, 8)),
    {
        "padding cut off": Mistake(of(_reflected, lambda x, g: g[:, 2:-2])),
        "padding wrapped": Mistake(_reflected_with("wrap")),
        "as symmetric padding": Mistake(_reflected_with("symmetric")),
    },
)  # fmt: skip


def _shuffled(x):
    """(h, w, 4) to (2h, 2w): pixels from channels."""
    h, w, _ = x.shape
    return x.reshape(h, w, 2, 2).transpose(0, 2, 1, 3).reshape(2 * h, 2 * w)


def _shuffled_with(order=(0, 2, 1, 3)):
    return kept(_shuffled, lambda x, g: (
        g.reshape(x.shape[0], 2, x.shape[1], 2).transpose(order).reshape(x.shape),))  # fmt: skip


SHUFFLED = Pair(
    "pixels from channels", _shuffled_with(), normals((4, 4, 4)),
    {"channels in the other order": Mistake(_shuffled_with((0, 2, 3, 1)))},
)  # fmt: skip

PAIRS = (
    CONV, STRIDED, DILATED, GROUPED, IMAGE, NEAREST, LINEAR, REFLECTED, SHUFFLED,
)  # fmt: skip
