"""Haiku: `hk.transform`, with parameters in a dict of dicts."""

import haiku as hk
import jax
import jax.numpy as jnp

from tests.program.record import (
    N,
    Program,
    classification,
    drawn,
    family,
    first,
    integers,
    normal,
    squared_error,
)

HAIKU_MODELS: list[Program] = []
program = family("haiku", HAIKU_MODELS)


def split(forward, dtype, *example):
    """(apply without a key, drawn parameters)."""
    transformed = hk.without_apply_rng(hk.transform(forward))
    shapes = jax.eval_shape(lambda *e: transformed.init(jax.random.key(0), *e), *example)
    return transformed.apply, drawn(shapes, dtype)


def regression(forward, dtype, *inputs, keep_batch_dim=False):
    example = jax.tree.map(lambda leaf: leaf[:1], inputs) if keep_batch_dim else first(inputs)
    apply, params = split(forward, dtype, *example)
    return squared_error(apply, params, inputs, dtype, keep_batch_dim)


def layer_norm():
    return hk.LayerNorm(axis=-1, create_scale=True, create_offset=True)


@program()
def mlp(dtype):
    def forward(x):
        x = hk.Bias()(layer_norm()(hk.Linear(8)(x)))
        return hk.nets.MLP([6, 3], activation=jnp.tanh)(jnp.sin(x))

    return regression(forward, dtype, normal(dtype, N, 4, 7))


