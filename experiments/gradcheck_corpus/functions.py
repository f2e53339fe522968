"""All right functions of the corpus, by subject in the files functions_*.py."""

from __future__ import annotations

from experiments.gradcheck_corpus.functions_arguments import ARGUMENTS
from experiments.gradcheck_corpus.functions_attention import ATTENTION
from experiments.gradcheck_corpus.functions_callbacks import CALLBACKS
from experiments.gradcheck_corpus.functions_control import CONTROL
from experiments.gradcheck_corpus.functions_convolution import CONVOLUTION
from experiments.gradcheck_corpus.functions_elementwise import ELEMENTWISE
from experiments.gradcheck_corpus.functions_formulas import FORMULAS
from experiments.gradcheck_corpus.functions_indexing import INDEXING
from experiments.gradcheck_corpus.functions_intended import INTENDED
from experiments.gradcheck_corpus.functions_iteration import ITERATION
from experiments.gradcheck_corpus.functions_kernels import KERNELS
from experiments.gradcheck_corpus.functions_layers import LAYERS
from experiments.gradcheck_corpus.functions_linalg import LINEAR_ALGEBRA
from experiments.gradcheck_corpus.functions_losses import LOSSES
from experiments.gradcheck_corpus.functions_moving import MOVING
from experiments.gradcheck_corpus.functions_norms import NORMS
from experiments.gradcheck_corpus.functions_objectives import OBJECTIVES
from experiments.gradcheck_corpus.functions_pairwise import PAIRWISE
from experiments.gradcheck_corpus.functions_plain import PLAIN
from experiments.gradcheck_corpus.functions_random import RANDOM
from experiments.gradcheck_corpus.functions_reductions import REDUCTIONS
from experiments.gradcheck_corpus.functions_rules import RULES
from experiments.gradcheck_corpus.functions_solves import SOLVES
from experiments.gradcheck_corpus.functions_special import SPECIAL
from experiments.gradcheck_corpus.functions_statistics import STATISTICS
from experiments.gradcheck_corpus.kinds import Function

FUNCTIONS: tuple[Function, ...] = (
    *ELEMENTWISE, *PAIRWISE, *REDUCTIONS, *STATISTICS, *LINEAR_ALGEBRA, *SOLVES, *INDEXING,
    *MOVING, *NORMS, *ATTENTION, *CONVOLUTION, *CONTROL, *ITERATION, *LOSSES, *OBJECTIVES,
    *SPECIAL, *FORMULAS, *RANDOM, *ARGUMENTS, *KERNELS, *CALLBACKS, *RULES, *INTENDED, *LAYERS,
    *PLAIN,
)  # fmt: skip
