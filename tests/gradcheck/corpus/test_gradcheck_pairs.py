"""The pairs of a right and a wrong rule: right twins are right, and each mistake is a real one."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.gradcheck_corpus.pairs import BY_NAME, PAIRS
from jaxdl import gradcheck
from tests.long import sampled

# Where the drawn arguments do not show a mistake: a point that does.
ZEROS = lambda *args: [0 * a for a in args]  # noqa: E731
POINTS = {
    ("relu", "twice at zero"): ZEROS,
    ("relu", "open a little below zero"): lambda x: [-5e-4 * abs(x)],
    ("absolute value", "0/0 at zero"): ZEROS,
    ("log sigmoid", "tail by cancellation"): lambda x: [0 * x + 40],
    ("log sigmoid", "overflow"): lambda x: [0 * x - 800],
    ("entropy", "NaN through where"): ZEROS,
    ("sinc", "0/0 at zero"): ZEROS,
    ("integer powers", "0·∞ at zero"): lambda x, n: [0 * x, n],
    ("maximum of two", "both of a tie"): ZEROS,
    ("length of rows", "NaN at the origin"): ZEROS,
    ("logsumexp", "maximum not subtracted"): lambda x: [400 * x],
    ("cumprod", "division by the input"): ZEROS,
    ("product of all", "division by the input"): ZEROS,
    ("logcumsumexp", "overflow"): lambda x: [0 * x - 800],
    ("maximum of rows", "every tie in full"): ZEROS,
    ("overlapping maximum pooling", "every tie in full"): ZEROS,
    ("largest minus smallest", "smallest overwrites"): lambda x: [x[:1]],
    ("embedding", "row of padding left out"): lambda table, ids: [table, 0 * ids],
    ("alternating signs", "turned round"): lambda x: [x[:, :6]],
    ("quadratic form", "as if symmetric"): lambda x, a: [x, jnp.triu(a)],
    ("bias of a long batch", "cancellation"): lambda x, b: [
        x.astype(jnp.float32),
        b.astype(jnp.float32),
    ],
}  # fmt: skip
TWICE = {
    ("tanh", "stopped"), ("tangent of softplus", "slope held constant"),
    ("arctan", "slope's own rule is wrong"), ("arctan", "slope of the cotangent stopped"),
    ("energy, for its force", "activations held in the backward"),
    ("smoothed length", "length held"),
}  # fmt: skip
OF_ONES = {("square", "cotangent ignored where it is 1")}
FORWARD = {("cube", "forward without its square"), ("cube", "forward in another precision")}
REFUSED = {
    ("dense", "sum over the batch missing"),
    ("divided by its largest square", "closes over a traced value"),
}
BY_CALL = {
    ("cube", "eager is not jit"), ("cube", "residual in a global"), ("cube", "every second call"),
    ("mean", "size of the first call"), ("shares", "sum over the mapped axis too"),
    ("shares", "first of the mapped alone"), ("sine on the host", "added up over calls"),
    ("sine on the host", "slope of the first call"),
    ("rows over devices", "times the number of devices"),
    ("rows over devices", "mean over devices"),
}  # fmt: skip
ELSEWHERE = POINTS.keys() | TWICE | OF_ONES | FORWARD | REFUSED | BY_CALL


@pytest.fixture(autouse=True)
def usual_promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


def drawn(pair, dtype=jnp.float64):
    return pair.make_args(np.random.default_rng(0), dtype)


def is_float(leaf):
    return jnp.issubdtype(getattr(leaf, "dtype", None) or type(leaf), jnp.floating)


def of_floats(f, args):
    """f as a function of its floating-point leaves to a list of such, and those leaves."""
    leaves, structure = jax.tree.flatten(args)
    floats = [i for i, leaf in enumerate(leaves) if is_float(leaf)]

    def flat(*values):
        new = list(leaves)
        for i, value in zip(floats, values, strict=True):
            new[i] = value
        return [y for y in jax.tree.leaves(f(*jax.tree.unflatten(structure, new))) if is_float(y)]

    return flat, [leaves[i] for i in floats]


def cotangents(outputs, ones=False):
    rng = np.random.default_rng(1)
    return [jnp.asarray(1 + 0 * rng.random(y.shape) if ones else rng.normal(size=y.shape), y.dtype)
            for y in outputs]  # fmt: skip


def results(f, args, ones=False):
    """Outputs of the forward rule, and gradients, in that function's own dtypes."""
    flat, inputs = of_floats(f, args)
    outputs, vjp = jax.vjp(flat, *inputs)
    return outputs, list(vjp(cotangents(outputs, ones)))


