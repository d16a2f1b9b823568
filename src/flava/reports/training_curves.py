"""Reads metrics.jsonl of a run: its totals, and its training curves as charts."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flava.evaluation.descriptions import TRAINING_METRICS, Description
from flava.reports.charts import Chart, line_chart

END_SHARE = 0.05
"""The end value of a loss is the mean over this share of its steps, the last ones."""


@dataclass(frozen=True, kw_only=True)
class TrainingMetrics:
    """The rows of metrics.jsonl that can be read, and their totals."""

    rows: list[dict[str, Any]]
    last_step: int
    seconds: float
    samples_per_second: float
    images_per_second: float
    peak_memory_gib: float


def read_training_metrics(run_folder: Path) -> TrainingMetrics | None:
    """Read RUN/metrics.jsonl; None if it is missing or holds no training step.

    Damaged rows are skipped: the last one is cut off where a run was killed.
    """
    path = run_folder / "metrics.jsonl"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    rows = [row for line in text.splitlines() if (row := _read_row(line)) is not None]
    steps = [row for row in rows if "seconds" in row]  # the others are validations
    if not steps:
        return None
    seconds = np.diff([0.0, *(row["seconds"] for row in steps)])
    samples = seconds * [row.get("samples_per_second", 0.0) for row in steps]
    with_images = [row.get("batch") != "text" for row in steps]
    total = max(float(seconds.sum()), 1e-9)
    return TrainingMetrics(
        rows=rows,
        last_step=max(row["step"] for row in steps),
        seconds=float(seconds.sum()),
        samples_per_second=float(samples.sum()) / total,
        images_per_second=float(samples[with_images].sum()) / total,
        peak_memory_gib=max(row.get("memory_gib", 0.0) for row in steps),
    )


def _read_row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        return None
    # Earlier versions called the metrics of validation "probe/...".
    return {re.sub("^probe/", "validation/", name): value for name, value in row.items()}


def training_curves(metrics: TrainingMetrics) -> list[Chart]:
    """A chart for each loss, then for each validation metric, then for the other known metrics.

    Metrics without a finite value have none.
    """
    names = dict.fromkeys(name for row in metrics.rows for name in row)
    known = list(TRAINING_METRICS)
    losses = [name for name in names if name.startswith("loss/") and name != "loss/total"]
    losses.sort(key=lambda name: known.index(name) if name in known else len(known))
    validation = [name for name in names if name.startswith("validation/")]
    others = [name for name in known if name in names and not name.startswith(_PREFIXES)]
    charts = (_training_curve(metrics, name) for name in (*losses, *validation, *others))
    return [chart for chart in charts if chart is not None]


_PREFIXES = ("loss/", "validation/")


def _training_curve(metrics: TrainingMetrics, name: str) -> Chart | None:
    points = [
        (row["step"], row[name])
        for row in metrics.rows
        if isinstance(row.get(name), int | float) and math.isfinite(row[name])
    ]
    if not points:
        return None
    steps, values = np.array(points, dtype=float).T
    unknown = Description(name.removeprefix("validation/"), "")
    description = TRAINING_METRICS.get(name, unknown)
    is_loss = name.startswith("loss/")
    return Chart(
        title=description.title,
        meaning=description.meaning,
        svg=line_chart(
            name,
            steps,
            values,
            smoothed=name != "lr" and not name.startswith("validation/"),
            log=name == "grad_norm",
        ),
        start=float(values[0]) if is_loss else None,
        end=float(values[-math.ceil(END_SHARE * len(values)) :].mean()) if is_loss else None,
    )
