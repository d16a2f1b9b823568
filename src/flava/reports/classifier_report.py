"""RUN/report.html of a classifier: one page that stands alone, from the files in the folder."""

import json
from pathlib import Path
from typing import Any

from flava.core.files import write_atomically
from flava.core.progress import duration
from flava.evaluation.classification import FILE, ClassifierEvaluation, load_classification
from flava.evaluation.record import Confusion
from flava.reports.charts import Course, charts_of, read_course
from flava.reports.run_report import environment, read_config, remarks

MATRIX_CLASSES = 60
"""More classes than these make a confusion matrix that nobody can read."""

CONFUSIONS = 10
"""Pairs of classes that are listed as confused most often."""

METHODS = {
    "finetune": (
        "Fine-tuned classifier",
        "The whole model was trained further on these labels, with a new head for the classes.",
    ),
    "probe": (
        "Linear probe",
        "A logistic regression on the model's frozen features: only the last layer was fitted.",
    ),
}
"""Method -> (title, what was done)."""

NOUNS = {"images": "images", "text": "texts", "pairs": "images with texts"}


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
    course = read_course(run_folder)
    notes += remarks(course, config) if trained else []
    found = load_classification(run_folder) if (run_folder / FILE).is_file() else None
    if found is None:
        notes.append("There are no figures yet: go on with the same command and --resume.")
    else:
        notes += found.notes
    title, about = METHODS[found.method if found else "finetune"]
    html = (
        environment(run_folder)
        .get_template("classification.html.jinja")
        .render(
            name=title,
            about=about,
            command=f"flava {found.method if found else 'finetune'}",
            noun=NOUNS[found.kind] if found else "",
            facts=facts(found, course),
            notes=notes,
            found=found,
            charts=charts_of(course) if course else [],
            confused=confused(found.confusion) if found else [],
            matrix=bool(found) and len(found.classes) <= MATRIX_CLASSES,
            trials=found.settings.get("trials", []) if found else [],
            config=json.dumps(config, indent=2, ensure_ascii=False) if config else "",
        )
    )
    path = run_folder / "report.html"
    write_atomically(path, html.encode(errors="replace"))
    return path


def facts(found: ClassifierEvaluation | None, course: Course | None) -> list[tuple[str, str]]:
    """(what, value) pairs for the page's head; what is not known is left out."""
    shown: list[tuple[str, str]] = []
    if found:
        settings: dict[str, Any] = found.settings
        shown += [
            ("classes", f"{len(found.classes):,}"),
            ("trained on", f"{settings.get('train_samples', 0):,}"),
            ("validated on", f"{found.accuracy.n:,}"),
        ]
        if parameters := settings.get("parameters"):
            shown.append(("trained parameters", millions(parameters)))
        if start := settings.get("start"):
            shown.append(("from the model", str(start)))
    if course:
        shown += [
            ("updates", f"{course.last_step:,}"),
            ("training time", duration(course.seconds)),
            ("samples per second", f"{course.samples_per_second:,.0f}"),
            ("peak memory", f"{course.peak_memory:.1f} GiB"),
        ]
    return shown


def millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 100_000 else f"{count:,}"


def confused(confusion: Confusion) -> list[tuple[str, str, int, int]]:
    """(class, what it was taken for, how often, of how many), the commonest first."""
    rows = [
        (confusion.classes[i], confusion.classes[j], count, sum(counts))
        for i, counts in enumerate(confusion.counts)
        for j, count in enumerate(counts)
        if i != j and count
    ]
    return sorted(rows, key=lambda row: (-row[2], row[3]))[:CONFUSIONS]
