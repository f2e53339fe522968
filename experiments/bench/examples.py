"""Reducers of single examples against forming a gradient for each by `vmap(grad)`.

The sum of clipped gradients of four models: what it costs beside the plain gradient, in both of the
ways in which a reducer of two passes can run (factors kept, backward again), clipped by parameter
in one pass, and by `vmap(grad)`. Then all inner products of the gradients of many examples, whose
gradients take some gigabytes: formed at once, one parameter at a time, and not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdl
from experiments.framework.run import Run
from experiments.framework.timing import interleave, milliseconds, ratio, show, temporary_bytes
from jaxdl.core.two_passes import backward_again, backward_again_pays
from jaxdl.models import convnet, mlp, transformer_block, transformer_stack

LOSS = jaxdl.softmax_cross_entropy(reduction="sum")
PLAIN, CLIPPED, AUTODIFF = "plain gradient", "clipped_sum", "vmap(grad), clipped"
KEPT, AGAIN = "factors kept", "backward again"


@dataclass(frozen=True)
class Settings:
    """The models and the number of rounds."""

    examples: int = 64
    """Examples in a batch."""
    positions: int = 64
    """Positions of the transformers."""
    features: int = 64
    """Width of the transformers; the MLP's is eight times as much."""
    blocks: int = 4
    """Transformer blocks."""
    pairs: int = 1024
    """Examples whose inner products are taken."""
    width: int = 600
    """Width of the MLP of three hidden layers of which they are the gradients."""
    repetitions: int = 20
    """Counted rounds."""
    pair_repetitions: int = 3
    """Counted rounds of the inner products, of which some sides take long."""


def models(settings: Settings) -> dict[str, tuple[jaxdl.Layer, Any, Any]]:
    """Each model with a batch and its labels."""
    random = np.random.default_rng(0)
    n, t, m = settings.examples, settings.positions, settings.features
    tokens, words = jnp.asarray(random.integers(0, 128, (2, n, t), dtype=np.int32))
    labels = jnp.asarray(random.integers(0, 10, n, dtype=np.int32))
    images = jnp.asarray(random.standard_normal((n, 28, 28, 1), dtype=np.float32))
    one_by_one = jaxdl.serial(*(transformer_block(m, 4) for _ in range(settings.blocks)))

    def around(blocks: jaxdl.Layer) -> jaxdl.Layer:
        return jaxdl.serial(
            embed=jaxdl.embedding(128, m), blocks=blocks, norm=jaxdl.layer_norm(),
            head=jaxdl.dense(128),
        )  # fmt: skip

    return {
        "mlp": (mlp([8 * m] * 3 + [10]), images.reshape(n, -1), labels),
        "convnet": (convnet([16, 32], classes=10, hidden=[64]), images, labels),
        "transformer, repeated": (around(transformer_stack(settings.blocks, m, 4)), tokens, words),
        "transformer, one by one": (around(one_by_one), tokens, words),
    }


def sides(model: jaxdl.Layer, bound: float = 1.0) -> dict[str, Callable[..., Any]]:
    """``(params, x, target) -> gradient``, plain and clipped in every way."""
    clip = jaxdl.clipped_sum(bound)
    assert isinstance(clip, jaxdl.TwoPass)

    def other_way(params, x, target):
        y, residuals = model.fwd(params, x)
        dy = LOSS.bwd(LOSS.fwd(y, target, None)[1])
        if not backward_again_pays(model):
            return backward_again(model, params, residuals, dy, clip)
        kept, _ = model.bwd(params, residuals, dy, jaxdl.keep)
        return jaxdl.reduce_kept(clip, params, kept)

    def autodiff(params, x, target):
        def one(x, target):
            return jax.grad(lambda p: LOSS(model.apply(p, x[None]), target[None]))(params)

        g = jax.vmap(one)(x, target)
        sq_norms = [jnp.sum(jnp.square(a).reshape(len(a), -1), axis=1) for a in jax.tree.leaves(g)]
        weights = jnp.minimum(1, bound / jnp.sqrt(sum(sq_norms)))
        return jax.tree.map(lambda a: jnp.einsum("n,n...->...", weights, a), g)

    def reduced(reduce):
        run = jaxdl.value_and_grad(model, LOSS, reduce=reduce)
        return lambda params, x, target: run(params, x, target)[1]

    ways = (AGAIN, KEPT) if backward_again_pays(model) else (KEPT, AGAIN)
    return {
        PLAIN: reduced(jaxdl.grads),
        f"{CLIPPED}, {ways[0]}": reduced(clip),
        f"{ways[1]} instead": other_way,
        "clipped by parameter": reduced(jaxdl.clipped_sum(bound, per="parameter")),
        AUTODIFF: autodiff,
    }


