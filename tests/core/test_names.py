"""Names of layers, paths of parameters, errors that say where, and trees of earlier versions."""

import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdl as jd
from jaxdl.models import mlp, transformer_stack
from jaxdl.numerics import wide
from tests.cases import formed_scale

KEY = jax.random.key(0)
X = jnp.ones((2, 4))


def shapes(tree):
    return jax.tree.map(jnp.shape, tree)


def test_children_are_called_as_given_or_after_their_kind():
    model = jd.serial(jd.dense(3), jd.relu(), jd.dense(3), last=jd.dense(2), dense_2=jd.tanh())
    assert model.names == ("dense", "relu", "dense_1", "last", "dense_2")
    assert list(model.init(KEY, X)) == ["dense", "dense_1", "last"]
    taken = jd.serial(jd.dense(3), jd.dense(3), dense=jd.dense(2))
    assert taken.names == ("dense_1", "dense_2", "dense")
    wrapped = jd.serial(jd.remat(jd.dense(3)), jd.frozen(jd.dense(3)), jd.skip(jd.dense(3)))
    assert wrapped.names == ("dense", "dense_1", "skip")
    assert [path for path, _ in jd.walk_layers(wrapped)] == [
        "", "dense", "dense", "dense_1", "dense_1", "skip", "skip",
    ]  # fmt: skip


def test_a_change_where_there_are_no_parameters_changes_no_path():
    def build(*between):
        return jd.serial(jd.dense(3), *between, jd.remat(jd.dense(2)))

    plain, changed = build(jd.relu()), build(jd.dropout(0.5), jd.tap(), jd.tanh())
    params = plain.init(KEY, X)
    assert shapes(params) == shapes(changed.init(KEY, X))
    changed.apply(params, X, KEY)
    drop, no_drop = (transformer_stack(2, 4, 2, dropout_rate=rate) for rate in (0.5, 0.0))
    assert shapes(drop.init(KEY, X[None])) == shapes(no_drop.init(KEY, X[None]))


def test_parameters_of_a_transformer_say_what_they_are():
    model = jd.serial(embed=jd.embedding(5, 4), blocks=transformer_stack(3, 4, 2), head=jd.dense(5))
    params = model.init(KEY, jnp.zeros((2, 3), jnp.int32))
    assert params["blocks"]["attention"]["w_qkv"].shape == (3, 4, 12)
    assert params["blocks"]["mlp"]["dense_1"]["w"].shape == (3, 16, 4)
    assert "head: dense(5)" in repr(model)


@pytest.mark.parametrize("name", ["a/b", "a*", "", "two words"])
def test_names_that_no_path_could_hold_are_refused(name):
    with pytest.raises(ValueError, match="serial: the name of a layer must fit into a path, got"):
        jd.serial(**{name: jd.relu()})
    with pytest.raises(ValueError, match="serial: the name of a layer must fit into a path, got"):
        jd.serial(jd.from_function(lambda key, x: {}, lambda p, x: x, name=name or "?"))


def errors_of(model, params, x, **kwargs):
    with pytest.raises((ValueError, TypeError)) as info:
        model.apply(params, x, **kwargs)
    return str(info.value), getattr(info.value, "__notes__", [])


def test_errors_begin_with_the_path():
    inner = jd.serial(jd.dense(4), jd.relu(), mlp=jd.skip(jd.serial(jd.dense(4), jd.dense(4))))
    model = jd.serial(stem=jd.dense(4), blocks=jd.repeat(inner, 2))
    params = model.init(KEY, X)
    wrong = jax.tree.map(lambda a: a, params)
    wrong["blocks"]["mlp"]["dense_1"]["w"] = jnp.ones((2, 5, 4))
    text, _ = errors_of(model, wrong, X)
    assert text.startswith("blocks/mlp/dense_1: x.shape[-1] must equal params['w'].shape[0] (5)")
    text, _ = errors_of(model, params | {"stem": {}}, X)
    assert text.startswith("stem: params must be a dict with the keys ['b', 'w'], got a dict with")
    text, _ = errors_of(model, {"stem": params["stem"]}, X)
    assert text.startswith("blocks/dense: params must be a dict with the keys")
    text, _ = errors_of(model, params | {"block": {}}, X)
    assert "must have parts called as the layers inside, ['stem', 'blocks'], got ['block']" in text
    with pytest.raises(ValueError, match=r"^blocks: dense"):
        jd.serial(stem=jd.dense(5), blocks=jd.repeat(jd.dense(4), 2)).init(KEY, X)


