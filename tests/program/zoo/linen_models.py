"""Flax Linen: perceptrons, convolutions, normalisation."""

import jax
import jax.numpy as jnp
from flax import linen as nn

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

LINEN_MODELS: list[Program] = []
program = family("linen", LINEN_MODELS)


def linen_params(module, dtype, *example, **options):
    """Drawn parameters of a Linen module."""
    return drawn(
        jax.eval_shape(lambda *e: module.init(jax.random.key(0), *e, **options), *example), dtype
    )["params"]


def regression(module, dtype, *inputs, keep_batch_dim=False):
    """A Linen module as it is, and its squared error."""
    example = jax.tree.map(lambda leaf: leaf[:1], inputs) if keep_batch_dim else first(inputs)
    return squared_error(
        lambda params, *xs: module.apply({"params": params}, *xs),
        linen_params(module, dtype, *example),
        inputs,
        dtype,
        keep_batch_dim,
    )


@program()
def mlp(dtype):
    module = nn.Sequential(
        [nn.Dense(8), nn.LayerNorm(), nn.gelu, nn.Dense(6), nn.tanh, nn.Dense(3)]
    )
    return regression(module, dtype, normal(dtype, N, 7))


@program()
def mlp_positions(dtype):
    module = nn.Sequential([nn.Dense(8), nn.RMSNorm(), nn.silu, nn.Dense(3, use_bias=False)])
    return regression(module, dtype, normal(dtype, N, 4, 7))


@program()
def dense_general(dtype):
    module = nn.Sequential(
        [nn.DenseGeneral((2, 3)), nn.PReLU(), nn.DenseGeneral(6, axis=(-2, -1)), jnp.sin]
    )
    return regression(module, dtype, normal(dtype, N, 4, 7))


@program()
def dense_general_batch_dims(dtype):
    module = nn.DenseGeneral(6, axis=-1, batch_dims=(0,))
    return regression(module, dtype, normal(dtype, N, 4, 2, 7))


@program()
def einsum(dtype):
    module = nn.Sequential([nn.Einsum((4, 7, 3), "th,thk->tk"), nn.tanh])
    return regression(module, dtype, normal(dtype, N, 4, 7))


@program()
def cnn(dtype):
    module = nn.Sequential(
        [
            nn.Conv(4, (3, 3), strides=2),
            nn.relu,
            nn.Conv(6, (3, 3), kernel_dilation=2, padding="SAME"),
            nn.relu,
            nn.Conv(4, (2, 2), padding="VALID"),
            lambda x: nn.avg_pool(x, (2, 2)),
            jnp.ravel,
            nn.Dense(3),
        ]
    )
    params_of = normal(dtype, N, 8, 8, 3)
    return regression(module, dtype, params_of)


@program(keep_batch_dim=True)
def cnn_batch_of_one(dtype):
    module = nn.Sequential(
        [
            nn.Conv(4, (3, 3), padding=((1, 2), (0, 1))),
            nn.relu,
            lambda x: nn.max_pool(x, (2, 2), strides=(2, 2)),
            lambda x: x.reshape(x.shape[0], -1),
            nn.Dense(3),
        ]
    )
    return regression(module, dtype, normal(dtype, N, 6, 6, 3), keep_batch_dim=True)


@program()
def conv_depthwise(dtype):
    module = nn.Sequential(
        [
            nn.Conv(8, (3, 3), feature_group_count=4),
            nn.silu,
            nn.Conv(6, (1, 1)),
            nn.Conv(6, (3, 3), feature_group_count=2, strides=2, padding="VALID"),
        ]
    )
    return regression(module, dtype, normal(dtype, N, 7, 7, 4))


@program()
def conv_transpose(dtype):
    module = nn.Sequential(
        [
            nn.ConvTranspose(4, (3, 3), strides=(2, 2)),
            nn.tanh,
            nn.ConvTranspose(2, (3, 2), padding="VALID", transpose_kernel=True),
        ]
    )
    return regression(module, dtype, normal(dtype, N, 3, 4, 3))


@program()
def conv_one_axis(dtype):
    module = nn.Sequential(
        [
            nn.Conv(4, (3,), padding="CAUSAL", kernel_dilation=2),
            nn.tanh,
            nn.Conv(6, (3,), padding="CIRCULAR"),
            nn.tanh,
            nn.Conv(2, (2,), input_dilation=2, padding=((1, 0),)),
        ]
    )
    return regression(module, dtype, normal(dtype, N, 7, 3))


