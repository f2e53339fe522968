"""The functions of the corpus are right.

In float64, each gradient by a hand-written rule against JAX's own derivative of the same file read
again without rules (`jax.custom_vjp` and `custom_jvp` return the function as it is); functions
without a rule, and those that JAX cannot differentiate, against finite differences.
"""

import importlib
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.gradcheck_corpus.functions import FUNCTIONS
from experiments.gradcheck_corpus.kinds import DTYPES
from jaxdl import gradcheck
from tests.long import sampled

PACKAGE = "experiments.gradcheck_corpus"
# their primal passes through float32, where each of the two derivatives rounds in its own way
COARSE = {"rms norm through float32": 1e-5}
# a zero is a kink of these: it is not moved
KINKED_AT_ZERO = {"plain: abs with zeros"}
# JAX keeps the index array of NumPy in its caches as it was in the mode of 64 bits
NUMPY_INDEX = {"permutation"}
# JAX gives NaN where these are right
NAN_WITHOUT_RULE = {"norm, safe at 0"}


class Plain:
    """custom_vjp and custom_jvp that ignore the rule."""

    def __init__(self, f, nondiff_argnums=(), nondiff_argnames=()):
        self.f = f

    def __call__(self, *args, **kwargs):
        return self.f(*args, **kwargs)

    def _ignored(self, *rules, **settings):
        return None

    defvjp = defjvp = defjvps = _ignored


def _without_rules():
    """The corpus, read again."""
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith(PACKAGE)}
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax, "custom_vjp", Plain)
            patch.setattr(jax, "custom_jvp", Plain)
            patch.setattr(jax, "custom_gradient", lambda f: lambda *args: f(*args)[0])
            twins = importlib.import_module(f"{PACKAGE}.functions").FUNCTIONS
    finally:
        for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
            del sys.modules[name]
        sys.modules.update(kept)
    return {twin.name: twin for twin in twins}


TWINS = _without_rules()
IDS = [function.name for function in FUNCTIONS]
ALL = sampled(FUNCTIONS, IDS[::24], lambda function: function.name)
"""One in twelve every day."""


@pytest.fixture(autouse=True)
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


def is_inexact(leaf):
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating)


def taken_apart(function, args):
    """Differentiated leaves, other arrays, and f of both: a list of floating-point results."""
    leaves, tree = jax.tree.flatten((args, dict(function.settings.get("kwargs", {}))))
    moving = [i for i, leaf in enumerate(leaves) if is_inexact(leaf)]
    arrays = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "dtype") and i not in moving]

    def f(xs, others):
        full = list(leaves)
        for i, x in zip((*moving, *arrays), (*xs, *others), strict=True):
            full[i] = x
        args, kwargs = jax.tree.unflatten(tree, full)
        return [y for y in jax.tree.leaves(function.f(*args, **kwargs)) if is_inexact(y)]

    return SimpleNamespace(f=f, xs=[leaves[i] for i in moving], others=[leaves[i] for i in arrays])


def pullback(f, xs, others, weights):
    """Results, and gradients of the differentiated leaves."""
    y, vjp = jax.vjp(lambda xs: f(xs, others), xs)
    return y, vjp(weights)[0]


def drawn(function, seed):
    """Arguments in float64, taken apart, and a cotangent."""
    parts = taken_apart(function, function.make_args(np.random.default_rng(seed), jnp.float64))
    shapes = jax.eval_shape(parts.f, parts.xs, parts.others)
    rng = np.random.default_rng(seed + 100)
    parts.weights = [jnp.asarray(rng.normal(size=s.shape), s.dtype) for s in shapes]
    return parts


def close(got, want, tolerance):
    got, want = np.asarray(got, float), np.asarray(want, float)
    assert got.shape == want.shape
    size = np.sqrt(np.mean(want**2)) if want.size else 0.0
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * size)


