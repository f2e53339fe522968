"""The table of a model: every figure counted by hand."""

import jax
import jax.numpy as jnp
import pytest

import jaxdl as jd
from jaxdl.models import transformer_stack

IDS = jax.ShapeDtypeStruct((2, 3), jnp.int32)
X = jax.ShapeDtypeStruct((8, 4), jnp.float32)


def rows(model, x):
    return [
        (r.path, r.name, r.params, r.flops, r.residual_bytes) for r in jd.summary(model, x).rows
    ]


def test_figures_of_a_small_model():
    model = jd.serial(jd.dense(16), jd.relu(), jd.dense(3, use_bias=False))
    table = jd.summary(model, X)
    assert rows(model, X) == [
        ("dense", "dense(16)", 4 * 16 + 16, 2 * 8 * 4 * 16, 8 * 4 * 4),  # keeps x
        ("relu", "relu", 0, 0, 8 * 16 * 4),  # keeps y
        ("dense_1", "dense(3)", 16 * 3, 2 * 8 * 16 * 3, 8 * 16 * 4),
    ]
    assert [r.output for r in table.rows] == ["float32[8, 16]", "float32[8, 16]", "float32[8, 3]"]
    assert table.params == 128 and table.flops == 1024 + 768
    assert table.residual_bytes == 128 + 512 + 512


def test_the_printed_table():
    model = jd.serial(jd.dense(1000), jd.relu())
    assert str(jd.summary(model, X)) == (
        "path   layer        output            params  MFLOP  residual kB\n"
        "────────────────────────────────────────────────────────────────\n"
        "dense  dense(1000)  float32[8, 1000]   5,000  0.064        0.128\n"
        "relu   relu         float32[8, 1000]       0  0.000       32.000\n"
        "────────────────────────────────────────────────────────────────\n"
        "       total                           5,000  0.064       32.128"
    )


@pytest.mark.parametrize(
    ("wrap", "layers", "runs"),
    [
        (lambda f: jd.repeat(f, 5), 5, 5),
        (lambda f: jd.repeat(jd.repeat(f, 2), 3), 6, 6),
        (jd.frozen, 1, 1),
        (jd.skip, 1, 1),
    ],
    ids=["repeat", "repeat_of_repeat", "frozen", "skip"],
)
def test_leaves_are_counted_as_often_as_they_stand_and_run(wrap, layers, runs):
    ((_, name, params, flops, kept),) = rows(wrap(jd.dense(4)), X)
    assert name == "dense(4)"
    assert params == layers * 20 and flops == runs * 2 * 8 * 4 * 4 and kept == runs * 8 * 4 * 4


def test_scan_time_has_one_set_of_parameters_and_runs_every_step():
    inner = jd.dense(4)

    def fwd(params, pair, key=None):
        y, residuals = inner.fwd(params, pair[0] + pair[1])
        return (y, y), residuals

    cell = jd.Layer("cell", lambda key, pair: inner.init(key, pair[1]), fwd, inner.bwd)
    model = jd.scan_time(cell, lambda x: x)
    ((_, name, params, flops, kept),) = rows(model, jax.ShapeDtypeStruct((8, 7, 4), jnp.float32))
    assert name == "cell" and params == 20
    assert flops == 7 * 2 * 8 * 4 * 4 and kept == 7 * 8 * 4 * 4


def test_products_of_attention():
    heads, t, m = 2, 3, 4
    x = jax.ShapeDtypeStruct((8, t, m), jnp.float32)
    ((_, _, params, flops, kept),) = rows(jd.self_attention(heads, causal=True), x)
    assert params == 4 * m * m + 4 * m
    assert flops == 2 * 8 * (t * m * 3 * m + 2 * t * t * m + t * m * m)  # qkv, scores and p·v, out
    assert kept == 4 * 8 * (t * m + 3 * t * m + heads * t * t + t * m)  # x, qkv, p, o


def test_tied_parameters_are_counted_where_they_are():
    model = jd.tied(
        jd.serial(jd.embedding(5, 4), jd.dense(5, use_bias=False)), {"dense/w": "embedding/table.T"}
    )
    counted = {path: params for path, _, params, _, _ in rows(model, IDS)}
    assert counted == {"embedding": 20, "dense": 0}


def test_the_sum_is_the_size_of_the_parameters():
    model = jd.serial(
        jd.embedding(11, 8), transformer_stack(3, 8, 2), jd.layer_norm(), jd.dense(11)
    )
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), IDS))
    assert jd.summary(model, IDS).params == sum(p.size for p in jax.tree.leaves(params))


def test_an_array_does_as_well_as_its_shape_and_nothing_is_computed():
    def forbidden(*args):
        raise AssertionError("computed")

    model = jd.serial(jd.dense(4), jd.dropout(0.5))
    x = jnp.zeros(X.shape, X.dtype)
    assert str(jd.summary(model, x)) == str(jd.summary(model, X))
    watched = jd.from_function(lambda key, x: {}, lambda p, x: jax.debug.callback(forbidden) or x)
    jd.summary(watched, x)


def test_errors_name_the_layer():
    with pytest.raises(ValueError, match=r"skip: f\(x\) must have the shape and dtype of x"):
        jd.summary(jd.skip(jd.dense(3)), X)


def test_remat_keeps_its_input_and_nothing_of_what_is_inside():
    x = jax.ShapeDtypeStruct((4, 3), jnp.float32)
    block = jd.serial(jd.dense(8), jd.relu(), jd.dense(3))
    plain, lean = jd.summary(block, x), jd.summary(jd.remat(block), x)
    assert plain.residual_bytes == 4 * (4 * 3 + 4 * 8 + 4 * 8)
    assert lean.residual_bytes == 4 * (4 * 3)
    assert (lean.params, lean.flops) == (plain.params, plain.flops)
    assert [row.name for row in lean.rows] == ["remat", "dense(8)", "relu", "dense(3)"]


def test_operations_of_a_convolution():
    x = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32)
    assert jd.summary(jd.conv(6, 3, groups=2), x).flops == 2 * (2 * 6 * 6 * 6) * (3 * 3 * 2)
