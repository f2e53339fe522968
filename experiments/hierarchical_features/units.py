"""The network of hierarchical_features, and what its units see, look for and say of the class."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

import jaxdl
from experiments.framework.layers import first_layers, params_of

# How many layers of the network make the net input of each; the next one is its activation.
LAYERS = {"conv 1": 1, "conv 2": 4, "conv 3": 7, "dense": 10, "classes": 12}
CHUNK = 50  # images passed through at once
BINS = 8  # of a unit's activation, for its mutual information with the class
BLUR = jaxdl.weighted_pool(3, strides=1, padding="same", spread=0.5)


def network(units, relu=jaxdl.relu, pool=jaxdl.max_pool):
    """Three convolutions and a dense layer of `units` each, and ten class scores."""
    he = jax.nn.initializers.he_normal()
    small = jax.nn.initializers.normal(0.02)  # so that the filters shown are what was learned
    return jaxdl.serial(
        conv_1=jaxdl.conv(units, 5, w_init=small), relu_1=relu(), pool_1=pool(2),
        conv_2=jaxdl.conv(units, 5, w_init=he), relu_2=relu(), pool_2=pool(2),
        conv_3=jaxdl.conv(units, 3, w_init=he), relu_3=relu(),
        flatten=jaxdl.flatten(), dense=jaxdl.dense(units, w_init=he), relu_4=relu(),
        classes=jaxdl.dense(10),
    )  # fmt: skip


@partial(jax.jit, static_argnames="model")
def one_hot_backward(model, params, x, places, units):
    """dx of one unit for each example: the cotangent is 1 at (place, unit) and 0 elsewhere.

    `places` count the places of a map in row-major order; a dense layer has one place.
    """
    y, residuals = model.fwd(params, x)
    dy = jnp.zeros((len(x), y[0].size // y.shape[-1], y.shape[-1]), y.dtype)
    dy = dy.at[jnp.arange(len(x)), places, units].set(1).reshape(y.shape)
    return model.bwd(params, residuals, dy, jaxdl.none)[1]


@cache
def receptive_fields(units, shape):
    """Of every place of every layer: (places, 4) of first and last row, first and last column.

    In a network of the same shape whose weights are all 1, whose activations are the identity
    and whose pools are means, nothing cancels and nothing is switched off on the way back: the
    input's cotangent is above zero in the receptive field and zero outside.
    """
    model = network(units, jaxdl.identity, jaxdl.average_pool)
    x = jnp.ones((1, *shape))
    params = jax.tree.map(jnp.ones_like, model.init(jax.random.key(0), x))
    fields = {}
    for name, n in LAYERS.items():
        part = first_layers(model, n)
        some = params_of(part, params)
        y = jax.eval_shape(part.apply, some, x)

        def edges(place, part=part, some=some):
            seen = one_hot_backward(part, some, x, place[None], jnp.array([0])) > 0
            lines = [seen[0].any(axis=axes) for axes in ((1, 2), (0, 2))]
            return jnp.array([(a.argmax(), len(a) - 1 - a[::-1].argmax()) for a in lines]).ravel()

        fields[name] = np.asarray(jax.lax.map(edges, jnp.arange(y.size // y.shape[-1])))
    return fields


def peaks(model, params, x):
    """Of every example and unit: the largest activation over the places, and its place."""
    return [np.asarray(a).reshape(len(x), -1) for a in _peaks(model, params, x)]


@partial(jax.jit, static_argnames="model")
def _peaks(model, params, x):
    def batch(x):
        y = model.apply(params, x)
        y = y.reshape(len(y), -1, y.shape[-1])
        return y.max(axis=1), y.argmax(axis=1)

    return jax.lax.map(batch, x.reshape(-1, CHUNK, *x.shape[1:]))


def ascend(model, params, shape, place, units, steps, *, regularised=True):
    """Images in [0, 1] that excite each of `units` at `place`: gradient ascent on the input.

    Each step goes along the cotangent of the input, scaled to length 1, from an image moved by up
    to one pixel; then the image loses 1 %, and after each fourth step it is blurred a little. The
    last tenth of the steps, and all without `regularised`, are the ascent alone.
    """
    x = 0.1 * jax.random.uniform(jax.random.key(0), (len(units), *shape))

    def step(x, now):
        i, key = now
        regular = regularised & (i < 0.9 * steps)
        move = jnp.where(regular, jax.random.randint(key, (2,), -1, 2), 0)
        moved = jnp.roll(x, move, axis=(1, 2))
        dx = one_hot_backward(model, params, moved, jnp.full(len(units), place), units)
        dx = jnp.roll(dx, -move, axis=(1, 2))
        dx = dx / (jnp.sqrt(jnp.sum(dx**2, axis=(1, 2, 3), keepdims=True)) + 1e-8)
        x = jnp.clip(x + 0.5 * dx, 0, 1)
        x = jnp.where(regular & (i % 4 == 3), BLUR.apply({}, x), x)
        return jnp.where(regular, 0.99 * x, x), None

    times = jnp.arange(steps), jax.random.split(jax.random.key(1), steps)
    return jax.jit(lambda x: jax.lax.scan(step, x, times)[0])(x)


def net_inputs(model, params, x, place, units):
    """Of one unit for each example."""
    y = np.asarray(jax.jit(model.apply)(params, x))
    return y.reshape(len(x), -1, y.shape[-1])[np.arange(len(x)), place, units]


def cut(image, box):
    top, bottom, left, right = box
    return np.asarray(image)[top : bottom + 1, left : right + 1, 0]


def stray(model, params, images, places, units, boxes):
    """Largest entry of the units' real cotangents outside their receptive fields."""
    units = np.repeat(units, places.shape[1])
    flat = [a.reshape(-1, *a.shape[2:]) for a in (images, places, boxes)]
    dx = np.array(one_hot_backward(model, params, flat[0], flat[1], units))[..., 0]
    for part, box in zip(dx, flat[2], strict=True):
        top, bottom, left, right = box
        part[top : bottom + 1, left : right + 1] = 0
    return float(np.abs(dx).max())


def mutual_information(values, labels, classes):
    """Of each column of `values` with the label, in bits: values in `BINS` bins of equal counts.

    What labels in random order would seem to give is taken off.
    """
    ranks = values.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    smallest = values == values.min(axis=0)  # relu: ties at 0 are one bin, not several
    bins = np.where(smallest, 0, ranks * BINS // len(values))
    shuffled = np.random.default_rng(0).permutation(labels)
    return np.array([
        information(column, labels, classes) - information(column, shuffled, classes)
        for column in bins.T
    ])  # fmt: skip


def information(bins, labels, classes):
    joint = np.zeros((BINS, classes))
    np.add.at(joint, (bins, labels), 1 / len(labels))
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return float(np.sum(joint[seen] * np.log2(joint[seen] / apart[seen])))
