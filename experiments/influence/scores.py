"""How suspect each training example is, by each method; and how good a ranking is.

    self-influence     Σ over checkpoints of ‖∇ᵢ‖²
    opponents          −Σ over checkpoints, and over held-out examples t, of ⟨∇ₜ, ∇ᵢ⟩
    …, preconditioned  of R^(-½)∇, R = the mean of ∇∇ᵀ over the training examples and a tenth of its
                       mean eigenvalue, as LoGra does
    …, normalised      of R^(-½)∇ of length 1, as TrackStar does
    …, cosine          of ∇ of length 1

Products are those of random projections. The step size is the same at all checkpoints, so it is
left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.influence.training import Seen, Task

RANDOM, LOSS, LOSSES, ALONE, NORM, SELF, OF_MISTAKES, *_ = METHODS = (
    "at random", "loss at the end", "loss, summed", "loss by the held-out alone",
    "gradient norm at the end", "self-influence", "opponents of mistakes", "opponents",
    "opponents, preconditioned", "opponents, normalised", "opponents, cosine",
)  # fmt: skip
PLAIN, PRECONDITIONED, NORMALISED, COSINE = METHODS[7:]
Influence = dict[str, np.ndarray]  # by these four: (held-out, training examples)


def influence(training: Sequence[Seen], held_out: Sequence[Seen]) -> Influence:
    """Products (held-out, training) summed over checkpoints: above 0 is help, below 0 is harm."""
    found: Influence = {}
    for ours, theirs in zip(training, held_out, strict=True):
        p, q = ours.vectors, theirs.vectors
        root = inverse_root(p)
        for name, a, b in (
            (PLAIN, p, q),
            (PRECONDITIONED, p @ root, q @ root),
            (NORMALISED, of_length_1(p @ root), of_length_1(q @ root)),
            (COSINE, of_length_1(p), of_length_1(q)),
        ):
            found[name] = found.get(name, 0) + b @ a.T
    return found


def inverse_root(vectors: np.ndarray, damping: float = 0.1) -> np.ndarray:
    """R^(-½)."""
    values, axes = np.linalg.eigh(vectors.T @ vectors / len(vectors))
    return (axes / np.sqrt(np.maximum(values, 0) + damping * values.mean())) @ axes.T


def of_length_1(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)


def suspicion(
    training: Sequence[Seen], found: Influence, mistakes: np.ndarray, alone: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """One number for each training example and method: the highest is the most suspect.

    `mistakes` are those among the held-out; `alone` are the losses under a network that was trained
    on nothing but the held-out.
    """
    return {
        RANDOM: np.random.default_rng(seed).random(len(alone)),
        LOSS: training[-1].losses,
        LOSSES: np.sum([seen.losses for seen in training], axis=0),
        ALONE: alone,
        NORM: training[-1].sq_norms,
        SELF: np.sum([seen.sq_norms for seen in training], axis=0),
        OF_MISTAKES: -found[PLAIN][mistakes].sum(axis=0),
        **{name: -of.sum(axis=0) for name, of in found.items()},
    }


def ranked(scores: np.ndarray) -> np.ndarray:
    """The examples, the most suspect first."""
    return np.argsort(-scores, kind="stable")


def precisions(scores: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """The share of changed labels among the first k, for k = 1, 2, …"""
    return np.cumsum(changed[ranked(scores)]) / np.arange(1, len(scores) + 1)


def average_precision(scores: np.ndarray, changed: np.ndarray) -> float:
    """The mean of the precision at each changed label."""
    return float(precisions(scores, changed)[changed[ranked(scores)]].mean())


def norms_at_like_loss(
    suspicion: dict[str, np.ndarray], task: Task, checkpoints: int
) -> dict[int, tuple[int, float]]:
    """By class, of examples labelled right whose mean loss is ½ … 1½: how many there are, and the
    median of ‖∇‖² summed over checkpoints."""
    losses = suspicion[LOSSES] / checkpoints
    alike = ~task.changed & (losses >= 0.5) & (losses <= 1.5)
    rows = {int(k): alike & (task.labels == k) for k in np.unique(task.labels[alike])}
    return {k: (int(of.sum()), float(np.median(suspicion[SELF][of]))) for k, of in rows.items()}


def culprits(
    found: Influence, losses: np.ndarray, labels: np.ndarray, taken_for: np.ndarray, most: int = 10
) -> dict[str, np.ndarray]:
    """For each mistake (rows of `found`, the class it was taken for) the training examples that
    harmed it most, worst first: (mistakes, most). By loss: the highest of those with that label."""
    worst = {name: np.argsort(of, axis=1)[:, :most] for name, of in found.items()}
    of_label = np.where(labels == taken_for[:, None], losses, -np.inf)
    return {LOSSES: np.argsort(-of_label, axis=1)[:, :most], **worst}
