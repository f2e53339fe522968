"""What is no loss of one example, or does not fit: each error says what, what came, and what to do.

Every line of the table is a call and the parts that its text must have: name, expected, got, fix.
"""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental import io_callback

import jaxdl
from jaxdl.core.factors import FactorError, Outer
from tests.program.record import N, normal
from tests.program.reference import as_usual

D = jnp.float64
W = {"w": normal(D, 3, 2)}
X = normal(D, N, 3)
BAD = []


def bad(error, *parts):
    """A decorator: a function of no arguments that must raise `error`, with these parts."""

    def add(function):
        BAD.append(pytest.param(function, error, parts, id=function.__name__))
        return function

    return add


def loss(params, x):
    return jnp.sum(jnp.tanh(x @ params["w"]))


def run(loss, params, *examples, reduce=jaxdl.grads, slots=None, **settings):
    return jaxdl.value_and_reduce(loss, reduce, **settings)(params, *examples, slots=slots)


# --- the loss -----------------------------------------------------------------------------------


@bad(ValueError, "the loss of one example must be a scalar", "got shape (2,)", "sum or average it",
     "keep_batch_dim=True")  # fmt: skip
def loss_is_a_vector():
    run(lambda p, x: x @ p["w"], W, X)


@bad(ValueError, "must be a scalar", "got shape (1,)", "sum or average it")
def loss_of_a_batch_is_a_vector():
    run(lambda p, x: jnp.sum(x @ p["w"], axis=1), W, X, keep_batch_dim=True)


def test_a_loss_of_batches_is_not_told_to_keep_the_batch():
    with pytest.raises(ValueError) as caught:
        loss_of_a_batch_is_a_vector()
    assert "keep_batch_dim" not in str(caught.value)


@bad(ValueError, "must be a scalar", "got a tuple", "has_aux=True")
def loss_is_a_pair():
    run(lambda p, x: (loss(p, x), x), W, X)


@bad(ValueError, "must be a scalar", "got a dict", "has_aux=True")
def loss_is_a_dict():
    run(lambda p, x: {"loss": loss(p, x)}, W, X)


@bad(
    ValueError, "with has_aux=True", "pair (scalar, anything)", "ArrayImpl|Tracer", "return a pair"
)
def no_pair():
    run(loss, W, X, has_aux=True)


@bad(ValueError, "with has_aux=True", "pair", "got a tuple", "leave has_aux out")
def three_values():
    run(lambda p, x: (loss(p, x), x, x), W, X, has_aux=True)


@bad(ValueError, "must be a scalar", "got shape (2,)")
def pair_with_a_vector():
    run(lambda p, x: (x @ p["w"], x), W, X, has_aux=True)


@bad(TypeError, "must be floating point", "got int64", "cast it")
def loss_is_an_integer():
    run(lambda p, x: jnp.sum(x @ p["w"]).astype(jnp.int64), W, X)


@bad(TypeError, "must be floating point", "got complex128", "take the real part")
def loss_is_complex():
    run(lambda p, x: jnp.sum(x @ p["w"]) * 1j, W, X)


@bad(ValueError, "must depend on the parameters", "['w']", "check that the loss uses the params")
def loss_without_parameters():
    run(lambda p, x: jnp.sum(x), W, X)


@bad(ValueError, "must depend on the parameters", "['w']")
def loss_is_a_number():
    run(lambda p, x: 1.0, W, X)


# --- what it does beside ------------------------------------------------------------------------


def printing(x):
    jax.debug.print("x = {}", x)
    return x


@bad(ValueError, "must have no side effects", "test_bad_programs.py", "(printing)",
     "take prints, callbacks and writes out")  # fmt: skip
def a_print():
    run(lambda p, x: loss(p, printing(x)), W, X)


@bad(ValueError, "must have no side effects", "(printing)")
def a_print_in_a_scan():
    run(lambda p, x: loss(p, lax.scan(lambda c, _: (printing(c), None), x, None, 2)[0]), W, X)


