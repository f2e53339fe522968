"""Reducers: per-example quantities against gradients formed one example at a time."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl as jd
from jaxdl.core.factors import FactorError, Formed, Many, Outer, Scatter, Sum, Zero, contract
from jaxdl.core.reducers import Seen

assert_close = partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


IDS = jnp.array([[0, 6, 6], [-1, 7, 3]])  # one row twice, two rows that do not exist
FACTORS = {
    "outer_without_positions": (Outer(draw(4, 5), draw(4, 6, seed=1)), (5, 6)),
    "outer_by_gram": (Outer(draw(4, 2, 20), draw(4, 2, 30, seed=1)), (20, 30)),
    "outer_one_by_one": (Outer(draw(4, 50, 2), draw(4, 50, 3, seed=1)), (2, 3)),
    "outer_two_position_axes": (Outer(draw(4, 2, 2, 9), draw(4, 2, 2, 8, seed=1)), (9, 8)),
    "sum": (Sum(draw(4, 3, 5)), (5,)),
    "sum_without_positions": (Sum(draw(4, 5)), (5,)),
    "sum_of_matrices": (Sum(draw(4, 3, 5, 2)), (5, 2)),
    "scatter": (Scatter(IDS, draw(2, 3, 5)), (7, 5)),
    "scatter_without_positions": (Scatter(IDS[:, 0], draw(2, 5)), (7, 5)),
    "many_outer": (
        Many(
            (Outer(draw(4, 5), draw(4, 6, seed=1)), Outer(draw(4, 5, seed=2), draw(4, 6, seed=3)))
        ),
        (5, 6),
    ),
    "many_mixed": (
        Many((Scatter(IDS, draw(2, 3, 5)), Outer(draw(2, 3, 7, seed=2), draw(2, 3, 5, seed=3)))),
        (7, 5),
    ),
    "many_with_zero": (Many((Zero(4), Outer(draw(4, 5), draw(4, 6, seed=1)))), (5, 6)),
    "zero": (Zero(4), (5, 6)),
}


@pytest.mark.parametrize(("factor", "shape"), FACTORS.values(), ids=FACTORS)
def test_example_sq_norms_of_every_factor(factor, shape):
    param = jnp.zeros(shape)
    got = jd.example_sq_norms({"p": param}, {"p": factor})["p"]
    expected = []
    for i in range(factor.examples):
        alone = jax.tree.map(lambda a, i=i: a[i : i + 1], factor)
        expected.append(np.sum(np.square(contract(alone, param))))
    assert got.shape == (factor.examples,)
    assert_close(got, expected)


@pytest.mark.parametrize(("name", "pairs"), [("outer_by_gram", True), ("outer_one_by_one", False)])
def test_pairs_of_positions_are_formed_only_where_that_is_cheaper(name, pairs):
    factor, shape = FACTORS[name]
    n, t, _ = factor.a.shape
    traced = str(jax.make_jaxpr(jd.example_sq_norms)({"p": jnp.zeros(shape)}, {"p": factor}))
    assert (f"f64[{n},{t},{t}]" in traced) == pairs
    assert f"f64[{n},{shape[0]},{shape[1]}]" not in traced  # examples × parameters, never


def test_a_mean_loss_scales_the_norm_of_an_example_by_one_over_n():
    model, loss = jd.dense(3), jd.mean_squared_error()
    x, target = draw(4, 5), draw(4, 3, seed=1)
    params = model.init(jax.random.key(0), x)
    one = jax.vmap(lambda x, t: jax.grad(lambda p: loss(model.apply(p, x[None]), t[None]))(params))(
        x, target
    )
    _, norms = jd.value_and_grad(model, loss, reduce=jd.example_sq_norms)(params, x, target)
    expected = (np.square(one["w"]).sum((1, 2)) + np.square(one["b"]).sum(1)) / 4**2
    assert_close(jd.total(norms), expected)


def test_low_precision_norms_are_summed_wide():
    ones = jnp.ones((1, 512), jnp.bfloat16)
    factors = {"w": Outer(ones, ones), "b": Sum(ones)}
    params = {"w": jnp.zeros((512, 512), jnp.bfloat16), "b": jnp.zeros(512, jnp.bfloat16)}
    got = jd.example_sq_norms(params, factors)
    assert got["w"].dtype == jnp.float32 and got["w"][0] == 512**2
    assert jd.l2_norm(jnp.ones(1024, jnp.bfloat16)) == 32


def test_total_adds_leaves_and_layers():
    tree = ({"w": jnp.ones(3), "b": jnp.arange(3.0)}, {"w": jnp.ones((2, 5, 3))})
    np.testing.assert_array_equal(jd.total(tree), [11, 12, 13])
    np.testing.assert_array_equal(jd.total({"w": jnp.ones(3)}), [1, 1, 1])


def test_combine_and_select():
    model = jd.serial(jd.dense(4), jd.repeat(jd.dense(4), 2), jd.tanh())
    x = draw(3, 4)
    params = model.init(jax.random.key(0), x)
    y, residuals = model.fwd(params, x)
    both, dx = model.bwd(params, residuals, y, jd.combine(g=jd.grads, n=jd.example_sq_norms))
    for name, reduce in (("g", jd.grads), ("n", jd.example_sq_norms)):
        alone, alone_dx = model.bwd(params, residuals, y, reduce)
        chosen = jd.select(both, name)
        assert jax.tree.structure(chosen) == jax.tree.structure(alone)
        jax.tree.map(np.testing.assert_array_equal, chosen, alone)
        np.testing.assert_array_equal(dx, alone_dx)


def rnn_like(width):
    """A cell whose state is its own output: tanh of a dense layer of [x, h]."""
    inner = jd.serial(jd.dense(width), jd.tanh())

    def fwd(params, pair, key=None):
        h, x = pair
        y, residuals = inner.fwd(params, jnp.concatenate([x, h], axis=-1))
        return (y, y), residuals

    def bwd(params, residuals, pair, reduce=jd.grads, slots=None):
        dh, dy = pair
        reduced, joined = inner.bwd(params, residuals, dh + dy, reduce, slots)
        return reduced, (joined[..., -width:], joined[..., :-width])

    def init(key, pair):
        _, x = pair
        joined = jax.ShapeDtypeStruct((*x.shape[:-1], x.shape[-1] + width), x.dtype)
        return inner.init(key, joined)

    return jd.Layer("rnn_like", init, fwd, bwd)


MODELS = {
    "serial": jd.serial(jd.dense(4), jd.tanh(), jd.layer_norm()),
    "branch": jd.branch(jd.dense(2), jd.serial(jd.dense(2)), join="concat"),
    "repeat": jd.serial(
        jd.dense(4), jd.repeat(jd.skip(jd.serial(jd.layer_norm(), jd.dense(4))), 3)
    ),
    "repeat_of_repeat": jd.repeat(jd.repeat(jd.serial(jd.dense(4), jd.tanh()), 2), 3),
    "frozen": jd.serial(jd.frozen(jd.dense(4)), jd.repeat(jd.frozen(jd.dense(4)), 2)),
    "tied": jd.tied(
        jd.serial(jd.dense(4), jd.dense(4, use_bias=False)), {"dense_1/w": "dense/w.T"}
    ),
    "scan_time": jd.scan_time(
        rnn_like(3), carry=lambda x: jax.ShapeDtypeStruct((x.shape[0], 3), x.dtype)
    ),
    "tap": jd.serial(jd.dense(4), jd.tap(), jd.repeat(jd.serial(jd.dense(4), jd.tap()), 2)),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize(
    "reduce", [jd.grads, jd.none, jd.example_sq_norms, jd.trace], ids=lambda f: f.__name__
)
def test_factors_kept_can_be_reduced_later(model, reduce):
    x = draw(3, 5, 4)
    params = model.init(jax.random.key(0), x)
    y, residuals = model.fwd(params, x)
    now, _ = model.bwd(params, residuals, y, reduce)
    kept, _ = model.bwd(params, residuals, y, jd.keep)
    later = jd.reduce_kept(reduce, params, kept)
    assert jax.tree.structure(later) == jax.tree.structure(now)
    jax.tree.map(lambda a, b: assert_close(a, b), later, now)


def step_down(params, factors, slots):
    """A test reducer with state: new parameters, and the state counted up."""
    new = {name: params[name] - slots["rate"] * g for name, g in jd.grads(params, factors).items()}
    return {"params": new, "count": slots["count"] + 1}


def slots_beside(params, rate=0.5):
    if params and not hasattr(next(iter(params.values())), "shape"):
        return {name: slots_beside(part, rate * 2) for name, part in params.items()}
    leaves = jax.tree.leaves(params)
    layers = leaves[0].shape[:-2] if leaves and leaves[0].ndim > 1 else ()
    return {"rate": jnp.full(layers, rate), "count": jnp.zeros(layers, jnp.int32)}


@pytest.mark.parametrize("name", ["serial", "tied"])
@pytest.mark.parametrize("when", ["in_the_backward", "later"])
def test_slots_travel_beside_the_parameters(name, when):
    model, x = MODELS[name], draw(3, 4)
    params = model.init(jax.random.key(0), x)
    slots = slots_beside(params)
    y, residuals = model.fwd(params, x)
    gradient, _ = model.bwd(params, residuals, y)
    if when == "later":
        kept = model.bwd(params, residuals, y, jd.keep)[0]
        reduced = jd.reduce_kept(step_down, params, kept, slots)
    else:
        reduced, _ = model.bwd(params, residuals, y, step_down, slots)
    for name, r in reduced.items():
        jax.tree.map(
            lambda a, b, c: assert_close(c, a - b), params[name], gradient[name], r["params"]
        )
        assert r["count"] == 1
    assert reduced.keys() == params.keys()


def test_slots_are_stepped_through_by_repeat():
    model, x = jd.repeat(jd.dense(4, use_bias=False), 3), draw(2, 4)
    params = model.init(jax.random.key(0), x)
    slots = {"rate": jnp.array([1.0, 10, 100]), "count": jnp.arange(3)}
    y, residuals = model.fwd(params, x)
    gradient, _ = model.bwd(params, residuals, y)
    expected = params["w"] - slots["rate"][:, None, None] * gradient["w"]
    for reduced in (
        model.bwd(params, residuals, y, step_down, slots)[0],
        jd.reduce_kept(step_down, params, model.bwd(params, residuals, y, jd.keep)[0], slots),
    ):
        assert_close(reduced["params"]["w"], expected)
        np.testing.assert_array_equal(reduced["count"], [1, 2, 3])


def test_trace_measures_every_floating_array_of_every_factor():
    params = {"w": jnp.zeros((5, 6)), "t": jnp.zeros((7, 5)), "f": jnp.zeros(2), "z": jnp.zeros(2)}
    a, d = draw(4, 5), draw(4, 6, seed=1)
    factors = {
        "w": Many((Outer(a, d), Outer(2 * a, d))),
        "t": Scatter(IDS, draw(2, 3, 5)),
        "f": Formed(jnp.array([3.0, 4])),
        "z": Zero(4),
    }
    norm = np.linalg.norm
    got = jd.trace(params, factors, None)
    assert_close(got["w"][0]["a"], norm(a))
    assert_close(got["w"][1]["a"], 2 * norm(a))
    assert_close(got["w"][0]["d"], norm(d))
    assert set(got["t"]) == {"d"} and got["f"] == {"g": 5.0} and got["z"] == {}
    largest = jd.trace_with(lambda array: jnp.max(jnp.abs(array)))(params, factors, None)
    assert largest["w"][0]["d"] == np.max(np.abs(d)) and largest["f"]["g"] == 4


def test_none_and_keep():
    factors = {"w": Outer(draw(2, 3), draw(2, 4))}
    params = {"w": jnp.zeros((3, 4))}
    assert jd.none(params, factors) == {} and jd.keep(params, factors) is factors


def test_reduce_kept_looks_inside_a_trace():
    seen = Seen(jnp.ones(2), jnp.ones(2), {"b": Sum(jnp.ones((3, 2)))})
    reduced = jd.reduce_kept(jd.grads, {"b": jnp.zeros(2)}, seen)
    assert isinstance(reduced, Seen)
    np.testing.assert_array_equal(reduced.reduced["b"], [3, 3])


def test_errors():
    w = {"w": jnp.zeros((3, 4))}
    formed = (
        r"example_sq_norms needs the examples apart, but the layer gives an already formed gradient"
        r" \(Formed\), summed over them; write its bwd with Outer, Sum or Scatter"
    )
    for factor in (Formed(w["w"]), Many((Outer(draw(2, 3), draw(2, 4)), Formed(w["w"])))):
        with pytest.raises(FactorError, match=formed):
            jd.example_sq_norms(w, {"w": factor})
    with pytest.raises(
        ValueError,
        match=r"example_sq_norms: factors must have a leading example axis, got shape \(4,\); give "
        r"the model a batch, e.g. x\[None\]",
    ):
        jd.example_sq_norms(w, {"w": Outer(draw(3), draw(4))})
    with pytest.raises(
        ValueError,
        match=r"example_sq_norms: factors must have a leading example axis, got shape \(4,\) for a "
        r"parameter of shape \(4,\); give the model a batch",
    ):
        jd.example_sq_norms({"b": jnp.zeros(4)}, {"b": Sum(draw(4))})
    with pytest.raises(
        ValueError, match="total: the tree has no per-example values; the model has"
    ):
        jd.total(({}, {}))
