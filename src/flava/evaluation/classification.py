"""Evaluates a classifier of the user's own data, and saves its metrics and examples."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from flava.core.batch import Kind
from flava.core.files import explain_errors, write_atomically
from flava.data.labelled import LabelledRow
from flava.data.labelled_loader import row_image
from flava.evaluation.record import (
    Confusion,
    Figure,
    Pictures,
    accuracy,
    confusion,
    majority,
    save_pictures,
)

FILE = "classification.json"
PREDICTIONS = "predictions.jsonl"
SHOWN = 12
"""Right and wrong examples in the report: at most so many of each."""
THUMBNAIL = 192
"""Longer side of an example's picture, in pixels."""


@dataclass(frozen=True)
class Predictions:
    """The probability of each class for each row."""

    rows: tuple[LabelledRow, ...]
    classes: tuple[str, ...]
    probabilities: Float[Tensor, "rows classes"]

    @property
    def predicted(self) -> Int[Tensor, " rows"]:
        """The likeliest class of each row."""
        return self.probabilities.argmax(dim=1)

    @property
    def labels(self) -> Int[Tensor, " rows"]:
        """The true class of each row."""
        number = {name: index for index, name in enumerate(self.classes)}
        return torch.tensor([number[row.label or ""] for row in self.rows])


@dataclass(frozen=True, kw_only=True)
class ClassMetrics:
    """The metrics of one class; those that are not defined are 0."""

    name: str
    trained_on: int
    """Training rows of the class."""
    examples: int
    """Validation rows of the class."""
    predicted: int
    """Validation rows that were predicted to be of the class."""
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, kw_only=True)
class ClassifiedExample:
    """One row with its true and its predicted class."""

    key: str
    label: str
    predicted: str
    probability: float
    """Of the predicted class."""
    picture: str | None
    """Name of the picture's file, if the row has an image."""
    text: str | None


