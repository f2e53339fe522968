"""`gradient_flow`: its figures against NumPy, what it prints, and what it draws."""

import math
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from jax import lax

import jaxdl
from jaxdl.program.gradient_flow import FlowRow, GradientFlow
from tests.program.reference import as_usual

N, RANDOM = 6, np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RANDOM.standard_normal(shape))


X, Y = normal(N, 3).at[:, 1].set(0), normal(N, 2)  # the second input is silent
PARAMS = {
    "in": {"b": jnp.array([0.0, -50.0, 0.0, 0.0]), "w": normal(3, 4)},  # the second unit is dead
    "out": {"b": normal(2), "w": normal(4, 2)},
}


def hidden(params, x):
    return jax.nn.relu(x @ params["in"]["w"] + params["in"]["b"])


def loss(params, x, y):
    return jnp.sum((hidden(params, x) @ params["out"]["w"] + params["out"]["b"] - y) ** 2)


@pytest.fixture(scope="module")
def flow():
    return jaxdl.gradient_flow(loss, PARAMS, X, Y)


def row_of(flow, name):
    return next(row for row in flow.rows if row.name == name)


def test_figures_of_a_small_network(flow):
    h = np.asarray(hidden(PARAMS, X))
    dy = 2 * (h @ PARAMS["out"]["w"] + PARAMS["out"]["b"] - Y)
    dh = np.where(h > 0, dy @ PARAMS["out"]["w"].T, 0)
    gradients = jax.vmap(jax.grad(loss), (None, 0, 0))(PARAMS, X, Y)

    def root_mean_square(x):
        return np.sqrt(np.mean(np.square(x)))

    expected = {
        "in/b": (math.nan, dh, math.nan, 1 / 4),
        "in/w": (X, dh, 1 / 3, 1 / 4),
        "out/b": (math.nan, dy, math.nan, 0),
        "out/w": (h, dy, 1 / 4, 0),
    }
    assert [row.path for row in flow.rows] == list(expected)
    for row in flow.rows:
        a, d, silent, dead = expected[row.name]
        layer, name = row.path.split("/")
        g, w = np.asarray(gradients[layer][name]).reshape(N, -1), PARAMS[layer][name]
        trace = g.var(axis=0, ddof=1).sum()
        signal = np.square(g.mean(0)).sum() - trace / N
        scale = trace / signal if signal > 0 else math.inf
        got = (row.activation, row.cotangent, row.gradient, row.weight, row.silent, row.dead)
        norms = (np.linalg.norm(g.mean(0)), np.linalg.norm(w))
        want = (root_mean_square(a), root_mean_square(d), *norms, silent, dead)
        np.testing.assert_allclose(got, want, rtol=1e-9)
        np.testing.assert_allclose(row.noise_scale, scale, rtol=1e-9)
        assert row.layer is None
    np.testing.assert_allclose(flow.losses, jax.vmap(loss, (None, 0, 0))(PARAMS, X, Y), rtol=1e-9)


def test_a_scanned_stack_has_a_row_for_each_layer():
    def of_stack(params, x):
        return jnp.sum(lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["layers"])[0] ** 2)

    params = {"layers": 0.3 * normal(4, 3, 3)}
    flow = jaxdl.gradient_flow(of_stack, params, X)
    assert [row.name for row in flow.rows] == [f"layers[{i}]" for i in range(4)]
    gradient = np.asarray(
        jax.grad(lambda p: jax.vmap(of_stack, (None, 0))(p, X).mean())(params)["layers"]
    )
    norms = np.linalg.norm(gradient.reshape(4, -1), axis=1)
    np.testing.assert_allclose([row.gradient for row in flow.rows], norms, rtol=1e-9)
    inputs = [X]
    for w in params["layers"]:
        inputs.append(jnp.tanh(inputs[-1] @ w))
    sizes = [np.sqrt(np.mean(np.square(x))) for x in inputs[:-1]]
    np.testing.assert_allclose([row.activation for row in flow.rows], sizes, rtol=1e-9)


