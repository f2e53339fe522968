"""Ten training steps: the losses of the same model written in Flax, from the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

import jaxdl as jd
from jaxdl.models import mlp, transformer_stack

STEPS = 10
OPTIMIZERS = {
    "adamw": lambda: optax.adamw(3e-3, weight_decay=0.01),
    "sgd_momentum": lambda: optax.sgd(0.1, momentum=0.9),
}


def losses(value_and_grad, params, batches, optimizer):
    @jax.jit
    def step(params, state, batch):
        value, gradient = value_and_grad(params, *batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state, values = optimizer.init(params), []
    for batch in batches:
        params, state, value = step(params, state, batch)
        values.append(float(value))
    return np.array(values)


class FlaxMLP(linen.Module):
    @linen.compact
    def __call__(self, x):
        for width in (16, 12):
            x = jax.nn.relu(linen.Dense(width)(x))
        return linen.Dense(5)(x)


def as_flax_dense(params):
    return {"kernel": params["w"], "bias": params["b"]}


def mlp_in_both():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS, 32, 8)).astype(np.float32)
    labels = rng.integers(0, 5, (STEPS, 32))
    model = mlp([16, 12, 5])
    params = model.init(jax.random.key(0), x[0])
    flax_params = {
        f"Dense_{i}": as_flax_dense(params[name])
        for i, name in enumerate(("dense", "dense_1", "dense_2"))
    }
    return model, params, FlaxMLP(), flax_params, list(zip(x, labels, strict=True))


BLOCKS, FEATURES, HEADS, ROWS = 2, 12, 3, 7


class FlaxTransformer(linen.Module):
    @linen.compact
    def __call__(self, ids):
        x = linen.Embed(ROWS, FEATURES)(ids)
        mask = linen.make_causal_mask(ids)
        for _ in range(BLOCKS):
            h = linen.LayerNorm(epsilon=1e-5)(x)
            x = x + linen.MultiHeadDotProductAttention(HEADS)(h, mask=mask)
            h = linen.LayerNorm(epsilon=1e-5)(x)
            h = jax.nn.gelu(linen.Dense(4 * FEATURES)(h), approximate=True)
            x = x + linen.Dense(FEATURES)(h)
        return linen.Dense(ROWS)(linen.LayerNorm(epsilon=1e-5)(x))


def as_flax_norm(params):
    return {"scale": params["scale"], "bias": params["shift"]}


def as_flax_attention(params):
    split = (FEATURES, HEADS, FEATURES // HEADS)
    kernels = np.split(params["w_qkv"], 3, axis=1)
    biases = np.split(params["b_qkv"], 3)
    inner = {
        name: {"kernel": w.reshape(split), "bias": b.reshape(split[1:])}
        for name, w, b in zip(("query", "key", "value"), kernels, biases, strict=True)
    }
    out = {"kernel": params["w_out"].reshape(*split[1:], FEATURES), "bias": params["b_out"]}
    return inner | {"out": out}


def transformer_in_both():
    rng = np.random.default_rng(0)
    text = rng.integers(0, ROWS, (STEPS, 8, 7), dtype=np.int32)
    model = jd.serial(
        embed=jd.embedding(ROWS, FEATURES),
        blocks=transformer_stack(BLOCKS, FEATURES, HEADS),
        norm=jd.layer_norm(),
        head=jd.dense(ROWS),
    )
    params = model.init(jax.random.key(0), text[0])
    flax_params = {
        "Embed_0": {"embedding": params["embed"]["table"]},
        f"LayerNorm_{2 * BLOCKS}": as_flax_norm(params["norm"]),
        f"Dense_{2 * BLOCKS}": as_flax_dense(params["head"]),
    }
    for i in range(BLOCKS):
        block = jax.tree.map(lambda p, i=i: p[i], params["blocks"])
        up, down = block["mlp"]["dense"], block["mlp"]["dense_1"]
        flax_params |= {
            f"LayerNorm_{2 * i}": as_flax_norm(block["attention_norm"]),
            f"MultiHeadDotProductAttention_{i}": as_flax_attention(block["attention"]),
            f"LayerNorm_{2 * i + 1}": as_flax_norm(block["mlp_norm"]),
            f"Dense_{2 * i}": as_flax_dense(up),
            f"Dense_{2 * i + 1}": as_flax_dense(down),
        }
    batches = [(batch[:, :-1], batch[:, 1:]) for batch in text]
    return model, params, FlaxTransformer(), flax_params, batches


@pytest.mark.parametrize("build", [mlp_in_both, transformer_in_both], ids=["mlp", "transformer"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_ten_losses_are_those_of_flax_and_optax(build, optimizer):
    model, params, module, flax_params, batches = build()
    assert {p.dtype for p in jax.tree.leaves((params, flax_params))} == {np.dtype("float32")}

    def objective(params, x, labels):
        logits = module.apply({"params": params}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    manual = jd.value_and_grad(model, jd.softmax_cross_entropy())
    with jax.numpy_dtype_promotion("standard"):
        expected_params = module.init(jax.random.key(0), batches[0][0])["params"]
        shapes = jax.tree.map(jnp.shape, expected_params)
        assert jax.tree.map(jnp.shape, flax_params) == shapes
        expected = losses(jax.value_and_grad(objective), flax_params, batches, optimizer())
        got = losses(manual, params, batches, optimizer())
    assert np.ptp(got) > 0.01  # it moves
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=0)
