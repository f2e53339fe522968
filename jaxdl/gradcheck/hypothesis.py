"""A door to Hypothesis: arguments of a `Domain` as a strategy, for your own properties.

``@given(arguments(domain))`` draws choices of sizes, dtypes and hyper-parameters and random numbers
for them; Hypothesis makes a failure smaller by choosing simpler values, those that come first.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies

from jaxdl.gradcheck.problem.domain import Domain


def arguments(domain: Domain) -> strategies.SearchStrategy[tuple[Any, ...]]:
    """A strategy for the tuples of arguments of a domain; needs the package `hypothesis`."""
    choices = strategies.fixed_dictionaries(
        {name: strategies.sampled_from(list(values)) for name, values in domain.choices.items()}
    )
    seeds = strategies.integers(0, 2**16)
    return strategies.builds(domain.args, choices, seeds)
