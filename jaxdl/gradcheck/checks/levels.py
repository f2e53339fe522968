"""Which checks each level has."""

from __future__ import annotations

from collections.abc import Collection

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
from jaxdl.gradcheck.oracles.reference import Oracle

# By name: the check, and whether it runs in the given dtypes, outside the float64 mode.
Table = dict[str, tuple[Check, bool]]
_IN_GIVEN_DTYPES = {
    contract, forward, zero, scaling, finite, extremes, pullbacks, precision,
    determinism, traces, growth, cost,
}  # fmt: skip


def _table(*checks: Check) -> Table:
    """Under the names of their functions; they run in this order."""
    return {
        check.__name__.replace("_", " "): (check, check in _IN_GIVEN_DTYPES) for check in checks
    }


QUICK = _table(contract, forward, zero, scaling, finite, dot)
STANDARD = _table(
    additivity, stress, extremes, shapes, transforms, subsets, pullbacks, second_order, precision
)
FULL = _table(taylor, loops, checkpoint, sharded, microbatches, determinism, traces, growth, cost)
# In place of those that need a reference, where there is none.
DIFFERENCES = _table(differences)
LEVELS = {"quick": QUICK, "standard": QUICK | STANDARD, "full": QUICK | STANDARD | FULL}

# Where nothing can be stripped, these cannot be run, and finite differences take their place.
_NEED_REFERENCE = {"dot", "extremes", "second order", "precision", "growth", "cost"}
# Without a rule too, these: JAX's own derivative is checked at the given arguments.
_ELSEWHERE = {"stress", "shapes"}
# Where the primal has only forward mode.
_NEED_REVERSE = {"cost"}
# Where the gradient is meant to differ from the derivative.
_NEED_DERIVATIVE = {"taylor"}
# Where f iterates and has not come to rest: these compare to the last digit.
NEED_REST = {"second order", "precision", "growth", "taylor"}
# For arguments cast to a dtype.
_LOW_PRECISION = {"contract", "forward", "zero", "scaling", "finite", "extremes", "precision"}


def named(names: Collection[str]) -> Table:
    """The checks of these names."""
    return {name: check for name, check in LEVELS["full"].items() if name in names}


def of_low_precision() -> Table:
    """What there is to check where the arguments are cast to a dtype."""
    return {n: check for n, check in LEVELS["standard"].items() if n in _LOW_PRECISION}


def applicable(table: Table, oracle: Oracle, has_rules: bool, intended: bool) -> Table:
    """Those checks of a table that mean something.

    Args:
      table: of the level.
      oracle: what gradients are held against.
      has_rules: whether f has a hand-written rule.
      intended: whether its gradient is meant to differ from the derivative.
    """
    dropped: set[str] = set()
    if intended:
        dropped |= _NEED_DERIVATIVE
    if not oracle.reverse:
        dropped |= _NEED_REVERSE
    if not oracle.is_reference:
        dropped |= _NEED_REFERENCE if has_rules else _NEED_REFERENCE | _ELSEWHERE
    kept = {name: check for name, check in table.items() if name not in dropped}
    return kept if oracle.is_reference else kept | DIFFERENCES
