"""`flava predict`: a fine-tuned or probing classifier on data without labels."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from flava.data.labelled import read_rows
from flava.evaluation.classification import save_predictions
from flava.model import Classifier
from flava.model.published.load import load_pretrained
from flava.precision import Precision
from flava.recipes.labelled import predict_rows
from flava.training.processes import own_device


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
    device = own_device()
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
