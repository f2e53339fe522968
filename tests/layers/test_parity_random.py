"""Convolution and pooling against SciPy, `jax.lax` and PyTorch, over random configurations.

Hypothesis draws the settings; each configuration is compared once: y, dx, dw and db of the
hand-written backward in float64, to 1e-10. `jax.lax` with `jax.vjp` is there for all of them, SciPy
wherever there is a kernel, PyTorch wherever it is installed. The configurations of a block make one
program: compiling is most of the time, and fewer programs compile faster than many.
"""

from math import prod
from zlib import crc32

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.layers import oracles
from tests.layers.oracles import compare
from tests.layers.oracles_conv import Convolution
from tests.layers.oracles_pool import Adaptive, Pool
from tests.long import sampled

# --- what is drawn ------------------------------------------------------------------------------

PADDINGS = ("valid", "same", "full", "number", "pairs")


def vector(rank, low, high):
    return st.tuples(*[st.integers(low, high)] * rank)


def draw_padding(draw, kind, limits):
    """At most the limit of each axis: numbers, pairs, or a mixture."""
    if kind == "number":
        return draw(st.integers(1, max(1, min(limits))))
    if kind != "pairs":
        return kind
    one = [st.integers(0, limit) for limit in limits]
    return draw(st.tuples(*[st.one_of(p, st.tuples(p, p)) for p in one]))


@st.composite
def convolutions(draw, rank, padding, kind):
    transposed, fourier = kind == "transpose", kind == "fft"
    # strides, dilation and groups of 1 take another way on the CPU
    plain = fourier or draw(st.booleans())
    small = 3 if rank < 3 else 2
    size = (*draw(vector(rank - 1, 1, small)), draw(st.integers(1, 6 if plain else 3)))
    ones = st.just((1,) * rank)
    strides = draw(ones if plain else vector(rank, 1, 3))
    dilation = draw(ones if plain else vector(rank, 1, small))
    groups = draw(st.just(1) if plain else st.integers(1, 3))
    extent = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    padding = draw_padding(draw, padding or draw(st.sampled_from(PADDINGS)), [2] * rank)
    pairs = oracles.as_pairs("valid" if padding == "same" else padding, size, strides, extent)
    space = []
    for s, e, (lo, hi) in zip(strides, extent, pairs, strict=True):
        if transposed:  # (n − 1)·s + e − lo − hi must be at least 1
            least = 1 if padding == "same" else max(1, 1 - (e - lo - hi - 1) // s)
        else:
            least = 1 if padding == "same" else max(1, e - lo - hi)
        space.append(draw(st.integers(least, least + (4 if rank < 3 else 2))))
    channels = st.integers(1, 6 if plain else 2)
    return Convolution(
        tuple(space), size, strides, dilation, padding, groups,
        channels_a_group=draw(channels),
        features_a_group=draw(channels if transposed else st.integers(1, 2)),
        examples=draw(st.integers(1, 2)),
        flip=draw(st.booleans()) and not transposed,
        use_bias=draw(st.booleans()),
        transposed=transposed,
        fourier=fourier,
    )  # fmt: skip


@st.composite
def pools(draw, rank, kind):
    size = draw(vector(rank, 1, 3).filter(lambda size: prod(size) <= 12))
    strides = draw(st.one_of(st.none(), vector(rank, 1, 3)))
    padding = draw(st.sampled_from(PADDINGS))
    if padding == "number" and min(size) == 1:
        padding = "valid"
    # no window may lie in the padding alone
    padding = draw_padding(draw, padding, [k - 1 for k in size])
    pairs = oracles.as_pairs("valid" if padding == "same" else padding, size, size, size)
    space = []
    for k, (lo, hi) in zip(size, pairs, strict=True):
        least = 1 if padding == "same" else max(1, k - lo - hi)
        space.append(draw(st.integers(least, least + (5 if rank < 3 else 3))))
    extra = {"lp": (1.0, 2.0, 2.5, 3.0, 4.0), "weighted": (0.5, 0.8, 1.0, 2.0)}.get(kind, (2.0,))
    return Pool(
        kind, tuple(space), size, strides, padding,
        ceil=draw(st.booleans()),
        channels=draw(st.integers(1, 3)),
        examples=draw(st.integers(1, 2)),
        ties=draw(st.booleans()) and kind != "lp",  # the norm of zeros has no derivative there
        extra=draw(st.sampled_from(extra)),
    )  # fmt: skip


@st.composite
def adaptive_pools(draw, rank, kind):
    out = draw(vector(rank, 1, 4 if rank == 1 else 3 if rank == 2 else 2))
    space = tuple(draw(st.integers(m, m + 4)) for m in out)
    return Adaptive(
        kind, space, out,
        channels=draw(st.integers(1, 3)),
        examples=draw(st.integers(1, 2)),
        ties=draw(st.booleans()),
    )  # fmt: skip


RANKS = (1, 2, 3)
POOLS = ("max", "average", "average, counted", "lp", "weighted")


def blocks():
    """No two of them can draw the same configuration."""
    for rank in RANKS:
        for padding in PADDINGS:
            yield f"conv-{rank}d-{padding}", convolutions(rank, padding, "conv"), 12
            yield f"transpose-{rank}d-{padding}", convolutions(rank, padding, "transpose"), 10
        yield f"fft-{rank}d", convolutions(rank, None, "fft"), 10
        for kind in POOLS:
            yield f"{kind}-{rank}d", pools(rank, kind), 8
        for kind in ("mean", "max"):
            yield f"adaptive-{kind}-{rank}d", adaptive_pools(rank, kind), 5


BLOCKS = {
    name: (drawn.filter(lambda c: not c.is_beyond_xla()), count) for name, drawn, count in blocks()
}
"""What is drawn, and how many different ones are compared."""


def test_there_are_enough_of_them():
    assert sum(count for _, count in BLOCKS.values()) >= 500


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")  # PyTorch
@pytest.mark.parametrize("block", sampled(BLOCKS, [*BLOCKS][::3]))
def test_ours_is_theirs(block):
    drawn, count = BLOCKS[block]
    configurations = []

    # Drawn once and compared outside: a failure is not made smaller, which would compile hundreds
    # of programs; the message has the one configuration that differs.
    @seed(crc32(block.encode()))
    @settings(
        max_examples=1,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(st.lists(drawn, min_size=count, max_size=count, unique=True))
    def draw(different):
        configurations[:] = different

    draw()
    asked = compare(configurations)
    assert len(set(configurations)) == asked["jax.lax"] == count
    assert asked["SciPy"] == (
        count if block.startswith(("conv", "transpose", "fft", "weighted")) else 0
    )
    assert asked["PyTorch"] == (count if oracles.torch is not None else 0)
