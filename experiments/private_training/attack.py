"""Who was in the training set? A threshold on the loss, which members have made small.

The attack of Yeom et al. (2018, arXiv:1709.01604). Its threshold for one network is taken from the
other networks, as an attacker would take it from networks of his own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.private_training import training
from experiments.private_training.training import Recipe, Split


@dataclass
class Attacked:
    """One way to train, of several seeds: losses (seeds, examples) of members and of others, or
    what rises with them."""

    members: np.ndarray
    others: np.ndarray
    train_accuracy: list[float]
    test_accuracy: list[float]

    def auc(self) -> list[float]:
        """The chance that a member has a smaller loss than another image: 0.5 is guessing."""
        return [
            float((m[:, None] < o).mean() + (m[:, None] == o).mean() / 2)
            for m, o in zip(self.members, self.others, strict=True)
        ]

    def advantage(self) -> list[float]:
        """True less false positives, at the threshold that was best for all other seeds."""
        found = []
        for seed, (m, o) in enumerate(zip(self.members, self.others, strict=True)):
            seen = (np.delete(losses, seed, axis=0) for losses in (self.members, self.others))
            thresholds, true, false = rates(*seen)
            best = thresholds[np.argmax(true - false)]
            found.append(float((m <= best).mean() - (o <= best).mean()))
        return found


def rates(members: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(thresholds, true positives, false positives) of "a member if the loss is at most that"."""
    thresholds = np.unique(np.concatenate([members.ravel(), others.ravel(), [-np.inf]]))
    true, false = (
        np.searchsorted(np.sort(losses.ravel()), thresholds, side="right") / losses.size
        for losses in (members, others)
    )
    return thresholds, true, false


def attack_networks(split: Split, recipe: Recipe, members: int, seeds: int) -> Attacked:
    """Train on a few images until they are known by heart, and compare them with as many others."""
    inside, outside, learned, general = [], [], [], []
    for seed in range(seeds):
        rows = np.random.default_rng(seed).permutation(len(split.x))[: 2 * members]
        few = split._replace(x=split.x[rows[:members]], labels=split.labels[rows[:members]])
        params = training.train(few, recipe, seed)
        both = training.odds_against(params, split.x[rows], split.labels[rows])
        inside.append(both[:members])
        outside.append(both[members:])
        learned.append(training.accuracy(params, few.x, few.labels))
        general.append(training.accuracy(params, split.x_test, split.y_test))
    return Attacked(np.stack(inside), np.stack(outside), learned, general)
