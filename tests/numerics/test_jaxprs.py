"""The walker over jaxprs, on the version of JAX that is installed."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdl.numerics.jaxprs import (
    CALLS,
    CHECKPOINTS,
    UnknownEquation,
    bind,
    constants,
    equations,
    inner_jaxprs,
    is_jaxpr,
    opened,
    scan_parts,
    where,
)

W, X = jnp.ones((3, 3)), jnp.ones((4, 3))


def first(f, *args, name=None):
    """The first equation of a function, or the first of that name."""
    return next(
        eqn
        for eqn in equations(jax.make_jaxpr(f)(*args))
        if name is None or eqn.primitive.name == name
    )


def test_open_and_closed():
    closed = jax.make_jaxpr(lambda x: x + np.arange(3.0))(jnp.ones(3))
    assert opened(closed) is closed.jaxpr and opened(closed.jaxpr) is closed.jaxpr
    assert len(constants(closed)) == len(closed.consts) and constants(closed.jaxpr) == []
    assert is_jaxpr(closed) and is_jaxpr(closed.jaxpr)
    assert not any(map(is_jaxpr, (3, "add", None, (closed,), jnp.tanh)))


# --- equations inside others --------------------------------------------------------------------


def nested(w, x):
    @jax.checkpoint
    def step(x, _):
        return lax.cond(x[0] > 0, jnp.sin, lambda x: jax.jit(jnp.cos)(x), w @ x), x

    return lax.while_loop(
        lambda c: c[1] < 2, lambda c: (lax.scan(step, c[0], None, 2)[0], c[1] + 1), (x, 0)
    )[0]


def test_all_equations_are_found():
    """Inside loops, both parts of a while, branches, checkpoints and calls."""
    names = [eqn.primitive.name for eqn in equations(jax.make_jaxpr(nested)(W, X[0]))]
    for name in ("while", "lt", "scan", "cond", "sin", "cos", "dot_general", "gt"):
        assert name in names
    assert any(name in CHECKPOINTS for name in names)
    assert any(name in CALLS for name in names)
    assert names.index("while") < names.index("scan") < names.index("cond") < names.index("sin")


def test_each_equation_once():
    jaxpr = jax.make_jaxpr(lambda x: jax.jit(jnp.sin)(x) + jax.jit(jnp.sin)(2 * x))(X)
    names = [eqn.primitive.name for eqn in equations(jaxpr)]
    assert names.count("sin") == 2 and names.count("mul") == 1


def test_inner_jaxprs():
    assert list(inner_jaxprs(first(jnp.sin, X))) == []
    cond = first(lambda x: lax.cond(x[0] > 0, jnp.sin, jnp.cos, x), X[0], name="cond")
    assert len(list(inner_jaxprs(cond))) == 2
    scan = first(lambda x: lax.scan(lambda c, x: (c, x), 0, x), X, name="scan")
    assert len(list(inner_jaxprs(scan))) == 1


@pytest.mark.parametrize("call", [jax.jit, jax.checkpoint], ids=["jit", "checkpoint"])
def test_calls_and_checkpoints_are_known_by_name(call):
    """Each has what it runs under the parameter that the walker looks at."""
    eqn = first(call(lambda x: jnp.sin(x) * 2), X)
    if call is jax.jit:
        body = eqn.params[CALLS[eqn.primitive.name]]
    else:
        assert eqn.primitive.name in CHECKPOINTS
        body = eqn.params["jaxpr"]
    assert [e.primitive.name for e in opened(body).eqns] == ["sin", "mul"]


# --- scans --------------------------------------------------------------------------------------


def scanned(held, carried, stepped):
    """A scan with so many inputs of each kind."""

    def f(hs, cs, xs):
        def step(cs, xs):
            # each is used, so that none is dropped
            both = sum(hs, jnp.zeros(())) + sum(xs, jnp.zeros(()))
            return tuple(c + both for c in cs), both

        return lax.scan(step, tuple(cs), tuple(xs), 4)

    one = jnp.ones(())
    return first(f, [one] * held, [one] * carried, [jnp.ones(4)] * stepped, name="scan")


@pytest.mark.parametrize("parts", [(0, 1, 0), (1, 1, 1), (2, 1, 3), (0, 2, 1), (3, 0, 1)])
def test_parts_of_a_scan(parts):
    eqn = scanned(*parts)
    assert scan_parts(eqn) == parts
    assert sum(parts) == len(eqn.invars) == len(opened(eqn.params["jaxpr"]).invars)
    assert len(eqn.outvars) == parts[1] + 1


def fake(**params):
    return SimpleNamespace(params=params, invars=range(6))


def test_parts_where_later_versions_keep_them():
    tree = SimpleNamespace(unpack=lambda: ([0], [0, 0], [0, 0, 0]))
    assert scan_parts(fake(ft_in=tree)) == (1, 2, 3)
    assert scan_parts(fake(num_consts=1, num_carry=2)) == (1, 2, 3)


@pytest.mark.parametrize(
    "params",
    [
        {"jaxpr": None, "length": 3},
        {"jaxpr": None, "ft_in": None},
        {"jaxpr": None, "ft_in": SimpleNamespace(unpack=lambda: ([], []))},
        {"jaxpr": None, "ft_in": SimpleNamespace(unpack=lambda: (1, 2, 3))},
    ],
    ids=["elsewhere", "none", "two_parts", "numbers"],
)
def test_a_scan_that_is_not_known_says_so(params):
    with pytest.raises(UnknownEquation) as caught:
        scan_parts(fake(**params))
    text = str(caught.value)
    assert text.startswith("scan: its parts are found in num_consts and num_carry, or in ft_in")
    assert f"got the parameters {sorted(params)}" in text
    assert "this version of JAX is not known yet" in text


# --- evaluating one -----------------------------------------------------------------------------

FUNCTIONS = {
    "sin": (jnp.sin, X),
    "dot_general": (jnp.matmul, X, W),
    "scan": (lambda x: lax.scan(lambda c, x: (c + x, jnp.sin(c)), X[0], x), X),
    "cond": (lambda x: lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x), X),
    "while": (lambda x: lax.while_loop(lambda x: x.sum() < 99, lambda x: 2 * x, x), X),
    "jit": (jax.jit(lambda x: (jnp.sin(x), x)), X),
    "checkpoint": (jax.checkpoint(lambda x: jnp.sin(x) * x), X),
    "split": (lambda x: jnp.split(x, 2), X),
    "custom_jvp": (jax.nn.relu, X),
    "gather": (lambda x, i: x[i], X, jnp.array([1, 0])),
    "sort": (jnp.sort, X[:, 0]),
}


def custom_vjp():
    @jax.custom_vjp
    def f(x):
        return jnp.sin(x), 2 * x

    f.defvjp(lambda x: (f(x), x), lambda x, d: (3 * d[0] * x,))
    return f


@pytest.mark.parametrize("name", [*FUNCTIONS, "custom_vjp"])
def test_bind_is_what_the_equation_was(name):
    """Equation by equation, the outputs of a function as JAX has them."""
    f, *args = FUNCTIONS.get(name) or (custom_vjp(), X)
    jaxpr = jax.make_jaxpr(f)(*args)
    env = dict(zip(jaxpr.jaxpr.invars, args, strict=True))
    env |= dict(zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True))
    for eqn in jaxpr.jaxpr.eqns:
        outs = bind(eqn, [v.val if hasattr(v, "val") else env[v] for v in eqn.invars])
        assert isinstance(outs, list) and len(outs) == len(eqn.outvars)
        env |= dict(zip(eqn.outvars, outs, strict=True))
    got = [env[v] for v in jaxpr.jaxpr.outvars]
    for g, w in zip(got, jax.tree.leaves(f(*args)), strict=True):
        np.testing.assert_array_equal(g, w)


def test_bind_keeps_a_custom_derivative():
    eqn = first(custom_vjp(), X)
    derivative = jax.grad(lambda x: bind(eqn, [x])[0].sum())(X)
    np.testing.assert_array_equal(derivative, 3 * X)


def test_bind_with_other_parameters():
    eqn = first(jnp.cumsum, X[:, 0], name="cumsum")
    (turned,) = bind(eqn, [X[:, 0]], eqn.params | {"reverse": True})
    np.testing.assert_array_equal(turned, [4, 3, 2, 1])


# --- where it was written -----------------------------------------------------------------------


def written_here(x):
    return jnp.sin(x)


def test_where():
    """The first line that is not JAX's own."""
    line = written_here.__code__.co_firstlineno + 1
    assert where(first(written_here, X)) == f" at {__file__}:{line} (written_here)"


@pytest.mark.parametrize(
    "source", [SimpleNamespace(traceback=None), SimpleNamespace(), None], ids=["none", "no", "info"]
)
def test_where_nothing_is_known(source):
    assert where(SimpleNamespace(source_info=source)) == ""


def test_where_all_is_jax():
    frame = SimpleNamespace(file_name=jax.__file__, line_num=1, function_name="f")
    source = SimpleNamespace(traceback=SimpleNamespace(frames=[frame]))
    assert where(SimpleNamespace(source_info=source)) == ""
