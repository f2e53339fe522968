"""Flax Linen: attention, transformers, stacks of layers, experts."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from tests.program.record import N, Program, classification, family, integers, normal
from tests.program.zoo.linen_models import linen_params, regression

LINEN_ATTENTION: list[Program] = []
program = family("linen", LINEN_ATTENTION)

KEY_BIAS = ("['key']['bias']",)
"""Under softmax a constant in every score changes nothing."""


class Block(nn.Module):
    """Pre-norm attention and perceptron."""

    compute: Any = None

    @nn.compact
    def __call__(self, x, _=None):
        mask = nn.make_causal_mask(jnp.ones(x.shape[0]))
        y = nn.LayerNorm(dtype=self.compute)(x)
        x = x + nn.MultiHeadDotProductAttention(2, dtype=self.compute)(y, mask=mask)
        y = nn.gelu(nn.Dense(12, dtype=self.compute)(nn.LayerNorm(dtype=self.compute)(x)))
        return x + nn.Dense(8, dtype=self.compute)(y), None


class Transformer(nn.Module):
    """A language model of two layers; its layers are unrolled or scanned, and may be recomputed."""

    tied: bool = False
    scanned: bool = False
    remat: bool = False
    compute: Any = None

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(7, 8, dtype=self.compute)
        x = embed(tokens) + nn.Embed(4, 8, dtype=self.compute, name="positions")(jnp.arange(4))
        block = nn.remat(Block, prevent_cse=not self.scanned) if self.remat else Block
        if self.scanned:
            stack = nn.scan(block, {"params": 0}, split_rngs={"params": True}, length=2)
            x, _ = stack(self.compute)(x, None)
        else:
            for _ in range(2):
                x, _ = block(self.compute)(x)
        x = nn.LayerNorm(dtype=self.compute)(x)
        logits = embed.attend(x) if self.tied else nn.Dense(7, dtype=self.compute)(x)
        return logits.astype(jnp.float32) if self.compute else logits


def language_model(dtype, **options):
    module, tokens = Transformer(**options), integers(7, N, 5)
    return classification(
        lambda params, tokens: module.apply({"params": params}, tokens),
        linen_params(module, dtype, tokens[0, :-1]),
        (tokens[:, :-1],),
        tokens[:, 1:],
    )


@program(zeros=KEY_BIAS)
def transformer(dtype):
    return language_model(dtype)


@program(zeros=KEY_BIAS)
def transformer_tied(dtype):
    return language_model(dtype, tied=True)


@program(zeros=KEY_BIAS)
def transformer_remat(dtype):
    return language_model(dtype, remat=True)


@program(zeros=KEY_BIAS)
def transformer_scanned(dtype):
    return language_model(dtype, scanned=True)


@program(zeros=KEY_BIAS)
def transformer_scanned_remat_tied(dtype):
    return language_model(dtype, scanned=True, remat=True, tied=True)


@program(zeros=KEY_BIAS, surrogate=True, rtol=3e-2)
def transformer_bfloat16(dtype):
    return language_model(dtype, compute=jnp.bfloat16)


@program(zeros=KEY_BIAS, surrogate=True, rtol=3e-2)
def transformer_bfloat16_scanned_remat(dtype):
    return language_model(dtype, compute=jnp.bfloat16, scanned=True, remat=True)


@program(zeros=KEY_BIAS)
def cross_attention_masked(dtype):
    module = nn.MultiHeadDotProductAttention(3, qkv_features=6, out_features=7)

    def apply(params, q, kv, length):
        mask = (jnp.arange(kv.shape[0]) < length)[None, None]
        return module.apply({"params": params}, q, kv, mask=mask)

    q, kv, length = normal(dtype, N, 3, 8), normal(dtype, N, 4, 6, seed=7), 1 + integers(4, N)
    params = linen_params(module, dtype, q[0], kv[0])

    def loss(params, q, kv, length, y):
        return jnp.sum(jnp.square(apply(params, q, kv, length) - y))

    return loss, params, (q, kv, length, normal(dtype, N, 3, 7, seed=4))


class VisionTransformer(nn.Module):
    """Patches by a convolution, a class token, learned positions."""

    @nn.compact
    def __call__(self, image):
        x = nn.Conv(8, (2, 2), strides=(2, 2), padding="VALID")(image).reshape(-1, 8)
        token = self.param("cls", nn.initializers.normal(1.0), (1, 8))
        x = jnp.concatenate([token, x])
        x = x + self.param("positions", nn.initializers.normal(1.0), x.shape)
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        return nn.Dense(3)(nn.LayerNorm()(x)[0])


@program(zeros=KEY_BIAS)
def vision_transformer(dtype):
    module, image = VisionTransformer(), normal(dtype, N, 4, 6, 3)
    return classification(
        lambda params, x: module.apply({"params": params}, x),
        linen_params(module, dtype, image[0]),
        (image,),
        integers(3, N),
    )


class Ensemble(nn.Module):
    """Three members of one architecture: their parameters are stacked."""

    @nn.compact
    def __call__(self, x):
        members = nn.vmap(nn.Dense, {"params": 0}, split_rngs={"params": True})
        return nn.tanh(members(4)(jnp.broadcast_to(x, (3, *x.shape)))).mean(0)


@program()
def ensemble(dtype):
    return regression(Ensemble(), dtype, normal(dtype, N, 7))


class DeepByRematScan(nn.Module):
    """Four layers as two scans, one in the other, each step recomputed."""

    @nn.compact
    def __call__(self, x):
        return nn.remat_scan(ResidualDense, lengths=(2, 2))()(x)


class ResidualDense(nn.Module):
    """A dense layer around a skip."""

    @nn.compact
    def __call__(self, x):
        return x + nn.tanh(nn.Dense(x.shape[-1])(x))


@program()
def remat_scan(dtype):
    return regression(DeepByRematScan(), dtype, normal(dtype, N, 6))


class Experts(nn.Module):
    """Three perceptrons as one einsum, weighted by a router or picked by it."""

    gathered: bool

    @nn.compact
    def __call__(self, x):
        gate = nn.softmax(nn.Dense(3, name="router")(x))
        init = nn.initializers.normal(1.0)
        w, v = self.param("up", init, (3, 6, 8)), self.param("down", init, (3, 8, 6))
        if self.gathered:
            share, pick = jax.lax.top_k(gate, 2)
            h = nn.gelu(jnp.einsum("td,tkdh->tkh", x, w[pick]))
            return jnp.einsum("tkh,tkhd,tk->td", h, v[pick], share)
        h = nn.gelu(jnp.einsum("td,edh->teh", x, w))
        return jnp.einsum("teh,ehd,te->td", h, v, gate)


@program()
def experts_dense(dtype):
    return regression(Experts(gathered=False), dtype, normal(dtype, N, 4, 6))


@program()
def experts_gathered(dtype):
    return regression(Experts(gathered=True), dtype, normal(dtype, N, 4, 6))
