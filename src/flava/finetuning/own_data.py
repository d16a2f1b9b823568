"""What fine-tuning and probing share: a model, labelled data, and what is written in the end."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from flava.checkpoints.load import load_pretrained
from flava.core.precision import Precision
from flava.data.labelled import LabelledRows, class_names, read_rows, split
from flava.data.skips import SkipCounter
from flava.evaluation.classification import Predictions, judge, save_classification, with_examples
from flava.inference.features import FeatureExtractor
from flava.inference.row_outputs import reader_of, row_outputs, vocabulary_misfit
from flava.models import Classifier, FeaturesConfig
from flava.models.classifier import features_config

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LabelledConfig:
    """A model, and one's own labelled data."""

    model: str
    """The model to start from: anything that flava.load takes."""
    data: Path
    """A folder with a subfolder of samples for each class (images; texts as .txt; or both under one
    name), or a table (.csv, .tsv, .jsonl, .parquet) with the columns "label" and "image", "text" or
    both."""
    output_dir: Path
    """Folder to write to: checkpoint, predictions, the report."""
    validation: Path | None = None
    """The validation data, in the same form; drawn from the data if there is none."""
    validation_fraction: float = 0.2
    """Share of each class that is drawn for validation."""
    seed: int = 0
    """Decides all that is drawn: the validation data, initial weights of the head, order, crops."""
    precision: Precision = Precision.BF16
    """What matrix products are computed in."""

    def problems(self) -> list[str]:
        """What is wrong with the settings, one line each."""
        found = []
        if not 0 < self.validation_fraction < 1:
            found.append(
                f"validation_fraction is {self.validation_fraction}: use a number between 0 and 1"
            )
        if self.seed < 0:
            found.append(f"seed is {self.seed}: use 0 or more")
        return found


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A model, and rows of one kind that it can read, for training and for validation."""

    model: nn.Module
    encoder: FeaturesConfig
    train: LabelledRows
    validation: LabelledRows
    classes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Names the data and its split."""
        return f"{self.train.digest}-{self.validation.digest}"


def prepare(config: LabelledConfig, problems: Sequence[str] = ()) -> Prepared:
    """The model and the data that a configuration names.

    Raises:
        ValueError: anything of it does not hold, or ``problems`` were found before; all in one.
    """
    problems = [*problems, *config.problems()]
    model = attempt(problems, "model", lambda: load_start(config.model))
    rows = attempt(problems, "data", lambda: read_rows(config.data))
    given = config.validation
    other = attempt(problems, "validation", lambda: read_rows(given)) if given else None
    encoder = None
    if rows and model:
        encoder = attempt(problems, "model", lambda: features_config(model, rows.kind))
        problems += [f"model: {each}" for each in vocabulary_misfit(encoder)] if encoder else []
    if rows:
        problems += data_problems(config, rows, other)
    if problems:
        raise ValueError("this cannot start:\n  " + "\n  ".join(problems))
    assert model
    assert encoder
    assert rows
    train, validation = (
        (rows, other) if other else split(rows, config.validation_fraction, config.seed)
    )
    return Prepared(
        model=model,
        encoder=encoder,
        train=train,
        validation=validation,
        classes=class_names(rows),
    )


def load_start(source: str) -> nn.Module:
    """The model to start from."""
    return load_pretrained(source)


def attempt(problems: list[str], field: str, make: Callable[[], T]) -> T | None:
    """What ``make`` returns; or None, and its error among the problems."""
    try:
        return make()
    except (ValueError, OSError) as error:
        problems.append(f"{field}: {error}")
        return None


def data_problems(
    config: LabelledConfig, rows: LabelledRows, other: LabelledRows | None
) -> list[str]:
    """What is wrong with the data as a whole, one line each."""
    classes = class_names(rows)
    found = []
    if len(classes) < 2:
        found.append(
            f"data: all {len(rows)} samples of {config.data} are of one class, "
            f'"{"".join(classes)}": two or more are needed'
        )
    if other is None:
        if len(classes) >= 2 and len(classes) == len(rows):
            found.append(
                f"data: each class of {config.data} has one sample, so that none can be drawn for "
                "validation: add samples, or give --validation"
            )
        return found
    if other.kind != rows.kind:
        found.append(
            f"validation: {config.validation} holds {other.kind}, and {config.data} {rows.kind}: "
            "give both in the same form"
        )
    if unseen := sorted(set(other.labels) - set(classes)):
        names = ", ".join(f'"{name}" ({other.labels.count(name)})' for name in unseen)
        found.append(
            f"validation: {config.validation} has labels that {config.data} never has: {names}: "
            "correct them, or add such samples to the data"
        )
    return found


def finish(
    classifier: Classifier,
    prepared: Prepared,
    config: LabelledConfig,
    *,
    method: str,
    notes: Sequence[str] = (),
    settings: dict[str, Any],
) -> str:
    """Judge a classifier on the validation rows, write all files, and say what came out.

    Raises:
        ValueError: no validation row can be used.
        OSError: something could not be written.
    """
    predictions, skips = predict_rows(
        classifier, prepared.validation, config.precision, shown_as="validating"
    )
    found = judge(
        predictions,
        method=method,
        kind=prepared.train.kind,
        train_labels=prepared.train.labels,
    )
    found, pictures = with_examples(found, predictions, config.seed)
    found = replace(
        found,
        notes=(*notes, *skip_notes(prepared.train.skips, prepared.validation.skips, skips)),
        settings=settings,
    )
    save_classification(found, pictures, predictions, config.output_dir)
    return found.headline()


def predict_rows(
    classifier: Classifier, rows: LabelledRows, precision: Precision, *, shown_as: str
) -> tuple[Predictions, SkipCounter]:
    """Probabilities of the classes for all rows that can be decoded, and the others."""
    reader = reader_of(classifier.config.encoder)
    extractor = FeatureExtractor(classifier, precision)
    outputs = row_outputs(extractor, rows.rows, reader, title=shown_as)
    skips = SkipCounter(shown_as, "the data", "correct it")
    skips.add(len(rows), outputs.skipped)
    if not outputs.rows:
        raise skips.failure()
    probabilities = outputs.values.softmax(dim=1)
    return Predictions(outputs.rows, classifier.config.classes, probabilities), skips


def skip_notes(*skips: SkipCounter) -> list[str]:
    """What was left out of which source, a line each."""
    return [
        f"Left out of {each.source}: "
        + ", ".join(f"{count} times: {reason}" for reason, count in each.counts.items())
        + "."
        for each in dict.fromkeys(skips)
        if each.counts
    ]
