"""Training curves and other charts as SVG in the colours of the page."""

import io
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from flava.evaluation import words

PAGE_COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#040404": "var(--accent)",
}
"""What the drawing is made in -> the style sheet's colour that takes its place."""
INK, MUTED, LINE, ACCENT = PAGE_COLOURS

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}

POINTS = 500
"""Raw points that a curve shows at most: more cannot be told apart."""

MARKED = 40
"""A curve of so few points has a dot at each."""

WIDTH = 1 / 80
"""Standard deviation of the smoothing, as a share of the curve."""

Curve = Float[np.ndarray, " points"]


def smooth(values: Curve) -> Curve:
    """A Gaussian average around each point, of those neighbours that there are."""
    width = max(1.0, WIDTH * len(values))
    reach = np.arange(-int(3 * width), int(3 * width) + 1)
    kernel = np.exp(-0.5 * (reach / width) ** 2)

    def around(numbers: Curve) -> Curve:
        return np.convolve(numbers, kernel)[len(reach) // 2 :][: len(values)]

    return around(values) / around(np.ones_like(values))


def draw_curve(name: str, steps: Curve, values: Curve, *, smoothed: bool, log: bool = False) -> str:
    """A curve over the updates: raw and light under its smoothed self, or with a dot a point.

    With ``log`` the axis is logarithmic, if every value is positive.
    ``name`` keeps the ids of one drawing apart from those of the others in the page.
    """
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(3.6, 1.9), layout="constrained")
        axes = figure.add_subplot()
        some = np.unique(np.linspace(0, len(steps) - 1, POINTS).round().astype(int))
        if smoothed:
            axes.plot(steps[some], values[some], color=ACCENT, alpha=0.25, linewidth=0.9)
            axes.plot(steps[some], smooth(values)[some], color=ACCENT, linewidth=1.8)
        else:
            marker = "o" if len(steps) <= MARKED else None
            axes.plot(steps, values, color=ACCENT, linewidth=1.8, marker=marker, markersize=3)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if log and (values > 0).all():
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.margins(x=0.02)
        return themed_svg(figure, name)


def themed_svg(figure: Figure, name: str) -> str:
    """The <svg> element alone, with the page's colours and with ids of its own."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    # A style element would be the whole page's; the style sheet says the same for its charts.
    svg = re.sub(r"<(metadata|style).*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    prefix = re.sub(r"\W", "-", name)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{prefix}-", svg)
    for drawn, colour in PAGE_COLOURS.items():
        svg = svg.replace(drawn, colour)
    return svg.replace("<svg ", '<svg role="img" aria-hidden="true" ', 1)


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
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        return None
    # Earlier versions called the metrics of validation "probe/...".
    return {re.sub("^probe/", "validation/", name): value for name, value in row.items()}


def charts_of(course: Course) -> list[Chart]:
    """A chart for each loss, probe figure and other course that the rows have, in that order."""
    names = dict.fromkeys(name for row in course.rows for name in row)
    losses = [name for name in names if name.startswith("loss/") and name != "loss/total"]
    order = {f"loss/{name}": place for place, name in enumerate(words.LOSSES)}
    losses.sort(key=lambda name: order.get(name, len(order)))
    charts = [loss_chart(course, name) for name in losses]
    for name in names:
        if name.startswith("validation/"):
            title = words.PROBES.get(name, (name.removeprefix("validation/"), ""))
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