def change(right, wrong):
    """The largest relative difference of two lists of arrays; infinite where one is NaN."""
    sizes = []
    for a, b in zip(right, wrong, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if np.isnan(b).sum() > np.isnan(a).sum():
            return np.inf
        with np.errstate(invalid="ignore"):
            off = np.abs(np.where(a == b, 0, a - b)).max(initial=0)
        sizes.append(off / (np.abs(a).max(initial=0) + np.finfo(float).tiny))
    return max(sizes)


def plain(pair):
    """What the right twin is held against: a function, or none where its gradient is intended."""
    if "ref" in pair.settings:
        return pair.settings["ref"]
    return jnp.matmul if pair.name == "product by tiles" else gradcheck.strip(pair.f)


# --- all of them --------------------------------------------------------------------------------


def test_the_set():
    assert len(BY_NAME) == len(PAIRS) >= 40
    assert sum(len(pair.mistakes) for pair in PAIRS) >= 110
    known = {(pair.name, name) for pair in PAIRS for name in pair.mistakes}
    assert known >= ELSEWHERE
    shipped = {mistake.source for pair in PAIRS for mistake in pair.mistakes.values()} - {""}
    assert {
        "TransformerEngine#2139", "Liger-Kernel#1298", "Liger-Kernel#370", "flash-attention#1817",
        "tokamax#887", "ChainRules.jl#600", "jax#17995", "NNlib.jl#205", "jax#563", "mlx#3800",
        "jax#40626", "jax#39025", "jax#3970", "FlagGems#5392", "optax#1308", "tensorflow#3862",
        "Theano#4568", "jax#3058", "jax#34353", "jax#32242", "jax#6452", "pytorch#59584",
        "SOURCES.md A5",
    } <= shipped  # fmt: skip


@pytest.mark.parametrize("pair", sampled(PAIRS, [*BY_NAME][::12], lambda pair: pair.name))
def test_pairs(pair):
    """The right twin has the gradient of plain autodiff; mistakes have its value, but another."""
    args = drawn(pair)
    shown = {name: mistake.f for name, mistake in pair.mistakes.items()
             if (pair.name, name) not in ELSEWHERE}  # fmt: skip
    truth = [] if "expect" in pair.settings else [plain(pair)]
    functions = [pair.f, *truth, *shown.values()]
    found = jax.jit(lambda: [results(f, args) for f in functions])()
    value, gradient = found[0]
    if truth:
        assert change(found[1][0], value) < 1e-12 and change(found[1][1], gradient) < 1e-10
    else:
        flat, inputs = of_floats(pair.f, args)
        (g,) = cotangents(flat(*inputs))
        intended = pair.settings["expect"](g, *args)
        assert change(jax.tree.leaves(intended), gradient) < 1e-12
    for name, (wrong_value, wrong) in zip(shown, found[1 + len(truth) :], strict=True):
        assert change(value, wrong_value) == 0, name
        other_dtype = any(a.dtype != b.dtype for a, b in zip(gradient, wrong, strict=True))
        assert other_dtype or change(gradient, wrong) > 1e-8, name


# --- those that the drawn arguments do not show -------------------------------------------------


def twins(pair, mistake):
    return BY_NAME[pair], BY_NAME[pair].f, BY_NAME[pair].mistakes[mistake].f


@pytest.mark.parametrize("key", POINTS, ids=" – ".join)
def test_shown_at_a_point(key):
    pair, right, wrong = twins(*key)
    args = POINTS[key](*drawn(pair))
    (value, gradient), (wrong_value, found) = results(right, args), results(wrong, args)
    assert change(value, wrong_value) == 0 and change(gradient, found) > 1e-6
    assert all(np.all(np.isfinite(g)) for g in gradient)


@pytest.mark.parametrize("key", sorted(TWICE), ids=" – ".join)
def test_shown_by_the_second_derivative(key):
    pair, right, wrong = twins(*key)

    def second(f):
        flat, inputs = of_floats(f, drawn(pair))
        places = tuple(range(len(inputs)))
        slope = jax.grad(lambda *x: sum(jnp.sum(jnp.sin(y)) for y in flat(*x)), places)
        return jax.jit(jax.grad(lambda *x: sum(jnp.sum(s**2) for s in slope(*x)), places))(*inputs)

    assert change(second(plain(pair)), second(right)) < 1e-10
    assert change(second(right), second(wrong)) > 1e-3


@pytest.mark.parametrize("key", sorted(OF_ONES), ids=" – ".join)
def test_shown_by_a_cotangent_of_ones(key):
    pair, right, wrong = twins(*key)
    args = drawn(pair)
    assert change(results(right, args, True)[1], results(wrong, args, True)[1]) > 1e-3


@pytest.mark.parametrize("key", sorted(FORWARD), ids=" – ".join)
def test_shown_by_the_forward_rule(key):
    pair, right, wrong = twins(*key)
    args = drawn(pair)
    assert change([right(*args)], [wrong(*args)]) == 0
    assert change(results(right, args)[0], results(wrong, args)[0]) > 1e-4


@pytest.mark.parametrize("key", sorted(REFUSED), ids=" – ".join)
def test_refused_by_jax(key):
    pair, right, wrong = twins(*key)
    args = drawn(pair)
    assert change([right(*args)], [wrong(*args)]) == 0
    with pytest.raises((ValueError, jax.errors.UnexpectedTracerError), match=r"shapes|tracer"):
        results(wrong, args)


# --- those that depend on how they are called ---------------------------------------------------


def pullback(f, x, g):
    return jax.vjp(f, x)[1](g)[0]


def test_eager_is_not_jit():
    pair, right, wrong = twins("cube", "eager is not jit")
    (x,) = drawn(pair)
    assert change([pullback(right, x, x)], [jax.jit(lambda x: pullback(wrong, x, x))(x)]) < 1e-12
    assert change([pullback(right, x, x)], [pullback(wrong, x, x)]) > 0.1


def test_a_residual_in_a_global():
    pair, right, wrong = twins("cube", "residual in a global")
    (x,) = drawn(pair)
    for f, same in ((right, True), (wrong, False)):
        _, first = jax.vjp(f, x)
        expected = first(x)
        jax.vjp(f, 2 * x)
        assert (change(expected, first(x)) < 1e-12) == same


@pytest.mark.parametrize(
    "key", [("cube", "every second call"), ("sine on the host", "added up over calls")]
)
def test_calls_that_differ(key):
    pair, right, wrong = twins(*key)
    (x,) = drawn(pair)
    assert change([pullback(right, x, x)], [pullback(right, x, x)]) == 0
    assert change([pullback(wrong, x, x)], [pullback(wrong, x, x)]) > 0.1


@pytest.mark.parametrize(
    ("key", "other"),
    [
        (("mean", "size of the first call"), lambda x: x[:2]),
        (("sine on the host", "slope of the first call"), lambda x: 2 * x),
    ],
)
def test_the_first_call_is_kept(key, other):
    pair, right, wrong = twins(*key)
    (x,) = drawn(pair)
    points = [x, other(x)]
    cotangent = lambda x: jnp.ones_like(right(x))  # noqa: E731
    off = [change([pullback(right, x, cotangent(x))], [pullback(wrong, x, cotangent(x))])
           for x in points]  # fmt: skip
    assert max(off) > 0.1


@pytest.mark.parametrize("mistake", ["sum over the mapped axis too", "first of the mapped alone"])
def test_wrong_under_vmap(mistake):
    pair, right, wrong = twins("shares", mistake)
    x = jnp.stack([*drawn(pair), 2 * drawn(pair)[0] ** 2])
    looped = jnp.stack([pullback(right, a, a) for a in x])
    assert change([pullback(right, x[0], x[0])], [pullback(wrong, x[0], x[0])]) < 1e-12
    assert change([looped], [jax.vmap(lambda a: pullback(wrong, a, a))(x)]) > 1e-2


def test_wrong_with_several_devices():
    code = """if True:
        import jax, numpy as np
        from experiments.gradcheck_corpus.pairs import PAIRS
        (pair,) = [p for p in PAIRS if p.name == "rows over devices"]
        x, w = pair.make_args(np.random.default_rng(0), "float32")
        for f in (pair.f, *(m.f for m in pair.mistakes.values())):
            dw = jax.vjp(f, x, w)[1](x @ w)[1]
            print(float((dw / (x.T @ (x @ w))).mean()))
    """
    root = Path(__file__).parents[3]
    flags = "--xla_force_host_platform_device_count=4"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    ).stdout  # fmt: skip
    np.testing.assert_allclose([float(line) for line in out.split()], [1, 4, 0.25], rtol=1e-4)
