"""Training: pure steps, whole epochs in one dispatch, padded and weighted evaluation."""

from jaxdl.train.evaluate import Scores as Scores
from jaxdl.train.evaluate import evaluate as evaluate
from jaxdl.train.evaluate import predict as predict
from jaxdl.train.loop import (
    NonFiniteLossError as NonFiniteLossError,
)
from jaxdl.train.loop import (
    epoch_indices as epoch_indices,
)
from jaxdl.train.loop import (
    make_epoch as make_epoch,
)
from jaxdl.train.loop import (
    train as train,
)
from jaxdl.train.step import (
    TrainState as TrainState,
)
from jaxdl.train.step import (
    init_state as init_state,
)
from jaxdl.train.step import (
    jit_step as jit_step,
)
from jaxdl.train.step import (
    make_step as make_step,
)
