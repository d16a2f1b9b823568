"""The course of training, from metrics.jsonl: its totals, and the curves of the report."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from flava.evaluation import words
from flava.evaluation.charts import draw_curve

END = 0.05
"""The share of a loss's updates, at the end, whose mean is called its end value."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """All rows that could be read, and what they add up to."""

    rows: list[dict[str, Any]]
    last_step: int
    seconds: float
    samples_per_second: float
    images_per_second: float
    peak_memory: float


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A curve with its words; ``start`` and ``end`` for losses."""

    title: str
    meaning: str
    svg: Markup
    kind: str
    start: float | None = None
    end: float | None = None


def read_course(run_folder: Path) -> Course | None:
    """The rows of metrics.jsonl; None if there is not one whole row of an update."""
    path = run_folder / "metrics.jsonl"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    rows = [row for line in text.splitlines() if (row := parse(line)) is not None]
    updates = [row for row in rows if "seconds" in row]
    if not updates:
        return None
    seconds = np.diff([0.0, *(row["seconds"] for row in updates)])
    samples = seconds * [row.get("samples_per_second", 0.0) for row in updates]
    with_images = [row.get("batch") != "text" for row in updates]
    total = max(float(seconds.sum()), 1e-9)
    return Course(
        rows=rows,
        last_step=max(row["step"] for row in updates),
        seconds=float(seconds.sum()),
        samples_per_second=float(samples.sum()) / total,
        images_per_second=float(samples[with_images].sum()) / total,
        peak_memory=max(row.get("memory_gib", 0.0) for row in updates),
    )


def parse(line: str) -> dict[str, Any] | None:
    """A row; None for a line that was cut off when the run was stopped."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def charts_of(course: Course) -> list[Chart]:
    """A chart for each loss, probe figure and other course that the rows have, in that order."""
    names = dict.fromkeys(name for row in course.rows for name in row)
    losses = [name for name in names if name.startswith("loss/") and name != "loss/total"]
    order = {f"loss/{name}": place for place, name in enumerate(words.LOSSES)}
    losses.sort(key=lambda name: order.get(name, len(order)))
    charts = [loss_chart(course, name) for name in losses]
    for name in names:
        if name.startswith("probe/"):
            title = words.PROBES.get(name, (name.removeprefix("probe/"), ""))
            charts.append(chart(course, name, title, "probe", smoothed=False))
    for name, title in words.COURSES.items():
        if name in names:
            charts.append(chart(course, name, title, "course", smoothed=name != "lr"))
    return [each for each in charts if each is not None]


def points(course: Course, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values where the column is a finite number."""
    found = [
        (row["step"], row[name])
        for row in course.rows
        if isinstance(row.get(name), int | float) and math.isfinite(row[name])
    ]
    steps, values = zip(*found, strict=True) if found else ((), ())
    return np.array(steps, dtype=float), np.array(values, dtype=float)


def chart(
    course: Course, name: str, title: tuple[str, str], kind: str, *, smoothed: bool
) -> Chart | None:
    steps, values = points(course, name)
    if not len(steps):
        return None
    svg = draw_curve(name, steps, values, smoothed=smoothed, log=name == "grad_norm")
    return Chart(title=title[0], meaning=title[1], svg=Markup(svg), kind=kind)


def loss_chart(course: Course, name: str) -> Chart | None:
    steps, values = points(course, name)
    if not len(steps):
        return None
    title, meaning = words.LOSSES.get(name.removeprefix("loss/"), (name, ""))
    return Chart(
        title=title,
        meaning=meaning,
        svg=Markup(draw_curve(name, steps, values, smoothed=True)),
        kind="loss",
        start=float(values[0]),
        end=float(values[-math.ceil(END * len(values)) :].mean()),
    )
