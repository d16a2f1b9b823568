"""RUN/report.html of a fine-tuned classifier or a linear probe, from the files in its folder."""

import json
from functools import partial
from pathlib import Path

from flava.core.files import write_atomically
from flava.core.progress import duration
from flava.evaluation.classification import FILE, ClassifierEvaluation, load_classification
from flava.evaluation.descriptions import Description
from flava.evaluation.record import Confusion
from flava.reports.page import evaluation_picture, render_page
from flava.reports.run_report import read_config, training_notes
from flava.reports.training_curves import (
    TrainingMetrics,
    read_training_metrics,
    training_curves,
)

MAX_MATRIX_CLASSES = 60
"""With more classes the confusion matrix is left out: nobody could read it."""

MAX_CONFUSIONS = 10
"""How many pairs of classes are listed as confused most often."""

METHODS = {
    "finetune": Description(
        "Fine-tuned classifier",
        "The whole model was trained further on these labels, with a new head for the classes.",
    ),
    "probe": Description(
        "Linear probe",
        "A logistic regression on the model's frozen features: only the last layer was fitted.",
    ),
}

NOUNS = {"images": "images", "text": "texts", "pairs": "images with texts"}
"""Kind of the samples -> what the page calls them."""


def is_classification(run_folder: Path) -> bool:
    """Whether a folder is that of a fine-tuning or a linear probe, finished or not."""
    if (run_folder / FILE).is_file():
        return True
    try:
        config = json.loads((run_folder / "run.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("recipe") == "finetune"


def write_classification_report(run_folder: Path) -> Path:
    """Write RUN/report.html and return its path.

    Raises:
        ValueError: RUN/classification.json is damaged.
        OSError: the page could not be written.
    """
    notes: list[str] = []
    trained = (run_folder / "run.json").exists()
    config = read_config(run_folder, notes) if trained else {}
    metrics = read_training_metrics(run_folder)
    notes += training_notes(metrics, config) if trained else []
    evaluation = load_classification(run_folder) if (run_folder / FILE).is_file() else None
    if evaluation is None:
        notes.append(
            "There are no figures yet: to get them, go on with the same command and --resume."
        )
    else:
        notes += evaluation.notes
    method = evaluation.method if evaluation else "finetune"
    html = render_page(
        "classification",
        picture=partial(evaluation_picture, run_folder),
        name=METHODS[method].title,
        about=METHODS[method].meaning,
        command=f"flava {method}",
        noun=NOUNS[evaluation.kind] if evaluation else "",
        facts=_facts(evaluation, metrics),
        notes=notes,
        evaluation=evaluation,
        charts=training_curves(metrics) if metrics else [],
        confusions=_commonest_confusions(evaluation.confusion) if evaluation else [],
        show_matrix=bool(evaluation) and len(evaluation.classes) <= MAX_MATRIX_CLASSES,
        trials=evaluation.settings.get("trials", []) if evaluation else [],
        config=json.dumps(config, indent=2, ensure_ascii=False) if config else "",
    )
    path = run_folder / "report.html"
    write_atomically(path, html.encode(errors="replace"))
    return path


def _facts(
    evaluation: ClassifierEvaluation | None, metrics: TrainingMetrics | None
) -> list[tuple[str, str]]:
    """(name, value) pairs for the head of the page, of what is known."""
    facts: list[tuple[str, str]] = []
    if evaluation:
        settings = evaluation.settings
        facts += [
            ("classes", f"{len(evaluation.classes):,}"),
            ("training samples", f"{settings.get('train_samples', 0):,}"),
            ("validation samples", f"{evaluation.accuracy.n:,}"),
        ]
        if parameters := settings.get("parameters"):
            facts.append(("trained parameters", _millions(parameters)))
        if start := settings.get("start"):
            facts.append(("initial model", str(start)))
    if metrics:
        facts += [
            ("steps", f"{metrics.last_step:,}"),
            ("training time", duration(metrics.seconds)),
            ("samples per second", f"{metrics.samples_per_second:,.0f}"),
            ("peak memory", f"{metrics.peak_memory_gib:.1f} GiB"),
        ]
    return facts


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 100_000 else f"{count:,}"


def _commonest_confusions(confusion: Confusion) -> list[tuple[str, str, int, int]]:
    """(class, predicted class, how often, samples of the class), the commonest first."""
    rows = [
        (confusion.classes[i], confusion.classes[j], count, sum(counts))
        for i, counts in enumerate(confusion.counts)
        for j, count in enumerate(counts)
        if i != j and count
    ]
    return sorted(rows, key=lambda row: (-row[2], row[3]))[:MAX_CONFUSIONS]