@dataclass(frozen=True, kw_only=True)
class ClassifierEvaluation:
    """Everything in the report: the content of classification.json."""

    method: str
    """"finetune" or "probe"."""
    kind: Kind
    figures: tuple[Figure, ...]
    interval: tuple[float, float]
    """The 95 % confidence interval of the accuracy."""
    classes: tuple[ClassMetrics, ...]
    confusion: Confusion
    wrong: tuple[ClassifiedExample, ...] = ()
    right: tuple[ClassifiedExample, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences for the reader of the report."""
    settings: dict[str, Any] = field(default_factory=dict)
    """How the classifier was made."""

    @property
    def accuracy(self) -> Figure:
        """The first figure."""
        return self.figures[0]

    def headline(self) -> str:
        """The accuracy in one line, with its interval and the accuracy of the commonest class."""
        figure = self.accuracy
        low, high = self.interval
        return (
            f"validation accuracy {figure.value:.3f} (95 % interval {low:.3f} to {high:.3f}, "
            f"majority {figure.baselines['majority']:.3f}, n = {figure.n})"
        )


CLASSIFICATION = TypeAdapter(ClassifierEvaluation)


def evaluate_predictions(
    predictions: Predictions, *, method: str, kind: Kind, train_labels: Iterable[str]
) -> ClassifierEvaluation:
    """The metrics of labelled rows' predictions; `with_examples` adds examples.

    Args:
        train_labels: The class of each training row.

    Raises:
        ValueError: there is no prediction.
    """
    if not len(predictions.rows):
        raise ValueError("no validation sample can be used: correct the data")
    truth, predicted, classes = predictions.labels, predictions.predicted, predictions.classes
    counts = confusion(truth, predicted, len(classes))
    metrics = _class_metrics(classes, counts, Counter(train_labels))
    present = [each for each in metrics if each.examples]
    shared = {"task": "classification", "split": "validation", "n": len(truth)}
    return ClassifierEvaluation(
        method=method,
        kind=kind,
        figures=(
            Figure(
                metric="accuracy",
                value=accuracy(predicted, truth),
                baselines={"majority": majority(truth)},
                **shared,
            ),
            Figure(
                metric="mean_recall",
                value=sum(each.recall for each in present) / len(present),
                baselines={"chance": 1 / len(present)},
                **shared,
            ),
        ),
        interval=_wilson_interval(int(counts.trace()), len(truth)),
        classes=metrics,
        confusion=Confusion(
            split="validation", classes=classes, counts=tuple(map(tuple, counts.tolist()))
        ),
    )


def _class_metrics(
    classes: Sequence[str], counts: Int[Tensor, "classes classes"], trained_on: Mapping[str, int]
) -> tuple[ClassMetrics, ...]:
    """The metrics of each class, from the confusion matrix and the number of training rows."""
    rows = []
    for i, name in enumerate(classes):
        right = int(counts[i, i])
        examples, predicted = int(counts[i].sum()), int(counts[:, i].sum())
        rows.append(
            ClassMetrics(
                name=name,
                trained_on=trained_on[name],
                examples=examples,
                predicted=predicted,
                precision=right / max(1, predicted),
                recall=right / max(1, examples),
                f1=2 * right / max(1, examples + predicted),
            )
        )
    return tuple(rows)


def _wilson_interval(right: int, n: int) -> tuple[float, float]:
    """The 95 % confidence interval of the share ``right`` / ``n`` (Wilson 1927).

    Unlike the normal approximation it is also valid for small n, and for a share of 0 or 1.
    """
    z = 1.959964
    share, spread = right / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / n / 4) / (1 + spread)
    # With none or all right, an end is 0 or 1, apart from rounding.
    return max(0.0, middle - half), min(1.0, middle + half)


# Examples


def with_examples(
    evaluation: ClassifierEvaluation, predictions: Predictions, seed: int
) -> tuple[ClassifierEvaluation, Pictures]:
    """The evaluation with examples, and their pictures by name.

    The wrong ones are those with the highest confidence, since mistakes in the data show there
    first. The right ones are drawn by the seed.
    """
    confidence = predictions.probabilities.max(dim=1).values
    is_right = (predictions.predicted == predictions.labels).numpy()
    wrong = np.flatnonzero(~is_right)
    wrong = wrong[np.argsort(-confidence.numpy()[wrong], kind="stable")][:SHOWN]
    right = np.random.default_rng(seed).permutation(np.flatnonzero(is_right))[:SHOWN]
    pictures: dict[str, Image.Image] = {}

    def example(index: int, name: str) -> ClassifiedExample:
        row = predictions.rows[index]
        if row.image is not None:
            pictures[name] = row_image(row)
            pictures[name].thumbnail((THUMBNAIL, THUMBNAIL))
        return ClassifiedExample(
            key=row.key,
            label=row.label or "",
            predicted=predictions.classes[int(predictions.predicted[index])],
            probability=float(confidence[index]),
            picture=None if row.image is None else name,
            text=row.text,
        )

    shown = replace(
        evaluation,
        wrong=tuple(example(int(index), f"wrong-{place}") for place, index in enumerate(wrong)),
        right=tuple(example(int(index), f"right-{place}") for place, index in enumerate(right)),
    )
    return shown, pictures


# Files


def save_classification(
    evaluation: ClassifierEvaluation,
    pictures: Pictures,
    predictions: Predictions,
    run_folder: Path,
) -> None:
    """Write RUN/classification.json, the examples' pictures, and RUN/predictions.jsonl.

    Raises:
        OSError: something could not be written.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    save_pictures(pictures, run_folder)
    save_predictions(predictions, run_folder / PREDICTIONS)
    write_atomically(run_folder / FILE, CLASSIFICATION.dump_json(evaluation, indent=2) + b"\n")


def save_predictions(predictions: Predictions, path: Path) -> None:
    """Write JSON lines: key, label (if known), predicted class, and the probability of each."""
    lines = []
    for row, predicted, values in zip(
        predictions.rows,
        predictions.predicted.tolist(),
        predictions.probabilities.tolist(),
        strict=True,
    ):
        line: dict[str, Any] = {"key": row.key}
        if row.label is not None:
            line["label"] = row.label
        line["predicted"] = predictions.classes[predicted]
        line["probabilities"] = {
            name: round(value, 6) for name, value in zip(predictions.classes, values, strict=True)
        }
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_atomically(path, "".join(lines).encode(errors="replace"))


def load_classification(run_folder: Path) -> ClassifierEvaluation:
    """Read RUN/classification.json.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged; its mistakes are listed.
    """
    path = run_folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the run did not come to its end")
    try:
        return CLASSIFICATION.validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is damaged:{explain_errors(error)}") from error