def test_errors_that_are_not_ours_get_the_path_as_a_note():
    def apply(params, x):
        return x @ jnp.ones((9, 9))

    model = jd.serial(a=jd.serial(jd.relu(), jd.from_function(jd.relu().init, apply)))
    text, notes = errors_of(model, {}, X)
    assert "a/function" not in text and "in the layer a/function" in notes


def test_errors_of_the_backward_and_of_reducers_begin_with_the_path():
    formed = formed_scale()
    model = jd.serial(body=jd.serial(jd.dense(4), formed))
    params = model.init(KEY, X)
    y, residuals = model.fwd(params, X)
    with pytest.raises(jd.FactorError, match=r"^body/formed: example_sq_norms needs the examples"):
        model.bwd(params, residuals, y, jd.example_sq_norms)
    kept, _ = model.bwd(params, residuals, y, jd.keep)
    with pytest.raises(jd.FactorError, match=r"^body/formed: example_sq_norms needs the examples"):
        jd.reduce_kept(jd.example_sq_norms, params, kept)


def centred(**flags):
    return jd.leaf(
        "centred", lambda key, x: {}, lambda params, x: (x - x.mean(0), None),
        lambda params, residuals, dy: ({}, dy - dy.mean(0)), **flags,
    )  # fmt: skip


@pytest.mark.parametrize("wrap", [
    lambda f: f, jd.frozen, jd.remat, lambda f: jd.repeat(f, 2),
    lambda f: jd.tied(jd.serial(jd.dense(4), f, jd.dense(4)), {"dense_1/w": "dense/w"}),
])  # fmt: skip
def test_reducers_that_need_examples_refuse_layers_that_mix_them_by_path(wrap):
    model = jd.serial(jd.dense(4), body=wrap(jd.serial(jd.tanh(), centred(mixes=True))))
    assert model.mixes and not jd.dense(4).mixes
    params = model.init(KEY, X)
    y, residuals = model.fwd(params, X)
    model.bwd(params, residuals, y)
    model.bwd(params, residuals, y, jd.keep)
    both = jd.combine(grads=jd.grads, norms=jd.example_sq_norms)
    own = jd.per_example(lambda params, factors, slots: {})
    for reduce in (jd.example_sq_norms, both, own):
        with pytest.raises(jd.FactorError, match=r"^body/(serial/)?centred: the reducer needs the"):
            model.bwd(params, residuals, y, reduce)


def test_a_reducer_with_settings_needs_the_examples_too():
    model = jd.serial(jd.dense(4), centred(mixes=True))
    params = model.init(KEY, X)
    y, residuals = model.fwd(params, X)

    class Bounded:
        def reduce(self, params, factors, slots):
            return {}

    for reduce in (functools.partial(jd.example_sq_norms), jd.per_example(Bounded().reduce)):
        with pytest.raises(jd.FactorError, match=r"^centred: the reducer needs the examples"):
            model.bwd(params, residuals, y, reduce)
    mixing = jd.from_function(lambda key, x: {}, lambda p, x: x - x.mean(0), mixes=True)
    with pytest.raises(jd.FactorError, match=r"^function: the reducer needs the examples apart"):
        mixing.bwd({}, X, X, jd.example_sq_norms)


def test_errors_of_factors_begin_with_the_path_through_scan_time_and_tied():
    formed = formed_scale()
    model = jd.serial(body=jd.tied(jd.serial(a=formed, b=formed), {"b/w": "a/w"}))
    params = model.init(KEY, X)
    y, residuals = model.fwd(params, X)
    with pytest.raises(jd.FactorError, match=r"^body/a: example_sq_norms needs the examples"):
        model.bwd(params, residuals, y, jd.example_sq_norms)


