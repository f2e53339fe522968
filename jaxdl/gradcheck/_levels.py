"""Which checks each level has."""

from __future__ import annotations

from jaxdl.gradcheck._agreement import additivity, second_order, subsets, transforms
from jaxdl.gradcheck._case import Check
from jaxdl.gradcheck._entries import differences, dot, stress
from jaxdl.gradcheck._native import contract, finite, forward, precision, pullbacks, scaling, zero

# By name: the check, and whether it runs in the given dtypes, outside the float64 mode.
QUICK: dict[str, tuple[Check, bool]] = {
    "contract": (contract, True),
    "forward": (forward, True),
    "zero": (zero, True),
    "scaling": (scaling, True),
    "finite": (finite, True),
    "dot": (dot, False),
}
STANDARD: dict[str, tuple[Check, bool]] = {
    "additivity": (additivity, False),
    "stress": (stress, False),
    "transforms": (transforms, False),
    "subsets": (subsets, False),
    "pullbacks": (pullbacks, True),
    "second order": (second_order, False),
    "precision": (precision, True),
}
# Where nothing can be stripped, these cannot be run, and finite differences take their place.
NEED_REFERENCE = ("dot", "stress", "second order", "precision")
DIFFERENCES: dict[str, tuple[Check, bool]] = {"differences": (differences, False)}
LEVELS = {"quick": QUICK, "standard": QUICK | STANDARD}
