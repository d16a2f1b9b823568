"""RUN/report.html: one page that stands alone, from the files in the run's folder.

It reads ``run.json``, ``metrics.jsonl``, ``evaluation.json`` and the pictures that the evaluation
drew, and needs no model; what is missing is said on the page.
"""

import base64
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flava.core.files import write_atomically
from flava.core.progress import duration
from flava.evaluation import words
from flava.evaluation.record import PICTURES, Confusion, Evaluation, Figure, load_evaluation
from flava.reports.charts import Course, charts_of, read_course

PAGE = Path(__file__).parent / "templates"


def write_report(run_folder: Path) -> Path:
    """Write RUN/report.html and return its path.

    Raises:
        FileNotFoundError: the folder is missing, or holds neither metrics nor an evaluation.
        OSError: the page could not be written.
    """
    if not run_folder.is_dir():
        raise FileNotFoundError(f"no run at {run_folder}: give a run's folder")
    course = read_course(run_folder)
    notes: list[str] = []
    evaluation = read_evaluation(run_folder, notes)
    if course is None and evaluation is None:
        raise FileNotFoundError(
            f"nothing to report: {run_folder} holds no metrics.jsonl and no evaluation.json. Give "
            "the folder of a run that has begun"
        )
    config = read_config(run_folder, notes)
    notes += remarks(course, config)
    if evaluation and (missing := missing_parts_in(evaluation)):
        notes.append(
            f"The checkpoint holds no trained {', '.join(missing)}: figures and examples that need "
            "them are left out."
        )
    page = environment(run_folder).get_template("report.html.jinja")
    html = page.render(
        name=config.get("recipe", run_folder.name),
        command="flava report",
        facts=facts(course, config, evaluation),
        notes=notes,
        charts=charts_of(course) if course else [],
        evaluation=evaluation,
        headlines=words.headlines(evaluation) if evaluation else (),
        retrieval=retrieval_rows(evaluation) if evaluation else [],
        sections=sections(evaluation) if evaluation else [],
        titles=split_titles(evaluation) if evaluation else {},
        config=json.dumps(config, indent=2, ensure_ascii=False) if config else "",
    )
    path = run_folder / "report.html"
    write_atomically(path, html.encode())
    return path


