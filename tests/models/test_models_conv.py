"""Convolutional models and the sparse autoencoder: what they build, oracles, gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

import jaxdl as jd
from jaxdl import models

KEY = jax.random.key(0)
assert_close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-11)
group_norm_2 = partial(jd.group_norm, 2)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def names(layer):
    """The leaves of a model in order."""
    return [name for child in layer.children for name in names(child)] or [layer.label]


def shape_in(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def drawn_params(model, x):
    """Parameters far from their initial values: zero biases and unit scales hide errors."""
    rng = np.random.default_rng(1)
    struct = jax.eval_shape(lambda: model.init(KEY, x))
    return jax.tree.map(lambda p: jnp.asarray(0.5 * rng.normal(size=p.shape)), struct)


# --- what they build ----------------------------------------------------------------------------


def test_lenet_is_the_published_sequence():
    pool = "max_pool(2×2)"
    assert names(models.lenet()) == [
        "conv(6, 5×5)", "relu", pool, "conv(16, 5×5)", "relu", pool, "flatten",
        "dense(120)", "relu", "dense(84)", "relu", "dense(10)",
    ]  # fmt: skip
    table = jd.summary(models.lenet(), shape_in(2, 28, 28, 1))
    outputs = [row.output.removeprefix("float32") for row in table.rows]
    assert outputs[0] == "[2, 28, 28, 6]" and outputs[3] == "[2, 10, 10, 16]"
    assert outputs[5] == "[2, 5, 5, 16]" and outputs[6] == "[2, 400]" and outputs[-1] == "[2, 10]"
    # 6·26, 16·151, 120·401, 84·121, 10·85: in today's terms, with whole connections
    assert table.params == 156 + 2416 + 48120 + 10164 + 850 == 61706
    old = names(models.lenet(7, activation=jd.tanh, pool=jd.average_pool))
    assert old[1:3] == ["tanh", "average_pool(2×2)"] and old[-1] == "dense(7)"


def test_convnet_layers_and_parameters():
    assert names(models.convnet([4, 6])) == [
        "conv(4, 3×3)", "relu", "max_pool(2×2)", "conv(6, 3×3)", "relu", "max_pool(2×2)",
        "flatten", "dense(10)",
    ]  # fmt: skip
    full = models.convnet(
        [4], classes=3, size=5, convs_per_stage=2, hidden=[7], activation=jd.tanh,
        norm=group_norm_2, pool=jd.average_pool, join="max", dropout_rate=0.1,
    )  # fmt: skip
    conv = ["conv(4, 5×5)", "group_norm(2)", "tanh"]
    assert names(full) == [
        *conv, *conv, "average_pool(2×2)", "dropout(0.1)",
        "global_pool(max)", "dense(7)", "tanh", "dropout(0.1)", "dense(3)",
    ]  # fmt: skip
    # Kernels of 5·5·2·4 and 5·5·4·4 without bias, two norms of 4 + 4, dense 5·7 and 8·3
    assert jd.summary(full, shape_in(1, 9, 9, 2)).params == 200 + 400 + 16 + 35 + 24
    # 10·16, 16·9·32 + 32 and 2·2·32·10 + 10 for the digits of 8 × 8
    assert jd.summary(models.convnet([16, 32]), shape_in(1, 8, 8, 1)).params == 160 + 4640 + 1290


def test_traffic_sign_net_layers_and_parameters():
    model = models.traffic_sign_net(43)
    pool = "max_pool(2×2)"
    assert names(model) == [
        "conv(4, 5×5)", "relu", pool, "conv(10, 5×5)", "relu", pool, "flatten", "dense(43)"
    ]  # fmt: skip
    table = jd.summary(model, shape_in(1, 32, 32, 3))
    assert table.rows[6].output == "float32[1, 250]"
    assert table.params == 4 * 76 + 10 * 101 + 43 * 251 == 12107


def test_three_classifiers_and_the_sizes_they_take():
    small, large = draw(2, 28, 28, 1), draw(2, 37, 45, 1, seed=1)
    fixed = models.fixed_size_classifier(10)
    variable = models.variable_size_classifier(10)
    average = models.global_average_classifier(10)
    params = drawn_params(fixed, small)
    # 28 × 28 become 3 × 3: each region of the grid is one place.
    # the pooling has no parameters
    assert_close(jax.jit(variable.apply)(params, small), jax.jit(fixed.apply)(params, small))
    assert params["head"]["dense"]["w"].shape == (576, 10)
    assert jax.eval_shape(variable.apply, params, large).shape == (2, 10)
    with pytest.raises(ValueError, match=r"head/dense: x.shape\[-1\] must equal .* \(576\), got"):
        jax.eval_shape(fixed.apply, params, large)
    head = drawn_params(average, small)["head"]
    maps = jax.jit(average.children[0].apply)(
        params["trunk"], large
    )  # the trunk of another classifier
    logits = jax.jit(average.apply)(params | {"head": head}, large)
    assert maps.shape == (2, 4, 5, 64)
    assert_close(logits, maps.mean(axis=(1, 2)) @ head["conv"]["w"][0, 0] + head["conv"]["b"])
    assert "dense" not in repr(average)


def test_variable_size_classifier_pools_scaling_regions():
    model = models.variable_size_classifier(3, 8, widths=[2], kind="mean")
    x = draw(1, 12, 8, 1)
    params = drawn_params(model, x)
    maps = model.children[0].apply(params["trunk"], x)
    means = [maps[0, r : r + 3, c : c + 2].mean(axis=(0, 1)) for r in (0, 3) for c in (0, 2)]
    head = params["head"]["dense"]
    assert_close(model.apply(params, x)[0], jnp.concatenate(means) @ head["w"] + head["b"])


def test_inception_parameters_are_those_of_googlenet():
    """Szegedy et al. (2015), table 1, without biases; a K of theirs is 1024."""
    for maps, inputs, thousands, millions in (
        (models.GOOGLENET_3A, 192, 159, 128),
        (models.GOOGLENET_3B, 256, 380, 304),
    ):
        table = jd.summary(models.inception_module(*maps), shape_in(1, 28, 28, inputs))
        biases = sum(maps)
        assert abs((table.params - biases) / 1024 - thousands) < 1.1
        assert abs(table.flops / 2e6 - millions) < 0.5


def test_inception_without_reductions_is_the_naive_module():
    model = models.inception_module(2, None, 3, None, 4, None)
    assert names(model) == [
        "conv(2, 1×1)", "relu", "conv(3, 3×3)", "relu", "conv(4, 5×5)", "relu", "max_pool(3×3)"
    ]  # fmt: skip
    x = draw(1, 5, 6, 7)
    y = model.apply(drawn_params(model, x), x)
    assert y.shape == (1, 5, 6, 2 + 3 + 4 + 7)
    assert y[0, 2, 2, -1] == jnp.max(x[0, 1:4, 1:4, -1])


def test_small_googlenet_shapes():
    model = models.small_googlenet(5, dropout_rate=0.4)
    for side in (4, 29):
        struct = jax.eval_shape(lambda x: model.init(KEY, x), draw(1, side, side, 1))
        assert jax.eval_shape(model.apply, struct, draw(3, side, side, 1)).shape == (3, 5)
    widths = [s for s in names(model) if s.startswith(("dropout", "dense", "global"))]
    assert widths == ["global_pool(mean)", "dropout(0.4)", "dense(5)"]


def test_resnet_20_has_the_published_size():
    """272,474 weights, scales and shifts with 1×1 shortcuts (He et al. 2016: 0.27 million)."""
    model = models.resnet(3, norm=jd.batch_norm, preactivation=False)
    table = jd.summary(model, shape_in(1, 32, 32, 3))
    statistics = sum(r.params // 2 for r in table.rows if r.name.startswith("batch_norm"))
    assert table.params - statistics == 272474
    later = jd.summary(models.resnet(3), shape_in(1, 32, 32, 3))
    # The shortcuts lose their norms, and one norm of 64 moves from the front (16) to the end.
    assert later.params == 272474 - 2 * (32 + 64) - 2 * 16 + 2 * 16 + (2 * 64 - 2 * 64)


def test_resnet_stages():
    for preactivation in (True, False):
        model = models.resnet(2, [8, 16], preactivation=preactivation, classes=3)
        convs = [row for row in names(model) if row.startswith(("conv", "dense"))]
        assert convs == [
            "conv(8, 3×3)", "conv(8, 3×3)", "conv(8, 3×3)",  # the stem, and the repeated block
            *(["conv(16, 1×1)", "conv(16, 3×3)", "conv(16, 3×3)"]),
            *(["conv(16, 3×3)", "conv(16, 3×3)", "dense(3)"]),
        ]  # fmt: skip
        assert [child.name for child in model.children].count("repeat") == 2
    one = models.resnet(1, [8, 16])
    assert [child.name for child in one.children].count("repeat") == 1


def test_resnet_with_batch_norm_trains_and_evaluates():
    model = models.resnet(2, [4, 6], classes=3, norm=jd.batch_norm)
    x = draw(8, 7, 6, 2)
    params = jax.jit(model.init)(KEY, x)
    set_params = jax.jit(partial(jd.set_statistics, model))(params, x)
    # Normalised by the batch's own statistics in both cases.
    apply = jax.jit(model.apply)
    assert_close(apply(set_params, x), apply(params, x, KEY))
    norms = jd.value_and_grad(model, jd.softmax_cross_entropy(), reduce=jd.example_sq_norms)
    with pytest.raises(jd.FactorError, match=r"^norm: the reducer needs the examples apart"):
        jax.eval_shape(norms, params, x, jnp.zeros(8, jnp.int32), KEY)


def test_dropout_acts_in_training_only():
    model, x = models.convnet([4], hidden=[8], dropout_rate=0.5), draw(2, 6, 6, 1)
    params = drawn_params(model, x)
    plain, apply = models.convnet([4], hidden=[8]), jax.jit(model.apply)
    np.testing.assert_array_equal(apply(params, x), jax.jit(plain.apply)(params, x))
    assert np.any(apply(params, x, KEY) != apply(params, x))


# --- the same models in Flax --------------------------------------------------------------------


class FlaxLeNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Conv(6, (5, 5), param_dtype=x.dtype)(x))
        x = linen.max_pool(x, (2, 2), (2, 2))
        x = linen.relu(linen.Conv(16, (5, 5), padding="VALID", param_dtype=x.dtype)(x))
        x = linen.max_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        for width in (120, 84):
            x = linen.relu(linen.Dense(width, param_dtype=x.dtype)(x))
        return linen.Dense(10, param_dtype=x.dtype)(x)


class FlaxInception(linen.Module):
    maps: tuple[int, ...]

    @linen.compact
    def __call__(self, x):
        def conv(features, size, x):
            return linen.relu(linen.Conv(features, (size, size), param_dtype=x.dtype)(x))

        ones, reduce3, threes, reduce5, fives, pooled = self.maps
        parts = [conv(ones, 1, x)]
        parts.append(conv(threes, 3, conv(reduce3, 1, x)))
        parts.append(conv(fives, 5, conv(reduce5, 1, x)))
        parts.append(conv(pooled, 1, linen.max_pool(x, (3, 3), padding="SAME")))
        return jnp.concatenate(parts, axis=-1)


class FlaxResNet(linen.Module):
    preactivation: bool
    widths: tuple[int, ...]
    blocks: int
    classes: int

    @linen.compact
    def __call__(self, x):
        def conv(features, size, x, strides=1):
            kernel, steps = (size, size), (strides, strides)
            layer = linen.Conv(features, kernel, steps, use_bias=False, param_dtype=x.dtype)
            return layer(x)

        def norm(x):
            return linen.GroupNorm(2, epsilon=1e-5, use_fast_variance=False, param_dtype=x.dtype)(x)

        def block(x, width, strides, change):
            if self.preactivation:
                h = linen.relu(norm(x))
                short = conv(width, 1, h, strides) if change else x
                h = linen.relu(norm(conv(width, 3, h, strides)))
                return short + conv(width, 3, h)
            short = norm(conv(width, 1, x, strides)) if change else x
            h = linen.relu(norm(conv(width, 3, x, strides)))
            return linen.relu(short + norm(conv(width, 3, h)))

        x = conv(self.widths[0], 3, x)
        x = x if self.preactivation else linen.relu(norm(x))
        for stage, width in enumerate(self.widths):
            for i in range(self.blocks):
                change = stage > 0 and i == 0
                x = block(x, width, 2 if change else 1, change)
        x = linen.relu(norm(x)) if self.preactivation else x
        return linen.Dense(self.classes, param_dtype=x.dtype)(x.mean(axis=(1, 2)))


def leaf_params(layer, params):
    """The parameter dicts of the leaves in the order in which they run, stacks taken apart."""
    if layer.name == "repeat":
        for i in range(int(layer.detail)):
            one = jax.tree.map(lambda p, i=i: p[i], params)
            yield from leaf_params(layer.children[0], one)
    elif layer.children:
        names = layer.names or (None,)
        for child, name in zip(layer.children, names, strict=True):
            yield from leaf_params(child, params if name is None else params.get(name, {}))
    elif params:
        yield layer.name, params


FLAX_NAMES = {"conv": "Conv", "dense": "Dense", "group_norm": "GroupNorm"}
FLAX_ENTRIES = {"w": "kernel", "b": "bias", "scale": "scale", "shift": "bias"}


def as_flax(model, params):
    """Parameters for the Flax module whose layers run in the order of ours."""
    found, counts = {}, {}
    for name, leaf in leaf_params(model, params):
        i = counts[name] = counts.get(name, -1) + 1
        found[f"{FLAX_NAMES[name]}_{i}"] = {FLAX_ENTRIES[k]: p for k, p in leaf.items()}
    return found


RESNETS = {
    name: (
        models.resnet(2, (4, 6), classes=3, norm=group_norm_2, preactivation=form),
        FlaxResNet(form, (4, 6), 2, 3),
    )
    for name, form in (("pre", True), ("post", False))
}
IN_FLAX = {
    "lenet": (models.lenet(), FlaxLeNet(), (2, 28, 28, 1)),
    "inception": (
        models.inception_module(2, 3, 4, 2, 3, 5),
        FlaxInception((2, 3, 4, 2, 3, 5)),
        (2, 6, 7, 3),
    ),
    **{f"resnet_{name}": (*pair, (2, 9, 8, 3)) for name, pair in RESNETS.items()},
}


@pytest.mark.parametrize("name", IN_FLAX)
def test_forward_and_gradient_are_those_of_flax(name):
    model, module, shape = IN_FLAX[name]
    x = draw(*shape)
    params = drawn_params(model, x)
    with jax.numpy_dtype_promotion("standard"):
        shapes = jax.eval_shape(module.init, KEY, x)["params"]
        theirs = as_flax(model, params)
        assert jax.tree.map(jnp.shape, theirs) == jax.tree.map(lambda s: s.shape, shapes)

        @jax.jit
        def both(params, theirs, x, dy):
            got, residuals = model.fwd(params, x)
            want, pullback = jax.vjp(lambda p, x: module.apply({"params": p}, x), theirs, x)
            return (got, *model.bwd(params, residuals, dy)), (want, *pullback(dy))

        dy = draw(*jax.eval_shape(model.apply, params, x).shape, seed=2)
        got, want = both(params, theirs, x, dy)
    assert_close(got[0], want[0])
    assert_close(got[2], want[2])
    jax.tree.map(assert_close, as_flax(model, got[1]), want[1])


# --- the gradient of every model ----------------------------------------------------------------

SMALL = {
    "lenet": (models.lenet(3), (3, 13, 12, 1)),
    "convnet": (
        models.convnet([4, 6], hidden=[5], norm=group_norm_2, dropout_rate=0.3),
        (3, 8, 6, 2),
    ),
    "convnet_batch_norm": (models.convnet([4], norm=jd.batch_norm, join="mean"), (3, 5, 4, 2)),
    "traffic_sign_net": (models.traffic_sign_net(3), (2, 17, 16, 3)),
    "fixed_size": (models.fixed_size_classifier(3, widths=[2, 3]), (2, 9, 8, 1)),
    "variable_size": (models.variable_size_classifier(3, 12, widths=[2, 3]), (2, 9, 11, 1)),
    "global_average": (models.global_average_classifier(3, widths=[2, 3]), (2, 9, 8, 1)),
    "inception_naive": (models.inception_module(2, None, 4, None, 3, None), (2, 6, 7, 3)),
    "small_googlenet": (models.small_googlenet(3), (2, 5, 4, 1)),
    "resnet_pre": (RESNETS["pre"][0], (2, 5, 6, 2)),
    "resnet_batch_norm": (models.resnet(2, [3, 4], classes=3, norm=jd.batch_norm), (3, 5, 4, 1)),
    "sparse_autoencoder": (models.sparse_autoencoder(5, 7, output=jd.sigmoid), (4, 7)),
}


# The gradients of the others have been compared with Flax.
@pytest.mark.parametrize("name", sorted(SMALL.keys() - IN_FLAX.keys()))
def test_manual_gradient_is_autodiff(name):
    model, shape = SMALL[name]
    x = draw(*shape)
    params = drawn_params(model, x)
    key = KEY if "batch_norm" in name or "dropout" in repr(model) else None

    @jax.jit
    def both(params, x, dy):
        _, pullback = jax.vjp(lambda p, x: model.apply(p, x, key), params, x)
        return model.bwd(params, model.fwd(params, x, key)[1], dy), pullback(dy)

    y = jax.eval_shape(model.apply, params, x, key)
    got, want = both(params, x, draw(*y.shape, seed=2))
    jax.tree.map(assert_close, got, want)
    assert all(np.any(g) for g in jax.tree.leaves(got[1]))


@pytest.mark.parametrize("name", ["lenet", "resnet_pre", "sparse_autoencoder"])
def test_norms_of_single_examples(name):
    model, shape = SMALL[name]
    x = draw(*shape)
    params = drawn_params(model, x)
    # The sparse loss mixes the examples; what of its gradient comes through each is asked here.
    loss, target = jd.softmax_cross_entropy(), jnp.arange(len(x)) % 3
    if name == "sparse_autoencoder":
        loss, target = models.sparse_autoencoder_loss(0.1, 2.0), x

    @jax.jit
    def both(params):
        def norm(x, dy):
            gradient = jax.grad(lambda p: jnp.vdot(dy, model.apply(p, x[None])[0]))(params)
            return sum(jnp.sum(g * g) for g in jax.tree.leaves(gradient))

        y, residuals = model.fwd(params, x)
        dy = loss.bwd(loss.fwd(y, target)[1])
        return model.bwd(params, residuals, dy, jd.example_sq_norms)[0], jax.vmap(norm)(x, dy)

    got, want = both(params)
    assert_close(jd.total(got), want, rtol=1e-8)


# --- the sparse autoencoder ---------------------------------------------------------------------


def test_autoencoder_is_the_equations_of_its_source():
    model, loss = models.sparse_autoencoder(5, 7), models.sparse_autoencoder_loss(0.1, 2.5)
    x = draw(6, 7)
    params = drawn_params(model, x)
    y = jax.jit(model.apply)(params, x)
    value = jax.jit(loss.__call__)(y, x)
    code, output = models.split_code(y, 7)
    x, y = np.asarray(x), np.asarray(y)
    params = jax.tree.map(np.asarray, params)
    encoder, decoder = params["encoder"], params["decoder"]["serial"]["dense"]
    a = 1 / (1 + np.exp(-(x @ encoder["w"] + encoder["b"])))
    r = a @ decoder["w"] + decoder["b"]
    assert_close(code, a)
    assert_close(output, r)
    mean = a.mean(axis=0)
    kl = np.sum(0.1 * np.log(0.1 / mean) + 0.9 * np.log(0.9 / (1 - mean)))
    want = np.mean(0.5 * np.sum((r - x) ** 2, axis=1)) + 2.5 * kl
    assert_close(value, want)
    # The delta of the notes: the sparsity term joins at the hidden units before σ′.
    d3 = (r - x) / 6
    sparse = 2.5 * (-0.1 / mean + 0.9 / (1 - mean)) / 6
    d2 = (d3 @ decoder["w"].T + sparse) * a * (1 - a)
    _, gradient = jax.jit(jd.value_and_grad(model, loss))(params, x, x)
    assert_close(gradient["encoder"]["w"], x.T @ d2)
    assert_close(gradient["decoder"]["serial"]["dense"]["w"], a.T @ d3)
    automatic = jd.value_and_grad(model, loss, path="autodiff")
    jax.tree.map(assert_close, gradient, jax.jit(automatic)(params, x, x)[1])


def test_autoencoder_loss_leaves_examples_out():
    loss = models.sparse_autoencoder_loss()
    y = jax.nn.sigmoid(draw(4, 12))
    x, where = draw(4, 7, seed=1), jnp.array([1.0, 0.0, 1.0, 1.0])
    real = jnp.array([0, 2, 3])
    broken = y.at[1].set(jnp.nan)
    forward = jax.jit(loss.fwd)
    value, dy = forward(broken, x, where)
    want, want_dy = forward(y[real], x[real])
    assert_close(value, want)
    assert_close(loss.bwd(dy, 2.0)[real], 2 * want_dy)
    assert np.all(dy[1] == 0)
    nothing, dy = forward(y, x, jnp.zeros(4))
    assert nothing == 0 and np.all(dy == 0)


def test_autoencoder_loss_keeps_dtypes():
    y, x = (a.astype(jnp.bfloat16) for a in (jax.nn.sigmoid(draw(4, 12)), draw(4, 7, seed=1)))
    value, dy = models.sparse_autoencoder_loss().fwd(y, x)
    assert value.dtype == jnp.float32 and dy.dtype == jnp.bfloat16


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: models.convnet([]), r"conv_stages: widths must name .* got \(\) and 1; e\.g"),
        (lambda: models.convnet([4], convs_per_stage=0), r"at least 1, got \(4,\) and 0"),
        (
            lambda: models.convnet([4], join="sum"),  # type: ignore[arg-type]
            "convnet: join must be 'flatten', 'mean' or 'max', got 'sum'; choose one",
        ),
        (
            lambda: models.variable_size_classifier(10, 500),
            "features must be the last width times a square, 64 × 1, 4, 9, …, got 500; e.g. 576",
        ),
        (lambda: models.variable_size_classifier(10, 0), "got 0; e.g. 576"),
        (lambda: models.resnet(0), r"resnet: blocks must be at least 1 .* got 0 and \(16"),
        (lambda: models.residual_block(8, strides=2), "strides must be 1 .* got 2; give change"),
        (
            lambda: models.sparse_autoencoder_loss(beta=-1.0),
            "sparse_autoencoder_loss: beta must be at least 0, got -1.0; a usual one is 3.0",
        ),
        (lambda: models.sparse_autoencoder_loss(rho=1.0), r"rho must be in \(0, 1\), got 1.0"),
    ],
    ids=[
        "widths", "convs_per_stage", "join", "features", "no features", "blocks", "strides",
        "beta", "rho",
    ],
)  # fmt: skip
def test_settings_that_cannot_be(build, text):
    with pytest.raises(ValueError, match=text):
        build()


@pytest.mark.parametrize(
    ("model", "shape", "text"),
    [
        (models.lenet(), (2, 8, 8, 1), "conv_1: "),
        (models.convnet([2, 2, 2]), (1, 4, 4, 1), "stages/max_pool_2: "),
        (models.variable_size_classifier(10), (1, 16, 16, 1), "head/adaptive_pool: "),
        (
            models.resnet(1, [12]),
            (1, 8, 8, 1),
            "stage_0/group_norm: the channels .* got 12; change one",
        ),
    ],
    ids=["lenet", "convnet", "variable_size", "resnet"],
)
def test_inputs_that_do_not_fit(model, shape, text):
    with pytest.raises(ValueError, match=text):
        model.init(KEY, shape_in(*shape))


def test_autoencoder_loss_refuses_what_does_not_fit():
    loss = models.sparse_autoencoder_loss()
    x, y = draw(4, 7), jax.nn.sigmoid(draw(4, 12))
    with pytest.raises(ValueError, match=r"reconstruction of the target \(4, 7\), .* \(4, 7\)"):
        loss(x, x)
    with pytest.raises(ValueError, match=r"target \(3, 7\), joined .* got shape \(4, 12\)"):
        loss(y, x[:3])
    with pytest.raises(ValueError, match=r"one weight an example, \(4,\), got shape \(4, 1\)"):
        loss(y, x, jnp.ones((4, 1)))
