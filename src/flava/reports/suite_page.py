"""`flava report` of the suite's results: one HTML page and its files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from rich.console import Console

from flava.core.files import write_atomically, write_error
from flava.reports.charts import INK, PAGE_COLOURS, STYLE, themed_svg
from flava.reports.run_report import environment
from flava.reports.suite_table import (
    SAME,
    Column,
    Line,
    Table,
    comma_separated,
    drawn,
    make_table,
    markdown,
    percent,
    points,
    read_all,
)
from flava.suite.paper import GROUP_NAMES
from flava.suite.results_file import FILE

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


MEANINGS = {
    "vision": "Linear probes: a logistic regression on the frozen features of the image encoder. "
    "Accuracy; of Aircraft, Pets, Caltech101 and Flowers the mean over the classes.",
    "nlp": "GLUE, fine-tuned. Accuracy; of CoLA Matthews' correlation, of MRPC and QQP F1, of "
    "STS-B Pearson's correlation.",
    "multimodal": "VQAv2, SNLI-VE and Hateful Memes, fine-tuned (VQA accuracy, accuracy, area "
    "under ROC); retrieval without training. TR finds texts for an image, IR images for a text.",
}
"""Group -> what was done (the paper's section 5 and supplement B)."""


@dataclass(frozen=True, kw_only=True)
class Count:
    """How a column stands to the paper's."""

    label: str
    rows: int
    of: int
    beside: int
    """Rows that the paper has too."""
    above: int
    below: int


def html(table: Table, folder: Path) -> str:
    """The page; ``folder`` is where it will stand."""
    made = environment(folder)
    made.filters.update(percent=percent, points=points)
    page = made.get_template("suite.html.jinja")
    return page.render(
        name="The evaluation suite",
        command="flava report",
        table=table,
        same=SAME,
        colour=series,
        counts=[count(table, number) for number in range(len(table.columns))],
        notes=notes(table),
        average_chart=chart("averages", table.averages),
        groups=[
            (GROUP_NAMES[each.group], each.group, each.lines, chart(each.group, each.lines))
            for each in table.sections
        ],
        meanings=MEANINGS,
        provenances=[(each.label, provenance(each)) for each in table.columns],
    )


def chart(name: str, lines: Sequence[Line]) -> Markup | None:
    """Bars of the lines that some column has; none if there are none."""
    measured = [line for line in lines if any(cell is not None for cell in line.cells)]
    return Markup(draw_bars(name, measured)) if measured else None


def count(table: Table, number: int) -> Count:
    """Of the column of that number."""
    lines = [line for section in table.sections for line in section.lines]
    differences = [each for line in lines if (each := line.differences[number]) is not None]
    return Count(
        label=table.columns[number].label,
        rows=sum(line.cells[number] is not None for line in lines),
        of=len(lines),
        beside=len(differences),
        above=sum(each >= SAME for each in differences),
        below=sum(each <= -SAME for each in differences),
    )


def notes(table: Table) -> list[str]:
    """What a reader must know before the figures."""
    return [
        f"{each.label} was measured on at most {each.few:,} samples of each split: its figures are "
        "a trial of the path, not to be compared with the paper's."
        for each in table.columns
        if each.few is not None
    ]


def provenance(column: Column) -> str:
    """What produced a column's figures, as JSON."""
    first, last = column.results[0], column.results[-1]
    dates = sorted(each.date for each in column.results)
    seconds = {each.task: each.seconds for each in column.results}
    return json.dumps(
        {
            "model": first.model,
            "weights": first.weights,
            "settings": last.settings,
            "measured": [dates[0], dates[-1]],
            "seconds": seconds,
            "machine": last.machine,
            "versions": last.versions,
        },
        indent=2,
        ensure_ascii=False,
    )


NO_TERMINAL = 1_000
"""Letters of a line where the table goes to a file or a pipe: as many as it needs."""

RUN_FILES = ("run.json", "metrics.jsonl", "evaluation.json", "classification.json")
"""What a run's folder holds, one or the other."""


def is_suite(places: Sequence[Path]) -> bool:
    """Whether these are results of the suite: not one folder alone that is a run's."""
    if len(places) != 1 or places[0].is_file() or places[0].suffix == Path(FILE).suffix:
        return True
    is_run = any((places[0] / name).exists() for name in RUN_FILES)
    return (places[0] / FILE).is_file() and not is_run


def report_suite(places: Sequence[Path], paper: str, output: Path | None = None) -> None:
    """Print the table; with ``output`` write table.md, table.csv and table.html into it.

    Raises:
        FileNotFoundError, ValueError: as `read_all` and `make_table`.
        OSError: the files could not be written.
    """
    table = make_table(read_all(places), paper)
    console = Console()
    console.print(drawn(table), width=None if console.is_terminal else NO_TERMINAL)
    if output is None:
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(output, error) from error
    write_atomically(output / "table.md", markdown(table).encode(errors="replace"))
    write_atomically(output / "table.csv", comma_separated(table).encode(errors="replace"))
    write_atomically(output / "table.html", html(table, output).encode(errors="replace"))
    print(f"written: {output}/table.md, table.csv and table.html")