@bad(ValueError, "must have no side effects", "(printing)")
def a_print_in_a_checkpoint():
    run(lambda p, x: jax.checkpoint(lambda p, x: loss(p, printing(x)))(p, x), W, X)


@bad(ValueError, "must have no side effects", "io_callback")
def a_callback():
    def called(p, x):
        io_callback(lambda: None, None)
        return loss(p, x)

    run(called, W, X)


# --- parameters ---------------------------------------------------------------------------------


@bad(ValueError, "params must hold at least one array", "empty tree", "first argument of the loss")
def no_parameters():
    run(lambda p, x: jnp.sum(x), {}, X)


@bad(TypeError, "params must be floating point", "got int64", "'layers/0/steps'", "closure")
def integer_parameter():
    run(loss, {"layers": [{"steps": jnp.arange(3)}], **W}, X)


@bad(TypeError, "params must be arrays", "got a str", "'name'", "take apart what is no array")
def string_parameter():
    run(loss, {"name": "model", **W}, X)


@bad(TypeError, "params must be floating point", "got bool", "'flag'")
def flag_parameter():
    run(loss, {"flag": True, **W}, X)


@bad(TypeError, "params must be arrays", "'f'")
def function_as_parameter():
    run(loss, {"f": jnp.tanh, **W}, X)


# --- examples and their axes --------------------------------------------------------------------


@bad(ValueError, "in_axes must be one axis, or one entry for each of the 1 arguments",
     "got (0, None)")  # fmt: skip
def too_many_axes():
    run(loss, W, X, in_axes=(0, None))


@bad(ValueError, "in_axes must be one axis", "got 'batch'")
def axis_is_a_name():
    run(loss, W, X, in_axes="batch")


@bad(ValueError, "argument 1 must have the axis 2 that in_axes gives", "got shape (5, 3)",
     "None is for what all examples share")  # fmt: skip
def axis_that_is_not_there():
    run(loss, W, X, in_axes=2)


@bad(ValueError, "must have the axis -3", "got shape (5, 3)")
def negative_axis_that_is_not_there():
    run(loss, W, X, in_axes=-3)


@bad(ValueError, "argument 1 must have the axis 0", "got shape ()")
def example_without_axes():
    run(lambda p, x: loss(p, x * jnp.ones(3)), W, 1.0)


@bad(ValueError, "prefix of its argument, as in jax.vmap", "got {'a': 0}", "argument 2")
def axes_of_another_tree():
    run(lambda p, x, more: loss(p, x), W, X, {"b": X}, in_axes=(0, {"a": 0}))


@bad(ValueError, "as many examples", "{'argument 1': 5, \"argument 2['y']\": 4}", "check in_axes")
def sizes_that_differ():
    run(lambda p, x, more: loss(p, x), W, X, {"y": X[:4]})


@bad(ValueError, "at least one argument must hold the examples, got none", "in_axes")
def no_examples():
    run(lambda p: jnp.sum(p["w"]), W)


@bad(ValueError, "at least one argument must hold the examples, got none")
def everything_is_shared():
    run(loss, W, X[0], in_axes=None)


@bad(ValueError, "a batch must hold at least one example, got none", "skip it")
def batch_of_none():
    run(loss, W, X[:0])


# --- reducers -----------------------------------------------------------------------------------


def of_a_layer(params, factors, slots=None):
    return {"w": jnp.sum(params["w"]) + jnp.sum(params["b"])}


@bad(FactorError, "w: the reducer asked for 'b'", "each parameter comes alone, as {'w': ...}",
     "models of jaxdl's layers")  # fmt: skip
def reducer_of_a_whole_layer():
    run(loss, W, X, reduce=of_a_layer)


@bad(FactorError, "w: the reducer needs all parameters of a layer together", "comes alone",
     "reduce=keep")  # fmt: skip
def clipping_of_layers():
    run(loss, W, X, reduce=jaxdl.clipped_sum(1.0, per="layer"))


@bad(FactorError, "w: the reducer needs all parameters of a layer together", "reduce_kept")
def clipping_of_layers_beside_another():
    run(loss, W, X, reduce=jaxdl.combine(a=jaxdl.grads, b=jaxdl.clipped_sum(1.0, per="layer")))


