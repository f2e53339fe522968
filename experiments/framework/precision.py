"""How far a result is from the truth, and how near counts as exact."""

import numpy as np

EXACT = 1e-12
"""Relative, in float64: its rounding, added up."""


def relative(found, truth):
    """‖found − truth‖ / ‖truth‖."""
    truth = np.asarray(truth)
    return float(np.linalg.norm(np.asarray(found) - truth) / np.linalg.norm(truth))
