"""Run with four devices: programs over a sharded batch, sharded parameters and constraints in the
model give what they give on one device. Prints a line for each that was checked."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxdl

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_default_matmul_precision", "highest")

N, T, M = 8, 4, 8
REDUCERS = {
    "grads": jaxdl.grads,
    "norms": jaxdl.example_sq_norms,
    "clipped": jaxdl.clipped_sum(0.5),
    "by parameter": jaxdl.clipped_sum(0.5, per="parameter"),
    "gram": jaxdl.gram,
    "kron": jaxdl.kron(),
    "moments": jaxdl.moments,
}


def draw(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape))


def model(constrain):
    """Layers under a scan and a checkpoint, a recurrence, a table that is also the output."""

    def loss(params, ids, target):
        x = params["table"][ids]

        def layer(x, p):
            h = constrain(jnp.tanh(x @ p["in"] + p["b"]))
            return x + h @ p["out"], None

        x, _ = lax.scan(jax.checkpoint(layer), x, params["layers"])

        def step(h, x):
            h = jnp.tanh(x @ params["w"] + h @ params["u"])
            return h, h

        _, states = lax.scan(step, jnp.zeros(M), x)
        logits = constrain(states @ params["table"].T)
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - logits[jnp.arange(T), target])

    return loss


PARAMS = {
    "table": draw(16, M),
    "layers": {"in": draw(3, M, 12) / 3, "b": draw(3, 12), "out": draw(3, 12, M) / 3},
    "w": draw(M, M + 0) / 3,
    "u": draw(M, M)[::-1] / 3,
}
IDS, TARGETS = np.random.default_rng(0).integers(0, 16, (2, N, T))


def run(reduce, loss, params, ids, targets):
    return jax.jit(jaxdl.value_and_reduce(loss, reduce))(params, ids, targets)


def main():
    devices = np.array(jax.devices()).reshape(2, 2)
    mesh = Mesh(devices, ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    ids, targets = jnp.asarray(IDS), jnp.asarray(TARGETS)

    def put(x, *spec):
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))

    batch = put(ids, "data"), put(targets, "data")
    split = {
        "table": put(PARAMS["table"], "model", None),
        "layers": {
            "in": put(PARAMS["layers"]["in"], None, None, "model"),
            "b": put(PARAMS["layers"]["b"], None, "model"),
            "out": put(PARAMS["layers"]["out"], None, "model", None),
        },
        "w": put(PARAMS["w"], None, "model"),
        "u": put(PARAMS["u"], "model", None),
    }
    whole = jax.tree.map(put, PARAMS)

    def constrain(x):
        return lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(None, "model")))

    ways = {
        "batch": (model(lambda x: x), whole),
        "batch and parameters": (model(lambda x: x), split),
        "batch, parameters and constraints": (model(constrain), split),
    }
    for name, reduce in REDUCERS.items():
        alone = run(reduce, model(lambda x: x), PARAMS, ids, targets)
        for way, (loss, params) in ways.items():
            found = run(reduce, loss, params, *batch)
            pairs = zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True)
            for got, want in pairs:
                scale = np.abs(np.asarray(want)).max()
                np.testing.assert_allclose(
                    got, want, 1e-12, 1e-12 * scale, err_msg=f"{name}, {way}"
                )
            print(f"checked: {name}, {way}")


if __name__ == "__main__":
    main()
