"""Every reducer on the programs of the zoo, against the gradients of single examples.

One compilation a program: the reducers of one pass run together inside the backward pass, and those
of two passes, and some others once more, on the factors that were kept. Where a program steps
through the layers of a stack, a reducer's result has an axis of layers; it is told by its shape.
"""

from dataclasses import replace
from functools import cache
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdl
from jaxdl.core.factors import Diag, FactorError, Outer, Stacked, Sum
from jaxdl.core.projection import random_sides
from jaxdl.core.viewed_factors import Moved, untransposed
from tests.long import sampled
from tests.program.programs import PROGRAMS
from tests.program.record import N
from tests.program.reference import as_usual
from tests.program.test_zoo import BY_NAME, largest, name_of, truth_of

DAILY = {
    "linen-mlp",
    "haiku-scan_of_modules",
    "nnx-weight_norm",
    "equinox-conv_three_axes",
    "plain-heads_per_position",
    "plain-embedding_bag",
    "weights-transposed",
    "weights-made_by_a_scan",
    "penalties-squares_of_all",
    "penalties-of_the_layers_of_a_stack",
    "scans-scan_in_scan",
    "calls-checkpoint_in_scan",
    "branches-cond_by_example",
    "trees-nested_containers",
    "trees-unused_parameter",
}
K, KEY = 4, jax.random.key(3)


def kron_or_none(params, factors, slots=None):
    """The sides, where a parameter has two: of each use a term."""
    try:
        return jaxdl.kron()(params, factors, None)
    except FactorError as error:
        assert "kron" in str(error)
        return {}


IN_ONE_PASS = {
    "grads": jaxdl.grads,
    "norms": jaxdl.example_sq_norms,
    "moments": jaxdl.moments,
    "noise": jaxdl.gradient_noise,
    "gram": jaxdl.gram,
    "project": jaxdl.project(K, KEY),
    "trace": jaxdl.trace,
    "kron": kron_or_none,
    "flow": jaxdl.flow,
}
LATER = {"norms": jaxdl.example_sq_norms, "gram": jaxdl.gram}


def clip_of(truth):
    """Of the whole model, and of a parameter: so that some are clipped and others not."""
    return float(np.median(np.sqrt(sum(truth.sq_norms()))))


def reduced(program, dtype, clip, reducers=IN_ONE_PASS):
    """(parameters, what each reducer made of them, factors), the latter as lists of leaves."""
    with as_usual():
        loss, params, batch = program.make(dtype)
        settings = dict(in_axes=program.in_axes, keep_batch_dim=program.keep_batch_dim)
        each = {**reducers, "clipped": jaxdl.clipped_sum(clip, per="parameter")}

        def run(params, *batch):
            at_once = jaxdl.value_and_reduce(loss, jaxdl.combine(**each), **settings)
            _, tree = at_once(params, *batch)
            _, kept = jaxdl.value_and_reduce(loss, jaxdl.keep, **settings)(params, *batch)
            made = {name: jaxdl.select(tree, name) for name in each}
            for name, reducer in LATER.items():
                made[f"{name} later"] = jaxdl.reduce_kept(reducer, params, kept)
            made["clipped by model"] = jaxdl.reduce_kept(jaxdl.clipped_sum(clip), params, kept)
            return made, kept

        made, kept = jax.jit(run)(params, *batch)
    beside = jax.tree.structure(params).flatten_up_to
    return params, {name: beside(tree) for name, tree in made.items()}, beside(kept)


# --- what is right ------------------------------------------------------------------------------


class Expected:
    """What each reducer has to make of the gradients of a parameter: (N, entries)."""

    def __init__(self, path, param, g, layers, clip, weights):
        self.name = (path or "params").rpartition("/")[2]
        self.param, self.shape, self.layers = np.asarray(param), param.shape, layers
        self.g, self.apart = g, g.reshape(N, *layers, -1)
        self.clip, self.weights = clip, weights

    @property
    def grads(self):
        return self.g.mean(0).reshape(self.shape)

    @property
    def norms(self):
        return np.moveaxis(np.square(self.apart).sum(-1), 0, -1)

    @property
    def gram(self):
        return np.einsum("n...p,m...p->...nm", self.apart, self.apart)

    @property
    def moments(self):
        return [self.grads, np.square(self.g).mean(0).reshape(self.shape)]

    @property
    def noise(self):
        trace = self.apart.var(axis=0, ddof=1).sum(-1)
        return [trace, np.square(self.apart.mean(0)).sum(-1) - trace / N]

    def flow(self, factor):
        """(fields, their values): inputs and cotangents from the factor, if it is plain."""

        def norm(x):
            return np.sqrt(np.square(x).reshape(*self.layers, -1).sum(-1))

        fields = {"gradient": norm(self.grads), "weight": norm(self.param)}
        if isinstance(factor, Outer | Sum):
            for name, letter in {"activation": "a", "cotangent": "d"}.items():
                if hasattr(factor, letter) and getattr(factor, letter).size:
                    x = np.asarray(getattr(factor, letter))
                    fields[name] = norm(x) / np.sqrt(x.size / prod(self.layers))
        return list(fields), list(fields.values())

    @property
    def clipped(self):
        norms = np.sqrt(np.maximum(np.square(self.apart).sum(-1), 1e-300))
        return (np.minimum(1, self.clip / norms)[..., None] * self.apart).sum(0).reshape(self.shape)

    @property
    def clipped_by_model(self):
        return np.tensordot(self.weights, self.g, 1).reshape(self.shape)

    def projected(self, factor):
        """By the library's own matrices, of gradients that are formed."""
        inner = self.shape[len(self.layers) :]
        each = self.g.reshape(N * prod(self.layers), *inner)
        if isinstance(untransposed(factor), Moved):  # as the matrix as which it was used
            axes = (0, *(i + 1 for i in factor.axes))
            each = each.transpose(axes).reshape(len(each), *factor.shape)
            inner = factor.shape
        sides = random_sides(KEY, self.name, inner, K, jnp.float64)
        each = each.reshape(len(each), prod(inner[:-1]), prod(inner[-1:]))
        p = np.ones((1, 1)) if sides.p is None else np.asarray(sides.p)
        made = np.einsum("nij,ai,bj->nab", each, p, np.asarray(sides.q))
        return np.moveaxis(made.reshape(N, *self.layers, K), 0, -2)