def run(settings: Settings, out: Run) -> None:
    """Compile every side, check that they agree, time them in turn."""
    for name, (model, x, target) in models(settings).items():
        params = model.init(jax.random.key(0), x)
        compiled = {
            side: jax.jit(f).lower(params, x, target).compile() for side, f in sides(model).items()
        }
        made = {side: call(params, x, target) for side, call in compiled.items()}
        ours = next(side for side in made if side.startswith(CLIPPED))
        difference = _difference(made[ours], made[AUTODIFF])
        times = interleave(
            {side: lambda c=c: c(params, x, target) for side, c in compiled.items()},  # noqa: B023
            settings.repetitions,
            out,
        )
        memory = {side: temporary_bytes(call) for side, call in compiled.items()}
        ratios = {side: ratio(times, side, PLAIN) for side in compiled}
        out.table(
            f"{name}: {settings.examples} examples, clipped sums differ by {difference:.1e}",
            ["side", "time", "against the plain gradient", "temporary memory"],
            [
                [s, milliseconds(times, s), show(ratios[s]), f"{memory[s] / 1e6:.1f} MB"]
                for s in compiled
            ],
        )
        out.result(
            name,
            {
                "seconds": times, "time_ratios": ratios, "temporary_bytes": memory,
                "difference": difference,
            },
        )  # fmt: skip
    _inner_products(settings, out)


def gram_sides(settings: Settings) -> dict[str, _Side]:
    """Inner products of all pairs of gradients, by factors and in three ways without.

    The gradients of all examples at once; those of one parameter at a time, each by a program of
    its own, so that no two are in memory; and none at all: the gradient of one example after the
    other is pushed through the derivative of all losses.
    """
    n, m = settings.pairs, settings.width
    model = mlp([m] * 3 + [10])
    x = jax.random.normal(jax.random.key(0), (n, m))
    target = jax.random.randint(jax.random.key(1), (n,), 0, 10)
    params = model.init(jax.random.key(2), x)
    leaves, tree = jax.tree.flatten(params)

    def loss(params, x, target):
        return LOSS(model.apply(params, x[None]), target[None])

    def factors(params, x, target):
        run = jaxdl.value_and_grad(model, LOSS, reduce=jaxdl.gram)
        return jaxdl.total(run(params, x, target)[1], axes=2)

    def products(gradients):
        flat = [g.reshape(n, -1) for g in jax.tree.leaves(gradients)]
        return sum(g @ g.T for g in flat)

    def at_once(params, x, target):
        return products(jax.vmap(jax.grad(loss), (None, 0, 0))(params, x, target))

    def of_leaf(i):
        def one(leaf, x, target):
            return loss(jax.tree.unflatten(tree, [*leaves[:i], leaf, *leaves[i + 1 :]]), x, target)

        def run(params, x, target):
            leaf = jax.tree.leaves(params)[i]
            return products(jax.vmap(jax.grad(one), (None, 0, 0))(leaf, x, target))

        return run

    def pushed(params, x, target):
        _, push = jax.linearize(lambda p: jax.vmap(loss, (None, 0, 0))(p, x, target), params)
        return jax.lax.map(lambda one: push(jax.grad(loss)(params, *one)), (x, target))

    return {
        "gram": _Side((factors,), (params, x, target)),
        "vmap(grad), then their products": _Side((at_once,), (params, x, target)),
        "… one parameter at a time": _Side(
            tuple(of_leaf(i) for i in range(len(leaves))), (params, x, target)
        ),
        "one gradient at a time, pushed forward": _Side((pushed,), (params, x, target)),
    }


class _Side:
    """Programs whose results are added, run one after the other."""

    def __init__(self, programs: Sequence[Callable[..., Any]], arguments: tuple[Any, ...]):
        self.arguments = arguments
        self.compiled = [jax.jit(f).lower(*arguments).compile() for f in programs]
        self.temporary_bytes = max(temporary_bytes(c) for c in self.compiled)

    def __call__(self) -> jax.Array:
        total = None
        for program in self.compiled:
            # waited for: the next one may only have the memory of this one
            made = jax.block_until_ready(program(*self.arguments))
            total = made if total is None else total + made
        assert total is not None
        return total


def _inner_products(settings: Settings, out: Run) -> None:
    """`gram` against everything that forms gradients, or pushes them forward."""
    sides = gram_sides(settings)
    made = {side: np.asarray(call()) for side, call in sides.items()}
    differences = {side: _difference(made["gram"], made[side]) for side in sides}
    # every side has run once, and some of them take minutes
    times = interleave(sides, settings.pair_repetitions, out, warmup=0)
    ratios = {side: ratio(times, side, "gram") for side in sides}
    memory = {side: call.temporary_bytes for side, call in sides.items()}
    entries = sum(leaf.size for leaf in jax.tree.leaves(sides["gram"].arguments[0]))
    out.table(
        f"Inner products of {settings.pairs} gradients of {entries:,} entries",
        ["side", "time", "against gram", "temporary memory", "difference"],
        [
            [
                side, milliseconds(times, side), show(ratios[side]),
                f"{memory[side] / 1e6:.1f} MB", f"{differences[side]:.1e}",
            ]
            for side in sides
        ],
    )  # fmt: skip
    out.result(
        "inner products",
        {
            "entries": entries, "seconds": times, "time_ratios": ratios,
            "temporary_bytes": memory, "differences": differences,
        },
    )  # fmt: skip


def _difference(a: Any, b: Any) -> float:
    """Largest difference of any array, relative to the largest entry of that array."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(jnp.max(jnp.abs(p - q)) / jnp.max(jnp.abs(q))) for p, q in pairs)
