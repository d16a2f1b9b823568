"""Every chart of the reports, as an SVG element in the colours of the page."""

import io
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

INK, MUTED, LINE, ACCENT = "#010101", "#020202", "#030303", "#040404"

SERIES = ("#050505", "#060606", "#070707", "#080808", "#090909", "#0a0a0a")
"""Colours of the columns in a chart of grouped bars; more columns use them again."""

PAGE_COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    ACCENT: "var(--accent)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, 1)},
}
"""Colour that matplotlib draws with -> the colour of style.css that replaces it, so that a chart
follows the page's light or dark theme."""

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

MAX_POINTS = 500
"""A smoothed curve shows at most this many points: more cannot be told apart."""

MAX_MARKERS = 40
"""A curve of at most this many points has a dot at each."""

SMOOTHING_WIDTH = 1 / 80
"""Standard deviation of the smoothing, as a share of the curve."""

MAX_BARS = 60
"""A histogram has about this many bars at most: more cannot be told apart."""

MIN_BARS = 10
"""A histogram has room for at least this many bars, so that a single one does not fill it."""

GROUP_HEIGHT = 0.8
"""The share of a group's height that its bars fill."""

Values = Float[np.ndarray, " points"]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawing with its title and one sentence that explains it."""

    title: str
    meaning: str
    svg: Markup
    start: float | None = None
    """The first value; only of a loss."""
    end: float | None = None
    """The mean of the last values; only of a loss."""


def series_colour(column: int) -> str:
    """The style sheet's colour for a column, counted from 0."""
    return PAGE_COLOURS[SERIES[column % len(SERIES)]]


def line_chart(
    name: str, steps: Values, values: Values, *, smoothed: bool, log: bool = False
) -> Markup:
    """A curve over the training steps.

    Args:
        name: Unique in the page, as for every chart: it keeps the ids of the drawings apart.
        steps: Increasing.
        values: One for each step.
        smoothed: Draw the values lightly and their smoothed curve over them.
        log: Use a logarithmic axis if every value is positive.
    """

    def plot(figure: Figure) -> None:
        axes = figure.add_subplot()
        if smoothed:
            some = np.unique(np.linspace(0, len(steps) - 1, MAX_POINTS).round().astype(int))
            axes.plot(steps[some], values[some], color=ACCENT, alpha=0.25, linewidth=0.9)
            axes.plot(steps[some], _smooth(values)[some], color=ACCENT, linewidth=1.8)
        else:
            marker = "o" if len(steps) <= MAX_MARKERS else None
            axes.plot(steps, values, color=ACCENT, linewidth=1.8, marker=marker, markersize=3)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if log and (values > 0).all():
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.margins(x=0.02)

    return _draw(name, (3.6, 1.9), plot)


