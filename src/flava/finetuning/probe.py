"""`flava probe` and `flava predict`: a linear probe of one's own data, and its use."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from flava.checkpoints.load import load_pretrained
from flava.core.distributed import local_device
from flava.core.precision import Precision
from flava.data.labelled import drawn, read_rows
from flava.data.skips import SkipCounter
from flava.evaluation.classification import save_predictions
from flava.evaluation.linear_probe import LabelledFeatures, LinearProbe, fit_at, try_strengths
from flava.finetuning.own_data import (
    LabelledConfig,
    Prepared,
    finish,
    predict_rows,
    prepare,
    skip_notes,
)
from flava.inference.features import FeatureExtractor
from flava.inference.row_outputs import RowOutputs, reader_of, row_outputs
from flava.models import Classifier, FeatureEncoder, classifier_of, features_of
from flava.training.checkpoint import point, save_checkpoint

CHOOSING_FRACTION = 0.2
"""Share of the training samples that chooses the regularisation."""

DEFAULT_STRENGTH = 1.0
"""Scikit-learn's own C, where there are no samples to choose by."""


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(LabelledConfig):
    """Linear probing; nothing of the model is trained."""


def probe(config: ProbeConfig) -> str:
    """Fit a linear probe; returns what came out, to be printed.

    The strength of the regularisation is chosen on a fifth of the training samples, and the probe
    then fitted on all of them: the validation samples are looked at once.

    Raises:
        ValueError: something in the configuration or the data does not hold; all in one error.
        OSError: something could not be written.
    """
    prepared = prepare(config, folder_problems(config))
    features = features_of(prepared.model, prepared.train.kind)
    device = local_device()
    found, skips = embed(features.to(device), prepared, config.precision)
    fitted, trials = fit(found, config.seed)
    classifier = folded(fitted, prepared).to(device)
    checkpoints = config.output_dir / "checkpoints"
    save_checkpoint(checkpoints, "probe", classifier)
    point(checkpoints, "last", "probe")
    settings = {
        "start": config.model,
        "parameters": sum(p.numel() for p in classifier.head.parameters()),
        "train_samples": len(prepared.train),
        "strength": fitted.classifier.C,
        "trials": [[trial.classifier.C, accuracy] for trial, accuracy in trials],
    }
    said = finish(
        classifier,
        prepared,
        config,
        method="probe",
        notes=skip_notes(skips),
        settings=settings,
    )
    return f"{said}\nclassifier: {checkpoints / 'last'}"


def folder_problems(config: ProbeConfig) -> list[str]:
    """A probe replaces an earlier probe, but never a run that was trained."""
    if not (config.output_dir / "run.json").exists():
        return []
    return [f"output_dir {config.output_dir} holds a run: choose another with --output-dir"]


def embed(
    features: FeatureEncoder, prepared: Prepared, precision: Precision
) -> tuple[RowOutputs, SkipCounter]:
    """The features of the training rows that can be decoded, and the others.

    Raises:
        ValueError: of a class no row can be decoded.
    """
    rows, reader = prepared.train.rows, reader_of(prepared.encoder)
    found = row_outputs(FeatureExtractor(features, precision), rows, reader, title="embedding")
    skips = SkipCounter("embedding", "the training data", "correct it")
    skips.add(len(rows), found.skipped)
    if lost := set(prepared.classes) - {row.label for row in found.rows}:
        raise ValueError(f"no sample of {', '.join(sorted(lost))} is left. {skips.failure()}")
    return found, skips


def fit(found: RowOutputs, seed: int) -> tuple[LinearProbe, list[tuple[LinearProbe, float]]]:
    """The probe on all rows, and those that were tried to choose its regularisation."""
    labels = np.array([row.label for row in found.rows])
    features = found.values.numpy()
    is_choosing = np.zeros(len(labels), dtype=bool)
    is_choosing[list(drawn(found.rows, CHOOSING_FRACTION, seed))] = True
    whole = LabelledFeatures(features, labels)
    if not is_choosing.any():  # a sample a class
        return fit_at(whole, DEFAULT_STRENGTH), []
    train, other = (
        LabelledFeatures(features[rows], labels[rows]) for rows in (~is_choosing, is_choosing)
    )
    trials = try_strengths(train, other)
    best, _ = max(trials, key=lambda trial: trial[1])
    return fit_at(whole, best.classifier.C), trials


def folded(probe: LinearProbe, prepared: Prepared) -> Classifier:
    """The same as a classifier with a linear head, which needs no scaling of the features."""
    kind, classes = prepared.train.kind, prepared.classes
    classifier = classifier_of(prepared.model, kind, classes, hidden_width=None).eval()
    fitted = probe.classifier
    # Of two classes scikit-learn has one row: the logit of the second over the first.
    weight, bias = (
        np.concatenate([-each / 2, each / 2]) if len(classes) == 2 else each
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
    """A classifier, and what it shall classify."""

    model: str
    """The classifier: the folder of a `flava finetune` or a `flava probe`, or its id on the hub."""
    data: Path
    """A folder of samples, or a table with the columns "image", "text" or both."""
    output: Path
    """File to write: JSON lines with key, predicted class and the probability of each class."""
    precision: Precision = Precision.BF16
    """What matrix products are computed in."""


def predict(config: PredictConfig) -> str:
    """Classify all samples and write their classes; returns what came out, to be printed.

    Raises:
        ValueError: the model is no classifier, or does not read such data.
        OSError: something could not be read or written.
    """
    classifier = load_classifier(config.model)
    rows = read_rows(config.data, labelled=False)
    if rows.kind != classifier.config.kind:
        raise ValueError(
            f"{config.model} classifies {classifier.config.kind}, and {config.data} holds "
            f"{rows.kind}: give it what it was trained on"
        )
    device = local_device()
    predictions, skips = predict_rows(
        classifier.to(device), rows, config.precision, shown_as="predicting"
    )
    save_predictions(predictions, config.output)
    counts = Counter(predictions.classes[i] for i in predictions.predicted.tolist())
    lines = [f"  {name}: {count:,}" for name, count in counts.most_common()]
    skipped = rows.skips.counts.total() + skips.counts.total()
    lines += [f"skipped {skipped:,}"] if skipped else []
    return "\n".join([f"predicted {len(predictions.rows):,}: {config.output}", *lines])


def load_classifier(source: str | Path) -> Classifier:
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