@program()
def conv_local(dtype):
    module = nn.ConvLocal(4, (3, 2), strides=(1, 2), padding="VALID")
    return regression(module, dtype, normal(dtype, N, 4, 6, 3))


class ResidualBlock(nn.Module):
    """Two convolutions with group norm around a skip."""

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        y = nn.Conv(self.features, (3, 3), strides=self.stride, use_bias=False)(x)
        y = nn.relu(nn.GroupNorm(num_groups=2)(y))
        y = nn.Conv(self.features, (3, 3), use_bias=False)(y)
        y = nn.GroupNorm(num_groups=2)(y)
        if x.shape != y.shape:
            x = nn.Conv(self.features, (1, 1), strides=self.stride, name="short")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Two residual blocks and a head."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        x = ResidualBlock(4)(x)
        x = ResidualBlock(6, stride=2)(x)
        return nn.Dense(3)(x.mean((-3, -2)))


@program()
def resnet_group_norm(dtype):
    x = normal(dtype, N, 8, 8, 3)
    params = linen_params(ResNet(), dtype, x[0])
    return classification(
        lambda params, x: ResNet().apply({"params": params}, x), params, (x,), integers(3, N)
    )


class UNet(nn.Module):
    """One level down, one up, joined by concatenation."""

    @nn.compact
    def __call__(self, x):
        high = nn.silu(nn.Conv(4, (3, 3))(x))
        low = nn.silu(nn.Conv(6, (3, 3))(nn.avg_pool(high, (2, 2), strides=(2, 2))))
        up = jax.image.resize(low, (*high.shape[:-1], low.shape[-1]), "nearest")
        up = jnp.concatenate([up, nn.ConvTranspose(4, (2, 2), strides=(2, 2))(low), high], axis=-1)
        return nn.Conv(x.shape[-1], (1, 1))(nn.InstanceNorm()(up))


@program(zeros=("['ConvTranspose_0']['bias']",))  # the norm takes it away
def unet(dtype):
    return regression(UNet(), dtype, normal(dtype, N, 6, 6, 2))


class WithState(nn.Module):
    """Layers that keep statistics, which a loss reads as constants."""

    kind: str

    @nn.compact
    def __call__(self, x):
        if self.kind == "batch":
            x = nn.BatchNorm(use_running_average=True)(nn.Dense(6)(x))
        else:
            x = nn.SpectralNorm(nn.Dense(6))(x, update_stats=False)
        return nn.Dense(3)(nn.tanh(x))


def with_state(kind, dtype):
    """Statistics are drawn, positive, and no parameters."""
    module, x = WithState(kind), normal(dtype, N, 7)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), x[0])
    state = jax.tree.map(lambda leaf: jnp.abs(leaf) + 0.1, drawn(shapes["batch_stats"], dtype, 8))
    return squared_error(
        lambda params, x: module.apply({"params": params, "batch_stats": state}, x),
        drawn(shapes["params"], dtype),
        (x,),
        dtype,
    )


@program()
def batch_norm_running_average(dtype):
    return with_state("batch", dtype)


@program(surrogate=True)  # its singular vectors are taken as constants
def spectral_norm(dtype):
    return with_state("spectral", dtype)


class WeightNormed(nn.Module):
    """Weight normalisation of a dense layer and of a convolution."""

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.WeightNorm(nn.Conv(4, (3,)))(x))
        return nn.WeightNorm(nn.Dense(3))(x)


@program()
def weight_norm(dtype):
    return regression(WeightNormed(), dtype, normal(dtype, N, 4, 6))


class Dropped(nn.Module):
    """Dropout between two layers."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dropout(0.5, deterministic=False)(nn.tanh(nn.Dense(8)(x)))
        return nn.Dense(3)(x)


def dropped(params, x, key):
    return Dropped().apply({"params": params}, x, rngs={"dropout": key})


def dropout_params(dtype):
    return drawn(
        jax.eval_shape(
            lambda x: Dropped().init(
                {"params": jax.random.key(0), "dropout": jax.random.key(1)}, x
            ),
            normal(dtype, 7),
        ),
        dtype,
    )["params"]


@program()
def dropout_own_keys(dtype):
    keys = jax.random.split(jax.random.key(5), N)
    return squared_error(dropped, dropout_params(dtype), (normal(dtype, N, 7), keys), dtype)


@program(in_axes=(0, 0, None))
def dropout_shared_key(dtype):
    x, y = normal(dtype, N, 7), normal(dtype, N, 3, seed=4)

    def loss(params, x, y, key):
        return jnp.sum(jnp.square(dropped(params, x, key) - y))

    return loss, dropout_params(dtype), (x, y, jax.random.key(6))