def _smooth(values: Values) -> Values:
    """A Gaussian average around each point; at the ends, of the neighbours that exist."""
    width = max(1.0, SMOOTHING_WIDTH * len(values))
    offsets = np.arange(-int(3 * width), int(3 * width) + 1)
    kernel = np.exp(-0.5 * (offsets / width) ** 2)

    def weighted_sum(numbers: Values) -> Values:
        return np.convolve(numbers, kernel)[len(offsets) // 2 :][: len(values)]

    return weighted_sum(values) / weighted_sum(np.ones_like(values))


def histogram(
    name: str,
    counts: Mapping[int, int] | Mapping[float, int],
    *,
    width: float = 1.0,
    mark: float | None = None,
) -> Markup:
    """A bar for each value, as high as its count.

    Args:
        name: As for `line_chart`.
        counts: Value -> how often it occurs. At least one.
        width: Distance between neighbouring values.
        mark: Where to draw a vertical line.
    """

    def plot(figure: Figure) -> None:
        axes = figure.add_subplot()
        span = max(counts) - min(counts) + width
        bin_width = width * max(1, round(span / width / MAX_BARS))
        bins: Counter[float] = Counter()
        for value, count in counts.items():
            bins[bin_width * round(value / bin_width)] += count
        middle = (max(bins) + min(bins)) / 2
        reach = max(span, MIN_BARS * width) / 2
        axes.set_xlim(middle - reach, middle + reach)
        axes.bar(list(bins), list(bins.values()), 0.9 * bin_width, color=ACCENT, zorder=2)
        if mark is not None:
            axes.axvline(mark, color=INK, linewidth=1.2, zorder=3)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(visible=False, axis="x")

    return _draw(name, (3.6, 1.9), plot)


def share_bars(name: str, counts: Mapping[str, int]) -> Markup:
    """A horizontal bar for each name, from the top, with its share of the total in percent."""

    def plot(figure: Figure) -> None:
        axes = figure.add_subplot()
        total = sum(counts.values())
        axes.barh(list(counts), list(counts.values()), 0.75, color=ACCENT, zorder=2)
        for place, count in enumerate(counts.values()):
            axes.text(count, place, f" {100 * count / total:.1f} %", va="center", color=MUTED)
        axes.set_xlim(0, 1.2 * max(counts.values()))
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.set_xticks([])
        axes.spines[["left", "bottom"]].set_visible(False)

    return _draw(name, (3.6, 0.4 + 0.18 * len(counts)), plot)


def grouped_bars(
    name: str,
    labels: Sequence[str],
    values: Sequence[Sequence[float | None]],
    references: Sequence[float | None],
) -> Markup:
    """A group of horizontal bars for each label, from the top, on a scale up to 100.

    Args:
        name: As for `line_chart`.
        labels: The groups' names.
        values: For each group the lengths of its bars, of every group as many.
        references: For each group where a vertical mark crosses its bars, if anywhere.
    """
    bars = len(values[0])

    def plot(figure: Figure) -> None:
        axes = figure.add_subplot()
        places = np.arange(len(labels))
        thickness = GROUP_HEIGHT / bars
        for number in range(bars):
            middle = places - GROUP_HEIGHT / 2 + thickness * (number + 0.5)
            lengths = [group[number] or 0 for group in values]
            colour = SERIES[number % len(SERIES)]
            axes.barh(middle, lengths, 0.88 * thickness, color=colour, zorder=2)
        for y, value in zip(places, references, strict=True):
            if value is not None:
                axes.plot([value, value], [y - 0.48, y + 0.48], color=INK, linewidth=1.6, zorder=3)
        axes.set_yticks(places, labels)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_xlim(min(0, axes.get_xlim()[0]), 100)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)

    return _draw(name, (4.6, 0.45 + len(labels) * (0.12 + 0.13 * bars)), plot)


def dots_beside_paper(
    name: str, measured: Mapping[str, tuple[float, float]], published: Mapping[str, float]
) -> Markup:
    """Two panels with a dot for each column, from the top: here with error bars, and the paper's.

    Args:
        name: As for `line_chart`.
        measured: Column -> (value, length of its error bar to either side), in percent.
        published: Column -> the paper's value in percent; columns may be missing.
    """
    names = list(measured)

    def plot(figure: Figure) -> None:
        here, paper = figure.subplots(1, 2, sharey=True)
        values, errors = zip(*measured.values(), strict=True)
        here.errorbar(
            values,
            range(len(names)),
            xerr=errors,
            fmt="o",
            color=ACCENT,
            markersize=4,
            linewidth=1.2,
        )
        here.set_yticks(range(len(names)), names)
        here.invert_yaxis()
        here.set_title("here, %", fontsize=9)
        places = [names.index(column) for column in published]
        paper.plot(list(published.values()), places, "o", color=MUTED, markersize=4)
        paper.set_title("the paper, %", fontsize=9)

    return _draw(name, (5.4, 0.6 + 0.24 * len(names)), plot)


def _draw(name: str, inches: tuple[float, float], plot: Callable[[Figure], None]) -> Markup:
    """Call ``plot`` on an empty figure in the page's style, and return the <svg> element."""
    svg = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=inches, layout="constrained")
        plot(figure)
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return Markup(_for_page(svg.getvalue(), name))


def _for_page(svg: str, name: str) -> str:
    """The <svg> element alone, as wide as its place, with its own ids and the page's colours."""
    svg = svg[svg.index("<svg") :]
    # A style element would apply to the whole page; style.css says the same for its charts.
    svg = re.sub(r"<(metadata|style).*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    prefix = re.sub(r"\W", "-", name)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{prefix}-", svg)
    for drawn, colour in PAGE_COLOURS.items():
        svg = svg.replace(drawn, colour)
    return svg.replace("<svg ", '<svg role="img" aria-hidden="true" ', 1)
