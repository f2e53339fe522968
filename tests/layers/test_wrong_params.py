"""Parameters of another model are refused by every leaf that has any, by name and shape."""

import jax
import jax.numpy as jnp
import pytest

import jaxdl as jd

IMAGES = jnp.ones((2, 6, 6, 4))
ROWS = jnp.ones((2, 5, 6))
IDS = jnp.zeros((2, 3), jnp.int32)

# a layer, its input, and the shapes its parameters must have; None is for the input to say
LEAVES = {
    "dense": (jd.dense(10), ROWS, {"w": (None, 10), "b": (10,)}),
    "conv": (jd.conv(4, (3, 2), groups=2), IMAGES, {"w": (3, 2, None, 4), "b": (4,)}),
    "conv_transpose": (
        jd.conv_transpose(6, (3, 2), groups=2), IMAGES, {"w": (3, 2, 3, None), "b": (6,)},
    ),
    "fft_conv": (jd.fft_conv(3, (3, 2)), IMAGES, {"w": (3, 2, None, 3), "b": (3,)}),
    "locally_connected": (
        jd.locally_connected(3, (3, 2)), IMAGES, {"w": (20, 24, 3), "b": (4, 5, 3)},
    ),
    "embedding": (jd.embedding(10, 4), IDS, {"table": (10, 4)}),
    "self_attention": (
        jd.self_attention(2), ROWS,
        {"w_qkv": (None, 18), "b_qkv": (18,), "w_out": (6, 6), "b_out": (6,)},
    ),
    "self_attention, width of a head": (
        jd.self_attention(2, head_features=4), ROWS,
        {"w_qkv": (None, 24), "b_qkv": (24,), "w_out": (8, 6), "b_out": (6,)},
    ),
    "rnn": (jd.rnn(3), ROWS, {"w_x": (None, 3), "w_h": (3, 3), "b": (3,)}),
    "lstm": (
        jd.lstm(3, peepholes=True), ROWS,
        {"w_x": (None, 12), "w_h": (3, 12), "b": (12,), "p": (3, 3)},
    ),
    "gru": (jd.gru(3), ROWS, {"w_x": (None, 9), "w_h": (3, 9), "b": (9,), "b_h": (9,)}),
    "layer_norm": (jd.layer_norm(), ROWS, {"scale": (None,), "shift": (6,)}),
    "rms_norm": (jd.rms_norm(), ROWS, {"scale": (None,)}),
    "group_norm": (jd.group_norm(2), IMAGES, {"scale": (None,), "shift": (4,)}),
    "batch_norm": (
        jd.batch_norm(), IMAGES, {"scale": (None,), "shift": (4,), "mean": (4,), "var": (4,)},
    ),
}  # fmt: skip


def refused(layer, params, x, message):
    with pytest.raises(ValueError) as error:
        jax.eval_shape(layer.apply, params, x)
    assert message in str(error.value)


@pytest.mark.parametrize(("layer", "x", "shapes"), LEAVES.values(), ids=LEAVES)
def test_every_axis_of_every_parameter_is_held_to_the_settings(layer, x, shapes):
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    jax.eval_shape(layer.apply, params, x)  # as init gives them, they are taken
    assert set(params) == set(shapes)
    for entry, shape in shapes.items():
        right = params[entry].shape
        expected = str(shape).replace("None", "any")
        must = f"{layer.name}: params[{entry!r}] must have shape {expected}, got "
        advice = "; use the params that init of this same model returned"
        others = [(*right[:i], n + 1, *right[i + 1 :]) for i, n in enumerate(right)]
        for axis, got in enumerate([*others, (*right, 1)]):
            wrong = params | {entry: jax.ShapeDtypeStruct(got, params[entry].dtype)}
            if axis < len(shape) and shape[axis] is None:  # only the input can tell
                refused(layer, wrong, x, f"{layer.name}: ")
            else:
                refused(layer, wrong, x, f"{must}{got}{advice}")
