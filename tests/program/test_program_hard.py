"""Small programs that were once read wrongly, each held against the gradients of its examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import AxisType, PartitionSpec

import jaxdl
from jaxdl.core.factors import Factor, contract
from tests.program.record import N, normal
from tests.program.reference import as_usual

DTYPE = jnp.float64
HARD = []


def hard(**params):
    """A decorator: a loss of one example x (3,), and maybe of more, with parameters drawn so."""

    def add(loss):
        HARD.append((loss, params))
        return loss

    return add


def check(loss, params, *batch, has_aux=False, rtol=1e-9):
    """Values, gradient, norms, and what is made of factors that were kept."""
    reducer = jaxdl.combine(grads=jaxdl.grads, norms=jaxdl.example_sq_norms, kept=jaxdl.keep)

    def both(params, *batch):
        one = jax.vmap(jax.value_and_grad(loss, has_aux=has_aux), (None,) + (0,) * len(batch))
        run = jaxdl.value_and_reduce(loss, reducer, has_aux=has_aux)
        return one(params, *batch), run(params, *batch)

    with as_usual():
        (values, each), (got, tree) = jax.jit(both)(params, *batch)
        norms, kept = jaxdl.select(tree, "norms"), jaxdl.select(tree, "kept")
        weights = jnp.arange(1.0, N + 1)
        factors = jax.tree.leaves(kept, is_leaf=lambda node: isinstance(node, Factor))
        pairs = zip(factors, jax.tree.leaves(params), strict=True)
        weighted = [contract(factor.scale(weights), param) for factor, param in pairs]
        later = jaxdl.reduce_kept(jaxdl.grads, params, kept)
    every = [np.asarray(g) for g in jax.tree.leaves(each)]
    scale = max(np.abs(g).max() for g in every)

    def near(got, want, rtol=rtol):
        for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            assert g.shape == w.shape
            np.testing.assert_allclose(g, w, rtol, rtol * scale)

    near(got, values)
    near(jaxdl.select(tree, "grads"), [g.mean(0) for g in every])
    near(later, [g.mean(0) for g in every])
    near(weighted, [np.tensordot(weights, g, 1) / N for g in every])
    norms = [n.reshape(-1, N).sum(0) for n in jax.tree.leaves(norms)]
    near(norms, [np.square(np.abs(g)).reshape(N, -1).sum(1) for g in every])


# --- loops --------------------------------------------------------------------------------------


@hard(w=(3, 3))
def carried_by_steps_of_the_outer_loop(p, x):
    """What the inner loop carries is fixed, but another at each step of the outer one."""

    def outer(total, i):
        def inner(count, _):
            return count + i, jnp.tanh(x @ p["w"][count % 3])

        return total + lax.scan(inner, 0, None, 2)[1].sum(), None

    return lax.scan(outer, 0.0, jnp.arange(3))[0]


@hard(w=(3, 3))
def count_of_a_loop_that_is_stopped(p, x):
    def step(carry, _):
        return (carry[0] + 2, jnp.tanh(p["w"] @ carry[1])), None

    count, state = lax.scan(step, (0, x), None, 3)[0]
    return jnp.sum((p["w"][count % 3] * x) ** 2) + lax.stop_gradient(state).sum()


@hard(w=(3, 3))
def derived_of_what_a_loop_counts(p, x):
    def step(carry, _):
        return (0.5 * carry[0], jnp.tanh(p["w"] @ carry[1])), None

    rate, state = lax.scan(step, (1.0, x), None, 3)[0]
    inverse = jnp.linalg.inv(rate * p["w"] + 5 * jnp.eye(3))
    return jnp.sum((inverse @ x) ** 2) + state.sum()


# --- branches that some examples take ------------------------------------------------------------


@hard(w=(3, 3))
def nan_in_the_branch_not_taken(p, x):
    h = p["w"] @ x

    def root(h):
        start = jnp.full(3, x[0]) + 0 * h
        y = lax.scan(lambda c, _: (jnp.exp(p["w"]) @ jnp.sqrt(c), None), start, None, 2)[0]
        return jnp.sum(y + jnp.log(h[0] / x[0] * jnp.sign(h[0])))

    return lax.cond(x[0] > 0, root, lambda h: jnp.sum(h / p["w"][0]), h)


# --- kept factors -------------------------------------------------------------------------------


@hard(w=(3, 3), rest={"v": (3, 4)})
def used_twice_beside_a_tree(p, x):
    return jnp.sum(jnp.tanh(jnp.tanh(x @ p["w"]) @ p["w"]) @ p["rest"]["v"])


@hard(layers=(5, 3, 3), m=(2, 6))
def stack_beside_a_reshaped_matrix(p, x):
    h = lax.scan(lambda h, w: (jnp.tanh(w @ h), None), x, p["layers"])[0]
    return jnp.sum((h @ p["m"].reshape(3, 4)) ** 2)


# --- views --------------------------------------------------------------------------------------


@hard(w=(2, 6))
def reshaped_in_another_order(p, x):
    return jnp.sum((x @ lax.reshape(p["w"], (3, 4), dimensions=(1, 0))) ** 2)


@hard(table=(7, 2, 3), w=(3, 3))
def one_row_by_its_number(p, x):
    """Outside the table it is the first or the last row."""
    row = lax.dynamic_index_in_dim(p["table"], (9 * x[0]).astype(jnp.int32), keepdims=False)
    part = lax.dynamic_slice_in_dim(p["w"], (3 * x[0]).astype(jnp.int32), 1)
    return jnp.sum(jnp.tanh(row * x)) + jnp.sum(part**2)


@hard(w=(3, 3), rest={"v": (2, 2)})
def one_number_added_to_a_matrix(p, x):
    return jnp.sum(jnp.tanh((p["w"] + p["rest"]["v"][0, 1] - jnp.sum(p["w"])) @ x))


# --- what is used many times, and in fewer bits ---------------------------------------------------


@hard(w=(3, 3), b=(3,), table=(7, 3))
def unrolled_loop(p, x):
    for _ in range(4):
        x = jnp.tanh(x @ p["w"] + x * p["b"]) * p["b"] + p["table"][(2 * x[0]).astype(jnp.int32)]
    return jnp.sum(x @ p["w"].T)


@pytest.mark.parametrize(("loss", "shapes"), HARD, ids=lambda value: getattr(value, "__name__", ""))
def test_hard_programs(loss, shapes):
    is_shape = dict(is_leaf=lambda node: isinstance(node, tuple))
    leaves, tree = jax.tree.flatten(shapes, **is_shape)
    params = tree.unflatten([normal(DTYPE, *s, seed=i + 2) for i, s in enumerate(leaves)])
    check(loss, params, normal(DTYPE, N, 3))


def test_fixed_value_of_a_loop_that_is_auxiliary():
    def loss(p, x):
        def step(carry, _):
            return (carry[0] + 2, jnp.tanh(p @ carry[1])), None

        count, state = lax.scan(step, (0, x), None, 3)[0]
        return jnp.sum((p @ x) ** 2) * count, state

    check(loss, normal(DTYPE, 3, 3), normal(DTYPE, N, 3), has_aux=True)


def test_long_chain_of_derived_values():
    def norms(params, x):
        def loss(w, x):
            for _ in range(600):
                w = w * 1.001
            return jnp.sum(x @ w)

        return jaxdl.value_and_reduce(loss, jaxdl.example_sq_norms)(params, x)

    jax.eval_shape(norms, normal(DTYPE, 3, 2), normal(DTYPE, N, 3))


def test_uses_of_one_kind_are_one_inner_product():
    """An unrolled loop of T steps has T² pairs of uses."""

    def norms(params, x):
        def loss(w, x):
            for _ in range(12):
                x = jnp.tanh(x @ w) * w[0]
            return jnp.sum(x)

        return jaxdl.value_and_reduce(loss, jaxdl.example_sq_norms)(params, x)

    text = str(jax.make_jaxpr(norms)(normal(DTYPE, 3, 3), normal(DTYPE, N, 3)))
    assert text.count("dot_general") < 40


def test_half_precision_where_dtypes_must_not_mix():
    """Adapters, and a convolution that sums in float32, of parameters in float32."""
    half, single = jnp.bfloat16, jnp.float32

    def loss(p, x):
        y = jnp.tanh(x.astype(half) @ (p["a"] @ p["b"]).astype(half))
        kernel = p["kernel"].astype(half)
        z = lax.conv_general_dilated(
            y[None, None], kernel, (1,), "SAME", preferred_element_type=single
        )
        return jnp.sum(jnp.tanh(z))

    shapes = {"a": (3, 2), "b": (2, 3), "kernel": (2, 1, 3)}
    params = {name: normal(single, *shape) for name, shape in shapes.items()}
    x = normal(single, N, 3)
    each = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params, x)
    norms = jax.jit(jaxdl.value_and_reduce(loss, jaxdl.example_sq_norms))(params, x)[1]
    for name, g in each.items():
        np.testing.assert_allclose(norms[name], np.square(g).reshape(N, -1).sum(1), 0.05)


def test_inside_shard_map():
    """With its check of what differs between devices, also through loops and branches."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))

    def loss(p, x):
        def step(h, _):
            h = lax.cond(h[0] > 0, lambda h: jnp.tanh(p["w"] @ h), lambda h: h * p["w"][0], h)
            return jnp.arctan2(p["w"], h).sum(1), None

        return jnp.sum(lax.scan(jax.checkpoint(step), x, None, 2)[0])

    def norms(params, x):
        return jaxdl.value_and_reduce(loss, jaxdl.example_sq_norms)(params, x)[1]["w"]

    params, x = {"w": normal(DTYPE, 3, 3)}, normal(DTYPE, N, 3)
    whole, parts = PartitionSpec(), PartitionSpec("data")
    split = jax.shard_map(norms, mesh=mesh, in_specs=(whole, parts), out_specs=parts)
    each = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params, x)["w"]
    np.testing.assert_allclose(jax.jit(split)(params, x), jnp.sum(each**2, (1, 2)), 1e-9)


