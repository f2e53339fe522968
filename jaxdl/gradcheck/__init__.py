"""Checks derivatives that were written by hand: `custom_vjp`, `custom_jvp`, kernels, callbacks.

``check(f, *args)`` takes any function that JAX can trace; nothing else of jaxdl is needed.
"""

from jaxdl.gradcheck._blocks import Dot, compare, dot_test, taylor_test
from jaxdl.gradcheck._check import check
from jaxdl.gradcheck._differences import Slope, slope
from jaxdl.gradcheck._html import write_html
from jaxdl.gradcheck._layer import check_layer
from jaxdl.gradcheck._problem import GradcheckError
from jaxdl.gradcheck._report import Finding, Report
from jaxdl.gradcheck._samples import Domain
from jaxdl.gradcheck._strip import CannotStrip, rules, strip
from jaxdl.gradcheck._taylor import Remainder

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