def test_foreign_exceptions_keep_what_is_theirs():
    class Theirs(ValueError):
        path = "/data/x.npy"

    def apply(params, x):
        raise Theirs("unreadable")

    model = jd.serial(a=jd.from_function(lambda key, x: {}, apply))
    with pytest.raises(Theirs, match="unreadable") as info:
        model.apply({}, X)
    assert info.value.path == "/data/x.npy" and info.value.args == ("unreadable",)


def test_what_is_not_a_factor_beside_a_parameter_is_refused():
    params = {"dense": {"w": jnp.ones(2)}}
    with pytest.raises(jd.FactorError, match="dense/w: a parameter must have a factor beside it"):
        jd.reduce_kept(jd.grads, params, params)
    both = jd.serial(jd.dense(4))
    p = both.init(KEY, X)
    y, residuals = both.fwd(p, X)
    kept, _ = both.bwd(p, residuals, y, jd.combine(kept=jd.keep, g=jd.grads))
    with pytest.raises(
        jd.FactorError, match=r"these are results of several reducers, \['g', 'kept'"
    ):
        jd.reduce_kept(jd.grads, p, kept)


def test_whether_a_layer_mixed_may_be_told_by_its_residuals():
    layer = centred(mixes=lambda residuals: residuals is not None)
    assert layer.mixes
    assert layer.bwd({}, None, X, jd.example_sq_norms)[0] == {}


def test_losses_that_mix_examples_are_refused_by_name():
    text = "value_and_grad: the reducer needs the examples apart, but the loss kl_sparsity mixes"
    with pytest.raises(jd.FactorError, match=text):
        jd.value_and_grad(jd.dense(3), jd.kl_sparsity(), reduce=jd.example_sq_norms)


def old_form(model, tree):
    """The tuples that parameters were in earlier versions."""
    if not model.children:
        return tree
    if model.wraps:
        return old_form(model.children[0], tree)
    pairs = zip(model.names, model.children, strict=True)
    return tuple(old_form(child, tree.get(name, {})) for name, child in pairs)


def test_parameters_of_earlier_versions_get_their_names():
    model = jd.serial(mlp([3, 4]), jd.tanh(), jd.repeat(jd.skip(jd.serial(jd.dense(4))), 2))
    params = model.init(KEY, X)
    old = old_form(model, params)
    assert isinstance(old, tuple)
    named = jd.named_params(model, old)
    jax.tree.map(np.testing.assert_array_equal, named, params)
    moments: Any = optax.adam(1e-3).init(old)[0]  # type: ignore[index]
    assert shapes(jd.named_params(model, moments.mu)) == shapes(params)
    with pytest.raises(ValueError, match=r"named_params: the tree must be a tuple, .* got a dict"):
        jd.named_params(model, params)
    assert jd.named_params(jd.dense(3), {"w": 1}) == {"w": 1}
    with pytest.raises(ValueError, match="named_params: the tree must have a dict for each of the"):
        jd.named_params(model, old[:2])
    with pytest.raises(ValueError, match="named_params makes them of an earlier version's tuples"):
        model.apply(old, X)


def test_transformer_blocks_of_earlier_versions_find_their_parameters():
    model = transformer_stack(2, 4, 2, hidden=5)
    params = model.init(KEY, X[None])
    mlp_params = params["mlp"]
    old = (
        (params["attention_norm"], params["attention"]),
        (params["mlp_norm"], mlp_params["dense"], {}, mlp_params["dense_1"]),
    )
    jax.tree.map(np.testing.assert_array_equal, jd.named_params(model, old), params)


def test_modules_are_found_under_their_earlier_names():
    conv, factors = map(importlib.import_module, ("jaxdl.conv", "jaxdl.factors"))
    assert conv.conv is jd.conv and factors.Outer is jd.Outer
    assert wide(jnp.bfloat16) == jnp.float32 and jd.layer.Layer is jd.Layer
    assert importlib.import_module("jaxdl.layer").as_function is jd.as_function
