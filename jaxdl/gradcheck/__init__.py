"""Checks derivatives that were written by hand: `custom_vjp`, `custom_jvp`, kernels, callbacks.

``check(f, *args)`` takes any function that JAX can trace; nothing else of jaxdl is needed.
"""

from jaxdl.gradcheck._check import check
from jaxdl.gradcheck._differences import Slope, slope
from jaxdl.gradcheck._problem import GradcheckError
from jaxdl.gradcheck._report import Finding, Report
from jaxdl.gradcheck._strip import CannotStrip, rules, strip

__all__ = [
    "CannotStrip",
    "Finding",
    "GradcheckError",
    "Report",
    "Slope",
    "check",
    "rules",
    "slope",
    "strip",
]
