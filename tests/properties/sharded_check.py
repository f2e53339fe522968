"""Sharded = single device, for every case; run by `test_properties_sharded.py`, alone.

The examples of a batch lie on four (virtual) devices, the parameters on all of them. Under Auto
axes the compiler shards what is between; under Explicit axes, which `jax.make_mesh` makes by
default, shardings are part of the types and the library must say where a product lives.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdl import (
    clipped_sum,
    combine,
    dense,
    example_sq_norms,
    grads,
    half_squared_error,
    remat,
    repeat,
    select,
    serial,
    softmax_cross_entropy,
    tanh,
    value_and_grad,
)
from jaxdl.core.factors import ConvOuter, FactorError, Outer
from jaxdl.models import mlp
from jaxdl.numerics.window import place_window
from tests.cases import (
    CASES,
    LEAVES,
    N,
    assert_same,
    case_id,
    compiled_manual,
    draw,
    normal,
    planted,
    wrong_dense,
)
from tests.long import sampled
from tests.properties.test_properties_examples import in_one_pass

AXES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)
both_axes = pytest.mark.parametrize("axes", AXES)


def mesh_of_four(axes):
    assert jax.device_count() == 4, f"four devices are needed, got {jax.device_count()}"
    return jax.make_mesh((4,), ("data",), axis_types=(AXES[axes],))


def place(mesh, sample):
    """Examples over the devices, parameters (and the cotangent of a scalar) on each."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    by_example = NamedSharding(mesh, PartitionSpec("data"))

    def spread(tree):
        return jax.tree.map(lambda a: jax.device_put(a, by_example if a.ndim else everywhere), tree)

    params = jax.device_put(sample.params, everywhere)
    return sample._replace(params=params, x=spread(sample.x), dy=spread(sample.dy))


def assert_placed_like(got, want):
    """Every array lies where its counterpart lies."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.sharding.is_equivalent_to(b.sharding, a.ndim), (
            f"an array of shape {a.shape} lies at {a.sharding}, not at {b.sharding}"
        )


def check_sharded(case, axes):
    sample = draw(case)
    # no norms of single examples; under Explicit axes no function is read
    no_norms = case.formed or case.layer.mixes or case.layer.name == "quadratic"
    reduce = grads if no_norms else combine(grads=grads, norms=example_sq_norms)
    run = compiled_manual(case.layer, reduce)
    alone = run(*sample)
    mesh = mesh_of_four(axes)
    with jax.set_mesh(mesh):
        placed = place(mesh, sample)
        together = run(*placed)
        if not case.tapped:
            reduced = together[0]
            assert_placed_like(reduced if no_norms else select(reduced, "grads"), placed.params)
    assert_same(jax.device_get(together), jax.device_get(alone), 1e-10)


APART = ("dense", "dense-positions", "layer_norm-positions", "embedding-positions", "conv-groups",
         "locally_connected", "scan_time")  # fmt: skip
"""A case for each way in which a reducer goes through the examples."""


@pytest.mark.parametrize("case", [c for c in CASES if c.name in APART], ids=case_id)
def test_reducers_of_examples_are_single(case):
    sample = draw(case)
    run = compiled_manual(case.layer, in_one_pass)
    alone = run(*sample)
    mesh = mesh_of_four("explicit")
    with jax.set_mesh(mesh):
        together = run(*place(mesh, sample))
    assert_same(jax.device_get(together), jax.device_get(alone), 1e-10)


@every_case
def test_sharded_is_single(case):
    check_sharded(case, "explicit")


@pytest.mark.parametrize("case", sampled(CASES, LEAVES, case_id))
def test_sharded_by_the_compiler_is_single(case):
    check_sharded(case, "auto")


@both_axes
@pytest.mark.parametrize("path", ["manual", "autodiff"])
def test_value_and_grad_is_single(path, axes):
    """A model and a loss, labels and weights sharded with the examples."""
    sample = draw(planted(mlp([5, 3]), normal(N, 6)))
    target, where = jnp.arange(N) % 3, jnp.array([True, True, False, True])
    run = jax.jit(value_and_grad(mlp([5, 3]), softmax_cross_entropy(), path=path))
    alone = run(sample.params, sample.x, target, where=where)
    mesh = mesh_of_four(axes)
    with jax.set_mesh(mesh):
        placed = place(mesh, sample)
        target, where = jax.device_put((target, where), NamedSharding(mesh, PartitionSpec("data")))
        together = run(placed.params, placed.x, target, where=where)
        assert_placed_like(together[1], placed.params)
    assert_same(jax.device_get(together), jax.device_get(alone), 1e-12)


@both_axes
@pytest.mark.parametrize("block", [tanh(), remat(tanh())], ids=["kept", "again"])
def test_clipped_sum_is_single(block, axes):
    model = serial(dense(5), repeat(serial(dense(5), block), 2), dense(3))
    sample, target = draw(planted(model, normal(N, 5, 6))), jnp.ones((N, 5, 3))
    run = jax.jit(value_and_grad(model, half_squared_error(), reduce=clipped_sum(0.5)))
    alone = run(sample.params, sample.x, target)
    mesh = mesh_of_four(axes)
    with jax.set_mesh(mesh):
        placed = place(mesh, sample)
        target = jax.device_put(target, NamedSharding(mesh, PartitionSpec("data")))
        together = run(placed.params, placed.x, target)
        assert_placed_like(together[1], placed.params)
    assert_same(jax.device_get(together), jax.device_get(alone), 1e-10)


@both_axes
def test_sharded_catches_a_gradient_times_the_number_of_devices(axes):
    def change(params, x, dy, factors, dx):
        return factors, dx * jax.sharding.get_abstract_mesh().size

    with pytest.raises(AssertionError):
        check_sharded(planted(wrong_dense(change)), axes)


@both_axes
def test_kronecker_factors(axes):
    rng = np.random.default_rng(0)
    a, d = jnp.asarray(rng.normal(size=(4, 5, 3))), jnp.asarray(rng.normal(size=(4, 5, 2)))
    window = place_window("conv", (5,), (2,), (1,), "valid", (1,), 1)
    conv = ConvOuter(a, d[:, :4], window)
    with jax.set_mesh(mesh_of_four(axes)):
        by_example = NamedSharding(jax.sharding.get_mesh(), PartitionSpec("data"))
        split, split_conv = jax.device_put((Outer(a, d), conv), by_example)
        together = jax.jit(lambda f: f.kronecker())(split)
        assert_same(jax.device_get(together), jax.device_get(Outer(a, d).kronecker()), 1e-12)
        if axes == "auto":
            together = jax.jit(lambda f: f.kronecker())(split_conv)
            assert_same(jax.device_get(together), jax.device_get(conv.kronecker()), 1e-12)
            return
        with pytest.raises(FactorError, match="kronecker: the examples are split over Explicit"):
            jax.jit(lambda f: f.kronecker())(split_conv)
