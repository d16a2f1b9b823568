"""`flava probe` fits a linear classifier to features of the user's own data from a frozen model;
`flava predict` applies a classifier of `flava probe` or `flava finetune` to more data."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from flava.checkpoints.recognise import load_pretrained
from flava.core.distributed import local_device
from flava.core.precision import Precision
from flava.data.labelled import draw_validation, read_rows
from flava.data.skips import SkipCounter
from flava.evaluation.classification import save_predictions
from flava.evaluation.linear_probe import LabelledFeatures, LinearProbe, fit_at, try_strengths
from flava.finetuning.own_data import (
    LabelledConfig,
    OwnData,
    evaluate_and_save,
    load_own_data,
    predict_rows,
    skipped_notes,
)
from flava.inference.features import FeatureExtractor
from flava.inference.row_outputs import RowOutputs, reader_of, row_outputs
from flava.models import Classifier, classifier_of, features_of
from flava.models.classifier import features_config
from flava.training.checkpoint import save_checkpoint, set_link

CHOOSING_FRACTION = 0.2
"""Share of the training samples that the strength of the regularisation is chosen on."""

DEFAULT_STRENGTH = 1.0
"""Scikit-learn's default C, for data with too few samples to choose by."""


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(LabelledConfig):
    """Settings of linear probing, in which the model itself is not trained."""


def probe(config: ProbeConfig) -> str:
    """Fit a linear probe; returns a summary to be printed.

    The strength of the regularisation is chosen on a fifth of the training samples, and the probe
    is then fitted on all of them: the validation samples are used once, for the figures.

    Raises:
        ValueError: something in the configuration or the data is wrong; all of it in one error.
        OSError: something could not be written.
    """
    # A probe replaces an earlier probe, but never a run that was trained.
    is_run = (config.output_dir / "run.json").exists()
    mistake = f"output_dir {config.output_dir} holds a run: choose another with --output-dir"
    data = load_own_data(config, [mistake] if is_run else [])
    features, skips = _train_features(data, config.precision)
    fitted, trials = _fit(features, config.seed)
    classifier = _as_classifier(fitted, data).to(local_device())
    checkpoints = config.output_dir / "checkpoints"
    save_checkpoint(checkpoints, "probe", classifier)
    set_link(checkpoints, "last", "probe")
    summary = evaluate_and_save(
        classifier,
        data,
        config,
        method="probe",
        notes=skipped_notes(skips),
        settings={
            "start": config.model,
            "parameters": sum(p.numel() for p in classifier.head.parameters()),
            "train_samples": len(data.train),
            "strength": fitted.classifier.C,
            "trials": [[trial.classifier.C, accuracy] for trial, accuracy in trials],
        },
    )
    return f"{summary}\nclassifier: {checkpoints / 'last'}"


def _train_features(data: OwnData, precision: Precision) -> tuple[RowOutputs, SkipCounter]:
    """The features of the training rows that can be decoded, and what was left out.

    Raises:
        ValueError: no row of a class can be decoded.
    """
    rows = data.train.rows
    features = features_of(data.model, data.train.kind).to(local_device())
    reader = reader_of(features_config(data.model, data.train.kind))
    extractor = FeatureExtractor(features, precision)
    outputs = row_outputs(extractor, rows, reader, title="embedding")
    skips = SkipCounter("embedding", "the training data", "correct it")
    skips.add(len(rows), outputs.skipped)
    if lost := set(data.classes) - {row.label for row in outputs.rows}:
        raise ValueError(f"no sample of {', '.join(sorted(lost))} is left. {skips.failure()}")
    return outputs, skips


def _fit(train: RowOutputs, seed: int) -> tuple[LinearProbe, list[tuple[LinearProbe, float]]]:
    """A probe on all rows, and (probe, accuracy) of each strength of regularisation tried."""
    labels = np.array([row.label for row in train.rows])
    features = train.values.numpy()
    whole = LabelledFeatures(features, labels)
    is_choosing = np.zeros(len(labels), dtype=bool)
    is_choosing[list(draw_validation(train.rows, CHOOSING_FRACTION, seed))] = True
    if not is_choosing.any():  # there is one sample of each class
        return fit_at(whole, DEFAULT_STRENGTH), []
    fitting, choosing = (
        LabelledFeatures(features[part], labels[part]) for part in (~is_choosing, is_choosing)
    )
    trials = try_strengths(fitting, choosing)
    best, _ = max(trials, key=lambda trial: trial[1])
    return fit_at(whole, best.classifier.C), trials


def _as_classifier(probe: LinearProbe, data: OwnData) -> Classifier:
    """The same as a classifier, whose linear head includes the scaling of the features."""
    classifier = classifier_of(data.model, data.train.kind, data.classes, hidden_width=None).eval()
    fitted = probe.classifier
    # For two classes scikit-learn has one row: the logit of the second minus that of the first.
    weight, bias = (
        np.concatenate([-each / 2, each / 2]) if len(data.classes) == 2 else each
        for each in (fitted.coef_, fitted.intercept_)
    )
    weight = weight / probe.scale
    head = classifier.head[-1]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias - weight @ probe.mean))
    return classifier


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """A classifier, and the data to be classified."""

    model: str
    """The classifier: the output folder of flava finetune or flava probe, or an id on the Hugging
    Face hub."""
    data: Path
    """A folder of images, texts (.txt), or pairs of an image and a text with the same name. Or a
    table (.csv, .tsv, .jsonl, .parquet) with a column of images (image, path or file), of texts
    (text, caption, captions, content or maintext) or both."""
    output: Path
    """File to write: JSON lines with the key, the predicted class and the probability of each class
    of every sample."""
    precision: Precision = Precision.BF16
    """Number format of matrix products."""


def predict(config: PredictConfig) -> str:
    """Classify all samples and write their classes; returns a summary to be printed.

    Raises:
        ValueError: the model is no classifier, or does not read such data.
        OSError: something could not be read or written.
    """
    classifier = _load_classifier(config.model)
    rows = read_rows(config.data, labelled=False)
    if rows.kind != classifier.config.kind:
        raise ValueError(
            f"{config.model} classifies {classifier.config.kind}, and {config.data} holds "
            f"{rows.kind}: give it what it was trained on"
        )
    predictions, skips = predict_rows(
        classifier.to(local_device()), rows, config.precision, shown_as="predicting"
    )
    save_predictions(predictions, config.output)
    counts = Counter(predictions.classes[i] for i in predictions.predicted.tolist())
    lines = [f"  {name}: {count:,}" for name, count in counts.most_common()]
    skipped = rows.skips.counts.total() + skips.counts.total()
    lines += [f"skipped {skipped:,}"] if skipped else []
    return "\n".join([f"predicted {len(predictions.rows):,}: {config.output}", *lines])


def _load_classifier(source: str | Path) -> Classifier:
    """A classifier on the CPU, in evaluation mode, from a run, a checkpoint or the hub.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is damaged, or no classifier.
    """
    model = load_pretrained(source)
    if not isinstance(model, Classifier):
        raise ValueError(
            f"{source} holds a {type(model).__name__}: make a classifier with `flava finetune` or "
            "`flava probe` first"
        )
    if not model.config.classes:
        raise ValueError(f"{source} predicts a score and no classes: give a classifier")
    return model
