"""Training to a given loss, and measuring the noise scale on the way."""

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen

import jaxdl

OPTIMISERS = {"SGD": optax.sgd, "Adam": optax.adam}
BOTH = jaxdl.combine(grads=jaxdl.grads, noise=jaxdl.gradient_noise)
SHOWN = 20
"""Times that the loss is looked at between two returns to the host."""


def network(hidden):
    """(first parameters of a key, loss of one example) of a Flax network that knows no jaxdl."""
    model = linen.Sequential([linen.Dense(hidden), linen.relu, linen.Dense(10)])

    def init(key):
        return model.init(key, jnp.zeros(64))

    def loss(params, x, label):
        logits: Any = model.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, label)

    return init, loss


def mean_of(loss):
    return lambda params, x, labels: jax.vmap(loss, (None, 0, 0))(params, x, labels).mean()


def steps_to_target(init, loss, data, optimiser, batch, rates, seeds, target, most):
    """Steps until the loss over all of `data` is at the target: (rates, seeds), NaN where it is not
    there soon enough. All seeds and rates go side by side, until half as many steps again are done
    as the best rate took, or `most` steps.
    """
    x, labels = data
    mean, every = mean_of(loss), max(1, 32 // batch)
    make = OPTIMISERS[optimiser]

    def step(rate, carry, key):
        params, state = carry
        rows = jax.random.randint(key, (batch,), 0, len(labels))
        gradient = jax.grad(mean)(params, x[rows], labels[rows])
        updates, state = make(rate).update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    def start(rate, seed):
        params = init(jax.random.key(seed))
        return params, make(rate).init(params)

    def advance(rate, seed, carry, number):
        key = jax.random.fold_in(jax.random.key(seed + 1000), number)

        def look(carry, key):
            keys = jax.random.split(key, every)
            carry, _ = jax.lax.scan(lambda c, k: step(rate, c, k), carry, keys)
            return carry, mean(carry[0], x, labels)

        return jax.lax.scan(look, carry, jax.random.split(key, SHOWN))

    def over_grid(f, *axes):
        return jax.jit(jax.vmap(jax.vmap(f, (None, 0, *axes)), (0, None, *axes)))

    rates, seeds = jnp.asarray(rates), jnp.arange(seeds)
    carry, run, seen = over_grid(start)(rates, seeds), over_grid(advance, 0, None), []
    for number in range(most // (every * SHOWN) + 1):
        carry, losses = run(rates, seeds, carry, number)
        seen.append(np.asarray(losses))
        steps = first_at(np.concatenate(seen, axis=-1), target) * every
        if (number + 1) * every * SHOWN >= 1.5 * np.min(steps.mean(axis=1), initial=most):
            break
    return np.where(np.isfinite(steps), steps, np.nan)


def first_at(losses, target):
    """After how many looks the loss was at the target first, in parts of a look: the logarithm of
    the loss is taken for straight in between. Infinity where it never was."""
    at = losses <= target
    i = at.argmax(axis=-1)
    value = np.log(np.take_along_axis(losses, i[..., None], -1)[..., 0])
    before = np.log(np.take_along_axis(losses, np.maximum(i - 1, 0)[..., None], -1)[..., 0])
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(i > 0, (before - np.log(target)) / (before - value), 1)
    return np.where(at.any(axis=-1), i + part, np.inf)


def step_and_noise(loss, optimiser, rate):
    """One step, with the noise of its own batch: the gradient is the one that is taken."""
    tx = OPTIMISERS[optimiser](rate)

    def step(params, state, x, labels):
        losses, reduced = jaxdl.value_and_reduce(loss, BOTH)(params, x, labels)
        updates, state = tx.update(jaxdl.select(reduced, "grads"), state, params)
        noise = jaxdl.select(reduced, "noise")
        return optax.apply_updates(params, updates), state, losses.mean(), noise

    return step, tx


def noise_through_training(init, loss, data, batch, rate, target, most):
    """A function of a seed, running SGD to the target with the noise of every step: (losses over
    all data before each step, trees of noise with an axis of steps, parameters before each step).
    """
    x, labels = data
    step, tx = step_and_noise(loss, "SGD", rate)
    mean = mean_of(loss)

    @jax.jit
    def whole(seed):
        def one(carry, key):
            params, state = carry
            rows = jax.random.randint(key, (batch,), 0, len(labels))
            after, state, _, noise = step(params, state, x[rows], labels[rows])
            return (after, state), (mean(params, x, labels), noise, params)

        start = init(jax.random.key(seed))
        keys = jax.random.split(jax.random.key(seed + 2000), most)
        return jax.lax.scan(one, (start, tx.init(start)), keys)[1]

    def course(seed):
        losses, *trees = whole(seed)
        stop = int(np.argmax(np.append(np.asarray(losses) <= target, True)))
        return np.asarray(losses)[:stop], *(jax.tree.map(lambda a: a[:stop], t) for t in trees)

    return course


def windows(noise, count):
    """`critical_batch_size` of each of `count` stretches of the steps: their ends, the figures."""
    steps = len(jax.tree.leaves(noise)[0])
    ends = np.unique(np.linspace(0, steps, count + 1).astype(int))
    found = []
    for begin, end in pairwise(ends):
        of_steps = [jax.tree.map(lambda a, i=i: a[i], noise) for i in range(begin, end)]
        found.append(float(jaxdl.critical_batch_size(of_steps)))
    return ends, np.array(found)


def exact_scale(loss, data, examples):
    """A function of the parameters -> (tr Σ/|G|², tr HΣ/GᵀHG) over all of the data, H being the
    Hessian of the mean loss. tr HΣ is taken over every (N/`examples`)-th gradient."""
    x, labels = data
    mean, few = mean_of(loss), max(1, len(labels) // examples)

    @jax.jit
    def measure(params):
        _, noise = jaxdl.value_and_reduce(loss, jaxdl.gradient_noise)(params, x, labels)
        gradient = jax.grad(mean)
        g = gradient(params, x, labels)

        def bent(v):
            """vᵀHv"""
            tangent = jax.jvp(lambda p: gradient(p, x, labels), (params,), (v,))[1]
            return optax.tree.vdot(v, tangent)

        def of_example(one):
            return bent(optax.tree.sub(jax.grad(loss)(params, *one), g))

        trace = jax.lax.map(of_example, (x[::few], labels[::few]), batch_size=16).mean()
        return jaxdl.noise_scale(noise), trace / bent(g)

    return measure
