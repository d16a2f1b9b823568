"""Shared by `flava finetune` and `flava probe`: loads and checks the user's model and labelled
data, evaluates the finished classifier and saves it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, NonNegativeInt
from torch import nn

from flava.checkpoints.recognise import load_pretrained
from flava.core.constraints import config_errors
from flava.core.precision import Precision
from flava.data.labelled import LabelledRows, class_names, read_rows, split
from flava.data.skips import SkipCounter
from flava.evaluation.classification import (
    Predictions,
    evaluate_predictions,
    save_classification,
    with_examples,
)
from flava.inference.features import FeatureExtractor
from flava.inference.row_outputs import reader_of, row_outputs, vocabulary_misfit
from flava.models import Classifier
from flava.models.classifier import features_config

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LabelledConfig:
    """A model, and your own labelled data."""

    model: str
    """The model to start from: an id on the Hugging Face hub, a folder (also a run's) or a file of
    weights."""
    data: Path
    """A folder with a subfolder for each class, which holds images, texts (.txt), or pairs of an
    image and a text with the same name. Or a table (.csv, .tsv, .jsonl, .parquet) with a column
    label and a column of images (image, path or file), of texts (text, caption, captions, content
    or maintext) or both. Paths of images are relative to the table's folder."""
    output_dir: Path
    """Folder for the checkpoint, the predictions and the report."""
    validation: Path | None = None
    """The validation data, in the same form. Without it, a part of the data is drawn for
    validation."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of each class that is drawn for validation if there is no other validation data."""
    seed: NonNegativeInt = 0
    """Random seed of the drawn validation data and, in fine-tuning, of the head's initial weights,
    the order of the samples and their crops."""
    precision: Precision = Precision.BF16
    """Number format of matrix products."""


@dataclass(frozen=True, kw_only=True)
class OwnData:
    """A model, and labelled rows of one kind that it can read, for training and for validation."""

    model: nn.Module
    train: LabelledRows
    validation: LabelledRows

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes: each has a training row."""
        return class_names(self.train)

    @property
    def digest(self) -> str:
        """Identifies the rows with their labels, and the split."""
        return f"{self.train.digest}-{self.validation.digest}"


def load_own_data(config: LabelledConfig, mistakes: Sequence[str] = ()) -> OwnData:
    """The model and the data that a configuration names.

    Args:
        mistakes: What the caller found to be wrong already.

    Raises:
        ValueError: anything of the configuration, the model or the data is wrong, or there are
            ``mistakes``; all of it in one error.
    """
    mistakes = [*mistakes, *config_errors(config)]
    model = _attempt(mistakes, "model", lambda: load_pretrained(config.model))
    rows = _attempt(mistakes, "data", lambda: read_rows(config.data))
    path = config.validation
    validation = _attempt(mistakes, "validation", lambda: read_rows(path)) if path else None
    if (
        rows
        and model
        and (encoder := _attempt(mistakes, "model", lambda: features_config(model, rows.kind)))
    ):
        mistakes += [f"model: {line}" for line in vocabulary_misfit(encoder)]
    if rows:
        mistakes += _data_mistakes(config, rows, validation)
    if mistakes:
        raise ValueError("this cannot start:\n  " + "\n  ".join(mistakes))
    assert model
    assert rows
    train, validation = (
        (rows, validation) if validation else split(rows, config.validation_fraction, config.seed)
    )
    return OwnData(model=model, train=train, validation=validation)


def _attempt(mistakes: list[str], field: str, make: Callable[[], T]) -> T | None:
    """What ``make`` returns; if it fails, None, and its error is added to the mistakes."""
    try:
        return make()
    except (ValueError, OSError) as error:
        mistakes.append(f"{field}: {error}")
        return None


def _data_mistakes(
    config: LabelledConfig, rows: LabelledRows, validation: LabelledRows | None
) -> list[str]:
    """What is wrong with the data as a whole, one line each.

    Args:
        validation: The rows of ``config.validation``, if there are any.
    """
    classes = class_names(rows)
    found = []
    if len(classes) < 2:
        found.append(
            f"data: all {len(rows)} samples of {config.data} are of one class, "
            f'"{"".join(classes)}": two or more are needed'
        )
    if validation is None:
        if len(classes) >= 2 and len(classes) == len(rows):
            found.append(
                f"data: each class of {config.data} has one sample, so that none can be drawn for "
                "validation: add samples, or give --validation"
            )
        return found
    if validation.kind != rows.kind:
        found.append(
            f"validation: {config.validation} holds {validation.kind}, and {config.data} "
            f"{rows.kind}: give both in the same form"
        )
    if unseen := sorted(set(validation.labels) - set(classes)):
        names = ", ".join(f'"{name}" ({validation.labels.count(name)})' for name in unseen)
        found.append(
            f"validation: {config.validation} has labels that {config.data} never has: {names}: "
            "correct them, or add such samples to the data"
        )
    return found


def evaluate_and_save(
    classifier: Classifier,
    data: OwnData,
    config: LabelledConfig,
    *,
    method: str,
    notes: Sequence[str],
    settings: dict[str, Any],
) -> str:
    """Evaluate a classifier on the validation rows, and write all files but the checkpoint.

    Args:
        method: "finetune" or "probe".
        notes: Sentences for the report.
        settings: How the classifier was made, for the report.

    Returns:
        A summary in one line.

    Raises:
        ValueError: no validation row can be used.
        OSError: something could not be written.
    """
    predictions, skips = predict_rows(
        classifier, data.validation, config.precision, shown_as="validating"
    )
    evaluation = evaluate_predictions(
        predictions, method=method, kind=data.train.kind, train_labels=data.train.labels
    )
    evaluation, pictures = with_examples(evaluation, predictions, config.seed)
    evaluation = replace(
        evaluation,
        notes=(*notes, *skipped_notes(data.train.skips, data.validation.skips, skips)),
        settings=settings,
    )
    save_classification(evaluation, pictures, predictions, config.output_dir)
    return evaluation.headline()


def predict_rows(
    classifier: Classifier, rows: LabelledRows, precision: Precision, *, shown_as: str
) -> tuple[Predictions, SkipCounter]:
    """Probabilities of the classes for all rows that can be decoded, and what was left out.

    Args:
        shown_as: The title of the progress bar.

    Raises:
        ValueError: no row can be decoded.
    """
    reader = reader_of(classifier.config.encoder)
    extractor = FeatureExtractor(classifier, precision)
    outputs = row_outputs(extractor, rows.rows, reader, title=shown_as)
    skips = SkipCounter(shown_as, "the data", "correct it")
    skips.add(len(rows), outputs.skipped)
    if not outputs.rows:
        raise skips.failure()
    probabilities = outputs.values.softmax(dim=1)
    return Predictions(outputs.rows, classifier.config.classes, probabilities), skips


def skipped_notes(*skips: SkipCounter) -> list[str]:
    """A sentence for each source of which samples were left out, with the reasons."""
    return [
        f"Left out of {each.source}: "
        + ", ".join(f"{count} times: {reason}" for reason, count in each.counts.items())
        + "."
        for each in dict.fromkeys(skips)
        if each.counts
    ]
