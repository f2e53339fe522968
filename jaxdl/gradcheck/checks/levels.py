"""Which checks each level has."""

from __future__ import annotations

from jaxdl.gradcheck.checks.additivity import additivity
from jaxdl.gradcheck.checks.case import Check
from jaxdl.gradcheck.checks.checkpoint import checkpoint
from jaxdl.gradcheck.checks.contract import contract
from jaxdl.gradcheck.checks.cost import cost
from jaxdl.gradcheck.checks.determinism import determinism
from jaxdl.gradcheck.checks.differences import differences
from jaxdl.gradcheck.checks.dot import dot
from jaxdl.gradcheck.checks.extremes import extremes
from jaxdl.gradcheck.checks.finite import finite
from jaxdl.gradcheck.checks.forward import forward
from jaxdl.gradcheck.checks.growth import growth
from jaxdl.gradcheck.checks.loops import loops
from jaxdl.gradcheck.checks.microbatches import microbatches
from jaxdl.gradcheck.checks.precision import precision
from jaxdl.gradcheck.checks.pullbacks import pullbacks
from jaxdl.gradcheck.checks.scaling import scaling
from jaxdl.gradcheck.checks.second_order import second_order
from jaxdl.gradcheck.checks.shapes import shapes
from jaxdl.gradcheck.checks.sharded import sharded
from jaxdl.gradcheck.checks.stress import stress
from jaxdl.gradcheck.checks.subsets import subsets
from jaxdl.gradcheck.checks.taylor import taylor
from jaxdl.gradcheck.checks.traces import traces
from jaxdl.gradcheck.checks.transforms import transforms
from jaxdl.gradcheck.checks.zero import zero

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
