"""How well a classifier does on one's own rows: figures, classes, examples, and their files."""

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
"""Examples of either kind in the report, at most."""
THUMBNAIL = 192
"""Longer side of an example's picture, in pixels."""


@dataclass(frozen=True)
class Predictions:
    """Probabilities for each row, in the order of ``classes``."""

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
class OneClass:
    """How one class fared. ``examples`` are its validation rows, ``trained_on`` its others."""

    name: str
    trained_on: int
    examples: int
    predicted: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, kw_only=True)
class ClassifiedExample:
    """One row, what it is and what it was taken for; ``picture`` names one, if it has an image."""

    key: str
    label: str
    predicted: str
    probability: float
    picture: str | None
    text: str | None


@dataclass(frozen=True, kw_only=True)
class ClassifierEvaluation:
    """All that the report tells. ``interval`` is the 95 % interval of the accuracy."""

    method: str
    kind: Kind
    figures: tuple[Figure, ...]
    interval: tuple[float, float]
    classes: tuple[OneClass, ...]
    confusion: Confusion
    wrong: tuple[ClassifiedExample, ...] = ()
    right: tuple[ClassifiedExample, ...] = ()
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def accuracy(self) -> Figure:
        """The first figure."""
        return self.figures[0]

    def headline(self) -> str:
        """The accuracy in one line, with what it takes to judge it."""
        figure = self.accuracy
        low, high = self.interval
        return (
            f"validation accuracy {figure.value:.3f} (95 % interval {low:.3f} to {high:.3f}, "
            f"majority {figure.baselines['majority']:.3f}, n = {figure.n})"
        )


CLASSIFICATION = TypeAdapter(ClassifierEvaluation)


def judge(
    predictions: Predictions, *, method: str, kind: Kind, train_labels: Iterable[str]
) -> ClassifierEvaluation:
    """Figures of predictions whose rows have labels; examples are added by `with_examples`.

    Raises:
        ValueError: there is no prediction.
    """
    if not len(predictions.rows):
        raise ValueError("no validation sample can be used: correct the data")
    truth, predicted, classes = predictions.labels, predictions.predicted, predictions.classes
    counts = confusion(truth, predicted, len(classes))
    rows = classes_of(classes, counts, Counter(train_labels))
    return ClassifierEvaluation(
        method=method,
        kind=kind,
        figures=figures_of(truth, predicted, rows),
        interval=wilson(int(counts.trace()), len(truth)),
        classes=rows,
        confusion=Confusion(
            split="validation", classes=classes, counts=tuple(map(tuple, counts.tolist()))
        ),
    )


def classes_of(
    names: Sequence[str], counts: Int[Tensor, "classes classes"], trained_on: Mapping[str, int]
) -> tuple[OneClass, ...]:
    """Each class's figures; of what never occurs, or is never answered, they are 0."""
    rows = []
    for i, name in enumerate(names):
        right = int(counts[i, i])
        examples, predicted = int(counts[i].sum()), int(counts[:, i].sum())
        rows.append(
            OneClass(
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


def figures_of(
    truth: Int[Tensor, " n"], predicted: Int[Tensor, " n"], classes: Sequence[OneClass]
) -> tuple[Figure, ...]:
    """Accuracy, and the mean recall of the classes that occur, each beside a constant answer's."""
    present = [each for each in classes if each.examples]
    shared = {"task": "classification", "split": "validation", "n": len(truth)}
    return (
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
    )


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927), which also holds for few and for all right."""
    z = 1.959964
    share, spread = right / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / n / 4) / (1 + spread)
    # At 0 and n right the ends are 0 and 1, but for rounding.
    return max(0.0, middle - half), min(1.0, middle + half)


# Examples


def with_examples(
    found: ClassifierEvaluation, predictions: Predictions, seed: int
) -> tuple[ClassifierEvaluation, Pictures]:
    """The same with examples, and the examples' pictures by name.

    Wrong ones are the most confident: what is wrong in the data shows there first. Right ones are
    drawn by the seed.
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
        found,
        wrong=tuple(example(int(index), f"wrong-{place}") for place, index in enumerate(wrong)),
        right=tuple(example(int(index), f"right-{place}") for place, index in enumerate(right)),
    )
    return shown, pictures


# Files


def save_classification(
    found: ClassifierEvaluation, pictures: Pictures, predictions: Predictions, run_folder: Path
) -> None:
    """Write RUN/classification.json, the examples' pictures, and RUN/predictions.jsonl.

    Raises:
        OSError: something could not be written.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    save_pictures(pictures, run_folder)
    save_predictions(predictions, run_folder / PREDICTIONS)
    write_atomically(run_folder / FILE, CLASSIFICATION.dump_json(found, indent=2) + b"\n")


def save_predictions(predictions: Predictions, path: Path) -> None:
    """JSON lines: key, label (where it is known), the predicted class, and every probability."""
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
        shares: Mapping[str, float] = dict(zip(predictions.classes, values, strict=True))
        line["probabilities"] = {name: round(value, 6) for name, value in shares.items()}
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
