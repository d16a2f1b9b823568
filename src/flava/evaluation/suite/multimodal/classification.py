"""Pairs that belong to classes: trained on one split, chosen on a second, measured on a third."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flava.data.labelled import Row
from flava.evaluation.metrics import accuracy, majority
from flava.evaluation.record import Figure
from flava.evaluation.suite.finetuning import Samples, fine_tune
from flava.evaluation.suite.multimodal.protocol import Protocol, tuning
from flava.evaluation.suite.task import Settings

Metric = Callable[[Float[Tensor, "rows classes"], Int[Tensor, " rows"]], float]
"""(logits, numbers of the classes) -> the metric."""


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A data set's rows, or those few that are looked at."""

    train: Sequence[Row]
    validation: Sequence[Row]
    test: Sequence[Row]
    name: str = "test"
    """Of the test split."""


@dataclass(frozen=True, kw_only=True)
class Classification:
    """What is measured of a classifier of pairs."""

    name: str
    classes: tuple[str, ...]
    metrics: Mapping[str, Metric]
    """The first chooses the checkpoint."""
    protocol: Protocol


def classify(
    model: nn.Module, task: Classification, splits: Splits, settings: Settings
) -> list[Figure]:
    """The metrics on the test split.

    Raises:
        ValueError, Interrupted, FloatingPointError, OSError: as `fine_tune`.
    """

    def score(outputs: Float[Tensor, "rows classes"], rows: Sequence[Row]) -> dict[str, float]:
        truth = numbers(rows, task.classes)
        return {name: metric(outputs, truth) for name, metric in task.metrics.items()}

    samples = Samples(
        task=task.name,
        kind="pairs",
        classes=task.classes,
        train=splits.train,
        validation=splits.validation,
        score=score,
    )
    config = tuning(task.protocol, model, len(splits.train), few=settings.few is not None)
    tuned = fine_tune(model, samples, config, settings, settings.seed)
    found = score(tuned.outputs(splits.test, "test pairs"), splits.test)
    truth = numbers(splits.test, task.classes)
    constants = {"accuracy": {"majority": majority(truth)}, "roc_auc": {"chance": 0.5}}
    return [
        Figure(
            task=task.name,
            split=splits.name,
            metric=name,
            value=value,
            n=len(splits.test),
            baselines=constants[name],
        )
        for name, value in found.items()
    ]


def numbers(rows: Sequence[Row], classes: Sequence[str]) -> Int[Tensor, " rows"]:
    """The place of each row's class."""
    places = {name: place for place, name in enumerate(classes)}
    return torch.tensor([places[row.label or ""] for row in rows])


def argmax_accuracy(logits: Float[Tensor, "rows classes"], truth: Int[Tensor, " rows"]) -> float:
    """The share of rows whose likeliest class is theirs."""
    return accuracy(logits.argmax(dim=1), truth)
