"""Pytree tools: packed trees come back as they were, and hold nothing twice."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.numerics.pytree import Static, as_jax, describe, pack_unique, struct, unpack_unique


def test_an_object_that_stands_in_a_tree_often_is_kept_once():
    a, b = jnp.arange(3), jnp.arange(3)  # equal, but two
    tree = {"first": (a, b), "again": [a, None, {"deep": b}], "three": a}
    packed = pack_unique(tree)
    assert len(packed.arrays) == 2 and len(jax.tree.leaves(packed)) == 2
    back = unpack_unique(packed)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for got, expected in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        assert got is expected


def test_packed_trees_are_stacked_once_by_a_scan():
    def step(x, _):
        y = x + 1
        return y, pack_unique((x, y, {"y": y}))

    _, packed = jax.lax.scan(step, jnp.zeros(2), length=5)
    assert [a.shape for a in packed.arrays] == [(5, 2), (5, 2)]
    x, y, again = unpack_unique(packed)
    np.testing.assert_array_equal(x[:, 0], np.arange(5.0))
    np.testing.assert_array_equal(y[:, 0], np.arange(5.0) + 1)
    assert again["y"] is y


def test_what_stands_beside_is_not_kept():
    a, b = jnp.arange(3), jnp.arange(3)
    packed = pack_unique({"known": a, "new": b}, beside=(b[:1], a))
    assert len(packed.arrays) == 1
    back = unpack_unique(packed, (None, a + 1))  # what stands there in the meantime, e.g. a stack
    assert back["new"] is b
    np.testing.assert_array_equal(back["known"], a + 1)


def test_an_empty_tree():
    assert unpack_unique(pack_unique((None, {}))) == (None, {})


def test_static_values_pass_through_jit_without_being_arrays():
    tree = {"sizes": Static((2, 3)), "x": jnp.ones(2)}
    back = jax.jit(lambda tree: tree)(tree)
    assert back["sizes"].value == (2, 3) and len(jax.tree.leaves(tree)) == 1


def test_struct_compares_shapes_and_dtypes():
    one, other = jnp.zeros((2, 3)), jnp.ones((2, 3))
    assert struct((one, {"a": other})) == struct((other, {"a": one}))
    assert struct(one) != struct(one.astype(jnp.float32)) and struct(one) != struct(one.T)


def test_struct_and_as_jax_see_numpy_in_the_enabled_precision(x64_off):
    assert struct(np.zeros(2)) == struct(jnp.zeros(2)) == struct(as_jax(np.zeros(2)))
    tree = as_jax({"a": np.zeros(2), "b": None, "c": 1.5})
    assert isinstance(tree["a"], jax.Array) and tree["b"] is None and tree["c"] == 1.5


def test_describe():
    x = jnp.zeros((8, 64), jnp.float32)
    assert describe(x) == "float32[8, 64]"
    assert describe((x, jax.ShapeDtypeStruct((), jnp.int32))) == "('float32[8, 64]', 'int32[]')"
