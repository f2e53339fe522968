"""Which factors are found for which programs, and how `explain` tells it."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jaxdl
from jaxdl.core.factors import Factor
from tests.program.record import N, normal

D = jnp.float64
X = normal(D, N, 4, 6)
IDS = jnp.arange(4 * N).reshape(N, 4) % 7


def total(y):
    return jnp.sum(jnp.tanh(y) ** 2)


def conv(layout):
    def loss(w, x):
        numbers = (layout, "HWIO" if layout == "NHWC" else "OIHW", layout)
        x = x[None, ..., None] if layout == "NHWC" else x[None, None]
        return total(lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers))

    return loss


def over_time(derive):
    def loss(w, x):
        def step(h, x):
            return jnp.tanh(x + h @ derive(w)), None

        return total(lax.scan(step, jnp.zeros(6, D), x)[0])

    return loss


def over_layers(w, x):
    return total(lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0])


def another_at_each_step(w, x):
    def step(h, i):
        return jnp.tanh(h @ jnp.exp(i * w)), None

    return total(lax.scan(step, x, jnp.arange(3, dtype=D))[0])


def inverse(w):
    return jnp.linalg.inv(w + 9 * jnp.eye(6, dtype=D))


KINDS = [
    ("dense", "Outer", lambda w, x: total(x @ w), (6, 3), X),
    ("transposed", "Moved(Outer)", lambda w, x: total(x @ w.T), (3, 6), X),
    ("on_the_left", "Moved(Outer)", lambda w, x: total(w @ x.T), (3, 6), X),
    ("over_time", "Outer", over_time(lambda w: w), (6, 6), X),
    ("convolution", "ConvOuter", conv("NHWC"), (3, 3, 1, 2), X),
    ("channels_first", "Moved(ConvOuter)", conv("NCHW"), (2, 1, 3, 3), X),
    ("lookup", "Scatter", lambda w, i: total(w[i]), (7, 3), IDS),
    ("lookup_of_columns", "Used", lambda w, i: total(w[:, i]), (3, 7), IDS),
    ("each_position", "Local", lambda w, x: total(jnp.einsum("tm,tmk->tk", x, w)), (4, 6, 3), X),
    ("bias", "Sum", lambda w, x: total(x + w), (6,), X),
    ("scale", "Diag", lambda w, x: total(x * w), (4, 6), X),
    ("no_lean_form_but_small", "Sum", lambda w, x: total(jnp.maximum(x, w)), (4, 6), X),
    ("tied", "Many(Outer, Moved(Outer))", lambda w, x: total(jnp.tanh(x @ w) @ w.T), (6, 3), X),
    ("over_layers", "Stacked(Outer)", over_layers, (3, 6, 6), X),
    ("heads", "Moved(Outer)", lambda w, x: total(jnp.einsum("tm,mhk->thk", x, w)), (6, 2, 3), X),
    ("reshaped", "Moved(Outer)", lambda w, x: total(x @ w.reshape(6, 3)), (3, 6), X),
    ("exponential", "Pulled(Outer)", lambda w, x: total(x @ jnp.exp(w)), (6, 3), X),
    ("inverse", "Pulled(Moved(Outer))", lambda w, x: total(x @ inverse(w)), (6, 6), X),
    ("inverse_over_time", "Pulled(Moved(Outer))", over_time(inverse), (6, 6), X),
    ("another_at_each_step", "Steps(Pulled(Outer))", another_at_each_step, (6, 6), X),
    ("unused", "Zero", lambda w, x: total(x @ w["a"]), {"a": (6, 2), "z": (2,)}, X),
    ("product", "Outer", lambda w, x: total(x @ (w["a"] @ w["z"])), {"a": (6, 2), "z": (2, 6)}, X),
]


def kind(factor):
    parts = getattr(factor, "factors", ()) or [f for f in [getattr(factor, "factor", None)] if f]
    name = type(factor).__name__
    return f"{name}({', '.join(map(kind, parts))})" if parts else name


def drawn(shapes):
    return jax.tree.map(lambda s: normal(D, *s), shapes, is_leaf=lambda s: isinstance(s, tuple))


@pytest.mark.parametrize(
    ("expected", "loss", "shapes", "x"), [k[1:] for k in KINDS], ids=[k[0] for k in KINDS]
)
def test_kinds_of_factors(expected, loss, shapes, x):
    kept = jax.eval_shape(jaxdl.value_and_reduce(loss, jaxdl.keep), drawn(shapes), x)[1]
    found = jax.tree.leaves(kept, is_leaf=lambda node: isinstance(node, Factor))
    assert kind(found[-1]) == expected


# --- explain ------------------------------------------------------------------------------------

SHAPES = {
    "exp": (6, 2),
    "layers": {"b": (3, 6), "w": (3, 6, 6)},
    "table": (3, 7),
    "tied": (6, 2),
    "time": (6, 6),
    "unused": (2,),
}


def model(params, x, ids):
    def layer(h, layer):
        return jnp.tanh(h @ layer["w"] + layer["b"]), None

    def step(h, x):
        return jnp.tanh(x + h @ params["time"]), None

    h = lax.scan(layer, x, params["layers"])[0]
    tied = jnp.tanh(h @ params["tied"]) @ params["tied"].T
    last = lax.scan(step, jnp.zeros(6, D), tied)[0]
    return total(h @ jnp.exp(params["exp"])) + total(last) + total(params["table"][:, ids])


TABLE = """\
parameter  used in      factor  positions  not lean because
───────────────────────────────────────────────────────────
exp        dot_general  Outer   4          its gradient goes back through exp
layers/b   add          Sum     3 × 4
layers/w   dot_general  Outer   3 × 4
table      gather       Used    1          no lean form is known for gather
tied       dot_general  Outer   4
tied       dot_general  Outer   4
time       dot_general  Outer   4
unused     –            Zero    0"""


def test_the_table():
    assert str(jaxdl.explain(model, drawn(SHAPES), X[0], IDS[0])) == TABLE


def test_shapes_are_enough():
    is_shape = dict(is_leaf=lambda s: isinstance(s, tuple))
    params = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, D), SHAPES, **is_shape)
    ids = jax.ShapeDtypeStruct((4,), jnp.int32)
    assert str(jaxdl.explain(model, params, jax.ShapeDtypeStruct((4, 6), D), ids)) == TABLE


def test_the_fields():
    found = jaxdl.explain(model, drawn(SHAPES), X[0], IDS[0])
    assert found.unused == ("unused",)
    by_path = {site.path: site for site in found.sites}
    layer = by_path["layers/w"]
    assert (layer.primitive, layer.form) == ("dot_general", "Outer")
    assert (layer.positions, layer.stack, layer.why) == (4, (3,), "")
    assert re.fullmatch(r".*test_explain\.py:\d+ \(model\.<locals>\.layer\)", layer.where)
    assert by_path["time"].stack == () and by_path["time"].positions == 4
    assert [site.path for site in found.sites].count("tied") == 2


def test_a_bare_parameter_auxiliary_values_and_a_key():
    def loss(w, x, key):
        h = x @ w
        return total(h + jax.random.normal(key, h.shape, D)), h

    found = jaxdl.explain(loss, normal(D, 6, 2), X[0], jax.random.key(0), has_aux=True)
    assert str(found).splitlines()[2:] == ["params     dot_general  Outer   4"]