def check(program, made=None):
    truth, rtol = truth_of(program, jnp.float64), program.rtol or 1e-9
    clip = clip_of(truth)
    params, made, kept = made or reduced(program, jnp.float64, clip)
    norms = np.sqrt(np.maximum(sum(truth.sq_norms()), 1e-300))
    weights = np.minimum(1, clip / norms)
    most, size = largest(truth.leaves()), norms.max()
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    parts = zip(paths, jax.tree.leaves(params), truth.leaves(), strict=True)
    for i, (path, param, g) in enumerate(parts):
        layers, factor = (), kept[i]
        while isinstance(factor, Stacked):
            layers, factor = param.shape[: len(layers) + 1], factor.factor
        right = Expected(path, param, g, layers, clip, weights)

        def near(name, got, want, scale, path=path):
            got, want = jax.tree.leaves(got), want if isinstance(want, list) else [want]
            assert [np.shape(x) for x in got] == [np.shape(x) for x in want], (path, name)
            for x, y in zip(got, want, strict=True):
                np.testing.assert_allclose(x, y, rtol, rtol * scale, err_msg=f"{path}: {name}")

        near("grads", made["grads"][i], right.grads, most)
        near("moments", made["moments"][i], right.moments, most)
        near("clipped", made["clipped"][i], right.clipped, clip)
        near("clipped by model", made["clipped by model"][i], right.clipped_by_model, clip)
        near("noise", made["noise"][i], right.noise, size**2)
        near("project", made["project"][i], right.projected(factor), size)
        fields, values = right.flow(factor)
        flow = made["flow"][i]
        near("flow", [getattr(flow, field) for field in fields], values, most)
        near("flow", flow.noise, right.noise, size**2)
        assert all(np.all(np.isnan(x) | ((x >= 0) & (x <= 1))) for x in (flow.silent, flow.dead))
        for later in ("", " later"):
            near("norms" + later, made["norms" + later][i], right.norms, size**2)
            near("gram" + later, made["gram" + later][i], right.gram, size**2)
        of_vector = made["kron"][i]
        if param.ndim == len(layers) + 1 and of_vector and isinstance(factor, Sum | Diag):
            check_vector(of_vector, factor, layers, near)


def check_vector(sides, factor, layers, near):
    """D of a vector is the sum of the squares of the terms of its gradient."""
    terms = np.asarray(factor.a * factor.d if isinstance(factor, Diag) else factor.d, np.float64)
    terms = terms.reshape(*layers, -1, terms.shape[-1])
    squares = np.einsum("...tp,...tq->...pq", terms, terms)
    near("kron", sides.d, squares, largest([terms]) ** 2)


@pytest.mark.parametrize("program", sampled(PROGRAMS, DAILY, name_of))
def test_reducers(program):
    check(program)


# --- planted bugs -------------------------------------------------------------------------------

PLANTED = BY_NAME["calls-checkpoint_in_scan"]


def wrong(name, change):
    """What the reducers made, with a change in one of the results."""
    params, made, kept = reduced_once()
    return params, made | {name: [change(part) for part in made[name]]}, kept


@cache
def reduced_once():
    return reduced(PLANTED, jnp.float64, clip_of(truth_of(PLANTED, jnp.float64)))


def other_examples(part):
    return jax.tree.map(lambda x: jnp.roll(x, 1, axis=-1), part)


def slightly(part):
    return jax.tree.map(lambda x: (1 + 1e-6) * x, part)


WRONG = {
    "grads": lambda g: N * g,
    "norms": other_examples,
    "norms later": other_examples,
    "moments": lambda m: replace(m, second=jnp.square(m.mean)),
    "noise": lambda noise: replace(noise, trace=noise.sq_norm),
    "gram": lambda k: k * jnp.eye(N),
    "gram later": other_examples,
    "project": lambda p: -p,
    "clipped": lambda g: g / N,
    "clipped by model": lambda g: g / N,
    "flow": lambda flow: replace(flow, cotangent=flow.cotangent / N),
}


def test_right_results_pass():
    check(PLANTED, reduced_once())


@pytest.mark.parametrize("name", WRONG)
def test_a_reducer_that_makes_something_else_is_caught(name):
    for change in (WRONG[name], slightly):
        with pytest.raises(AssertionError):
            check(PLANTED, wrong(name, change))


def test_sides_of_a_vector_that_are_wrong_are_caught():
    with pytest.raises(AssertionError, match="kron"):
        check(PLANTED, wrong("kron", slightly))


def test_another_projection_is_caught():
    """By other random matrices: as long a vector, of other numbers."""
    other = IN_ONE_PASS | {"project": jaxdl.project(K, jax.random.key(4))}
    clip = clip_of(truth_of(PLANTED, jnp.float64))
    with pytest.raises(AssertionError, match="project"):
        check(PLANTED, reduced(PLANTED, jnp.float64, clip, other))


def test_clipping_clips_some_and_not_others():
    """Else the weights would say nothing."""
    truth = truth_of(PLANTED, jnp.float64)
    norms = np.sqrt(sum(truth.sq_norms()))
    assert 0 < np.sum(norms > clip_of(truth)) < N
