"""All pairs of a right rule and wrong ones."""

from __future__ import annotations

from experiments.gradcheck_corpus import (
    pairs_attention,
    pairs_calls,
    pairs_convolution,
    pairs_dense,
    pairs_elementwise,
    pairs_indexing,
    pairs_kernels,
    pairs_linear_algebra,
    pairs_losses,
    pairs_norms,
    pairs_pooling,
    pairs_scans,
    pairs_special,
    pairs_tangents,
    pairs_training,
)
from experiments.gradcheck_corpus.kinds import Pair

_FILES = (
    pairs_dense, pairs_elementwise, pairs_special, pairs_norms, pairs_losses, pairs_attention,
    pairs_scans, pairs_convolution, pairs_pooling, pairs_indexing, pairs_linear_algebra,
    pairs_tangents, pairs_calls, pairs_training, pairs_kernels,
)  # fmt: skip
PAIRS: tuple[Pair, ...] = tuple(pair for file in _FILES for pair in file.PAIRS)
BY_NAME: dict[str, Pair] = {pair.name: pair for pair in PAIRS}