def test_what_a_parameter_is_used_as():
    """Tied, normalised, looked up, convolved: the units are those of what meets the data."""
    table = normal(5, 4).at[:, 3].set(0)

    def of_tied(params, ids, image):
        x = params["table"][ids].sum(0)  # (4,)
        direction = params["v"] / jnp.linalg.norm(params["v"], axis=0)
        y = jax.nn.relu(lax.conv(image, params["kernel"], (1, 1), "SAME"))
        return (params["table"] @ x) @ direction @ jnp.ones(3) + jnp.sum(y**2) * jnp.mean(x**2)

    params = {"table": table, "v": normal(5, 3), "kernel": normal(2, 1, 3, 3).at[1].set(-1.0)}
    images = jnp.abs(normal(N, 1, 1, 4, 4))
    ids = jnp.asarray(RANDOM.integers(0, 5, (N, 2)))
    rows = {row.path: row for row in jaxdl.gradient_flow(of_tied, params, ids, images).rows}
    assert rows["kernel"].dead == 0.5 and rows["kernel"].silent == 0
    x = np.asarray(table)[ids].sum(1)
    assert rows["table"].silent == 0.25  # the last feature of x is 0
    np.testing.assert_allclose(rows["table"].activation, np.sqrt(np.mean(x**2)), rtol=1e-9)
    np.testing.assert_allclose(
        rows["v"].activation, np.sqrt(np.mean((x @ table.T) ** 2)), rtol=1e-9
    )


def test_the_reducer_works_on_our_own_layers_and_in_a_training_step():
    net = jaxdl.serial(
        first=jaxdl.dense(4), relu=jaxdl.relu(), stack=jaxdl.repeat(jaxdl.dense(4), 3)
    )
    both = jaxdl.combine(grads=jaxdl.grads, flow=jaxdl.flow)
    run = jaxdl.value_and_grad(net, jaxdl.mean_squared_error(), reduce=both)
    params = net.init(jax.random.key(0), X)
    _, reduced = jax.jit(run)(params, X, normal(N, 4))
    flow = GradientFlow.of(jaxdl.select(reduced, "flow"))
    assert flow.losses is None
    assert [r.name for r in flow.rows if r.path.endswith("w")] == [
        "first/w", *(f"stack/w[{i}]" for i in range(3))
    ]  # fmt: skip
    norms = [r.gradient for r in flow.rows if r.path == "stack/w"]
    gradient = jaxdl.select(reduced, "grads")["stack"]["w"]
    np.testing.assert_allclose(norms, np.linalg.norm(gradient.reshape(3, -1), axis=1), rtol=1e-9)


def test_a_flax_model_for_batches_with_auxiliary_values():
    model = linen.Dense(3)
    x = X.astype(jnp.float32)
    params = model.init(jax.random.key(0), x)
    labels = jnp.arange(N) % 3

    def of_batch(params, x, labels):
        logits: Any = model.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

    settings = dict(has_aux=True, keep_batch_dim=True)
    with as_usual():
        flow = jaxdl.gradient_flow(of_batch, params, x, labels, in_axes=[0, 0], **settings)
    assert [row.path for row in flow.rows] == ["params/bias", "params/kernel"]
    assert flow.losses is not None and flow.losses.shape == (N,)


def test_a_second_call_does_not_trace_again():
    traced = []

    def counted(params, x, y):
        traced.append(None)
        return loss(params, x, y)

    jaxdl.gradient_flow(counted, PARAMS, X, Y)
    times = len(traced)
    jaxdl.gradient_flow(counted, jax.tree.map(lambda p: 2 * p, PARAMS), X, Y)
    assert len(traced) == times > 0


def test_a_batch_of_one_has_no_noise():
    flow = jaxdl.gradient_flow(loss, PARAMS, X[:1], Y[:1])
    assert all(math.isnan(row.noise_scale) for row in flow.rows)
    assert row_of(flow, "out/w").gradient > 0


# --- the table ----------------------------------------------------------------------------------