def test_layers_by_their_number_are_not_copied_for_every_step():
    def gradient(params, x):
        def loss(w, x):
            return jnp.sum(lax.fori_loop(0, 4, lambda i, h: jnp.tanh(w[i] @ h), x))

        return jaxdl.value_and_reduce(loss)(params, x)

    layers = normal(DTYPE, 4, 3, 3)
    text = str(jax.make_jaxpr(gradient)(layers, normal(DTYPE, N, 3)))
    assert "[4,4,3,3]" not in text
    check(lambda w, x: jnp.sum(lax.fori_loop(0, 4, lambda i, h: jnp.tanh(w[i] @ h), x)), layers,
          normal(DTYPE, N, 3))  # fmt: skip


def test_kept_factors_of_a_state_are_reduced_as_in_the_backward_pass():
    """The tree and the names stay those of the parameters: projections depend on names."""
    model = nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.Linear(3, 3, rngs=nnx.Rngs(1)))
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, x):
        return jnp.sum(jnp.square(nnx.merge(graph, params, rest)(x)))

    x = jax.random.normal(jax.random.key(2), (5, 4), jnp.float32)
    kept = jaxdl.value_and_reduce(loss, jaxdl.keep)(params, x)[1]
    for reducer in (jaxdl.clipped_sum(0.5), jaxdl.project(4, jax.random.key(3))):
        later = jaxdl.reduce_kept(reducer, params, kept)
        inside = jaxdl.value_and_reduce(loss, reducer)(params, x)[1]
        assert jax.tree.structure(later) == jax.tree.structure(inside) == jax.tree.structure(params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), later, inside)
