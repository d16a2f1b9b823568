"""RUN/report.html: a page with a run's training curves and the figures of its evaluation.

It is made from the files in the run's folder and needs no model. Missing files are noted on it.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from flava.core.files import write_atomically
from flava.core.progress import duration
from flava.evaluation.descriptions import TASKS, Description, headlines
from flava.evaluation.record import Evaluation, Figure, load_evaluation
from flava.reports.page import evaluation_picture, render_page
from flava.reports.training_curves import (
    TrainingMetrics,
    read_training_metrics,
    training_curves,
)


def write_report(run_folder: Path) -> Path:
    """Write RUN/report.html and return its path.

    Raises:
        FileNotFoundError: the folder is missing, or holds neither metrics nor an evaluation.
        OSError: the page could not be written.
    """
    if not run_folder.is_dir():
        raise FileNotFoundError(f"no run at {run_folder}: give a run's folder")
    metrics = read_training_metrics(run_folder)
    notes: list[str] = []
    evaluation = _read_evaluation(run_folder, notes)
    if metrics is None and evaluation is None:
        raise FileNotFoundError(
            f"nothing to report: {run_folder} holds no metrics.jsonl and no evaluation.json. Give "
            "the folder of a run that has begun"
        )
    config = read_config(run_folder, notes)
    notes += training_notes(metrics, config)
    if evaluation and (missing := _missing_parts(evaluation)):
        notes.append(
            f"The checkpoint holds no trained {', '.join(missing)}. Figures and examples that need "
            "them are left out."
        )
    html = render_page(
        "report",
        picture=partial(evaluation_picture, run_folder),
        name=config.get("recipe", run_folder.name),
        command="flava report",
        facts=_facts(metrics, config, evaluation),
        notes=notes,
        charts=training_curves(metrics) if metrics else [],
        evaluation=evaluation,
        headlines=headlines(evaluation) if evaluation else (),
        retrieval=_retrieval_rows(evaluation) if evaluation else [],
        sections=_sections(evaluation) if evaluation else [],
        titles=_split_titles(evaluation) if evaluation else {},
        config=json.dumps(config, indent=2, ensure_ascii=False) if config else "",
    )
    path = run_folder / "report.html"
    write_atomically(path, html.encode())
    return path


def _read_evaluation(run_folder: Path, notes: list[str]) -> Evaluation | None:
    try:
        return load_evaluation(run_folder)
    except FileNotFoundError:
        notes.append(
            f"This run was not evaluated yet: run `flava evaluate {run_folder}`, then "
            f"`flava report {run_folder}` again."
        )
    except ValueError as error:
        notes.append(str(error))
    return None


def read_config(run_folder: Path, notes: list[str]) -> dict[str, Any]:
    """run.json as plain values: the page shows them, and needs only a few fields.

    It is empty where the file is missing or damaged, and ``notes`` gets a sentence about that.
    """
    try:
        config = json.loads((run_folder / "run.json").read_bytes())
    except FileNotFoundError:
        notes.append("run.json is missing: the settings of this run are not known.")
    except ValueError as error:
        notes.append(f"run.json cannot be read: {error}.")
    else:
        return config if isinstance(config, dict) else {}
    return {}


def training_notes(metrics: TrainingMetrics | None, config: dict[str, Any]) -> list[str]:
    """What a reader must know before looking at the training curves."""
    if metrics is None:
        return ["metrics.jsonl is missing or empty: there are no training curves."]
    max_steps = config.get("max_steps")
    if isinstance(max_steps, int) and metrics.last_step < max_steps:
        return [f"Training stopped after {metrics.last_step:,} of {max_steps:,} steps."]
    return []


def _facts(
    metrics: TrainingMetrics | None, config: dict[str, Any], evaluation: Evaluation | None
) -> list[tuple[str, str]]:
    """(name, value) pairs for the head of the page, of what is known."""
    facts: list[tuple[str, str]] = []
    if metrics:
        facts += [
            ("steps", f"{metrics.last_step:,}"),
            ("training time", duration(metrics.seconds)),
            ("samples per second", f"{metrics.samples_per_second:,.0f}"),
            ("images per second", f"{metrics.images_per_second:,.0f}"),
        ]
        if metrics.peak_memory_gib:
            facts.append(("peak memory", f"{metrics.peak_memory_gib:.1f} GiB"))
    if evaluation:
        settings = evaluation.settings
        if parameters := settings.get("parameters"):
            facts.append(("parameters", f"{parameters / 1e6:.1f} M"))
        facts.append(("evaluation time", duration(evaluation.seconds)))
        if machine := settings.get("machine"):
            facts.append(("machine", f"{machine['processor']}, {machine['cores']} cores"))
            if machine["accelerator"] != "none":
                facts.append(("accelerator", machine["accelerator"]))
    if "seed" in config:
        facts.append(("seed", str(config["seed"])))
    return facts


def _split_titles(evaluation: Evaluation) -> dict[str, str]:
    """Split -> its title, or its name where the evaluation's settings have no title."""
    titles = {figure.split: figure.split for figure in evaluation.figures}
    for name, split in evaluation.settings.get("splits", {}).items():
        titles[name] = split["title"]
    return titles


def _retrieval_rows(evaluation: Evaluation) -> list[tuple[str, str, list[Figure]]]:
    """The rows of the retrieval table: (split, "image" or "caption" as the query, figures by k)."""
    rows: dict[tuple[str, str], list[Figure]] = {}
    for figure in evaluation.figures:
        if figure.task == "retrieval":
            query = "image" if figure.metric.startswith("image") else "caption"
            rows.setdefault((figure.split, query), []).append(figure)
    return [(split, query, figures) for (split, query), figures in rows.items()]


def _sections(evaluation: Evaluation) -> list[tuple[Description, list[Figure]]]:
    """The figures of each task but retrieval; a task without a description goes by its name."""
    tasks: dict[str, list[Figure]] = {}
    for figure in evaluation.figures:
        if figure.task != "retrieval":
            tasks.setdefault(figure.task, []).append(figure)
    return [(TASKS.get(task, Description(task, "")), figures) for task, figures in tasks.items()]


def _missing_parts(evaluation: Evaluation) -> list[str]:
    """The parts that the evaluated checkpoint lacked; earlier versions called them "absent"."""
    settings = evaluation.settings
    return settings.get("missing_parts", settings.get("absent", []))