def environment(run_folder: Path) -> Environment:
    """The templates, with everything escaped that is not marked as safe."""
    made = Environment(
        loader=FileSystemLoader(PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(
        style=Markup((PAGE / "style.css").read_text(encoding="utf-8")),
        picture=lambda name: picture(run_folder, name),
        best=words.strongest_baseline,
        baseline_names=words.BASELINES,
        words_of=words.TASKS,
        metric_names=words.METRICS,
        shares=shares,
    )
    made.filters.update(number=number, signed=signed, marked=marked, piece=piece)
    return made


def read_evaluation(run_folder: Path, notes: list[str]) -> Evaluation | None:
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
    """run.json as it stands: the page shows it, and needs only a few of its fields."""
    try:
        config = json.loads((run_folder / "run.json").read_bytes())
    except FileNotFoundError:
        notes.append("run.json is missing: the settings of this run are not known.")
    except ValueError as error:
        notes.append(f"run.json cannot be read: {error}.")
    else:
        return config if isinstance(config, dict) else {}
    return {}


def remarks(course: Course | None, config: dict[str, Any]) -> list[str]:
    """What a reader must know before the figures."""
    if course is None:
        return ["metrics.jsonl is missing or empty: there are no training curves."]
    planned = config.get("max_steps")
    if isinstance(planned, int) and course.last_step < planned:
        return [f"Training stopped after {course.last_step:,} of {planned:,} updates."]
    return []


def facts(
    course: Course | None, config: dict[str, Any], evaluation: Evaluation | None
) -> list[tuple[str, str]]:
    """(what, value) pairs for the page's head; what is not known is left out."""
    found: list[tuple[str, str]] = []
    if course:
        found += [
            ("updates", f"{course.last_step:,}"),
            ("training time", duration(course.seconds)),
            ("samples per second", f"{course.samples_per_second:,.0f}"),
            ("images per second", f"{course.images_per_second:,.0f}"),
        ]
        if course.peak_memory:
            found.append(("peak memory", f"{course.peak_memory:.1f} GiB"))
    if evaluation:
        settings = evaluation.settings
        if parameters := settings.get("parameters"):
            found.append(("parameters", f"{parameters / 1e6:.1f} M"))
        found.append(("evaluation time", duration(evaluation.seconds)))
        if machine := settings.get("machine"):
            found.append(("machine", f"{machine['processor']}, {machine['cores']} cores"))
            if machine["accelerator"] != "none":
                found.append(("accelerator", machine["accelerator"]))
    if "seed" in config:
        found.append(("seed", str(config["seed"])))
    return found


def split_titles(evaluation: Evaluation) -> dict[str, str]:
    """Split -> its title; its name where the settings do not tell."""
    titles = {figure.split: figure.split for figure in evaluation.figures}
    for name, split in evaluation.settings.get("splits", {}).items():
        titles[name] = split["title"]
    return titles


def retrieval_rows(evaluation: Evaluation) -> list[tuple[str, str, list[Figure]]]:
    """(split, way, figures by k) of the retrieval table."""
    rows: dict[tuple[str, str], list[Figure]] = {}
    for figure in evaluation.figures:
        if figure.task == "retrieval":
            way = "image" if figure.metric.startswith("image") else "caption"
            rows.setdefault((figure.split, way), []).append(figure)
    return [(split, way, figures) for (split, way), figures in rows.items()]


def sections(evaluation: Evaluation) -> list[tuple[words.TaskWords, list[Figure]]]:
    """The other figures, task by task; a task without words goes by its name."""
    tasks: dict[str, list[Figure]] = {}
    for figure in evaluation.figures:
        if figure.task != "retrieval":
            tasks.setdefault(figure.task, []).append(figure)
    return [(words.TASKS.get(t, words.TaskWords(t, "")), found) for t, found in tasks.items()]


def shares(confusion: Confusion) -> list[tuple[str, int, list[tuple[int, float]]]]:
    """(class, its images, [(count, share of the row)]) for each row."""
    return [
        (name, sum(row), [(count, count / max(1, sum(row))) for count in row])
        for name, row in zip(confusion.classes, confusion.counts, strict=True)
    ]


def picture(run_folder: Path, name: str) -> str | None:
    """A picture as a data URI; None if it is missing. Names come from a file: no paths in them."""
    path = run_folder / PICTURES / f"{name}.png"
    if not re.fullmatch(r"[\w-]+", name) or not path.is_file():
        return None
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def marked(sentence: str, blanks: Sequence[Any]) -> list[tuple[str, int]]:
    """A sentence cut at its [MASK]s: (text, 0) or, for each blank, ("", its number from 1)."""
    parts: list[tuple[str, int]] = []
    for i, text in enumerate(sentence.split("[MASK]")):
        if 0 < i <= len(blanks):
            parts.append(("", i))
        parts.append((text, 0))
    return parts


def piece(token: str) -> str:
    """A token as it is shown: "…s" for a piece that continues a word."""
    return "…" + token.removeprefix("##") if token.startswith("##") else token


def number(value: float) -> str:
    """Three decimals; a fourth where the first three would show nothing."""
    return f"{value:.4f}" if 0 < abs(value) < 0.01 else f"{value:.3f}"


def signed(value: float) -> str:
    """With its sign; a real minus."""
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def missing_parts_in(evaluation: Evaluation) -> list[str]:
    """The parts that the evaluated checkpoint lacked; earlier versions called them "absent"."""
    settings = evaluation.settings
    return settings.get("missing_parts", settings.get("absent", []))
