"""Layers that draw random numbers from a key, with rules by hand."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random

from experiments.gradcheck_corpus.functions_draw import from_inputs, normal, positive
from experiments.gradcheck_corpus.kinds import Function


def _key(rng):
    return random.key(int(rng.integers(1000)))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def dropout(x, rate, key):
    """The mask is drawn from bits, so that it is the same in every dtype, and drawn again."""
    return jnp.where(_mask(key, x.shape, rate), x / (1 - rate), 0)


def _mask(key, shape, rate):
    return random.bits(key, shape, jnp.uint8) >= np.uint8(rate * 256)


def _dropout_bwd(rate, kept, g):
    key, shape = kept
    return jnp.where(_mask(key, shape.shape, rate), g / (1 - rate), 0), None


dropout.defvjp(lambda x, rate, key: (dropout(x, rate, key), (key, x)), _dropout_bwd)


@jax.custom_vjp
def usual_dropout(x, key):
    """As it is usually written."""
    return jnp.where(random.bernoulli(key, 0.7, x.shape), x / 0.7, 0)


def _usual_dropout_fwd(x, key):
    mask = random.bernoulli(key, 0.7, x.shape)
    return jnp.where(mask, x / 0.7, 0), mask


usual_dropout.defvjp(_usual_dropout_fwd, lambda mask, g: (jnp.where(mask, g / 0.7, 0), None))


def _sample(mean, log_variance, noise):
    """A normal sample and its divergence from the standard normal, as in an autoencoder."""
    z = mean + jnp.exp(log_variance / 2) * noise
    return z, 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum(-1)


def _sample_bwd(g, mean, log_variance, noise):
    gz, gk = g
    spread = jnp.exp(log_variance / 2)
    d_mean = gz + gk[:, None] * mean
    d_log = 0.5 * (gz * spread * noise + gk[:, None] * (spread**2 - 1))
    return d_mean, d_log, gz * spread


@jax.custom_vjp
def noisy(x, scale, key):
    """Noise in float32, cast: the same numbers in every dtype."""
    return x + scale * random.normal(key, x.shape, jnp.float32).astype(x.dtype)


def _noisy_bwd(kept, g):
    key, shape = kept
    noise = random.normal(key, g.shape, jnp.float32).astype(g.dtype)
    return g, jnp.sum(g * noise).reshape(shape), None


noisy.defvjp(lambda x, s, key: (noisy(x, s, key), (key, s.shape)), _noisy_bwd)


def _gumbel(logits, noise, temperature):
    return jax.nn.softmax((logits + noise) / temperature, -1)


def _gumbel_bwd(g, logits, noise, temperature):
    z = (logits + noise) / temperature
    p = jax.nn.softmax(z, -1)
    d = p * (g - (g * p).sum(-1, keepdims=True)) / temperature
    return d, d, -(d * z).sum()


def _start(key):
    return random.randint(key, (), 0, 5, jnp.int32)


def _crop_bwd(g, x, key):
    return lax.dynamic_update_slice_in_dim(jnp.zeros_like(x), g, _start(key), 0), None


def _depth(x, branch, key):
    """A residual branch is left out for some examples."""
    on = random.bits(key, (x.shape[0], 1), jnp.uint8) < np.uint8(160)
    return x + jnp.where(on, branch, 0)


def _depth_bwd(g, x, branch, key):
    on = random.bits(key, (x.shape[0], 1), jnp.uint8) < np.uint8(160)
    return g, jnp.where(on, g, 0), None


def _signs(key, n, dtype):
    return jnp.where(random.bits(key, (n,), jnp.uint8) < np.uint8(128), -1, 1).astype(dtype)


def _projected(x, key):
    """Random signs and a running sum."""
    return jnp.cumsum(x * _signs(key, x.shape[-1], x.dtype), -1)


def _projected_bwd(g, x, key):
    back = jnp.cumsum(g[..., ::-1], -1)[..., ::-1]
    return back * _signs(key, x.shape[-1], x.dtype), None


def _mix(x, y, share, key):
    """Examples mixed with those of a random order."""
    order = random.permutation(key, x.shape[0])
    return share * x + (1 - share) * x[order], share * y + (1 - share) * y[order]


def _mix_bwd(g, x, y, share, key):
    order = random.permutation(key, x.shape[0])
    back = [share * a + jnp.zeros_like(a).at[order].add((1 - share) * a) for a in g]
    d = (g[0] * (x - x[order])).sum() + (g[1] * (y - y[order])).sum()
    return *back, d, None


def _leaky_bwd(g, x, key):
    slope = random.uniform(key, x.shape, jnp.float32, 0.1, 0.3).astype(x.dtype)
    return jnp.where(x > 0, g, g * slope), None


def _leaky(x, key):
    slope = random.uniform(key, x.shape, jnp.float32, 0.1, 0.3).astype(x.dtype)
    return jnp.where(x > 0, x, slope * x)


RANDOM: tuple[Function, ...] = (
    Function(
        "dropout",
        lambda x, key: dropout(x, 0.25, key),
        lambda rng, dtype: (normal(rng, dtype, 4, 6), _key(rng)),
    ),
    Function(
        "dropout as usual", usual_dropout, lambda rng, dtype: (normal(rng, dtype, 5, 7), _key(rng))
    ),
    Function(
        "dropout as usual, raw key",
        usual_dropout,
        lambda rng, dtype: (normal(rng, dtype, 3, 5), random.PRNGKey(int(rng.integers(99)))),
    ),
    Function(
        "normal sample",
        from_inputs(_sample, _sample_bwd),
        lambda rng, dtype: tuple(normal(rng, dtype, 3, 4) for _ in range(3)),
    ),
    Function(
        "noise of a scale",
        noisy,
        lambda rng, dtype: (normal(rng, dtype, 4, 3), positive(rng, dtype), _key(rng)),
    ),
    Function(
        "gumbel softmax",
        from_inputs(_gumbel, _gumbel_bwd),
        lambda rng, dtype: (
            normal(rng, dtype, 3, 5),
            jnp.asarray(rng.gumbel(size=(3, 5)), dtype),
            positive(rng, dtype),
        ),
    ),
    Function(
        "random crop",
        from_inputs(lambda x, key: lax.dynamic_slice_in_dim(x, _start(key), 4), _crop_bwd),
        lambda rng, dtype: (normal(rng, dtype, 8, 3), _key(rng)),
    ),
    Function(
        "stochastic depth",
        from_inputs(_depth, _depth_bwd),
        lambda rng, dtype: (normal(rng, dtype, 6, 2), normal(rng, dtype, 6, 2), _key(rng)),
    ),
    Function(
        "random signs",
        from_inputs(_projected, _projected_bwd),
        lambda rng, dtype: (normal(rng, dtype, 2, 7), _key(rng)),
    ),
    Function(
        "mixup",
        from_inputs(_mix, _mix_bwd),
        lambda rng, dtype: (
            normal(rng, dtype, 5, 3),
            normal(rng, dtype, 5, 2),
            jnp.asarray(rng.uniform(0.2, 0.8), dtype),
            _key(rng),
        ),
    ),
    Function(
        "randomised leaky relu",
        from_inputs(_leaky, _leaky_bwd),
        lambda rng, dtype: (normal(rng, dtype, 4, 5), _key(rng)),
    ),
)