def test_the_table(flow):
    lines = str(flow).splitlines()
    assert lines[0].split() == [
        "parameter", "activation", "cotangent", "‖∇‖", "‖∇‖/‖w‖", "noise", "silent", "dead"
    ]  # fmt: skip
    assert [lines[2], lines[5]] == ["in", "out"]
    cells = lines[4].split()
    row = row_of(flow, "in/w")
    assert cells == [
        "w", f"{row.activation:.3g}", f"{row.cotangent:.3g}", f"{row.gradient:.3g}",
        f"{row.gradient / row.weight:.3g}", cells[5], "33%", "25%",
    ]  # fmt: skip
    assert lines[3].split()[1] == "–"  # a bias meets no input
    assert lines[-1] == f"{N} examples, mean loss {float(flow.losses.mean()):.4g}"
    assert flow.remarks == ()


def test_remarks_name_what_stands_out():
    params = jax.tree.map(jnp.copy, PARAMS)
    params["in"]["b"] = jnp.array([0.0, -50.0, -50.0, -50.0])
    params["beside"] = jnp.ones(3)
    flow = jaxdl.gradient_flow(loss, params, X, Y)
    assert flow.remarks == (
        "no gradient: beside",
        "half the units or more dead: in/b (75%), in/w (75%)",
    )
    assert str(flow).endswith("\n".join(flow.remarks))
    flow = jaxdl.gradient_flow(
        loss, PARAMS | {"out": {"b": jnp.full(2, jnp.inf), "w": normal(4, 2)}}, X, Y
    )
    assert flow.remarks[0].startswith("not finite: in/b, in/w, out/b, out/w")
    assert row_of(flow, "out/b").noise_scale != row_of(flow, "out/b").noise_scale
    many = GradientFlow(tuple(FlowRow(f"w{i}", None, 1, 0, 0, 1, 1, 0, 1) for i in range(8)))
    assert many.remarks == ("no gradient: w0, w1, w2, w3, w4 and 3 more",)


def test_rich_shows_the_same_in_colour(flow):
    text = flow.__rich__()
    assert text.plain == str(flow)
    worse = GradientFlow(
        (FlowRow("w", None, 1, 0, 0, 1, 1, 0, 1), FlowRow("v", None, 1, 1, 1, 1, 1, 0, 0.6))
    )
    styles = {str(span.style) for span in worse.__rich__().spans}
    assert {"red", "yellow"} <= styles


def test_a_tree_without_flow_is_refused():
    with pytest.raises(
        ValueError, match="GradientFlow: the tree must be one that the reducer flow"
    ):
        GradientFlow.of({"w": jnp.zeros(3)})


def test_formed_gradients_are_refused():
    with pytest.raises(jaxdl.FactorError, match="flow needs the examples apart"):
        jaxdl.flow({"w": jnp.zeros(3)}, {"w": jaxdl.Formed(jnp.zeros(3))})


# --- the figure ---------------------------------------------------------------------------------


def test_the_figure_has_a_line_for_each_parameter_and_a_dot_for_each_value(flow):
    figure = flow.figure("a title")
    panels = figure.get_axes()
    assert [label.get_text() for label in panels[0].get_yticklabels()] == [
        "in/b", "in/w", "out/b", "out/w"
    ]  # fmt: skip

    def dots(panel):
        return [
            line.get_xdata()[0]
            for line in panel.lines
            if line.get_marker() in "<o>" and len(line.get_xdata())
        ]

    assert len(dots(panels[0])) == 2 + 4  # biases meet no input
    assert len(dots(panels[1])) == 4 + 4
    assert sorted(dots(panels[3])) == pytest.approx(sorted([1 / 3, 1 / 4, 1 / 4, 1 / 4, 0, 0]))
    assert row_of(flow, "in/w").gradient in dots(panels[1])
    assert figure.get_suptitle() == "a title"


def test_the_figure_of_a_stack_and_of_no_gradient(tmp_path):
    rows = [FlowRow("layers", (i,), 1.0, 10.0**-i, 0.0, 1.0, math.inf, 0.0, 1.0) for i in range(3)]
    figure = GradientFlow(tuple(rows)).figure()
    assert any("layers of a stack" in text.get_text() for text in figure.texts)
    figure.savefig(tmp_path / "flow.png")  # it can be drawn
    assert (tmp_path / "flow.png").stat().st_size > 1000


def test_without_matplotlib_the_error_says_what_to_install(flow, monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "jaxdl.program.flow_pictures", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="matplotlib must be installed to draw"):
        flow.figure()
