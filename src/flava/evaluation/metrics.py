"""The small numbers that several tasks share."""

from dataclasses import dataclass

from jaxtyping import Shaped
from torch import Tensor

from flava.evaluation.record import Confusion


@dataclass(frozen=True)
class Measured:
    """A metric's value over ``n`` predictions, with the baselines that come with it."""

    value: float
    n: int
    baselines: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """What a task found of one model: metrics by name."""

    metrics: dict[str, Measured]
    confusion: Confusion | None = None


def accuracy(predicted: Shaped[Tensor, " n"], truth: Shaped[Tensor, " n"]) -> float:
    """The share of right predictions."""
    return (predicted == truth).double().mean().item()


def majority(truth: Shaped[Tensor, " n"]) -> float:
    """The accuracy of the best constant answer: that of the commonest class of this very data."""
    return truth.bincount().max().item() / len(truth)