@bad(FactorError, "params: the reducer needs all parameters of a layer together", "a dict of")
def clipping_of_layers_that_are_none():
    kept = jaxdl.value_and_reduce(lambda p, x: loss(p[0], x), jaxdl.keep)((W,), X)[1]
    jaxdl.reduce_kept(jaxdl.clipped_sum(1.0, per="layer"), (W,), kept)


def no_outer(params, factors, slots=None):
    if any(isinstance(factor, Outer) for factor in factors.values()):
        raise FactorError("no_outer cannot reduce an Outer; use another")
    return jaxdl.grads(params, factors)


@bad(FactorError, "layers/0/w: no_outer cannot reduce an Outer")
def reducer_that_refuses():
    run(lambda p, x: loss(p["layers"][0], x), {"layers": [W]}, X, reduce=no_outer)


@bad(FactorError, "layers/w: no_outer cannot reduce an Outer")
def reducer_that_refuses_a_stack():
    def stacked(p, x):
        return jnp.sum(lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["layers"]["w"])[0])

    run(stacked, {"layers": {"w": normal(D, 2, 3, 3)}}, X, reduce=no_outer)


@bad(FactorError, "kernel: kron: a parameter of shape (2, 3, 2) with a Sum factor",
     "leave it to another reducer")  # fmt: skip
def kron_of_what_has_no_sides():
    def table(p, x):
        return jnp.sum(jnp.tanh(x[None, :, None] + p["kernel"]))

    run(table, {"kernel": normal(D, 2, 3, 2)}, X, reduce=jaxdl.kron())


@bad(FactorError, "params: no_outer")
def bare_parameter_is_called_params():
    run(lambda w, x: loss({"w": w}, x), W["w"], X, reduce=no_outer)


@bad(TypeError, "combine: clipped=clipped_sum takes two passes", "reduce=keep", "reduce_kept")
def two_passes_in_combine():
    run(loss, W, X, reduce=jaxdl.combine(grads=jaxdl.grads, clipped=jaxdl.clipped_sum(1.0)))


@bad(ValueError, "slots must be a tree like params", "'w'", "got PyTreeDef({'v'", "jax.tree.map")
def slots_of_another_tree():
    run(loss, W, X, slots={"v": X})


@pytest.mark.parametrize(("function", "error", "parts"), BAD)
def test_bad_programs(function, error, parts):
    with as_usual(), pytest.raises(error) as caught:
        function()
    text = str(caught.value)
    missing = [part for part in parts if not any(way in text for way in part.split("|"))]
    assert not missing, text


def test_errors_of_explain_say_explain():
    with pytest.raises(ValueError, match=r"^explain: the loss of one example must be a scalar"):
        jaxdl.explain(lambda p, x: x @ p["w"], W, X[0])
    with pytest.raises(ValueError, match=r"^explain: the function must have no side effects"):
        jaxdl.explain(lambda p, x: loss(p, printing(x)), W, X[0])


def test_errors_of_a_layer_made_of_a_function_say_its_name():
    layer = jaxdl.from_function(lambda key, x: W, lambda p, x: printing(x) @ p["w"], name="mine")
    _, residuals = layer.fwd(W, X)
    with pytest.raises(ValueError, match=r"^mine: the function must have no side effects"):
        layer.bwd(W, residuals, normal(D, N, 2), jaxdl.example_sq_norms)


@pytest.mark.parametrize("reduce", [jaxdl.clipped_sum, jaxdl.kron, 3])
def test_a_reducer_that_was_not_made_yet(reduce):
    made_by_calling = r"reduce must be a function \(params, factors, slots\), got .*clipped_sum"
    with pytest.raises(TypeError, match=made_by_calling):
        jaxdl.value_and_reduce(lambda p, x: p["w"] * x, reduce)
    with pytest.raises(TypeError, match=made_by_calling):
        jaxdl.value_and_grad(jaxdl.dense(2), jaxdl.mean_squared_error(), reduce=reduce)
