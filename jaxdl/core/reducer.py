"""What a reducer is, and whether it needs the examples of a batch apart."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, TypeVar

from jax import Array

from jaxdl.core.factor import Factor, FactorError
from jaxdl.core.identity import SameByParts

Factors = Mapping[str, Factor]
Reducer = Callable[[dict[str, Array], Factors, Any], Any]


R = TypeVar("R", bound=Callable[..., Any])


def per_example(reducer: R) -> R:
    """Say of a reducer that it needs the examples apart: layers that mix them refuse it by path."""
    try:
        reducer.needs_examples = True  # type: ignore[attr-defined]
    except AttributeError:  # a method, say
        reducer = functools.partial(reducer)  # type: ignore[assignment]
        reducer.needs_examples = True  # type: ignore[attr-defined]
    return reducer


def needs_examples(reducer: Callable[..., Any]) -> bool:
    """Whether a reducer has said that it needs the examples apart."""
    if hasattr(reducer, "needs_examples"):
        return reducer.needs_examples  # type: ignore[attr-defined]
    return isinstance(reducer, functools.partial) and needs_examples(reducer.func)


def per_layer(reducer: R) -> R:
    """Say of a reducer that it needs all parameters of a layer together: one alone is refused."""
    reducer.needs_layer = True  # type: ignore[attr-defined]
    return reducer


def needs_layer(reducer: Callable[..., Any]) -> bool:
    """Whether a reducer has said that it needs all parameters of a layer together."""
    return getattr(reducer, "needs_layer", False)


def check_alone(path: str, reducer: Callable[..., Any]) -> None:
    """Raise FactorError unless `reducer` takes a parameter that comes without its layer."""
    if needs_layer(reducer):
        raise FactorError(
            f"{path or 'params'}: the reducer needs all parameters of a layer together, but this "
            "one comes alone, as those of a program do; keep the factors (reduce=keep), with a "
            "dict of parameters for each layer, and give the reducer to reduce_kept"
        )


def like_reducer(reducer: Callable[..., Any]) -> Callable[[R], R]:
    """Say of a reducer that it needs the examples apart if `reducer` does, which it stands for."""
    return per_example if needs_examples(reducer) else lambda stand_in: stand_in


def check_reducer(name: str, reducer: Any) -> None:
    """Raise TypeError unless `reducer` can be called as one is."""
    if isinstance(reducer, TwoPass):
        return
    try:
        inspect.signature(reducer).bind({}, {}, None)
    except ValueError:  # a callable of which Python knows no signature
        return
    except TypeError:
        raise TypeError(
            f"{name}: reduce must be a function (params, factors, slots), got {reducer!r}; one "
            "with settings is made by calling it, e.g. clipped_sum(1.0)"
        ) from None


@dataclass(frozen=True, eq=False)
class TwoPass(SameByParts):
    """A reducer that weights the examples by what it has measured over the whole model.

    `value_and_grad`, `backprop_trace` and `reduce_kept` take it as they take any reducer; `combine`
    and the `bwd` of a layer cannot.

    Attributes:
      name: for messages.
      measure: the reducer of the first pass.
      weights: from a tree of what it made at each leaf to one weight for each example, (N,).
      then: the reducer of the second pass, given factors whose examples are weighted.
    """

    name: str
    measure: Reducer
    weights: Callable[[Any], Array]
    then: Reducer
    needs_examples: ClassVar[bool] = True

    def __call__(self, params: Any, factors: Any, slots: Any = None) -> NoReturn:
        raise TypeError(
            f"{self.name}: it needs the norms of the whole model before it can weight an example, "
            "and one layer does not have them; give it to value_and_grad, or to reduce_kept"
        )
