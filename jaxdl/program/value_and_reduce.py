"""Any loss of one example, with every reducer: `value_and_reduce`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxdl.core.composed_factors import Stacked, stack_factors
from jaxdl.core.factor import Factor, FactorError
from jaxdl.core.reducer import TwoPass, check_alone, check_reducer
from jaxdl.core.reducers import Reducer, entry_of, grads, keep, weighted
from jaxdl.program.arguments import Arguments, read_arguments
from jaxdl.program.opened import Traced, run, trace


def value_and_reduce(
    loss: Callable[..., Any],
    reduce: Reducer = grads,
    *,
    in_axes: Any = 0,
    has_aux: bool = False,
    keep_batch_dim: bool = False,
) -> Callable[..., tuple[Any, Any]]:
    """A function ``(params, *examples, slots=None) -> (values, reduced)`` for any JAX program.

    The model may be one of Flax, Equinox, Haiku or plain JAX; nothing in it is changed. The
    loss is traced for one example, the places where parameters meet data are found, and the factors
    there are handed to the reducer. Where a matrix has a lean form no array of examples × its
    entries is made; `explain` says which have not, and why.

    Args:
      loss: ``loss(params, *example) -> scalar``, floating point: the loss of one example.
      reduce: what to make of the factor of each parameter. It is called with dicts of one entry,
        the parameter's path: ``reduce({path: param}, {path: factor}, {path: slot})``.
      in_axes: where the examples are in the arguments behind the parameters, as in `jax.vmap`: one
        axis for all, or one entry for each; None for what all examples share.
      has_aux: whether the loss returns a pair (scalar, anything).
      keep_batch_dim: hand each example over as a batch of one, so that a loss written for batches
        is used as it is. What such a loss takes from the whole batch (batch norm, a maximum over
        it) is then that of one example: another model.

    The function returns the losses, (N,), or the pair of them and of the auxiliary values, with the
    examples on the first axis; and what the reducer made, a tree like `params`. A parameter that a
    scan steps through, as through layers, has an entry for each of them: (layers, N) norms, say.

    What belongs to an example (its norm, its cotangents) is that of its own loss. The gradient that
    `grads` forms is that of the mean, equal to `jax.grad` of it. (A custom rule that is not linear
    in the cotangent, one that clips it, is given each example's own: the mean is then of what it
    makes of these.)

    Raises (when called):
      ValueError: the loss is not a scalar or has side effects; there are no parameters or no
        examples; axes that do not fit.
      TypeError: parameters or losses that are not floating point.
      FactorError: the reducer cannot reduce some factor.
    """

    check_reducer("value_and_reduce", reduce)

    def call(params, *examples, slots=None):
        given = read_arguments("value_and_reduce", params, examples, in_axes)
        traced = trace_loss("value_and_reduce", loss, given, has_aux, keep_batch_dim)
        beside = given.beside(slots)
        if isinstance(reduce, TwoPass):
            outs, reduced = _in_two_passes(reduce, traced, given, beside)
        else:
            outs, reduced = _in_one_pass(reduce, traced, given, beside)
        return jax.tree.unflatten(traced.out_tree, outs), given.like_params(reduced)

    return call


def _in_one_pass(
    reduce: Reducer, traced: Traced, given: Arguments, slots: list[Any]
) -> tuple[list[Array], list[Any]]:
    def at(i: int, param: Any, factor: Factor) -> Any:
        return reduce_one(reduce, given.paths[i], param, _of_mean(factor, given.n), slots[i])

    # what is kept is not reduced, and a slot is beside the whole parameter, not a part of it
    inside = None if reduce is keep or any(slot is not None for slot in slots) else at
    outs, pull = run(traced, given.params, given.examples, given.n, at, inside=inside)
    return outs, pull(seeds_of(outs))[0]


def _in_two_passes(
    reduce: TwoPass, traced: Traced, given: Arguments, slots: list[Any]
) -> tuple[list[Array], list[Any]]:
    """Measure, weight the examples, and reduce.

    The second pass takes the factors, which the first has kept. Where keeping them would undo a
    checkpoint, it is a second backward pass, of weighted cotangents.
    """
    if traced.has_checkpoint and all(slot is None for slot in slots):
        return _by_two_backwards(reduce, traced, given)
    outs, pull = run(traced, given.params, given.examples, given.n)
    factors, _ = pull(seeds_of(outs))
    found = reduce_all(reduce.measure, given, factors, [None] * len(factors))
    weights = reduce.weights(given.like_params(found))
    return outs, reduce_all(weighted(reduce.then, weights), given, factors, slots)


def _by_two_backwards(
    reduce: TwoPass, traced: Traced, given: Arguments
) -> tuple[list[Array], list[Any]]:
    def at(reducer: Reducer, i: int, param: Any, factor: Factor) -> Any:
        return reduce_one(reducer, given.paths[i], param, factor)

    def inside(i: int, param: Any, factor: Factor) -> Any:
        # of these two, each pass uses one: the other is not in the compiled program
        return at(reduce.measure, i, param, factor), at(reduce.then, i, param, factor)

    outs, pull = run(traced, given.params, given.examples, given.n, inside=inside)
    seeds = seeds_of(outs)
    first, _ = pull(seeds)
    is_kept = [isinstance(part, Factor) for part in first]
    found = [
        at(reduce.measure, i, given.params[i], part) if kept else part[0]
        for i, (part, kept) in enumerate(zip(first, is_kept, strict=True))
    ]
    weights = reduce.weights(given.like_params(found))
    second, _ = pull([(seeds[0] * weights).astype(seeds[0].dtype), *seeds[1:]])
    return outs, [
        at(weighted(reduce.then, weights), i, given.params[i], part) if kept else once_more[1]
        for i, (part, once_more, kept) in enumerate(zip(first, second, is_kept, strict=True))
    ]


def seeds_of(outs: list[Array]) -> list[Any]:
    """The cotangents of the losses, each its own, and of the auxiliary values."""
    return [jnp.ones_like(outs[0]), *map(_no_cotangent, outs[1:])]


def trace_loss(
    name: str, loss: Callable[..., Any], given: Arguments, has_aux: bool, keep_batch_dim: bool
) -> Traced:
    """Trace the loss of one example, and check that it is one."""

    def of_leaves(params, example):
        if keep_batch_dim:
            example = given.batches_of_one(example)
        out = loss(given.like_params(params), *given.like_examples(example))
        _check_loss(name, out, has_aux, keep_batch_dim)
        return out

    leaves = given.params, given.one(), given.shared
    traced = trace(of_leaves, *leaves, with_gradient=1, name=name)
    if not any(v.roots for v in traced.scope.outs if hasattr(v, "roots")):
        raise ValueError(
            f"{name}: the loss must depend on the parameters, but no path leads from one of "
            f"{list(given.paths[:3])} to it; check that the loss uses the params it is given"
        )
    return traced


def _check_loss(name: str, out: Any, has_aux: bool, keep_batch_dim: bool) -> None:
    if has_aux and not (isinstance(out, tuple) and len(out) == 2):
        raise ValueError(
            f"{name}: with has_aux=True the loss must return a pair (scalar, anything), got a "
            f"{type(out).__name__}; return a pair, or leave has_aux out"
        )
    value: Any = out[0] if has_aux else out
    value = jnp.asarray(value) if isinstance(value, int | float) else value
    if not hasattr(value, "shape"):
        raise ValueError(
            f"{name}: the loss of one example must be a scalar, got a {type(value).__name__}; "
            "has_aux=True is for a loss that returns a pair (scalar, anything)"
        )
    if value.shape != ():
        fix = "sum or average it" if keep_batch_dim else (
            "sum or average it; an example has no axis of examples" if name == "explain" else
            "sum or average it, or say keep_batch_dim=True if it is written for a batch"
        )  # fmt: skip
        raise ValueError(
            f"{name}: the loss of one example must be a scalar, got shape {value.shape}; {fix}"
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(
            f"{name}: the loss must be floating point, got {value.dtype}; cast it, or take the "
            "real part"
        )


def _no_cotangent(out: Array) -> Any:
    """The cotangent of an auxiliary value."""
    if jnp.issubdtype(out.dtype, jnp.inexact):
        return jnp.zeros_like(out)
    return np.zeros(out.shape, jax.dtypes.float0)


def _of_mean(factor: Factor, n: int) -> Factor:
    """The factor of the gradient of the mean over n examples."""
    if isinstance(factor, Stacked):
        return Stacked(_of_mean(factor.factor, n), divisor=n)
    return replace(factor, divisor=n)


def reduce_all(
    reduce: Reducer, given: Arguments, factors: list[Factor], slots: list[Any]
) -> list[Any]:
    """What a reducer makes of each parameter; stacks of as many layers are gone through together.

    Their parameters share inputs and cotangents, which are read once then.
    """
    reduced: dict[int, Any] = {}
    stacks: dict[int, list[int]] = {}
    for i, factor in enumerate(factors):
        if isinstance(factor, Stacked):
            stacks.setdefault(len(given.params[i]), []).append(i)
        else:
            reduced[i] = reduce_one(reduce, given.paths[i], given.params[i], factor, slots[i])
    for rows in stacks.values():
        paths = [given.paths[i] for i in rows]
        layers = [(given.params[i], factors[i].factor, slots[i]) for i in rows]  # type: ignore[attr-defined]
        reduced |= zip(rows, _reduce_layers(reduce, paths, layers), strict=True)
    return [reduced[i] for i in range(len(factors))]


def _reduce_layers(reduce: Reducer, paths: list[str], stacked: list[Any]) -> list[Any]:
    def one(layer):
        return [reduce_one(reduce, path, *p) for path, p in zip(paths, layer, strict=True)]

    return [stack_factors(found) for found in lax.map(one, stacked)]


def reduce_one(reduce: Reducer, path: str, param: Array, factor: Factor, slot: Any = None) -> Any:
    """What a reducer makes of one parameter.

    Raises:
      FactorError: it cannot reduce the factor, or needs other parameters beside it.
    """
    if isinstance(factor, Stacked):
        layers = (param, factor.factor, slot)
        return stack_factors(lax.map(lambda one: reduce_one(reduce, path, *one), layers))
    name = path or "params"
    check_alone(path, reduce)
    try:
        reduced = reduce({name: param}, {name: factor}, None if slot is None else {name: slot})
    except FactorError as error:
        raise FactorError(f"{name}: {error}") from None
    except KeyError as error:
        raise FactorError(
            f"{name}: the reducer asked for {error.args[0]!r}, but in a program each parameter "
            f"comes alone, as {{{name!r}: ...}}; a reducer that needs several of a layer's "
            "parameters is for models of jaxdl's layers"
        ) from error
    return entry_of(reduced, name)
