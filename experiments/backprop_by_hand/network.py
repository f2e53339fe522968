"""The worked 2-2-2 network, its right and its wrong backward pass, and the article's listing."""

import jax
import jax.numpy as jnp
import optax

import jaxdl

INPUT = [[0.05, 0.10]]
TARGET = [[0.01, 0.99]]
LISTING_TARGET = [[0.01, 0.09]]
WEIGHTS = [0.15, 0.20, 0.25, 0.30, 0.40, 0.45, 0.50, 0.55]  # w1 … w8
BIASES = (0.35, 0.60)
NAMES = [f"w{i}" for i in range(1, 9)]
EDGES = ["i1 → h1", "i2 → h1", "i1 → h2", "i2 → h2", "h1 → o1", "h2 → o1", "h1 → o2", "h2 → o2"]

LAYERS = {"h": "hidden", "o": "output"}  # units, and the dense layer that makes their net inputs
NET = jaxdl.serial(
    hidden=jaxdl.dense(2), h=jaxdl.sigmoid(), output=jaxdl.dense(2), o=jaxdl.sigmoid()
)
LOSS = jaxdl.half_squared_error()
RIGHT, WRONG = "gradient descent", "through updated weights"


def to_params(weights):
    """w1 … w8 as parameters: net_h1 = w1·i1 + w2·i2 + b, so each unit's weights are a column."""
    weights = jnp.asarray(weights, float)
    w_h, w_o = weights[:4].reshape(2, 2).T, weights[4:].reshape(2, 2).T
    b_h, b_o = (jnp.full(2, b, w_h.dtype) for b in BIASES)
    return {"hidden": {"w": w_h, "b": b_h}, "output": {"w": w_o, "b": b_o}}


def to_weights(params):
    """The inverse of `to_params`; of a tree of gradients, the gradients of w1 … w8."""
    return jnp.concatenate([params[layer]["w"].T.ravel() for layer in LAYERS.values()])


def optimiser(rate):
    """Gradient descent on the weights; the biases stay as they are."""
    is_bias = jax.tree.map_with_path(lambda path, _: path[-1].key == "b", to_params(WEIGHTS))
    return optax.chain(optax.masked(optax.set_to_zero(), is_bias), optax.sgd(rate))


# --- two backward passes ------------------------------------------------------------------------


def right_backward(params, x, target, rate):
    """(E, gradient): every cotangent passes through the weights that the forward pass used."""
    return jaxdl.value_and_grad(NET, LOSS)(params, x, target)


def wrong_backward(params, x, target, rate):
    """(E, "gradient") of a loop that updates each layer before it goes on to the one below."""
    y, residuals = NET.fwd(params, x)
    value, loss_residuals = LOSS.fwd(y, target)
    dy, gradient = LOSS.bwd(loss_residuals), {}
    for name, layer, kept in reversed(list(zip(NET.names, NET.children, residuals, strict=True))):
        p = params.get(name, {})
        gradient[name], _ = layer.bwd(p, kept, dy)
        moved = {k: p[k] - rate * gradient[name][k] if k == "w" else p[k] for k in p}
        _, dy = layer.bwd(moved, kept, dy)  # THE BUG: must be p, which the forward pass used
    return value, {name: gradient[name] for name in params}


# --- the network of the article's listing, as pure functions ------------------------------------


def feed_forward(params, x):
    return NET.apply(params, x)


def total_error(params, x, target):
    return LOSS(feed_forward(params, x), target)


def train(params, x, target, steps, rate, backward=right_backward):
    """(parameters after `steps`, E before each step and after the last)."""
    tx = optimiser(rate)

    def step(carry, _):
        params, state = carry
        value, gradient = backward(params, x, target, rate)
        updates, state = tx.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    @jax.jit
    def run(params):
        (params, _), errors = jax.lax.scan(step, (params, tx.init(params)), length=steps)
        return params, jnp.append(errors, total_error(params, x, target))

    return run(params)


def inspect(params, x, target):
    """Every unit, weight and bias, with what the backward pass says of each, as readable text."""
    seen = jaxdl.backprop_trace(NET, LOSS)(params, x, target)
    lines = [f"E = {seen.value:.9f}", *(f"i{i + 1} = {v:g}" for i, v in enumerate(x[0]))]
    for below, (unit, layer) in zip("ih", LAYERS.items(), strict=True):
        w, dw = params[layer]["w"], seen.reduced[layer]["w"]
        nets, ys, deltas = seen.activations[layer], seen.activations[unit], seen.deltas[layer]
        lines += ["", f"{layer} layer, bias {params[layer]['b'][0]:g} (held fixed)"]
        for j in range(w.shape[1]):
            net, y, delta = (a[0, j] for a in (nets, ys, deltas))
            lines.append(f"  {unit}{j + 1}   net {net:12.9f}   out {y:.9f}   δ {delta:12.9f}")
            lines += [
                f"       from {below}{i + 1}   weight {w[i, j]:12.9f}   ∂E/∂w {dw[i, j]:12.9f}"
                for i in range(w.shape[0])
            ]
    return "\n".join(lines)
