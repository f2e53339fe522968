"""Checks derivatives that were written by hand: `custom_vjp`, `custom_jvp`, kernels, callbacks.

``check(f, *args)`` takes any function that JAX can trace; nothing else of jaxdl is needed.
"""

from jaxdl.gradcheck._blocks import Dot, compare, dot_test, taylor_test
from jaxdl.gradcheck._check import check
from jaxdl.gradcheck._layer import check_layer
from jaxdl.gradcheck.checks.taylor import Remainder
from jaxdl.gradcheck.oracles.finite_differences import Slope, slope
from jaxdl.gradcheck.oracles.strip import CannotStrip, rules, strip
from jaxdl.gradcheck.problem.domain import Domain
from jaxdl.gradcheck.problem.problem import GradcheckError
from jaxdl.gradcheck.report.findings import Finding
from jaxdl.gradcheck.report.html import write_html
from jaxdl.gradcheck.report.report import Report

__all__ = [
    "CannotStrip",
    "Domain",
    "Dot",
    "Finding",
    "GradcheckError",
    "Remainder",
    "Report",
    "Slope",
    "check",
    "check_layer",
    "compare",
    "dot_test",
    "rules",
    "slope",
    "strip",
    "taylor_test",
    "write_html",
]
