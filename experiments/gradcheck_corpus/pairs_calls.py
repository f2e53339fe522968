"""Rules that go wrong by how they are called: state, tracing, mapping, structure, forward rules."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.custom_batching import custom_vmap

from experiments.gradcheck_corpus.kinds import Mistake, Pair, normal, ruled
from experiments.gradcheck_corpus.pairs_tools import kept, normals, of

_OUTSIDE = "keeps something outside its residuals"


def _cube(x):
    return x**3


def _by_path(x, g):
    """As if arrays without a tracer came from a test alone, where 3 had been left out."""
    return 3 * x * x * g if isinstance(g, Tracer) else x * x * g


def _remembered():
    """The last input is kept in a list, not in the residuals."""
    last = []

    def fwd(x):
        last[:] = [x]
        return _cube(x), None

    return ruled(_cube, fwd, lambda _, g: (3 * last[0] ** 2 * g,))


def _alternating():
    """A counter of calls, as for a step that skips each second update."""
    calls = []

    def bwd(x, g):
        calls.append(None)
        return 3 * x * x * g * (1.0 if len(calls) % 2 else 0.5)

    return of(_cube, bwd)


CUBE = Pair(
    "cube", of(_cube, lambda x, g: 3 * x * x * g), normals((7,)),
    {
        "eager is not jit": Mistake(
            of(_cube, _by_path), "", "under jit the gradient is another", "jax#39025"
        ),
        "residual in a global": Mistake(_remembered(), "args[0]", _OUTSIDE),
        "every second call": Mistake(_alternating(), "", _OUTSIDE + "|under jit|called twice"),
        "forward without its square": Mistake(
            ruled(_cube, lambda x: (x * abs(x), x), lambda x, g: (3 * x * x * g,)), "",
            "the forward rule differs",
        ),
        "forward in another precision": Mistake(
            ruled(_cube, lambda x: ((x.astype(jnp.bfloat16) ** 3).astype(x.dtype), x),
                  lambda x, g: (3 * x * x * g,)), "", "the forward rule differs",
        ),
        "residual is the result": Mistake(
            ruled(_cube, lambda x: (_cube(x), _cube(x)), lambda y, g: (3 * y * y * g,))
        ),
    },
)  # fmt: skip


def _mean(x):
    return x.mean()


def _divided_by_first():
    """The size is that of the first array that came."""
    size = {}
    return of(_mean, lambda x, g: jnp.full_like(x, 1) * g / size.setdefault("n", x.size))


MEAN = Pair(
    "mean", of(_mean, lambda x, g: jnp.full_like(x, 1) * g / x.size), normals((3, 5)),
    {
        "size of the first call": Mistake(_divided_by_first(), "args[0]", "times the right"),
        "size of one axis": Mistake(
            of(_mean, lambda x, g: jnp.full_like(x, 1) * g / x.shape[0]), "args[0]",
            r"5 times the right gradient: axis 1",
        ),
    },
)  # fmt: skip

# --- under vmap ---------------------------------------------------------------------------------


def _total_with(rule):
    total = custom_vmap(lambda a: a.sum())
    total.def_vmap(rule)
    return total


def _share(x):
    return x / x.sum()


def _share_with(total):
    return of(_share, lambda x, g: (g - total(g * x) / x.sum()) / x.sum())


SHARE = Pair(
    "shares", _share_with(lambda a: a.sum()),
    lambda rng, dtype: (jnp.asarray(rng.uniform(0.1, 1, 6), dtype),),
    {
        "sum over the mapped axis too": Mistake(
            _share_with(_total_with(lambda size, mapped, a: (
                jnp.broadcast_to(a.sum(), (size,)), True))),
            "", "under vmap of",
        ),
        "first of the mapped alone": Mistake(
            _share_with(_total_with(lambda size, mapped, a: (a[0].sum(), False))),
            "", "under vmap of",
        ),
    },
)  # fmt: skip


def _gram(x):
    return x.T @ x


def _gram_with(product):
    return of(_gram, lambda x, g: product(x, g + g.T))


GRAM = Pair(
    "Gram matrix", _gram_with(lambda x, s: x @ s), normals((4, 3)),
    {
        "not symmetrised": Mistake(of(_gram, lambda x, g: 2 * x @ g)),
        "one term": Mistake(of(_gram, lambda x, g: x @ g)),
    },
)  # fmt: skip

# --- structure ----------------------------------------------------------------------------------


def _affine(params, x):
    return params["w"] * x + params["b"]


def _affine_with(order):
    def bwd(params, x, g):
        return dict(zip(order, (g, g * x), strict=True)), params["w"] * g

    return kept(_affine, bwd)


AFFINE = Pair(
    "parameters by name", _affine_with(("b", "w")),
    lambda rng, dtype: ({"w": normal(rng, dtype, 6), "b": normal(rng, dtype, 6)},
                        normal(rng, dtype, 6)),
    {
        "leaves in the order of writing": Mistake(
            _affine_with(("w", "b")), "args[0]", r"the gradient of args\[0\]\['[bw]'\]"
        ),
        "None for an array": Mistake(
            kept(_affine, lambda p, x, g: (None, p["w"] * g)), "args[0]",
            "zero: the rule gives nothing",
        ),
    },
)  # fmt: skip


def _with_index(x):
    return jnp.sort(x), jnp.argsort(x)


def _with_index_with(back):
    return of(_with_index, lambda x, g: back(jnp.argsort(x), g[0]))


WITH_INDEX = Pair(
    "sorted values and their places",
    _with_index_with(lambda order, g: jnp.zeros_like(g).at[order].set(g)), normals((7,)),
    {"order for its inverse": Mistake(_with_index_with(lambda order, g: g[order]))},
)  # fmt: skip


def _scaled_outside(x):
    """The rule of the inner function closes over a value that depends on x."""
    largest = jnp.max(x * x)
    inner = ruled(lambda a: a / largest, lambda a: (a / largest, None), lambda _, g: (g / largest,))
    return inner(x)


def _scaled_inside(x):
    inner = kept(lambda a, s: a / s, lambda a, s, g: (g / s, -(g * a).sum() / s**2))
    return inner(x, jnp.max(x * x))


def _scaled_by_held(x):
    inner = kept(lambda a, s: a / s, lambda a, s, g: (g / s, jnp.zeros_like(s)))
    return inner(x, jnp.max(x * x))


SCALED = Pair(
    "divided by its largest square", _scaled_inside, normals((8,)),
    {
        "closes over a traced value": Mistake(_scaled_outside, "", "closed-over|[Tt]racer"),
        "divisor held constant": Mistake(_scaled_by_held),
    },
)  # fmt: skip

# --- in the given precision ---------------------------------------------------------------------


def _sums(x, b):
    return x + b


def _sums_with(add):
    return kept(_sums, lambda x, b, g: (g, add(g)))


def _bf16_loop(g):
    step = lambda total, row: (total + row.astype(jnp.bfloat16), None)  # noqa: E731
    return lax.scan(step, jnp.zeros(g.shape[1:], jnp.bfloat16), g)[0].astype(g.dtype)


def _compensated(g):
    """Adds a large number and takes it off again, as to avoid a branch."""
    return (g + 1e4).sum(0) - 1e4 * len(g)


SUMS = Pair(
    "bias of a long batch", _sums_with(lambda g: g.sum(0)), normals((200, 3), (3,)),
    {
        "added in bfloat16": Mistake(_sums_with(_bf16_loop), "args[1]", "bfloat16"),
        "cancellation": Mistake(
            _sums_with(_compensated), "args[1]", "beyond what rounding explains|cancel"
        ),
    },
)  # fmt: skip

# --- host functions -----------------------------------------------------------------------------


def _on_host(function, *args):
    like = jax.ShapeDtypeStruct(args[0].shape, args[0].dtype)
    return jax.pure_callback(function, like, *args, vmap_method="expand_dims")


def _host_sine(x):
    return _on_host(np.sin, x)


def _added_up():
    """A buffer that is added to, as frameworks with state do."""
    buffer = {}

    def grad(x, g):
        new = np.asarray(g) * np.cos(x)
        buffer[new.shape] = buffer.get(new.shape, 0) + new
        return buffer[new.shape]

    return of(_host_sine, lambda x, g: _on_host(grad, x, g))


def _first_kept():
    """The slope of the first call of each shape is used again."""
    slopes = {}

    def grad(x, g):
        return np.asarray(g) * slopes.setdefault(np.shape(x), np.cos(x))

    return of(_host_sine, lambda x, g: _on_host(grad, x, g))


HOST = Pair(
    "sine on the host",
    of(_host_sine, lambda x, g: _on_host(lambda x, g: np.asarray(g) * np.cos(x), x, g)),
    normals((8,)),
    {
        "added up over calls": Mistake(_added_up(), "args[0]", _OUTSIDE + "|called twice"),
        "slope of the first call": Mistake(_first_kept(), "args[0]", _OUTSIDE + "|first call"),
        "sign": Mistake(
            of(_host_sine, lambda x, g: _on_host(lambda x, g: -np.asarray(g) * np.cos(x), x, g)),
            diagnosis="the sign",
        ),
    },
    {"ref": jnp.sin},
)  # fmt: skip

PAIRS = (CUBE, MEAN, SHARE, GRAM, AFFINE, WITH_INDEX, SCALED, SUMS, HOST)