def by_differences(function, parts, gradients):
    """Every leaf's gradient along a direction in which equal entries move alike."""
    value = jax.jit(
        lambda xs, others, weights: sum(
            jnp.vdot(w, y) for w, y in zip(weights, parts.f(xs, others), strict=True)
        )
    )
    for leaf, (x, gradient) in enumerate(zip(parts.xs, gradients, strict=True)):
        at = np.asarray(x)
        if not at.size:
            continue
        still = 0.0 if function.name in KINKED_AT_ZERO else 1.0
        u = np.where(at == 0, still, at) * np.cos(37 * at + leaf)

        def along(t, leaf=leaf, at=at, u=u):
            moved = [*parts.xs[:leaf], jnp.asarray(at + t * u), *parts.xs[leaf + 1 :]]
            return float(value(moved, parts.others, parts.weights))

        found = gradcheck.slope(along)
        size = float(np.sum(np.abs(np.asarray(gradient) * u)))
        assert found.error <= 1e-3 * size + 1e-9
        assert abs(float(np.vdot(gradient, u)) - found.value) <= 4 * found.error + 1e-9 * size


@pytest.mark.parametrize("function", ALL)
def test_gradient(function):
    twin, tolerance = TWINS[function.name], COARSE.get(function.name, 1e-9)
    parts = drawn(function, 0)
    ruled = gradcheck.rules(parts.f, parts.xs, parts.others)
    if "expect" in function.settings:
        args = function.make_args(np.random.default_rng(0), jnp.float64)
        y, vjp = jax.vjp(function.f, *args)
        weight = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size) + 1.0).reshape(a.shape), y)
        for got, want in zip(vjp(weight), function.settings["expect"](weight, *args), strict=True):
            close(got, want, tolerance)
        return
    reference = taken_apart(twin, twin.make_args(np.random.default_rng(0), jnp.float64))

    @jax.jit
    def both(*at):
        return pullback(parts.f, *at), pullback(reference.f, *at)

    try:
        if not ruled:
            raise ValueError
        both(parts.xs, parts.others, parts.weights)
    except ValueError:  # without a rule, or not differentiable without it
        backward = jax.jit(lambda *at: pullback(parts.f, *at)[1])
        for seed in range(2):
            at = drawn(function, seed)
            by_differences(function, at, backward(at.xs, at.others, at.weights))
        return
    for seed in range(2):
        at = drawn(function, seed)
        got, want = both(at.xs, at.others, at.weights)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            assert np.all(np.isfinite(a))
            if function.name in NAN_WITHOUT_RULE:
                b = np.where(np.isnan(b), a, b)
            close(a, b, tolerance)


@pytest.mark.parametrize("function", ALL)
def test_dtypes(function, x64_off):
    """Gradients have the dtype of their argument; a dtype that is missing has a reason."""
    assert set(function.dtypes) <= set(DTYPES)
    assert (set(function.dtypes) == set(DTYPES)) == (not function.why_not)
    if function.name in NUMPY_INDEX:
        jax.clear_caches()
    for dtype in [d for d in ("bfloat16", "float32") if d in function.dtypes][:1]:
        args = function.make_args(np.random.default_rng(0), jnp.dtype(dtype))
        parts = taken_apart(function, args)
        assert {str(x.dtype) for x in parts.xs} == {dtype}
        weights = jax.eval_shape(parts.f, parts.xs, parts.others)
        _, gradients = jax.eval_shape(
            lambda xs, others, w, f=parts.f: pullback(f, xs, others, w),
            parts.xs, parts.others, weights,
        )  # fmt: skip
        assert [(g.shape, g.dtype) for g in gradients] == [(x.shape, x.dtype) for x in parts.xs]


def test_there_are_enough():
    assert len(FUNCTIONS) >= 220 and len(set(IDS)) == len(IDS)
    assert sum(not name.startswith("plain") for name in IDS) >= 130


def test_a_wrong_rule_is_seen():
    """Each of the two ways of looking can fail."""
    softmax = next(function for function in FUNCTIONS if function.name == "softmax")
    parts = drawn(softmax, 0)
    _, (gradient,) = pullback(parts.f, parts.xs, parts.others, parts.weights)
    with pytest.raises(AssertionError):
        close(gradient.at[0, 0].multiply(1 + 1e-6), gradient, 1e-9)
    with pytest.raises(AssertionError):
        by_differences(softmax, parts, [gradient * (1 + 1e-4)])
