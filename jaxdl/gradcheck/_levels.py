"""Which checks each level has."""

from __future__ import annotations

from jaxdl.gradcheck._agreement import additivity, second_order, subsets, transforms
from jaxdl.gradcheck._case import Check
from jaxdl.gradcheck._elsewhere import stress
from jaxdl.gradcheck._entries import dot
from jaxdl.gradcheck._extremes import extremes
from jaxdl.gradcheck._growth import growth
from jaxdl.gradcheck._native import contract, finite, forward, precision, pullbacks, scaling, zero
from jaxdl.gradcheck._nested import checkpoint, loops, microbatches, sharded
from jaxdl.gradcheck._runs import cost, determinism, traces
from jaxdl.gradcheck._shapes import shapes
from jaxdl.gradcheck._slopes import differences
from jaxdl.gradcheck._taylor import taylor

# By name: the check, and whether it runs in the given dtypes, outside the float64 mode.
Table = dict[str, tuple[Check, bool]]
QUICK: Table = {
    "contract": (contract, True),
    "forward": (forward, True),
    "zero": (zero, True),
    "scaling": (scaling, True),
    "finite": (finite, True),
    "dot": (dot, False),
}
STANDARD: Table = {
    "additivity": (additivity, False),
    "stress": (stress, False),
    "extremes": (extremes, True),
    "shapes": (shapes, False),
    "transforms": (transforms, False),
    "subsets": (subsets, False),
    "pullbacks": (pullbacks, True),
    "second order": (second_order, False),
    "precision": (precision, True),
}
FULL: Table = {
    "taylor": (taylor, False),
    "loops": (loops, False),
    "checkpoint": (checkpoint, False),
    "sharded": (sharded, False),
    "microbatches": (microbatches, False),
    "determinism": (determinism, True),
    "traces": (traces, True),
    "growth": (growth, True),
    "cost": (cost, True),
}
# Where nothing can be stripped, these cannot be run, and finite differences take their place.
NEED_REFERENCE = (
    "dot",
    "extremes",
    "second order",
    "precision",
    "growth",
    "cost",
)
# Without a rule too, these: JAX's own derivative is checked at the given arguments.
ELSEWHERE = ("stress", "shapes")
# Where the primal has only forward mode.
NEED_REVERSE = ("cost",)
# Where f iterates and has not come to rest: these compare to the last digit.
NEED_REST = ("second order", "precision", "growth", "taylor")
DIFFERENCES: Table = {"differences": (differences, False)}
# Where the gradient is meant to differ from the derivative.
NEED_DERIVATIVE = ("taylor",)
# For arguments cast to a dtype.
LOW_PRECISION = ("contract", "forward", "zero", "scaling", "finite", "extremes", "precision")
LEVELS = {"quick": QUICK, "standard": QUICK | STANDARD, "full": QUICK | STANDARD | FULL}
