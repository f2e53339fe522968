"""Planted bugs: wrong layers that the comparison of test_parity_random catches, each by name."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

import jaxdl as jd
from jaxdl.core.layer import leaf
from tests.layers.oracles import check, compare, run, sample
from tests.layers.oracles_conv import Convolution
from tests.layers.oracles_pool import Adaptive, Pool


def settings_changed(**changes):
    """The layer of a configuration with other settings."""
    return lambda c: dataclasses.replace(c, **changes).layer()


def backward_changed(change):
    """A layer whose (factors, dx) are replaced by `change(params, residuals, dy, factors, dx)`."""

    def make(c):
        right = c.layer()

        def bwd(params, residuals, dy):
            return change(params, residuals, dy, *right.bwd(params, residuals, dy, jd.keep))

        return leaf("planted", right.init, right.fwd, bwd, params=tuple(c.params()))

    return make


def channels_exchanged(c):
    """The channels of one group go into another."""
    right = c.layer()

    def fwd(params, x):
        return right.fwd(params, x[..., ::-1])

    def bwd(params, residuals, dy):
        factors, dx = right.bwd(params, residuals, dy, jd.keep)
        return factors, dx[..., ::-1]

    return leaf("planted", right.init, fwd, bwd, params=tuple(c.params()))


def without(name):
    """That parameter's gradient is zero."""

    def change(params, residuals, dy, factors, dx):
        return factors | {name: jax.tree.map(jnp.zeros_like, factors[name])}, dx

    return change


def ties_to_the_last(c):
    """A max pool that gives to the last of equal maxima: everything turned round."""
    turned = dataclasses.replace(c, padding=tuple((hi, lo) for lo, hi in c.pairs)).layer()

    def fwd(params, x):
        y, residuals = turned.fwd(params, x[:, ::-1, ::-1])
        return y[:, ::-1, ::-1], residuals

    def bwd(params, residuals, dy):
        return {}, turned.bwd(params, residuals, dy[:, ::-1, ::-1])[1][:, ::-1, ::-1]

    return leaf("planted", turned.init, fwd, bwd)


def other_dx(change):
    """A layer that is wrong in dx alone."""
    return backward_changed(lambda params, residuals, dy, factors, dx: (factors, change(dx, dy)))


CONV = Convolution(
    (5, 6), (3, 2), (2, 1), (1, 2), ((1, 1), (1, 2)), groups=2, channels_a_group=2,
    features_a_group=2, examples=2,
)  # fmt: skip
TRANSPOSE = dataclasses.replace(CONV, transposed=True)
DENSE = dataclasses.replace(CONV, strides=(1, 1), dilation=(1, 1), groups=1)
MAX = Pool("max", (5, 7), (2, 3), (1, 2), ((1, 0), (1, 1)), channels=2, examples=2, ties=True)
AVERAGE = dataclasses.replace(MAX, kind="average", space=(5, 6), ceil=True)
LP = dataclasses.replace(MAX, kind="lp", ties=False, extra=3.0)
WEIGHTED = dataclasses.replace(MAX, kind="weighted", extra=0.8)
MEANS = Adaptive("mean", (5, 7), (2, 3), 2, 2)
MAXIMA = Adaptive("max", (5, 7), (2, 3), 2, 2, ties=True)

# a configuration, a wrong layer for it, and what must differ
PLANTED = {
    "conv: padding one off": (CONV, settings_changed(padding=((0, 2), (1, 2))), "y"),
    "conv: dilation ignored": (
        CONV, settings_changed(dilation=(1, 1), padding=((1, 1), (1, 1))), "y",
    ),
    "conv: strides exchanged": (CONV, settings_changed(strides=(1, 2)), "shapes"),
    "conv: groups mixed up": (CONV, channels_exchanged, "y"),
    "conv: kernel turned round": (DENSE, settings_changed(flip=True), "y"),
    "conv: no dw": (CONV, backward_changed(without("w")), "dparams w"),
    "conv: no db": (DENSE, backward_changed(without("b")), "dparams b"),
    "conv: dx one place off": (CONV, other_dx(lambda dx, dy: jnp.roll(dx, 1, 1)), "dx"),
    "transpose: padding one off": (TRANSPOSE, settings_changed(padding=((1, 1), (2, 1))), "y"),
    "transpose: dilation ignored": (
        TRANSPOSE, settings_changed(dilation=(1, 1), padding=((1, 1), (1, 1))), "y",
    ),
    "transpose: groups mixed up": (TRANSPOSE, channels_exchanged, "y"),
    "transpose: no dw": (TRANSPOSE, backward_changed(without("w")), "dparams w"),
    "max: padding one off": (MAX, settings_changed(padding=((0, 1), (1, 1))), "y"),
    "max: ties to the last": (MAX, ties_to_the_last, "dx"),
    "max: overlap not added": (
        MAX, other_dx(lambda dx, dy: jnp.clip(dx, dy.min(), dy.max())), "dx",
    ),
    "average: padding counts": (AVERAGE, settings_changed(kind="average, counted"), "y"),
    "average: smaller window dropped": (AVERAGE, settings_changed(ceil=False), "shapes"),
    "lp: another norm": (LP, settings_changed(extra=2.0), "y"),
    "lp: sign lost": (LP, other_dx(lambda dx, dy: abs(dx)), "dx"),
    "weighted: another spread": (WEIGHTED, settings_changed(extra=1.0), "y"),
    "adaptive: mean for max": (MAXIMA, settings_changed(kind="mean"), "y"),
    "adaptive: bins turned round": (MEANS, other_dx(lambda dx, dy: dx[:, ::-1]), "dx"),
}  # fmt: skip


@functools.cache
def compare_right():
    """That the right layer of every configuration is none the comparison would catch."""
    configurations = {configuration for configuration, _, _ in PLANTED.values()}
    assert compare(configurations)["jax.lax"] == len(configurations)


@functools.cache
def run_wrong():
    """By bug, what the wrong layers give, in one program: those that have the right shapes."""
    bugs = {bug: (c, make(c)) for bug, (c, make, what) in PLANTED.items() if what != "shapes"}
    return dict(zip(bugs, run(*zip(*bugs.values(), strict=True)), strict=True))


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bug_is_caught(bug):
    compare_right()
    configuration, make, what = PLANTED[bug]
    with pytest.raises(AssertionError, match=rf"{what} (.|\n)* in (Convolution|Pool|Adaptive)\("):
        if what == "shapes":
            sample(configuration, make(configuration))
        else:
            check(configuration, *run_wrong()[bug])
