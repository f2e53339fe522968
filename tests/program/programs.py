"""Every program of the zoo, by family."""

from tests.program.record import Program
from tests.program.zoo.equinox_models import EQUINOX_MODELS
from tests.program.zoo.equinox_sequences import EQUINOX_SEQUENCES
from tests.program.zoo.haiku_models import HAIKU_MODELS
from tests.program.zoo.linen_attention import LINEN_ATTENTION
from tests.program.zoo.linen_models import LINEN_MODELS
from tests.program.zoo.linen_recurrent import LINEN_RECURRENT
from tests.program.zoo.nnx_models import NNX_MODELS
from tests.program.zoo.plain_models import PLAIN_MODELS
from tests.program.zoo.plain_sequences import PLAIN_SEQUENCES
from tests.program.zoo.twisted_branches import TWISTED_BRANCHES
from tests.program.zoo.twisted_calls import TWISTED_CALLS
from tests.program.zoo.twisted_penalties import TWISTED_PENALTIES
from tests.program.zoo.twisted_products import TWISTED_PRODUCTS
from tests.program.zoo.twisted_rare import TWISTED_RARE
from tests.program.zoo.twisted_scans import TWISTED_SCANS
from tests.program.zoo.twisted_selections import TWISTED_SELECTIONS
from tests.program.zoo.twisted_transforms import TWISTED_TRANSFORMS
from tests.program.zoo.twisted_trees import TWISTED_TREES
from tests.program.zoo.twisted_weights import TWISTED_WEIGHTS

MODELS: list[Program] = [
    *LINEN_MODELS,
    *LINEN_ATTENTION,
    *LINEN_RECURRENT,
    *NNX_MODELS,
    *EQUINOX_MODELS,
    *EQUINOX_SEQUENCES,
    *HAIKU_MODELS,
    *PLAIN_MODELS,
    *PLAIN_SEQUENCES,
]
"""Models as people write them, with the layers of their library."""

TWISTED: list[Program] = [
    *TWISTED_WEIGHTS,
    *TWISTED_PENALTIES,
    *TWISTED_PRODUCTS,
    *TWISTED_SELECTIONS,
    *TWISTED_SCANS,
    *TWISTED_BRANCHES,
    *TWISTED_CALLS,
    *TWISTED_TRANSFORMS,
    *TWISTED_TREES,
    *TWISTED_RARE,
]
"""Small programs meant to break whatever reads a program."""

PROGRAMS = [*MODELS, *TWISTED]