@program(keep_batch_dim=True)
def cnn(dtype):
    def forward(x):
        x = jax.nn.relu(hk.Conv2D(4, 3, stride=2)(x))
        x = jax.nn.relu(hk.DepthwiseConv2D(2, 3, padding="VALID")(x))
        x = hk.Conv2DTranspose(4, (2, 3), stride=2)(x)
        x = hk.avg_pool(x, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return hk.Linear(3)(hk.Flatten()(x))

    return regression(forward, dtype, normal(dtype, N, 8, 8, 3), keep_batch_dim=True)


@program(keep_batch_dim=True)
def conv_channels_first(dtype):
    def forward(x):
        x = jax.nn.silu(hk.Conv2D(4, (3, 2), data_format="NCHW", rate=2)(x))
        x = hk.Conv2D(6, 3, feature_group_count=2, data_format="NCHW", mask=MASK)(x)
        return x.mean((2, 3))

    mask = jnp.tril(jnp.ones((3, 3), dtype))
    MASK = jnp.broadcast_to(mask[..., None, None], (3, 3, 2, 6))
    return regression(forward, dtype, normal(dtype, N, 3, 6, 6), keep_batch_dim=True)


@program(keep_batch_dim=True)
def resnet_group_norm(dtype):
    def forward(x):
        x = hk.Conv2D(4, 3)(x)
        for stride, features in ((1, 4), (2, 6)):
            y = hk.Conv2D(features, 3, stride=stride, with_bias=False)(x)
            y = hk.Conv2D(features, 3)(jax.nn.relu(hk.GroupNorm(2)(y)))
            short = x if x.shape == y.shape else hk.Conv2D(features, 1, stride=stride)(x)
            x = jax.nn.relu(short + hk.GroupNorm(2)(y))
        return hk.Linear(3)(x.mean((1, 2)))

    return regression(forward, dtype, normal(dtype, N, 6, 6, 3), keep_batch_dim=True)


@program()
def lstm(dtype):
    def forward(x):
        core = hk.LSTM(6)
        zero = jnp.zeros(6, x.dtype)
        out, _ = hk.dynamic_unroll(core, x, hk.LSTMState(zero, zero))
        return hk.Linear(2)(out)

    return regression(forward, dtype, normal(dtype, N, 4, 3))


@program()
def deep_recurrence(dtype):
    def forward(x):
        core = hk.DeepRNN([hk.GRU(4), jnp.tanh, hk.VanillaRNN(6), hk.Linear(2)])
        start = (jnp.zeros(4, x.dtype), jnp.zeros(6, x.dtype))
        return hk.dynamic_unroll(core, x, start)[0]

    return regression(forward, dtype, normal(dtype, N, 4, 3))


@program()
def bidirectional_learned_start(dtype):
    def forward(x):
        start = hk.get_parameter("start", (6,), x.dtype, hk.initializers.RandomNormal())
        right = hk.dynamic_unroll(hk.GRU(6), x, start)[0]
        left = hk.dynamic_unroll(hk.GRU(6), x, start, reverse=True)[0]
        return hk.Linear(2)(jnp.hstack([jnp.asarray(left), jnp.asarray(right)]))

    return regression(forward, dtype, normal(dtype, N, 4, 3))


@program()
def conv_lstm(dtype):
    def forward(x):
        core = hk.Conv2DLSTM((4, 3), 2, 3)
        zero = jnp.zeros((4, 3, 2), x.dtype)
        return hk.static_unroll(core, x, hk.LSTMState(zero, zero))[0]

    return regression(forward, dtype, normal(dtype, N, 2, 4, 3, 2))


def block(x):
    """Pre-norm attention and perceptron."""
    y = layer_norm()(x)
    mask = jnp.tril(jnp.ones((1, len(x), len(x)), bool))
    init = hk.initializers.RandomNormal()
    x = x + hk.MultiHeadAttention(2, 4, w_init=init, model_size=8)(y, y, y, mask)
    return x + hk.Linear(8)(jax.nn.gelu(hk.Linear(12)(layer_norm()(x))))


def language_model(dtype, stack):
    def forward(tokens):
        embed = hk.Embed(7, 8)
        positions = hk.get_parameter("positions", (4, 8), dtype, hk.initializers.RandomNormal())
        x = stack(embed(tokens) + positions)
        return layer_norm()(x) @ embed.embeddings.T

    tokens = integers(7, N, 5)
    apply, params = split(forward, dtype, tokens[0, :-1])
    return classification(apply, params, (tokens[:, :-1],), tokens[:, 1:])


KEY_BIAS = ("/key']['b']",)


@program(zeros=KEY_BIAS)
def transformer_tied(dtype):
    return language_model(dtype, lambda x: block(block(x)))


@program(zeros=KEY_BIAS)
def transformer_layer_stack(dtype):
    return language_model(dtype, lambda x: hk.layer_stack(2)(block)(x))


@program(zeros=KEY_BIAS)
def transformer_remat(dtype):
    return language_model(dtype, lambda x: hk.remat(block)(x))


@program()
def cond_between_layers(dtype):
    def forward(x):
        left, right = hk.Linear(4, name="left"), hk.Linear(4, name="right")
        if hk.running_init():
            return left(x) + right(x)
        return jnp.sin(hk.cond(x[0] > 0, left, right, x))

    return regression(forward, dtype, normal(dtype, N, 7))


@program()
def scan_of_modules(dtype):
    def forward(x):
        layer = hk.Linear(6)
        if hk.running_init():
            return layer(x)
        return hk.scan(lambda h, _: (jnp.tanh(layer(h)), None), x, None, length=3)[0]

    return regression(forward, dtype, normal(dtype, N, 6))


@program()
def variational_autoencoder(dtype):
    """The sample of an example is drawn by its own key; the loss has the KL divergence."""

    def forward(x, key):
        mean, log_scale = jnp.split(hk.nets.MLP([6, 4], activation=jnp.tanh)(x), 2)
        z = mean + jnp.exp(log_scale) * jax.random.normal(key, mean.shape, mean.dtype)
        kl = 0.5 * jnp.sum(mean**2 + jnp.exp(2 * log_scale) - 1) - jnp.sum(log_scale)
        return 0.5 * jnp.sum((hk.nets.MLP([6, 7], activation=jnp.tanh)(z) - x) ** 2) + kl

    x, keys = normal(dtype, N, 7), jax.random.split(jax.random.key(5), N)
    apply, params = split(forward, dtype, x[0], keys[0])
    return apply, params, (x, keys)
