"""For older imports: see `experiments.framework.run`."""

from experiments.framework.run import Run as Run
