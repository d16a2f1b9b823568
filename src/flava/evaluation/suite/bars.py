"""Bars of the suite's figures, with the paper's as marks on them."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from flava.evaluation.charts import INK, PAGE_COLOURS, STYLE, themed_svg
from flava.evaluation.suite.table import Line

SERIES = 6
"""Colours of the style sheet for columns; more columns take them in turn."""

FIRST_STAND_IN = len(PAGE_COLOURS) + 1
"""The next grey after those that stand for the page's colours."""

ROOM = 0.8
"""The share of a line's height that its bars fill."""


def series(number: int) -> str:
    """The style sheet's colour of a column, counted from 0."""
    return f"var(--series-{number % SERIES + 1})"


def draw_bars(name: str, lines: Sequence[Line]) -> str:
    """An SVG element: for each line a bar a column, from above in their order, in percent."""
    count = len(lines[0].cells)
    places = np.arange(len(lines))
    thick = ROOM / count
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(
            figsize=(4.6, 0.45 + len(lines) * (0.12 + 0.13 * count)), layout="constrained"
        )
        axes = figure.add_subplot()
        for number in range(count):
            values = [line.cells[number] or 0 for line in lines]
            middle = places - ROOM / 2 + thick * (number + 0.5)
            axes.barh(middle, values, 0.88 * thick, color=stand_in(number), zorder=2)
        marks = [(y, line.paper) for y, line in zip(places, lines, strict=True)]
        known = [(y, value) for y, value in marks if value is not None]
        for y, value in known:
            axes.plot([value, value], [y - 0.48, y + 0.48], color=INK, linewidth=1.6, zorder=3)
        axes.set_yticks(places, [short(line.label) for line in lines])
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.set_xlim(min(0, axes.get_xlim()[0]), 100)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        svg = themed_svg(figure, name)
    for number in range(SERIES):
        svg = svg.replace(stand_in(number), series(number))
    return svg


def stand_in(number: int) -> str:
    """What a column's bars are drawn in, before the style sheet's colour takes its place."""
    return "#" + 3 * f"{number % SERIES + FIRST_STAND_IN:02x}"


def short(label: str) -> str:
    """An average's label without the rows it is over, a macro average's without its groups."""
    name, _, which = label.partition(",")[0].partition(" (")
    return f"Macro {which.rstrip(')')}" if which else name
