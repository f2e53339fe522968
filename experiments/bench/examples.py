"""Reducers of single examples against forming a gradient for each by `vmap(grad)`.

The sum of clipped gradients of four models: what it costs beside the plain gradient, in both of the
ways in which a reducer of two passes can run (factors kept, backward again), clipped by parameter
in one pass, and by `vmap(grad)`. Then all inner products of the gradients of many examples.
"""

from __future__ import annotations

from collections.abc import Callable
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
    width: int = 1000
    """The side of the one matrix of which they are the gradients."""
    repetitions: int = 20
    """Counted rounds."""


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


def _inner_products(settings: Settings, out: Run) -> None:
    """`gram` of one matrix; the other side is compiled only: it would fill the memory."""
    n, m = settings.pairs, settings.width
    model, loss = jaxdl.dense(m, use_bias=False), jaxdl.half_squared_error()
    x, target = jax.random.normal(jax.random.key(0), (2, n, m))
    params = model.init(jax.random.key(1), x)
    reduce = jaxdl.value_and_grad(model, loss, reduce=jaxdl.gram)

    def jacobians(params, x, target):
        def one(x, target):
            return jax.grad(lambda p: loss(model.apply(p, x[None]), target[None]))(params)["w"]

        g = jax.vmap(one)(x, target).reshape(n, -1)
        return g @ g.T

    gram, by_jacobians = (
        jax.jit(f).lower(params, x, target).compile() for f in (reduce, jacobians)
    )
    seconds = interleave(
        {"gram": lambda: gram(params, x, target)}, settings.repetitions, out
    )  # fmt: skip
    memory = {"gram": temporary_bytes(gram), "jacobians": temporary_bytes(by_jacobians)}
    out.table(
        f"Inner products of {n} gradients of {m * m:,} entries",
        ["side", "time", "temporary memory"],
        [
            ["gram", milliseconds(seconds, "gram"), f"{memory['gram'] / 1e6:.1f} MB"],
            ["vmap(grad), then their products", "not run", f"{memory['jacobians'] / 1e6:.1f} MB"],
        ],
    )
    out.result("inner products", {"seconds": seconds, "temporary_bytes": memory})


def _difference(a: Any, b: Any) -> float:
    """Largest difference of any array, relative to the largest entry of that array."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(jnp.max(jnp.abs(p - q)) / jnp.max(jnp.abs(q))) for p, q in pairs)
