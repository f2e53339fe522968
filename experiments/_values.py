"""For older imports: see `experiments.framework.values`."""

from experiments.framework.values import write_text as write_text
