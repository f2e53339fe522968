"""The door from the rest of JAX to a layer: any function, with the factors of its parameters."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl.core.factors import Factor, FactorError, Formed
from jaxdl.core.layer import Layer, check_params, check_side
from jaxdl.core.reducers import Reducer, grads, needs_examples
from jaxdl.core.side import With, join_side, split_side
from jaxdl.numerics.pytree import as_jax, describe
from jaxdl.numerics.sharding import explicit_sharding
from jaxdl.program.arguments import Arguments, read_arguments
from jaxdl.program.opened import run, trace
from jaxdl.program.value_and_reduce import reduce_one


def from_function(
    init: Callable[[Array, Any], Any],
    apply: Callable[..., Any],
    *,
    name: str = "function",
    params: Sequence[str] = (),
    keyed: bool = False,
    side: bool = False,
    mixes: bool = False,
) -> Layer:
    """Any JAX function as a layer, with every reducer.

    The gradient is that of `jax.vjp`. For a reducer that asks for more, the function is traced for
    one example, and the factors are read off where parameters meet data; `explain` shows how.

    Args:
      init: ``(key, x) -> params``, a pytree of floating-point arrays.
      apply: ``(params, x) -> y``, or ``(params, x, key)`` if `keyed`; x and y have the examples on
        the first axis.
      name: one word, for errors and `print`.
      params: the names of the parameters, if they are a dict: they are checked then.
      keyed: whether `apply` takes a key. In training it is handed one example at a time, as a batch
        of one, and each with a key of its own.
      side: whether its x is ``With(x, side)``; see `leaf`. A side belongs to no example, so that
        the gradients are already formed ones (`Formed`).
      mixes: whether an example's output depends on the others of the batch; see `leaf`.

    Raises (when called):
      ValueError: `apply` returns something without the examples on its first axis.
      FactorError: it mixes examples, has a side, or its examples lie on several devices under
        Explicit mesh axes, and the reducer needs the examples apart.

    The residual is the input alone: the backward runs `apply` again. Keeping the closure of
    `jax.vjp` would keep copies of the parameters. Inside one jit the repeated forward is merged
    with the first, except for its loops, which run twice.
    """

    def call(params, x, keys):
        if keys is None or side:
            return apply(params, x, keys) if keyed else apply(params, x)
        return jax.vmap(lambda x, key: alone(params, x, key))(x, keys)

    def alone(params, x, key):
        """`apply` on one example, as a batch of one."""
        batch = jax.tree.map(lambda part: part[None], x)
        y = apply(params, batch, key) if keyed else apply(params, batch)
        for part in jax.tree.leaves(y):
            if part.shape[:1] != (1,):
                raise ValueError(
                    f"{name}: the function must keep the examples on the first axis, got "
                    f"{describe(y)} for a batch of one; or say mixes=True"
                )
        return jax.tree.map(lambda part: part[0], y)

    def checked_init(key, x):
        check_side(name, side, x)
        return init(key, as_jax(x))

    def fwd(params, x, key=None):
        if names:
            check_params(name, names, params)
        check_side(name, side, x)
        params, x = as_jax((params, x))
        key = key if keyed else None
        inputs, given = split_side(x)
        keys = key
        if key is not None and not side:
            keys = _placed_like(inputs, jax.random.split(key, jax.tree.leaves(inputs)[0].shape[0]))
        with jax.named_scope(name):
            y = call(params, x, keys)
        residuals = {"x": inputs, "keys": keys} if keyed else inputs
        return y, With(residuals, given) if side else residuals

    def x_of(residuals):
        residuals, _ = split_side(residuals)
        return residuals["x"] if keyed else residuals

    def taken_back(params, residuals, dy):
        """(gradient, dx) by `jax.vjp`."""
        residuals, given = split_side(residuals)
        x, keys = (residuals["x"], residuals["keys"]) if keyed else (residuals, None)
        x = join_side(x, given)
        dparams, dx = jax.vjp(lambda p, v: call(p, v, keys), params, x)[1](dy)
        return dparams, jax.tree.map(lambda d: None if d.dtype == jax.dtypes.float0 else d, dx)

    def read(params, residuals, dy):
        """(factors, dx) of the function as a program of one example."""
        x, keys = (residuals["x"], residuals["keys"]) if keyed else (residuals, None)
        given = read_arguments(name, params, (x, keys), 0)

        def of_leaves(params, example):
            return alone(given.like_params(params), *given.like_examples(example))

        traced = trace(of_leaves, given.params, given.one(), given.shared, name=name)
        _, pull = run(traced, given.params, given.examples, given.n, pull_examples=True)
        factors, cotangents = pull(jax.tree.leaves(dy))
        return given, factors, given.like_examples(cotangents)[0]

    def bwd(params, residuals, dy, reduce: Reducer = grads, slots=None):
        if mixes and needs_examples(reduce):
            raise FactorError(
                f"{name}: the reducer needs the examples apart, but this layer mixes them: the "
                "output of one depends on the others; use another layer, or another reducer"
            )
        with jax.named_scope(f"{name}_bwd"):
            if not jax.tree.leaves(params):
                return {}, taken_back(params, residuals, dy)[1]
            if reduce is grads:
                return taken_back(params, residuals, dy)
            if mixes or side or _is_split(x_of(residuals)):
                gradient, dx = taken_back(params, residuals, dy)
                given = read_arguments(name, params, (jnp.zeros(1),), 0)
                factors = [Formed(g) for g in jax.tree.leaves(gradient)]
            else:
                given, factors, dx = read(params, residuals, dy)
            return _reduced(name, reduce, given, params, factors, slots), dx

    names = tuple(sorted(params))
    return Layer(name, checked_init, fwd, bwd, side=side, mixes=mixes)


def _reduced(
    name: str, reduce: Reducer, given: Arguments, params: Any, factors: Sequence[Factor], slots: Any
) -> Any:
    """What the reducer makes of the leaf: of all parameters together, if they are a plain dict."""
    try:
        if isinstance(params, dict) and len(params) == len(given.params):
            return reduce(params, dict(zip(params, _sorted(params, factors), strict=True)), slots)
        reduced = [
            reduce_one(reduce, *one)
            for one in zip(given.paths, given.params, factors, given.beside(slots), strict=True)
        ]
    except FactorError as error:
        raise FactorError(f"{name}: {error}") from None
    nothing = all(isinstance(part, dict) and not part for part in reduced)
    return {} if nothing else given.like_params(reduced)


def _is_split(x: Any) -> bool:
    """Whether the examples are split over Explicit mesh axes, where no program is read."""
    return any(explicit_sharding(leaf) is not None for leaf in jax.tree.leaves(x))


def _placed_like(x: Any, keys: Array) -> Array:
    """Keys on the devices where their examples are."""
    sharding = explicit_sharding(jax.tree.leaves(x)[0])
    if sharding is None:
        return keys
    return jax.reshard(keys, NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:1])))


def _sorted(params: dict[str, Any], factors: Sequence[Factor]) -> list[Factor]:
    """The factors, which are in the order of sorted names, in the order of the dict."""
    by_name = dict(zip(sorted(params), factors, strict=True))
    return [by_name[name] for name in params]
